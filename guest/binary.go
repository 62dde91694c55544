package guest

import (
	"embed"
	"fmt"

	"github.com/millrace-ci/millrace"
)

//go:embed all:bin
var binaries embed.FS

// Binary is a program for inside the VM: "millrace-init" or "testrunner". The error says what to do when this program was
// built without it.
func Binary(arch millrace.Arch, name string) ([]byte, error) {
	content, err := binaries.ReadFile(fmt.Sprintf("bin/%s/%s", arch, name))
	if err != nil {
		return nil, fmt.Errorf("built without %s for %s; run make deps and build again", name, arch)
	}
	return content, nil
}
