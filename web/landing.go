package web

import (
	"net/http"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/ui"
)

// landing says what this is; members go on to their first org.
func (s *server) landing(w http.ResponseWriter, r *http.Request) error {
	session, orgs, err := s.visitor(r)
	switch {
	case millrace.CodeOf(err) == millrace.Unauthenticated:
		return render(w, r, http.StatusOK, landingPage(ui.Frame{}))
	case err != nil:
		return err
	case len(orgs) == 0:
		return render(w, r, http.StatusOK, noOrgPage(ui.Frame{Title: "No org yet", User: session.User}, s.SignIn != nil))
	}
	http.Redirect(w, r, "/o/"+orgs[0].Slug+"/jobs", http.StatusSeeOther)
	return nil
}

func (s *server) toJobs(w http.ResponseWriter, r *http.Request) error {
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/o/"+v.Org.Slug+"/jobs", http.StatusSeeOther)
	return nil
}
