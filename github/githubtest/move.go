package githubtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ci/millrace"
)

// MoveRepository renames a repository, or transfers it to another account; the App need not be installed there. Its id
// stays, its runs and its own runners go along, and its old name leads to it until a repository is made of that name.
func (g *GitHub) MoveRepository(owner, name, toOwner, toName string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	from, to := strings.ToLower(owner+"/"+name), strings.ToLower(toOwner+"/"+toName)
	r, ok := g.repos[from]
	switch _, taken := g.repos[to]; {
	case !ok:
		return fmt.Errorf("there is no repository %s/%s", owner, name)
	case taken:
		return fmt.Errorf("there is a repository %s/%s already", toOwner, toName)
	}
	o, wasCalled := g.owners[strings.ToLower(r.Owner)], r.Name
	g.move(r, toOwner, toName)
	now := g.owners[strings.ToLower(r.Owner)]
	if now == o {
		if o != nil {
			g.sendRepository(o, "renamed", r, map[string]any{"repository": map[string]any{"name": map[string]any{"from": wasCalled}}})
		}
		return nil
	}
	if o != nil {
		g.sendRepositories(o, "removed", r)
	}
	if now != nil {
		g.sendRepositories(now, "added", r)
		before := map[string]any{"user": map[string]any{"login": owner, "type": millrace.Personal}}
		if o != nil {
			before = map[string]any{strings.ToLower(string(o.Type)): g.account(o)}
		}
		g.sendRepository(now, "transferred", r, map[string]any{"owner": map[string]any{"from": before}})
	}
	return nil
}

// move gives a repository another name or owner.
func (g *GitHub) move(r *repo, toOwner, toName string) {
	from, to := strings.ToLower(r.fullName()), strings.ToLower(toOwner+"/"+toName)
	delete(g.repos, from)
	delete(g.moved, to)
	if g.repos[to] = r; from != to {
		g.moved[from] = r
	}
	before, after := g.pool(r.Owner), g.pool(toOwner)
	if o := g.owners[strings.ToLower(r.Owner)]; o != nil {
		o.repos = slices.DeleteFunc(o.repos, func(other *repo) bool { return other == r })
	}
	if s, ok := g.scopes[from]; ok {
		delete(g.scopes, from)
		g.scopes[to] = s
		for _, run := range s.list {
			run.Owner, run.Repo = strings.ToLower(toOwner), strings.ToLower(toName)
			run.belong(before, after)
		}
	}
	r.Owner, r.Name = toOwner, toName
	if o := g.owners[strings.ToLower(toOwner)]; o != nil {
		r.Owner = o.Login
		o.own(r)
	}
	for _, run := range r.runs {
		for _, j := range run.jobs {
			j.Owner, j.Repo = r.Owner, r.Name
			if _, waits := find(before.waiting, j.ID); waits {
				before.waiting = drop(before.waiting, j)
				after.waiting = put(after.waiting, j)
			}
		}
	}
	clear(r.rendered)
	r.version++
	g.touch()
}

// belong moves a runner that is idle from one owner's to another's.
func (r *runner) belong(before, after *pool) {
	if _, idle := find(before.idle, r.ID); idle {
		before.idle = drop(before.idle, r)
		after.idle = put(after.idle, r)
	}
}

// RenameOwner gives an owner with the App another login. Ids stay, repositories and runners go along, and the repositories'
// old names lead to them. Faults that name the old login hold for whoever has it.
func (g *GitHub) RenameOwner(login, to string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	from, key := strings.ToLower(login), strings.ToLower(to)
	o := g.owners[from]
	_, org := g.orgs[key]
	switch _, person := g.logins[key]; {
	case o == nil:
		return refuse(http.StatusNotFound, "there is no owner %q", login)
	case to == "" || strings.ContainsAny(to, "/ "):
		return refuse(http.StatusUnprocessableEntity, "login is the owner's new login")
	case from != key && (org || person || g.owners[key] != nil):
		return refuse(http.StatusUnprocessableEntity, "the login %q is taken", to)
	}
	was := o.Login
	delete(g.owners, from)
	o.Login, o.byPerson, g.owners[key] = to, true, o
	if o.Type == millrace.Organization {
		org := g.organisation(was)
		delete(g.orgs, from)
		org.Login, g.orgs[key] = to, org
	} else if at, ok := find(g.people, o.ID); ok {
		delete(g.logins, from)
		g.people[at].Login, g.logins[key] = to, g.people[at]
	}
	repos := o.repos
	o.repos = nil
	for _, r := range repos {
		g.move(r, to, r.Name)
	}
	before, after := g.pool(was), g.pool(to)
	if s, ok := g.scopes[from+"/"]; ok {
		delete(g.scopes, from+"/")
		g.scopes[key+"/"] = s
		for _, r := range s.list {
			r.Owner = key
			r.belong(before, after)
		}
	}
	changes := map[string]any{"login": map[string]any{"from": was}}
	if o.Type == millrace.Organization {
		g.tell(o, "organization", "renamed", 0, map[string]any{"changes": changes})
	}
	g.tell(o, "installation_target", "renamed", 0, map[string]any{"account": g.account(o), "changes": changes, "target_type": o.Type})
	return nil
}

// redirect is where a call by an old name is sent (https://docs.github.com/en/rest/using-the-rest-api/
// best-practices-for-using-the-rest-api, "Follow redirects"); "" when the name is a repository's, or nobody's.
func (g *GitHub) redirect(c *call) string {
	owner, name := c.r.PathValue("owner"), c.r.PathValue("repo")
	r, ok := g.moved[strings.ToLower(owner+"/"+name)]
	if !ok || name == "" {
		return ""
	}
	rest := strings.TrimPrefix(c.path, "/repos/"+owner+"/"+name)
	return fmt.Sprintf("%srepositories/%d%s", g.APIURL(), r.ID, rest)
}

// moved is GitHub's answer to a call by an old name; one that isn't a GET is to be made again as it is.
func (c *call) moved() error {
	if c.r.Method == http.MethodGet {
		return refuse(http.StatusMovedPermanently, "Moved Permanently")
	}
	return refuse(http.StatusTemporaryRedirect, "Moved Permanently")
}

// byID serves a repository's part of the API by its id, as it does by its name.
func (g *GitHub) byID(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	full := "none/none" // answered as any other that isn't there
	g.mu.Lock()
	for _, rp := range g.repos {
		if rp.ID == id {
			full = rp.fullName()
		}
	}
	g.mu.Unlock()
	r = r.Clone(r.Context())
	r.URL.Path = apiPath + "/repos/" + full + "/" + r.PathValue("rest")
	r.URL.RawPath = ""
	g.mux.ServeHTTP(w, r)
}
