package web

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/ui"
)

// The pages where a person lets a program sign in that has no browser (RFC 8628): the program shows a code, which they type
// here. Whoever talks somebody into typing a code gets a token of theirs; so the page says who asks, from where, and for what.

// deviceView is what the page shows: a form for the code, then what waits with it, then what was decided.
type deviceView struct {
	Code    string // typed, or from the address
	Problem string
	Waits   *millrace.DeviceAuthorization
	Orgs    []deviceOrg
	Decided string
	Address string // of whoever looks
}

// deviceOrg is an org for which a program may be given a token.
type deviceOrg struct {
	millrace.Membership
	Lacks []millrace.Permission // that the program asks for and the person doesn't have there
}

func (s *server) showDevice(w http.ResponseWriter, r *http.Request, session millrace.Session, status int, v deviceView) error {
	v.Address = device(r).Address
	return render(w, r, status, devicePage(ui.Frame{Title: "Sign in a program", User: session.User}, v))
}

func (s *server) device(w http.ResponseWriter, r *http.Request, session millrace.Session, _ []millrace.Membership) error {
	code, _ := millrace.ParseUserCode(r.URL.Query().Get("code"))
	return s.showDevice(w, r, session, http.StatusOK, deviceView{Code: code})
}

// findDevice shows what waits with the code that was typed.
func (s *server) findDevice(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership) error {
	view := deviceView{Code: r.PostFormValue("code")}
	d, err := s.Store.DeviceAuthorization(r.Context(), session.User.ID, view.Code)
	switch code := millrace.CodeOf(err); {
	case code == millrace.NotFound || code == millrace.LimitReached:
		view.Problem = millrace.MessageOf(err)
		return s.showDevice(w, r, session, code.Status(), view)
	case err != nil:
		return err
	}
	view.Waits = &d
	for _, m := range orgs {
		by := millrace.Caller{Role: m.Role}
		if !by.May(millrace.TokensWrite) {
			continue
		}
		org := deviceOrg{Membership: m}
		for _, p := range d.Scopes {
			if !by.May(p) {
				org.Lacks = append(org.Lacks, p)
			}
		}
		if len(org.Lacks) < len(d.Scopes) {
			view.Orgs = append(view.Orgs, org)
		}
	}
	return s.showDevice(w, r, session, http.StatusOK, view)
}

// decideDevice lets the program have a token, or refuses it.
func (s *server) decideDevice(w http.ResponseWriter, r *http.Request, session millrace.Session, orgs []millrace.Membership) error {
	view := deviceView{Decided: "The program was refused. You can close this page."}
	var org millrace.OrgID
	days := 0
	if r.PostFormValue("decision") == "allow" {
		i := slices.IndexFunc(orgs, func(m millrace.Membership) bool { return m.Slug == r.PostFormValue("org") })
		if i < 0 {
			return errNoPage
		}
		if err := (millrace.Caller{Role: orgs[i].Role}).Require(millrace.TokensWrite); err != nil {
			return err
		}
		org = orgs[i].OrgID
		days, _ = strconv.Atoi(r.PostFormValue("days")) // 0, which is refused, when it is none
		view.Decided = "The program is signed in to " + orgs[i].Slug + ". Go back to it; you can close this page."
	}
	err := s.Store.DecideDevice(r.Context(), session.User.ID, r.PostFormValue("code"), org, days)
	if millrace.CodeOf(err) == millrace.NotFound {
		return s.showDevice(w, r, session, http.StatusNotFound, deviceView{Problem: millrace.MessageOf(err)})
	}
	if err != nil {
		return err
	}
	return s.showDevice(w, r, session, http.StatusOK, view)
}
