package millrace_test

import (
	"bytes"
	"testing"

	"github.com/millrace-ci/millrace"
)

func TestUserCode(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		code := millrace.NewUserCode(nil)
		if got, ok := millrace.ParseUserCode(code); !ok || got != code || seen[code] {
			t.Fatalf("%q is read as %q, %t; seen %t", code, got, ok, seen[code])
		}
		seen[code] = true
	}
	// A byte that would make a letter likelier is passed over.
	if got := millrace.NewUserCode(bytes.NewReader([]byte{255, 0, 240, 1, 2, 3, 19, 20, 239, 18})); got != "BCDF-ZBZX" {
		t.Error(got)
	}
	for typed, want := range map[string]string{
		"bcdf-ghjk": "BCDF-GHJK", "BCDF GHJK": "BCDF-GHJK", "bcdfghjk": "BCDF-GHJK", "b-c-d-f-g-h-j-k": "BCDF-GHJK",
		"": "", "BCDF": "", "BCDF-GHJA": "", "BCDF-GHJ1": "", "BCDF-GHJKL": "", "BCDF–GHJK": "", "BCDF-GHJK\n": "", "ＢCDFGHJK": "",
	} {
		if got, ok := millrace.ParseUserCode(typed); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t", typed, got, ok)
		}
	}
}

func FuzzParseUserCode(f *testing.F) {
	f.Add("BCDF-GHJK")
	f.Fuzz(func(t *testing.T, s string) {
		code, ok := millrace.ParseUserCode(s)
		if again, same := millrace.ParseUserCode(code); ok && (again != code || !same || len(code) != 9) {
			t.Errorf("%q: %q, then %q", s, code, again)
		}
	})
}
