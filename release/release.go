// Package release holds what a host installs: for each architecture the agent, the guest's kernel and userland, and the
// systemd unit, in one archive. The control plane serves it, so that a host gets the agent that fits its server.
package release

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/millrace-ci/millrace"
)

//go:embed all:dist
var files embed.FS

// Bundle is a gzipped tar archive for hosts of one architecture.
type Bundle struct {
	Content []byte
	SHA256  string // in hexadecimal digits
}

// Bundles are those that this program was built with; without make deps there is none.
var Bundles = sync.OnceValue(func() map[millrace.Arch]Bundle {
	bundles := map[millrace.Arch]Bundle{}
	for _, arch := range []millrace.Arch{millrace.AMD64, millrace.ARM64} {
		content, err := files.ReadFile(fmt.Sprintf("dist/linux-%s.tar.gz", arch))
		if err != nil {
			continue
		}
		sum := sha256.Sum256(content)
		bundles[arch] = Bundle{content, hex.EncodeToString(sum[:])}
	}
	return bundles
})
