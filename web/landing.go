package web

import (
	"net/http"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/ui"
)

// landing says what this is; members go on to their first org, others to where one is made.
func (s *server) landing(w http.ResponseWriter, r *http.Request) error {
	_, orgs, err := s.visitor(r)
	switch {
	case millrace.CodeOf(err) == millrace.Unauthenticated:
		return render(w, r, http.StatusOK, landingPage(ui.Frame{Public: true}, s.URL))
	case err != nil:
		return err
	case len(orgs) == 0:
		http.Redirect(w, r, "/new", http.StatusSeeOther)
		return nil
	}
	http.Redirect(w, r, "/o/"+orgs[0].Slug+"/", http.StatusSeeOther)
	return nil
}

// home leads to an org's overview.
func (s *server) home(w http.ResponseWriter, r *http.Request) error {
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	http.Redirect(w, r, v.path("/"), http.StatusSeeOther)
	return nil
}

// forkLine picks hosted runners for everybody else's copy of a workflow.
const forkLine = `runs-on: ${{
  github.repository_owner == 'your-org'
  && 'millrace-arm64-4cpu-16gb'
  || 'ubuntu-latest' }}`
