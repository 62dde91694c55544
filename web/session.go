package web

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

// visit is who looks at which org. A handler that has one needs no further check to show the org.
type visit struct {
	Session millrace.Session
	Orgs    []millrace.Membership
	Org     millrace.Membership
	By      millrace.Caller // the same, as whoever asks for something
}

// path is that of a page of the org.
func (v visit) path(page string) string { return "/o/" + v.Org.Slug + page }

// frame is the frame of a page of the org; it shows the org's open incidents.
func (s *server) frame(r *http.Request, v visit, title, section string) (f ui.Frame, err error) {
	open, err := s.Store.Org(v.Org.OrgID).Incidents(r.Context(), store.IncidentFilter{Open: true, Limit: 100})
	if err != nil {
		return f, err
	}
	return ui.Frame{
		Title: title, Org: v.Org, Orgs: v.Orgs, User: v.Session.User, Section: section,
		Incidents: open.Incidents, MoreIncidents: open.Next != "",
	}, nil
}

// orgPage is a page of an org.
type orgPage func(http.ResponseWriter, *http.Request, visit) error

// org serves a page of an org to its members who have the permission that it takes. Whoever is no member finds nothing
// there.
func (s *server) org(needs millrace.Permission, p orgPage) http.Handler {
	return s.page(func(w http.ResponseWriter, r *http.Request) error {
		v, err := s.visit(r)
		if err != nil {
			return err
		}
		if err := s.renew(w, r, v.Session); err != nil {
			return err
		}
		if err := v.By.Require(needs); err != nil {
			return err
		}
		return p(w, r, v)
	})
}

var errConfirm = millrace.Errorf(millrace.ReauthRequired, "This takes more than being signed in: whoever finds your browser open could do it.")

// dangerous is a page for which the user must have confirmed lately that it is them.
func (s *server) dangerous(p orgPage) orgPage {
	return func(w http.ResponseWriter, r *http.Request, v visit) error {
		if !v.Session.Confirmed(s.Now()) {
			return errConfirm
		}
		return p(w, r, v)
	}
}

// userPage is a page of whoever is signed in, whatever org they belong to.
type userPage func(http.ResponseWriter, *http.Request, millrace.Session, []millrace.Membership) error

// dangerousForUser is what [server.dangerous] is, of such a page.
func (s *server) dangerousForUser(p userPage) userPage {
	return func(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership) error {
		if !session.Confirmed(s.Now()) {
			return errConfirm
		}
		return p(w, r, session, orgs)
	}
}

// user serves a page of whoever is signed in.
func (s *server) user(p userPage) http.Handler {
	return s.page(func(w http.ResponseWriter, r *http.Request) error {
		session, orgs, err := s.visitor(r)
		if err != nil {
			return err
		}
		if err := s.renew(w, r, session); err != nil {
			return err
		}
		return p(w, r, session, orgs)
	})
}

// renew gives the browser another secret when the session wants one.
func (s *server) renew(w http.ResponseWriter, r *http.Request, session millrace.Session) error {
	if !session.Renew {
		return nil
	}
	fresh, err := s.Store.RenewSession(r.Context(), s.cookie(r))
	if err != nil || fresh == "" {
		return err
	}
	s.setCookie(w, s.cookieName(), "/", fresh.Reveal(), session.ExpiresAt.Sub(s.Now()))
	return nil
}

func (s *server) visit(r *http.Request) (v visit, err error) {
	if v.Session, v.Orgs, err = s.visitor(r); err != nil {
		return v, err
	}
	for _, m := range v.Orgs {
		if m.Slug == r.PathValue("org") {
			v.Org = m
			v.By = millrace.Caller{Actor: actorOf(r, v.Session), UserID: v.Session.User.ID, Role: m.Role}
			return v, nil
		}
	}
	return v, errNoPage
}

// actorOf is whoever is signed in, as the audit log knows who made a change.
func actorOf(r *http.Request, session millrace.Session) millrace.Actor {
	return millrace.Actor{
		Kind: millrace.ActorUser, ID: session.User.ID.String(), Name: session.User.Login, Address: device(r).Address, RequestID: requestID(r),
	}
}

// visitor is who is signed in, and the orgs they belong to.
func (s *server) visitor(r *http.Request) (millrace.Session, []millrace.Membership, error) {
	session, err := s.Store.SessionUser(r.Context(), s.cookie(r))
	if err != nil {
		return session, nil, err
	}
	orgs, err := s.Store.Memberships(r.Context(), session.User.ID)
	return session, orgs, err
}

// cookieName is bound to this host and to https by its prefix (RFC 6265bis §4.1.3), which plain http, in development,
// can't have.
func (s *server) cookieName() string { return s.bound("millrace") }

func (s *server) bound(name string) string {
	if s.Secure {
		return "__Host-" + name
	}
	return name
}

func (s *server) cookie(r *http.Request) string {
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return ""
	}
	return c.Value
}

