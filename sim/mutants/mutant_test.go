package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace/sim"
)

// Each bug still has its place, where it compiles, and a scenario; that it is caught takes make sim-mutants.
func TestMutantsApply(t *testing.T) {
	t.Chdir("../..")
	dir := t.TempDir()
	if len(mutants) < 20 {
		t.Errorf("there are %d", len(mutants))
	}
	for _, m := range mutants {
		content, err := m.mutate()
		if err != nil {
			t.Error(err)
			continue
		}
		if before, err := os.ReadFile(m.file); err != nil || string(content) == string(before) {
			t.Errorf("%s: nothing is changed (%v)", m.bug, err)
		}
		if err := build(t.Context(), m, filepath.Join(dir, "mutant"), "./"+filepath.Dir(m.file)); err != nil {
			t.Errorf("%s: %v", m.bug, err)
		}
		found := 0
		for _, sc := range sim.Scenarios() {
			if strings.HasPrefix(sc.Name, m.scenario) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%s: %d scenarios begin with %q", m.bug, found, m.scenario)
		}
	}
}
