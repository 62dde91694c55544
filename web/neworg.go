package web

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

// newOrgView is what the page shows on which installations become orgs.
type newOrgView struct {
	Installations []millrace.UserInstallation
	Slugs         map[int64]string // a free short name for each that may become an org
	Hidden        []string         // organisations that want their own sign-on first
	ReadAt        time.Time        // when GitHub said so
	Join          []millrace.Membership
	Install       string
	AtGitHub      bool // people sign in at GitHub here
	Now           time.Time
	Problem       string
	About         int64 // the installation that Problem is about
	Name          string
}

// setUp is where GitHub sends people who installed the App. What the address says of the installation proves nothing, for
// anybody can make one up: GitHub is asked anew who they are and what they own.
func (s *server) setUp(w http.ResponseWriter, r *http.Request) error {
	if s.SignIn == nil {
		http.Redirect(w, r, "/new", http.StatusSeeOther)
		return nil
	}
	s.setCookie(w, targetCookie, "/sign-in", "%2Fnew", targetLife)
	http.Redirect(w, r, "/sign-in/github", http.StatusSeeOther)
	return nil
}

func (s *server) newOrg(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership) error {
	return s.showNewOrg(w, r, session, orgs, http.StatusOK, newOrgView{})
}

func (s *server) showNewOrg(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership, status int, v newOrgView) (err error) {
	v.Install, v.AtGitHub, v.Now, v.Slugs = s.Install, s.SignIn != nil, s.Now(), map[int64]string{}
	if v.Installations, v.Hidden, v.ReadAt, err = s.Store.UserInstallations(r.Context(), session.User.ID); err != nil {
		return err
	}
	for _, i := range v.Installations {
		if v.open(i) {
			if v.Slugs[i.ID], err = s.Store.SuggestSlug(r.Context(), i.OwnerLogin); err != nil {
				return err
			}
		}
	}
	for _, m := range orgs {
		if m.Role.May(millrace.OrgWrite) {
			v.Join = append(v.Join, m)
		}
	}
	return render(w, r, status, newOrgPage(ui.Frame{Title: "Your GitHub accounts", User: session.User}, v))
}

// open reports whether an installation may be made an org, or part of one.
func (v newOrgView) open(i millrace.UserInstallation) bool {
	return i.Admin && i.Org == nil && !i.LinkedElsewhere
}

// stale reports whether GitHub's word is too old for that.
func (v newOrgView) stale() bool {
	return v.ReadAt.IsZero() || v.Now.Sub(v.ReadAt) >= millrace.ProofLength
}

// name is what the form proposes: what was typed, or the account's.
func (v newOrgView) name(i millrace.UserInstallation) string {
	if v.About == i.ID && v.Name != "" {
		return v.Name
	}
	return i.OwnerLogin
}

func installationOf(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PostFormValue("installation"), 10, 64)
	if err != nil {
		return 0, millrace.Errorf(millrace.Unprocessable, "Which installation? The form didn't say.")
	}
	return id, nil
}

func (s *server) foundOrg(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership) error {
	id, err := installationOf(r)
	if err != nil {
		return err
	}
	n := store.FoundOrg{InstallationID: id, Slug: strings.TrimSpace(r.PostFormValue("slug")), Name: strings.TrimSpace(r.PostFormValue("name"))}
	org, err := s.Store.FoundOrg(r.Context(), actorOf(r, session), session.User.ID, n)
	switch code := millrace.CodeOf(err); {
	case err == nil:
	case code != millrace.Internal:
		return s.showNewOrg(w, r, session, orgs, code.Status(), newOrgView{Problem: millrace.MessageOf(err), About: id, Name: n.Name})
	default:
		return err
	}
	http.Redirect(w, r, "/o/"+org.Slug+"/", http.StatusSeeOther)
	return nil
}

// linkInstallation makes an installation part of an org that there is.
func (s *server) linkInstallation(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := installationOf(r)
	if err != nil {
		return err
	}
	err = s.Store.Org(v.Org.OrgID).LinkInstallation(r.Context(), v.By, id)
	switch code := millrace.CodeOf(err); {
	case err == nil:
	case code != millrace.Internal:
		return s.showNewOrg(w, r, v.Session, v.Orgs, code.Status(), newOrgView{Problem: millrace.MessageOf(err), About: id})
	default:
		return err
	}
	http.Redirect(w, r, v.path("/settings"), http.StatusSeeOther)
	return nil
}

// said is when GitHub said all this.
func (v newOrgView) said() string {
	if v.ReadAt.IsZero() {
		return "GitHub has not been asked yet."
	}
	return fmt.Sprintf("GitHub said so %s.", ui.Ago(v.ReadAt, v.Now))
}
