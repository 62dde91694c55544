package githubtest

import (
	"fmt"
	"net/http"
	"strings"
)

// listMembers lists an organisation's members for its installation
// (https://docs.github.com/en/rest/orgs/members#list-organization-members). Without the permission, GitHub shows whom it
// shows everybody: here nobody is a public member.
func (g *GitHub) listMembers(r *http.Request, o *owner) (int, any, error) {
	role := r.FormValue("role")
	switch role {
	case "", "all", roleAdmin, roleMember:
	default:
		return 0, nil, refuse(http.StatusUnprocessableEntity, "Validation Failed")
	}
	list := []any{}
	for _, p := range g.people {
		is := g.roleAt(o, p)
		if is == "" || g.permissions(o)["members"] == "" || (role == roleAdmin || role == roleMember) && role != is {
			continue
		}
		list = append(list, g.user(p.Login))
	}
	return http.StatusOK, listing{total: len(list), body: paged(r, list)}, nil
}

// SetCollaborator lets somebody into one repository of an owner, as an outside collaborator, or out of it again. Whoever is
// let in sees the installation and is no member.
func (g *GitHub) SetCollaborator(owner, name, login string, in bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, p := g.repos[strings.ToLower(owner+"/"+name)], g.logins[strings.ToLower(login)]
	switch {
	case r == nil:
		return fmt.Errorf("there is no repository %s/%s", owner, name)
	case p == nil:
		return fmt.Errorf("there is no person %q", login)
	case !in && !r.guests[p.ID]:
		return fmt.Errorf("%s is no collaborator of %s", login, r.fullName())
	}
	if r.guests[p.ID] = true; !in {
		delete(r.guests, p.ID)
	}
	g.touch()
	return nil
}

// sees reports whether somebody may see the owner's installation: as a member, or as a collaborator of one of its
// repositories.
func (g *GitHub) sees(o *owner, p *person) bool {
	if g.roleAt(o, p) != "" {
		return true
	}
	for _, r := range o.repos {
		if r.guests[p.ID] {
			return true
		}
	}
	return false
}
