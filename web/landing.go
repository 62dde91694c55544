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
		return render(w, r, http.StatusOK, landingPage(ui.Frame{Public: true}, s.URL))
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

// permission is one of the GitHub App's, with what it is for; docs/run.md has the same table.
type permission struct {
	Name, Access, Why string
}

// permissions are the least that work: no code is read, nothing is written to a repository.
var permissions = []permission{
	{"Organization: self-hosted runners", "Read and write", "Registers one just-in-time runner for each VM, and removes it afterwards."},
	{"Repository: actions", "Read", "Hears that a job is queued, runs or has ended."},
	{"Organization: members", "Read", "Tells owners from members when people sign in."},
	{"Repository: metadata", "Read", "GitHub gives it to every app: names of repositories, and whether they are public."},
	{"Repository: administration", "Read and write", "Only for a personal account, which has no organization to register runners in. Otherwise it is not asked for."},
}

// forkLine picks hosted runners for everybody else's copy of a workflow.
const forkLine = `runs-on: ${{
  github.repository_owner == 'your-org'
  && 'millrace-arm64-4cpu-16gb'
  || 'ubuntu-latest' }}`
