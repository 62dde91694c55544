package millrace_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is a test as docs/security.md names it: its folder, or the root package's name, and its own.
var namedTest = regexp.MustCompile("`([a-z/0-9]+)\\.(Test\\w+)`")

// What docs/security.md promises is shown by tests that there are.
func TestSecurityDoc(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	promises := 0
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.Contains(line, "---") || strings.Contains(line, "| case |") {
			continue
		}
		promises++
		named := namedTest.FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 {
			t.Errorf("no test shows %s", strings.TrimSpace(cells[1]))
		}
		for _, name := range named {
			folder := name[1]
			if folder == "millrace" {
				folder = "."
			}
			if !hasTest(t, folder, name[2]) {
				t.Errorf("%s is to be shown by %s in %s, which there isn't", strings.TrimSpace(cells[1]), name[2], folder)
			}
		}
	}
	if promises < 40 {
		t.Errorf("only %d promises were found", promises)
	}
}

// hasTest reports whether a folder has a test.
func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}
