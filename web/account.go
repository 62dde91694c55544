package web

import (
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/ui"
)

// accountView is what somebody sees of their own account.
type accountView struct {
	User     millrace.User
	Orgs     []millrace.Membership
	Sessions []millrace.Session
	Here     millrace.SessionID
	Now      time.Time
}

func (s *server) account(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership) error {
	list, err := s.Store.Sessions(r.Context(), session.User.ID)
	if err != nil {
		return err
	}
	return render(w, r, http.StatusOK, accountPage(ui.Frame{Title: "Your account", User: session.User, Section: "account"}, accountView{
		User: session.User, Orgs: orgs, Sessions: list, Here: session.ID, Now: s.Now(),
	}))
}

func (s *server) endSession(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	id, err := millrace.ParseSessionID(r.PathValue("session"))
	if err != nil {
		return err
	}
	if err := s.Store.EndSession(r.Context(), session.User.ID, id); err != nil {
		return err
	}
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

// signOutEverywhere ends all of somebody's sessions, this one too.
func (s *server) signOutEverywhere(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	if err := s.Store.EndSessions(r.Context(), session.User.ID); err != nil {
		return err
	}
	s.setCookie(w, s.cookieName(), "/", "", 0)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
