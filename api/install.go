package api

import (
	_ "embed"
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
		"URL": quoted(s.url), "AMD64": quoted(s.bundles[millrace.AMD64].SHA256), "ARM64": quoted(s.bundles[millrace.ARM64].SHA256),
	})
}

// quoted is s as a word of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// bundle is what a host of one architecture installs.
func (s *Server) bundle(w http.ResponseWriter, r *http.Request) error {
	b, ok := s.bundles[millrace.Arch(chi.URLParam(r, "arch"))]
	if !ok {
		return millrace.Errorf(millrace.NotFound, "This server has no agent for that architecture.")
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("Content-Length", strconv.Itoa(len(b.Content)))
	_, _ = w.Write(b.Content) // the peer is gone
	return nil
}