func (s *server) setCookie(w http.ResponseWriter, name, path, value string, life time.Duration) {
	c := &http.Cookie{
		Name: name, Value: value, Path: path, MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: s.Secure, SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// The page that somebody wanted before signing in is kept for an hour.
const (
	targetCookie = "millrace-target"
	targetLife   = time.Hour
)

// sendToSignIn keeps where somebody wanted to go and asks them to sign in.
func (s *server) sendToSignIn(w http.ResponseWriter, r *http.Request, err error) {
	if r.URL.Path == "/sign-in" || strings.HasPrefix(r.URL.Path, "/sign-in/") {
		if err := s.showSignIn(w, r, http.StatusUnauthorized, millrace.MessageOf(err)); err != nil {
			s.Log.ErrorContext(r.Context(), "rendering the sign-in page", "error", err)
		}
		return
	}
	if partial(r) || strings.HasSuffix(r.URL.Path, "/events") {
		w.Header().Set("HX-Refresh", "true") // the page as a whole is sent to sign in
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodGet && localPath(r.URL.RequestURI()) {
		s.setCookie(w, targetCookie, "/sign-in", url.QueryEscape(r.URL.RequestURI()), targetLife)
	}
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}

// localPath reports whether target is a page here that takes being signed in, and nothing that a browser could take for another site.
func localPath(target string) bool {
	u, err := url.Parse(target)
	return err == nil && u.Scheme == "" && u.Host == "" && (strings.HasPrefix(target, "/o/") || u.Path == "/account" || u.Path == millrace.DevicePath || u.Path == "/new") && !strings.ContainsAny(u.Path, "\\\r\n")
}

func (s *server) target(r *http.Request) string {
	c, err := r.Cookie(targetCookie)
	if err != nil {
		return "/"
	}
	if target, err := url.QueryUnescape(c.Value); err == nil && localPath(target) {
		return target
	}
	return "/"
}

func (s *server) askToSignIn(w http.ResponseWriter, r *http.Request) error {
	if _, _, err := s.visitor(r); err == nil {
		http.Redirect(w, r, s.target(r), http.StatusSeeOther)
		return nil
	}
	return s.showSignIn(w, r, http.StatusOK, "")
}

func (s *server) showSignIn(w http.ResponseWriter, r *http.Request, status int, problem string) error {
	return render(w, r, status, signInPage(ui.Frame{Title: "Sign in", Section: "sign-in", Public: true}, s.SignIn != nil, problem))
}

// signIn uses up a sign-in link. A browser that only fetches ahead is not allowed to.
func (s *server) signIn(w http.ResponseWriter, r *http.Request) error {
	if strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") || r.Method == http.MethodHead {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	w.Header().Set("Referrer-Policy", "no-referrer") // the address is a secret
	secret, err := s.Store.SignIn(r.Context(), r.PathValue("secret"), device(r))
	if err != nil {
		return err
	}
	return s.begin(w, r, secret)
}

// begin gives the browser its session, ends the one that it had, and goes on to what was wanted.
func (s *server) begin(w http.ResponseWriter, r *http.Request, session millrace.Secret) error {
	if err := s.Store.SignOut(r.Context(), s.cookie(r)); err != nil {
		return err
	}
	s.setCookie(w, s.cookieName(), "/", session.Reveal(), millrace.SessionLength)
	s.setCookie(w, targetCookie, "/sign-in", "", 0)
	http.Redirect(w, r, s.target(r), http.StatusSeeOther)
	return nil
}

// A sign-in at GitHub that is under way: the state that GitHub must send back to this browser, and PKCE's verifier.
const (
	gitHubCookie = "millrace-github"
	gitHubLife   = 10 * time.Minute // as long as GitHub's codes work
)

// toGitHub sends the browser to GitHub to sign in.
func (s *server) toGitHub(w http.ResponseWriter, r *http.Request) error {
	if s.SignIn == nil {
		return errNoPage
	}
	state, verifier := rand.Text(), rand.Text()+rand.Text() // RFC 7636 wants 43 characters of a verifier
	s.setCookie(w, s.bound(gitHubCookie), "/", state+"."+verifier, gitHubLife)
	http.Redirect(w, r, s.SignIn.AuthCodeURL(state, verifier, r.URL.Query().Get("account") == "choose"), http.StatusSeeOther)
	return nil
}

// fromGitHub is where GitHub sends the browser back to, with a code, or with why there is none.
func (s *server) fromGitHub(w http.ResponseWriter, r *http.Request) error {
	if s.SignIn == nil {
		return errNoPage
	}
	w.Header().Set("Referrer-Policy", "no-referrer") // the address is a secret
	var state, verifier string
	if c, err := r.Cookie(s.bound(gitHubCookie)); err == nil {
		state, verifier, _ = strings.Cut(c.Value, ".")
	}
	s.setCookie(w, s.bound(gitHubCookie), "/", "", 0)
	q := r.URL.Query()
	if state == "" || subtle.ConstantTimeCompare([]byte(state), []byte(q.Get("state"))) != 1 {
		return s.showSignIn(w, r, http.StatusBadRequest, "This sign-in was not begun in this browser, or was begun too long ago. Begin again.")
	}
	switch q.Get("error") {
	case "":
	case "access_denied":
		return s.showSignIn(w, r, http.StatusForbidden, "You did not let us know at GitHub who you are. Begin again if you want to.")
	default:
		return s.showSignIn(w, r, http.StatusBadRequest, "GitHub could not sign you in. Begin again; if it stays, whoever runs this server can look at the GitHub App's settings.")
	}
	person, err := s.SignIn.Exchange(r.Context(), q.Get("code"), verifier)
	switch code := millrace.CodeOf(err); {
	case err == nil:
	case code == millrace.Gone:
		return s.showSignIn(w, r, http.StatusBadRequest, millrace.MessageOf(err))
	case code == millrace.Forbidden, code == millrace.Unavailable:
		return s.showSignIn(w, r, code.Status(), millrace.MessageOf(err))
	default:
		return err
	}
	session, err := s.Store.SignInPerson(r.Context(), person, device(r))
	if err != nil {
		return err
	}
	return s.begin(w, r, session)
}

func (s *server) signOut(w http.ResponseWriter, r *http.Request) error {
	if err := s.Store.SignOut(r.Context(), s.cookie(r)); err != nil {
		return err
	}
	s.setCookie(w, s.cookieName(), "/", "", 0)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
