package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-ci/millrace"
)

// A shell on a host finds the guest that install.sh put there, unless another is named or was made.
func TestDefaultGuest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	named, made, installed, missing := filepath.Join(dir, "named"), filepath.Join(dir, "made"), filepath.Join(dir, "installed"), filepath.Join(dir, "missing")
	for _, guests := range []string{made, installed} {
		if err := os.MkdirAll(filepath.Join(guests, "amd64"), 0o700); err != nil {
			t.Fatal(err)
		}
		device(t, filepath.Join(guests, "amd64", "complete"))
	}
	for name, tt := range map[string]struct{ named, cache, installed, want string }{
		"named, and missing": {named, made, installed, named},
		"made":               {"", made, installed, made},
		"installed":          {"", missing, installed, installed},
		"without a home":     {"", "", installed, installed},
		"none":               {"", missing, filepath.Join(dir, "none"), missing},
	} {
		if got := defaultGuest(tt.named, tt.cache, tt.installed, millrace.AMD64); got != filepath.Join(tt.want, "amd64") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
