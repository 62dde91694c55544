package githubtest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ci/millrace"
)

// Person is somebody with an account at GitHub, who can sign in.
type Person struct {
	ID                 int64
	Login, Name, Email string
}

type person struct {
	Person
	authorized bool // our App, to know who they are
	quota      *quota
}

func (p *person) number() int64 { return p.ID }

func (p *person) id() string { return strconv.FormatInt(p.ID, 10) }

// organisation is one with people in it; whether the App is installed there is another matter.
type organisation struct {
	ID    int64
	Login string
	Roles map[int64]string // by the person's id
}

// The roles that GitHub knows in an organisation.
const (
	roleAdmin  = "admin"
	roleMember = "member"
)

// AddPerson adds somebody. A person has the same id in every run, except one whose login was another's before.
func (g *GitHub) AddPerson(login string) Person {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.person(login, idOf("user/"+login)).Person
}

// person is the one of that login, who is added with that id if there is none.
func (g *GitHub) person(login string, id int64) *person {
	key := strings.ToLower(login)
	if p, ok := g.logins[key]; ok {
		return p
	}
	if _, used := find(g.people, id); used {
		id = g.nextID()
	}
	p := &person{Person: Person{ID: id, Login: login, Name: login, Email: key + "@people.test"}, quota: newQuota(0, perHour)}
	g.people, g.logins[key] = put(g.people, p), p
	g.touch()
	return p
}

// organisation is the one of that login, which is made, without the App, if there is none.
func (g *GitHub) organisation(login string) *organisation {
	key := strings.ToLower(login)
	org, ok := g.orgs[key]
	if !ok {
		org = &organisation{ID: idOf("owner/" + login), Login: login, Roles: map[int64]string{}}
		for _, other := range g.orgs {
			if other.ID == org.ID { // which was called so before
				org.ID = g.nextID()
				break
			}
		}
		g.orgs[key] = org
	}
	return org
}

// People are all who were added, in order of their ids.
func (g *GitHub) People() []Person {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Person, len(g.people))
	for i, p := range g.people {
		list[i] = p.Person
	}
	return list
}

// RenamePerson gives somebody another login; the id stays. Whoever is added by the old login is another person.
func (g *GitHub) RenamePerson(login, to string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.logins[strings.ToLower(login)]
	_, taken := g.logins[strings.ToLower(to)]
	o := g.owners[strings.ToLower(login)]
	switch {
	case !ok:
		return fmt.Errorf("there is no person %q", login)
	case taken || to == "":
		return fmt.Errorf("the login %q is taken", to)
	case o != nil && o.Type == millrace.Personal:
		return fmt.Errorf("%s's own account has the App, and its repositories would have to move", login)
	}
	g.touch()
	delete(g.logins, strings.ToLower(login))
	p.Login, g.logins[strings.ToLower(to)] = to, p
	return nil
}

// SetMember makes somebody a member of an organisation, "admin" or "member", or changes which. An organisation that is not
// known yet is made, without the App.
func (g *GitHub) SetMember(org, login, role string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.logins[strings.ToLower(login)]
	switch {
	case !ok:
		return fmt.Errorf("there is no person %q", login)
	case role != roleAdmin && role != roleMember:
		return fmt.Errorf("a role in an organisation is admin or member; got %q", role)
	}
	in := g.organisation(org)
	_, was := in.Roles[p.ID]
	in.Roles[p.ID] = role
	g.touch()
	if !was {
		g.sendMembership(in, p, role, "member_added")
	}
	return nil
}

// RemoveMember takes somebody out of an organisation.
func (g *GitHub) RemoveMember(org, login string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	in, p := g.orgs[strings.ToLower(org)], g.logins[strings.ToLower(login)]
	if in == nil || p == nil || in.Roles[p.ID] == "" {
		return fmt.Errorf("%s is not a member of %s", login, org)
	}
	role := in.Roles[p.ID]
	delete(in.Roles, p.ID)
	g.touch()
	g.sendMembership(in, p, role, "member_removed")
	return nil
}

// sendMembership delivers an organization event, where the App is installed
// (https://docs.github.com/en/webhooks/webhook-events-and-payloads#organization).
func (g *GitHub) sendMembership(in *organisation, p *person, role, action string) {
	o, ok := g.owners[strings.ToLower(in.Login)]
	if !ok {
		return
	}
	g.tell(o, "organization", action, 0, map[string]any{"membership": g.membership(in, p, role)})
}

