// Package release holds what a host installs: for each architecture the agent, the guest's kernel and userland, and the
// systemd units, in one archive. The control plane serves it, so that a host gets the agent that fits its server.
package release

import (
	"embed"
	"fmt"

	"github.com/millrace-ci/millrace"
)

//go:embed all:dist
var files embed.FS

// Bundles are the gzipped tar archives that this program was built with, for hosts of each architecture; without make deps
// there is none.
func Bundles() map[millrace.Arch][]byte {
	bundles := map[millrace.Arch][]byte{}
	for _, arch := range []millrace.Arch{millrace.AMD64, millrace.ARM64} {
		if content, err := files.ReadFile(fmt.Sprintf("dist/linux-%s.tar.gz", arch)); err == nil {
			bundles[arch] = content
		}
	}
	return bundles
}
