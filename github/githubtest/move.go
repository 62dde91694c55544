package githubtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
	delete(g.repos, from)
	delete(g.moved, to)
	g.repos[to], g.moved[from] = r, r
	if o := g.owners[strings.ToLower(r.Owner)]; o != nil {
		o.repos = slices.DeleteFunc(o.repos, func(other *repo) bool { return other == r })
	}
	if s, ok := g.scopes[from]; ok {
		delete(g.scopes, from)
		g.scopes[to] = s
		for _, run := range s.list {
			run.Owner, run.Repo = strings.ToLower(toOwner), strings.ToLower(toName)
		}
	}
	before := g.pool(r.Owner)
	r.Owner, r.Name = toOwner, toName
	if o := g.owners[strings.ToLower(toOwner)]; o != nil {
		r.Owner = o.Login
		o.own(r)
	}
	after := g.pool(r.Owner)
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