func (g *GitHub) membership(in *organisation, p *person, role string) map[string]any {
	return map[string]any{
		"url": g.APIURL() + "orgs/" + in.Login + "/memberships/" + p.Login, "state": "active", "role": role, "direct_membership": true,
		"organization_url": g.APIURL() + "orgs/" + in.Login, "user": g.user(p.Login),
	}
}

// roleAt is what somebody is at an owner: GitHub's role in an organisation, admin of their own account, or "".
func (g *GitHub) roleAt(o *owner, p *person) string {
	if o.Type == millrace.Organization {
		return g.organisation(o.Login).Roles[p.ID]
	}
	if o.ID == p.ID {
		return roleAdmin
	}
	return ""
}

// memberships are the organisations that somebody is in, by login.
func (g *GitHub) memberships(p *person) (list []*organisation) {
	for _, login := range slices.Sorted(maps.Keys(g.orgs)) {
		if org := g.orgs[login]; org.Roles[p.ID] != "" {
			list = append(list, org)
		}
	}
	return list
}

// installed is the owner of that login, if the App is installed there.
func (g *GitHub) installed(login string) (*owner, bool) {
	o, ok := g.owners[strings.ToLower(login)]
	return o, ok && !g.isUninstalled(o)
}

func (g *GitHub) personRoutes() {
	g.mux.HandleFunc("POST /_standin/people", control(func(in struct{ Login, Rename string }) (int, any, error) {
		if in.Login == "" || strings.ContainsAny(in.Login+in.Rename, "/ ") {
			return 0, nil, refuse(http.StatusUnprocessableEntity, "login is a person's login")
		}
		if in.Rename != "" {
			if err := g.RenamePerson(in.Rename, in.Login); err != nil {
				return 0, nil, refuse(http.StatusUnprocessableEntity, "%v", err)
			}
		}
		p := g.AddPerson(in.Login)
		return http.StatusCreated, map[string]any{"id": p.ID, "login": p.Login, "name": p.Name, "email": p.Email}, nil
	}))
	g.mux.HandleFunc("POST /_standin/members", control(func(in struct{ Org, Login, Role string }) (int, any, error) {
		change := func() error { return g.SetMember(in.Org, in.Login, in.Role) }
		if in.Role == "" {
			change = func() error { return g.RemoveMember(in.Org, in.Login) }
		}
		if err := change(); err != nil {
			return 0, nil, refuse(http.StatusUnprocessableEntity, "%v", err)
		}
		return http.StatusOK, map[string]any{"org": in.Org, "login": in.Login, "role": nullable(in.Role)}, nil
	}))
	g.mux.HandleFunc("POST /_standin/collaborators", control(func(in struct {
		Owner, Repo, Login string
		Remove             bool
	},
	) (int, any, error) {
		if err := g.SetCollaborator(in.Owner, in.Repo, in.Login, !in.Remove); err != nil {
			return 0, nil, refuse(http.StatusUnprocessableEntity, "%v", err)
		}
		return http.StatusOK, map[string]any{"owner": in.Owner, "repo": in.Repo, "login": in.Login}, nil
	}))
	g.screen("GET /people", func(r *http.Request, who *person) screen {
		a := ask{Text: "Whoever you are signed in as is whom Millrace will see."}
		if who != nil {
			a.Forms = append(a.Forms, askForm{Title: "Signed in as " + who.Login, Action: "/logout", Button: "Sign out"})
		}
		for _, p := range g.people {
			f := p.signIn("/people")
			about := []string{p.Name + ", id " + p.id()}
			for _, org := range g.memberships(p) {
				about = append(about, org.Roles[p.ID]+" of "+org.Login)
			}
			for _, name := range slices.Sorted(maps.Keys(g.repos)) {
				if r := g.repos[name]; r.guests[p.ID] {
					about = append(about, "collaborator of "+r.fullName())
				}
			}
			f.Text = strings.Join(about, "; ")
			a.Forms = append(a.Forms, f)
		}
		a.Links = []askLink{{"/apps/millrace", "The App Millrace"}, {"/login/device", "Sign in a device"}}
		return screen{status: http.StatusOK, page: pageData{Title: "People", Ask: &a}}
	})
}
