package millrace_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

var update = flag.Bool("update", false, "write docs/states.md and docs/waiting.md anew")

// The diagram in the docs is drawn from the state machine, so that the two cannot differ.
func TestStatesDoc(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# The life of a VM\n\n" +
		"States are observed as levels, so they may be skipped: GitHub may say that a job runs while we think that its VM\n" +
		"still boots. A VM is replaced only after it is proven gone or unregistered. `make generate` draws this from the code.\n\n" +
		"```mermaid\nstateDiagram-v2\n    [*] --> pending\n")
	for _, s := range millrace.VMStates {
		for _, next := range s.Next() {
			fmt.Fprintf(&b, "    %s --> %s\n", s, next)
		}
		if len(s.Next()) == 0 {
			fmt.Fprintf(&b, "    %s --> [*]\n", s)
		}
	}
	b.WriteString("```\n\nA job goes from `waiting` (for an environment's approval) to `queued`, `in_progress` and `completed`, and never back; a\n" +
		"re-run is another job.\n")
	sameDoc(t, "docs/states.md", b.String())
}

// sameDoc compares a page of the docs that is made from the code with what is there.
func sameDoc(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	onDisk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(onDisk), want); diff != "" {
		t.Errorf("%s is stale, run make generate:\n%s", path, diff)
	}
}
