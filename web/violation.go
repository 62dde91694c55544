package web

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/millrace-ci/millrace"
)

// violationPath is where browsers report what the content security policy kept a page from doing.
const violationPath = "/csp-report"

// maxViolation bounds a report, in bytes.
const maxViolation = 16 << 10

// violation logs what a browser kept a page from doing: something got into the page that isn't ours, or into the browser.
// Whoever is signed in is heard, and nobody else: anybody could fill the log.
func (s *server) violation(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	var in struct {
		Report struct {
			Page      string `json:"document-uri"`
			Directive string `json:"effective-directive"`
			Blocked   string `json:"blocked-uri"`
		} `json:"csp-report"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxViolation)).Decode(&in); err != nil {
		return millrace.Errorf(millrace.Invalid, "This is no report of a browser's.")
	}
	s.Log.WarnContext(r.Context(), "a page was kept from what its policy forbids", "page", pathOf(in.Report.Page), "directive", in.Report.Directive,
		"blocked", pathOf(in.Report.Blocked), "user", session.User.ID.String(), "address", device(r).Address, "request", requestID(r))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pathOf is an address without its query, which may be somebody's secret.
func pathOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return millrace.Redact(u.Scheme + "://" + u.Host + u.Path)
}
