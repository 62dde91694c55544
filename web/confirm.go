package web

import (
	"net/http"
	"net/url"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/ui"
)

// Whoever is to do something dangerous confirms that it is them by typing a code at GitHub (the device flow). A second trip
// through GitHub's login would prove nothing: GitHub lets whoever has been here before through without a question, and so
// it would whoever sits down at an open browser. A code must be typed and agreed to, each time.

// A confirmation that is under way: GitHub's secret of it, and what the person is shown. The browser keeps it: it is of no use
// to anybody but whose session this is.
const confirmCookie = "millrace-confirm"

// confirmView is what the page shows.
type confirmView struct {
	To       string // where to go on
	Code     string // to type; "": not begun
	At       string // where to type it
	Problem  string
	Possible bool // this server signs people in at GitHub
	Minutes  int  // that it is good for
}

// confirmPath is where to confirm, on the way to a page.
func confirmPath(to string) string {
	if !localPath(to) {
		return "/confirm"
	}
	return with("/confirm", url.Values{"to": {to}})
}

// next is where somebody goes on after a form whose field "to" says so.
func (s *server) next(r *http.Request) string {
	if to := r.FormValue("to"); localPath(to) {
		return to
	}
	return "/"
}

func (s *server) showConfirm(w http.ResponseWriter, r *http.Request, session millrace.Session, status int, v confirmView) error {
	v.To, v.Possible, v.Minutes = s.next(r), s.SignIn != nil, int(millrace.ConfirmationLength/time.Minute)
	return render(w, r, status, confirmPage(ui.Frame{Title: "Confirm that it is you", User: session.User}, v))
}

func (s *server) confirm(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	if session.Confirmed(s.Now()) {
		http.Redirect(w, r, s.next(r), http.StatusSeeOther)
		return nil
	}
	pending := s.pending(r)
	return s.showConfirm(w, r, session, http.StatusOK, confirmView{Code: pending.Get("user_code"), At: pending.Get("at")})
}

// pending is the confirmation that the browser keeps.
func (s *server) pending(r *http.Request) url.Values {
	c, err := r.Cookie(s.bound(confirmCookie))
	if err != nil {
		return nil
	}
	q, err := url.ParseQuery(c.Value)
	if err != nil || q.Get("code") == "" {
		return nil
	}
	return q
}

// beginConfirm asks GitHub for a code and shows it.
func (s *server) beginConfirm(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	if s.SignIn == nil {
		return s.showConfirm(w, r, session, http.StatusConflict, confirmView{})
	}
	code, err := s.SignIn.DeviceCode(r.Context())
	if err != nil {
		return err
	}
	pending := url.Values{"code": {code.Code.Reveal()}, "user_code": {code.UserCode}, "at": {code.VerificationURL}}
	s.setCookie(w, s.bound(confirmCookie), "/", pending.Encode(), code.ExpiresIn)
	return s.showConfirm(w, r, session, http.StatusOK, confirmView{Code: code.UserCode, At: code.VerificationURL})
}

// endConfirm asks GitHub whether the code was confirmed, and by whom.
func (s *server) endConfirm(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	pending := s.pending(r)
	if s.SignIn == nil || pending == nil {
		return s.showConfirm(w, r, session, http.StatusConflict, confirmView{Problem: "No code of yours is waiting. Get another one."})
	}
	view := confirmView{Code: pending.Get("user_code"), At: pending.Get("at")}
	person, err := s.SignIn.PollDevice(r.Context(), millrace.Secret(pending.Get("code")))
	switch code := millrace.CodeOf(err); {
	case code == millrace.Conflict:
		view.Problem = "Nobody has confirmed this code at GitHub yet. Type it there, then come back."
		return s.showConfirm(w, r, session, http.StatusConflict, view)
	case code == millrace.LimitReached:
		view.Problem = "GitHub was asked a moment ago. Wait ten seconds and try again."
		return s.showConfirm(w, r, session, http.StatusConflict, view)
	case code == millrace.Forbidden, code == millrace.Gone:
		s.setCookie(w, s.bound(confirmCookie), "/", "", 0)
		return s.showConfirm(w, r, session, http.StatusConflict, confirmView{Problem: millrace.MessageOf(err)})
	case err != nil:
		return err
	}
	s.setCookie(w, s.bound(confirmCookie), "/", "", 0)
	if person.User.GitHubID != session.User.GitHubID {
		return s.showConfirm(w, r, session, http.StatusForbidden, confirmView{
			Problem: "The code was confirmed by another GitHub account than the one that is signed in here. Get another one.",
		})
	}
	if err := s.Store.ConfirmSession(r.Context(), session.ID); err != nil {
		return err
	}
	http.Redirect(w, r, s.next(r), http.StatusSeeOther)
	return nil
}
