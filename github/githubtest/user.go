package githubtest

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ci/millrace"
)

// What the App may read for a person who authorised it: https://docs.github.com/en/rest/users/users,
// https://docs.github.com/en/rest/apps/installations and https://docs.github.com/en/rest/orgs/members.

func (g *GitHub) userRoutes() {
	as := func(pattern string, e func(*call) (int, any, error)) { g.handle(pattern, g.asUser, nil).do = e }
	as("GET /user", g.getUser)
	as("GET /user/installations", g.listUserInstallations)
	as("GET /user/installations/{id}/repositories", g.listUserRepositories)
	as("GET /user/memberships/orgs", g.listMemberships)
}

func (g *GitHub) getUser(c *call) (int, any, error) {
	m := g.user(c.person.Login)
	for name, value := range map[string]any{
		"name": nullable(c.person.Name), "email": nullable(c.person.Email), "company": nil, "blog": "", "location": nil, "hireable": nil, "bio": nil,
		"public_repos": 0, "public_gists": 0, "followers": 0, "following": 0, "created_at": "2024-01-02T03:04:05Z", "updated_at": "2024-01-02T03:04:05Z",
	} {
		m[name] = value
	}
	return http.StatusOK, m, nil
}

// sso is the header that names the organisations of which an answer tells nothing.
func sso(hidden []string) string {
	if len(hidden) == 0 {
		return ""
	}
	return "partial-results; organizations=" + strings.Join(hidden, ",")
}

// protected reports whether an organisation wants its own sign-on, which a person's token lacks.
func (g *GitHub) protected(login string) bool { return g.faults.SAML.has(login) }

func (g *GitHub) listUserInstallations(c *call) (int, any, error) {
	list, hidden := []any{}, []string{}
	for _, login := range slices.Sorted(maps.Keys(g.owners)) {
		o := g.owners[login]
		switch {
		case g.isUninstalled(o) || !g.sees(o, c.person):
		case o.Type == millrace.Organization && g.protected(login):
			hidden = append(hidden, strconv.FormatInt(o.ID, 10))
		default:
			list = append(list, g.installation(o))
		}
	}
	return http.StatusOK, listing{total: len(list), sso: sso(hidden), body: map[string]any{"total_count": len(list), "installations": paged(c.r, list)}}, nil
}

func (g *GitHub) listUserRepositories(c *call) (int, any, error) {
	o, err := g.installationAt(c.r)
	switch {
	case err != nil:
		return 0, nil, err
	case !g.sees(o, c.person):
		return 0, nil, refuse(http.StatusNotFound, "Not Found")
	case o.Type == millrace.Organization && g.protected(o.Login):
		return 0, nil, refuse(http.StatusForbidden, saysSAML)
	}
	if g.roleAt(o, c.person) == "" {
		return g.repositoriesJSON(c.r, o, slices.DeleteFunc(slices.Clone(o.repos), func(r *repo) bool { return !r.guests[c.person.ID] }))
	}
	return g.listRepositories(c.r, o)
}

// listMemberships lists the organisations where the App is installed: of others, a person's token tells it nothing.
func (g *GitHub) listMemberships(c *call) (int, any, error) {
	list, hidden := []any{}, []string{}
	for _, org := range g.memberships(c.person) {
		if _, ok := g.installed(org.Login); !ok || c.r.FormValue("state") == "pending" {
			continue
		}
		if g.protected(org.Login) {
			hidden = append(hidden, strconv.FormatInt(org.ID, 10))
			continue
		}
		m := g.membership(org, c.person, org.Roles[c.person.ID])
		m["organization"] = g.organizationJSON(org.ID, org.Login)
		list = append(list, m)
	}
	return http.StatusOK, listing{total: len(list), sso: sso(hidden), body: paged(c.r, list)}, nil
}
