package release_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The bounds, in tenths, are of systemd's scale from 0 (nothing is exposed) to 10.
func TestUnitsAreNarrow(t *testing.T) {
	t.Parallel()
	for unit, most := range map[string]string{"millrace-agent.service": "15", "millrace-launcher.service": "55"} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+most, unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) != 2 {
		t.Errorf("units: %q, %v", units, err)
	}
}
