package githubtest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// repo is a repository: one that had a job, or was added.
type repo struct {
	ID          int64
	Owner, Name string
	Public      bool

	forked  bool           // somebody has a fork of it
	guests  map[int64]bool // outside collaborators, by the person's id
	runs    []*run         // by id
	open    []*run         // those that are not completed, by id
	closed  []*run         // as they were completed; one that was re-run may be there twice
	version uint64         // grows with every change of its runs and jobs

	rendered map[[2]bool]json.RawMessage // as the API shows it, by whether it is public and whether it has a fork
}

func (r *repo) fullName() string { return r.Owner + "/" + r.Name }

// Owner is an account with the App installed, and the id of the person who did that: an admin of the organisation, called
// LOGIN-admin unless there is another, or the one whose account it is.
type Owner struct {
	millrace.Installation
	SenderID int64
}

// AddOwner adds an account and installs the App on it. An account has the same ids in every run.
func (g *GitHub) AddOwner(login string, kind millrace.OwnerType) Owner {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.owners[strings.ToLower(login)]
	if !ok {
		o = g.own(login, kind)
		if kind == millrace.Organization {
			admin := g.person(login+"-admin", idOf("user/"+login))
			o.Sender, g.organisation(login).Roles[admin.ID] = admin.ID, roleAdmin
		}
	}
	return o.public()
}

// own makes the owner of that login.
func (g *GitHub) own(login string, kind millrace.OwnerType) *owner {
	o := &owner{Login: login, Type: kind, Installation: idOf("installation/" + login)}
	if _, used := g.installations[o.Installation]; used { // by who was called so before
		o.Installation = g.nextID()
	}
	if kind == millrace.Organization {
		o.ID = g.organisation(login).ID
	} else { // at GitHub, the account is the person
		p := g.person(login, idOf("user/"+login))
		o.ID, o.Sender = p.ID, p.ID
	}
	o.quota = newQuota(o.Installation, perHour)
	g.owners[strings.ToLower(login)] = o
	g.installations[o.Installation] = o
	for _, r := range g.repos { // of a state file
		if strings.EqualFold(r.Owner, login) {
			o.own(r)
		}
	}
	return o
}

func (o *owner) public() Owner {
	return Owner{
		Installation: millrace.Installation{ID: o.Installation, OwnerID: o.ID, OwnerLogin: o.Login, OwnerType: o.Type},
		SenderID:     o.Sender,
	}
}

// AddRepository adds a repository that has had no job yet, or says whether it is public. Its owner must have been added.
func (g *GitHub) AddRepository(owner, name string, public bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.repo(owner, name).Public = public
}

// CreateRepository is AddRepository as somebody does it at GitHub, which the App is told.
func (g *GitHub) CreateRepository(login, name string, public bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.installed(login)
	if !ok {
		return refuse(http.StatusNotFound, "there is no owner %q with the App installed", login)
	}
	_, known := g.repos[strings.ToLower(login+"/"+name)]
	r := g.repo(login, name)
	was := r.Public
	r.Public = public
	switch {
	case !known:
		g.sendRepository(o, "created", r, nil)
		g.sendRepositories(o, "added", r)
	case was != public:
		g.sendRepository(o, map[bool]string{true: "publicized", false: "privatized"}[public], r, nil)
	}
	return nil
}

// repo is the repository of that name, which it makes if there is none.
func (g *GitHub) repo(login, name string) *repo {
	key := strings.ToLower(login + "/" + name)
	r, ok := g.repos[key]
	if !ok {
		r = &repo{ID: idOf("repository/" + key), Owner: login, Name: name, guests: map[int64]bool{}, rendered: map[[2]bool]json.RawMessage{}}
		if _, used := g.moved[key]; used {
			r.ID = g.nextID()
			delete(g.moved, key)
		}
		g.repos[key] = r
		if o, ok := g.owners[strings.ToLower(login)]; ok {
			r.Owner = o.Login
			o.own(r)
		}
	}
	return r
}

func (o *owner) own(r *repo) {
	at, _ := slices.BinarySearchFunc(o.repos, r, func(a, b *repo) int { return cmp.Compare(a.Name, b.Name) })
	o.repos = slices.Insert(o.repos, at, r)
}

// changed notes that a job's state changed: what the API says of its repository is another.
func (g *GitHub) changed(j *job) {
	j.run.updatedAt = g.cfg.Now()
	j.run.repo.version++
	g.touch()
}

// numbered are things with an id, which lists are kept in order of: nothing may depend on a map's.
type numbered interface{ number() int64 }

func (j *job) number() int64    { return j.ID }
func (r *runner) number() int64 { return r.ID }
func (r *run) number() int64    { return r.ID }

func find[T numbered](list []T, id int64) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(v T, id int64) int { return cmp.Compare(v.number(), id) })
}

// put puts v where it belongs, unless it is there.
func put[T numbered](list []T, v T) []T {
	at, there := find(list, v.number())
	if there {
		return list
	}
	return slices.Insert(list, at, v)
}

// drop takes v out, if it is there.
func drop[T numbered](list []T, v T) []T {
	if at, there := find(list, v.number()); there {
		return slices.Delete(list, at, at+1)
	}
	return list
}

// later is the later of two moments.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
