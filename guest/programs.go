package guest

import (
	"embed"
	"fmt"
	"io/fs"

	"github.com/millrace-ci/millrace"
)

//go:embed all:bin
var binaries embed.FS

// Programs are those for inside a VM, millrace-init and testrunner. The error says what to do when this program was built
// without them.
func Programs(arch millrace.Arch) (fs.FS, error) {
	programs, err := fs.Sub(binaries, "bin/"+string(arch))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"millrace-init", "testrunner"} {
		if _, err := fs.Stat(programs, name); err != nil {
			return nil, fmt.Errorf("built without %s for %s; run make deps and build again", name, arch)
		}
	}
	return programs, nil
}
