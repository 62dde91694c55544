package web

import (
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
)

// membersView is what the members page shows.
type membersView struct {
	Path    string
	Members []millrace.Member
	May     bool // change roles
	By      millrace.Caller
	Now     time.Time
}

func (s *server) members(w http.ResponseWriter, r *http.Request, v visit) error {
	list, err := s.Store.Org(v.Org.OrgID).Members(r.Context())
	if err != nil {
		return err
	}
	f, err := s.settingsFrame(r, v, "Members")
	if err != nil {
		return err
	}
	return render(w, r, http.StatusOK, membersPage(f, v, membersView{
		Path: v.path("/members"), Members: list, May: v.By.May(millrace.MembersWrite), By: v.By, Now: s.Now(),
	}))
}

// followGitHub is what the form has for the role that GitHub's answers make somebody.
const followGitHub = "github"

func (s *server) setRole(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseUserID(r.PathValue("user"))
	if err != nil {
		return err
	}
	role := millrace.Role(r.PostFormValue("role"))
	if role == "" {
		return millrace.Errorf(millrace.Unprocessable, "Which role? The form didn't say.")
	}
	if role == followGitHub {
		role = ""
	}
	if _, err := s.Store.Org(v.Org.OrgID).SetRole(r.Context(), v.By, id, role); err != nil {
		return err
	}
	http.Redirect(w, r, v.path("/members"), http.StatusSeeOther)
	return nil
}

// mayChange reports whether the visitor could give this member any other role.
func (v membersView) mayChange(m millrace.Member) bool {
	return v.May && (m.Role != millrace.RoleOwner || v.By.Role == millrace.RoleOwner)
}
