package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// maxUserPages bounds what is read of one person: 10,000 installations.
const maxUserPages = 100

// read reads who a token belongs to, and where they are somebody (GET /user, /user/installations and
// /user/memberships/orgs).
func (o *OAuth) read(ctx context.Context, token millrace.Secret) (p millrace.GitHubPerson, err error) {
	var u github.User
	if _, err := o.get(ctx, token, "user", &u); err != nil {
		return p, err
	}
	if u.GetID() <= 0 || clean(u.GetLogin()) == "" {
		return p, millrace.Errorf(millrace.Unavailable, "GitHub did not say who you are.")
	}
	p.User, p.Email = millrace.User{GitHubID: u.GetID(), Login: clean(u.GetLogin()), Name: clean(u.GetName())}, clean(u.GetEmail())

	var hidden hiding
	type installations struct{ Installations []*github.Installation }
	_, err = userPages(ctx, o, token, "user/installations", &hidden, func(page installations) {
		for _, i := range page.Installations {
			if at, ok := installationOf(i); ok {
				own := at.OwnerType == millrace.Personal && at.OwnerID == u.GetID()
				p.Installations = append(p.Installations, millrace.PersonInstallation{Installation: at, Admin: own, Member: own})
			}
		}
	})
	if err != nil {
		return p, err
	}
	roles := map[int64]string{}
	whole, err := userPages(ctx, o, token, "user/memberships/orgs", &hidden, func(page []*github.Membership) {
		for _, m := range page {
			if m.GetState() == "active" {
				roles[m.GetOrganization().GetID()] = m.GetRole()
			}
		}
	})
	if err != nil {
		return p, err
	}
	for i, at := range p.Installations {
		if at.OwnerType == millrace.Organization {
			role := roles[at.OwnerID]
			p.Installations[i].Admin, p.Installations[i].Member = role == "admin", role != "" && role != "billing_manager"
			if !whole { // nobody says who they are there
				hidden.add(strconv.FormatInt(at.OwnerID, 10))
			}
		}
	}
	p.Hidden = hidden.names(p.Installations)
	return p, nil
}

// userPages reads a list page by page, as its Link header says there are: one of the two has no total. A refusal for the sake
// of an organisation's own sign-on ends the list, which is then not the whole, and is no error.
func userPages[T any](ctx context.Context, o *OAuth, token millrace.Secret, path string, hidden *hiding, take func(T)) (whole bool, err error) {
	for page := 1; page <= maxUserPages; page++ {
		var list T
		got, err := o.get(ctx, token, fmt.Sprintf("%s?per_page=%d&page=%d", path, perPage, page), &list)
		hidden.note(got.header)
		if ownSignOn(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		take(list)
		if !strings.Contains(got.header.Get("Link"), `rel="next"`) {
			break
		}
	}
	return true, nil
}

// get makes one call with a person's token.
func (o *OAuth) get(ctx context.Context, token millrace.Secret, path string, out any) (answer, error) {
	u, err := o.api.Parse(path)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return answer{}, err
	}
	return send(o.client, req, token.Reveal(), out)
}

// hiding is what organisations that want their own sign-on (SAML) keep from a person's token
// (https://docs.github.com/en/rest/authentication/authenticating-to-the-rest-api, "Personal access tokens and SAML SSO").
type hiding struct{ orgs []string } // each by its id, or its login

// ssoPage is where a person signs on at an organisation.
var ssoPage = regexp.MustCompile(`/orgs/([^/?]+)/sso`)

func (h *hiding) add(org string) {
	if org = clean(org); org != "" && !slices.Contains(h.orgs, org) && len(h.orgs) < maxNames {
		h.orgs = append(h.orgs, org)
	}
}

// note takes what X-GitHub-SSO says: "partial-results; organizations=1,2" or "required; url=…/orgs/LOGIN/sso?…".
func (h *hiding) note(header http.Header) {
	for part := range strings.SplitSeq(header.Get("X-GitHub-SSO"), ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "organizations":
			for id := range strings.SplitSeq(value, ",") {
				h.add(strings.TrimSpace(id))
			}
		case "url":
			if at := ssoPage.FindStringSubmatch(value); at != nil {
				login, _ := url.PathUnescape(at[1])
				h.add(login)
			}
		}
	}
}

// ownSignOn reports whether a call was refused because of an organisation's own sign-on.
func ownSignOn(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusForbidden &&
		(r.header.Get("X-GitHub-SSO") != "" || strings.Contains(strings.ToLower(r.message), "saml"))
}

// names are the organisations, by login where an installation tells it.
func (h *hiding) names(seen []millrace.PersonInstallation) []string {
	list := make([]string, 0, len(h.orgs))
	for _, org := range h.orgs {
		for _, at := range seen {
			if strconv.FormatInt(at.OwnerID, 10) == org {
				org = at.OwnerLogin
			}
		}
		if !slices.Contains(list, org) {
			list = append(list, org)
		}
	}
	slices.Sort(list)
	return list
}
