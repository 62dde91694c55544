package api

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"text/template"

	"github.com/go-chi/chi/v5"

	"github.com/millrace-ci/millrace"
)

//go:embed install.sh
var installText string

var installTemplate = template.Must(template.New("install.sh").Parse(installText))

// install is the script that makes a machine a host of this server.
func (s *Server) install(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/x-shellscript; charset=utf-8")
	return installTemplate.Execute(w, map[string]string{
		"URL": quoted(s.url), "AMD64": quoted(s.bundles[millrace.AMD64].digest), "ARM64": quoted(s.bundles[millrace.ARM64].digest),
	})
}

// bundle is what a host of one architecture installs, and its SHA-256 in hexadecimal digits.
type bundle struct {
	content []byte
	digest  string
}

func digested(contents map[millrace.Arch][]byte) map[millrace.Arch]bundle {
	bundles := map[millrace.Arch]bundle{}
	for arch, content := range contents {
		sum := sha256.Sum256(content)
		bundles[arch] = bundle{content, hex.EncodeToString(sum[:])}
	}
	return bundles
}

// quoted is s as a word of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sendBundle sends what a host of one architecture installs.
func (s *Server) sendBundle(w http.ResponseWriter, r *http.Request) error {
	b, ok := s.bundles[millrace.Arch(chi.URLParam(r, "arch"))]
	if !ok {
		return millrace.Errorf(millrace.NotFound, "This server has no agent for that architecture.")
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("Content-Length", strconv.Itoa(len(b.content)))
	_, _ = w.Write(b.content) // the peer is gone
	return nil
}
