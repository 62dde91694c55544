package githubtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// saved is what outlives a restart. Runners don't: their machines are gone too. Neither do sign-ins that are under way, and
// people's tokens.
type saved struct {
	LastID        int64           `json:"last_id"`
	Jobs          []*job          `json:"jobs"`
	People        []savedPerson   `json:"people"`
	Organisations []*organisation `json:"organisations"`
	Owners        []savedOwner    `json:"owners"` // where somebody installed the App, or changed it; the others are added at each start

	Collaborators map[string][]int64 `json:"collaborators"` // outside ones, by owner/name
}

type savedPerson struct {
	Person
	Authorized bool
}

type savedOwner struct {
	Login                string
	Type                 millrace.OwnerType
	Installation, Sender int64
	Uninstalled          bool      `json:",omitzero"`
	Suspended            time.Time `json:",omitzero"` // zero: it isn't
}

// touch notes that the state file is behind.
func (g *GitHub) touch() {
	select {
	case g.dirty <- struct{}{}:
	default:
	}
}

// load reads the state file. A job that was running has lost its runner.
func (g *GitHub) load() error {
	if g.cfg.StateFile == "" {
		return nil
	}
	content, err := os.ReadFile(g.cfg.StateFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s saved
	if err := json.Unmarshal(content, &s); err != nil {
		return fmt.Errorf("%s: %w (remove it to start with an empty GitHub)", g.cfg.StateFile, err)
	}
	g.lastID = max(g.lastID, s.LastID)
	for _, was := range s.People {
		p := g.person(was.Login, was.ID)
		p.Person, p.authorized = was.Person, was.Authorized
	}
	for _, org := range s.Organisations {
		g.orgs[strings.ToLower(org.Login)] = org
	}
	for _, was := range s.Owners {
		o := g.own(was.Login, was.Type)
		o.Sender, o.byPerson, o.uninstalled = was.Sender, true, was.Uninstalled
		o.suspended, o.paused = was.Suspended, !was.Suspended.IsZero()
		g.number(o, was.Installation)
	}
	for _, full := range slices.Sorted(maps.Keys(s.Collaborators)) {
		owner, name, _ := strings.Cut(full, "/")
		for _, id := range s.Collaborators[full] {
			g.repo(owner, name).guests[id] = true
		}
	}
	for _, j := range s.Jobs {
		j.Attempt = max(j.Attempt, 1)
		j.queued, j.ended = j.CreatedAt, j.CompletedAt
		if j.RunnerID != 0 {
			j.ran = j.StartedAt
		}
		g.add(j)
	}
	return nil
}

// Resume says that the owners are there and webhooks are heard: what ran when the state was saved has lost its runner.
func (g *GitHub) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, j := range slices.Clone(g.open) {
		if j.Status == "in_progress" && j.runner == nil {
			g.lose(j)
		}
	}
}

// saver writes the state file some time after each change, and at the end.
func (g *GitHub) saver() {
	if g.cfg.StateFile == "" {
		return
	}
	for {
		select {
		case <-g.dirty:
		case <-g.ctx.Done():
			g.save()
			return
		}
		select { // changes come in bursts
		case <-time.After(500 * time.Millisecond):
		case <-g.ctx.Done():
		}
		g.save()
	}
}

func (g *GitHub) save() {
	g.mu.Lock()
	s := saved{LastID: g.lastID, Jobs: g.order, Collaborators: map[string][]int64{}}
	for _, r := range g.repos {
		if len(r.guests) > 0 {
			s.Collaborators[r.fullName()] = slices.Sorted(maps.Keys(r.guests))
		}
	}
	for _, p := range g.people {
		s.People = append(s.People, savedPerson{p.Person, p.authorized})
	}
	for _, login := range slices.Sorted(maps.Keys(g.orgs)) {
		s.Organisations = append(s.Organisations, g.orgs[login])
	}
	for _, login := range slices.Sorted(maps.Keys(g.owners)) {
		if o := g.owners[login]; o.byPerson {
			was := savedOwner{Login: o.Login, Type: o.Type, Installation: o.Installation, Sender: o.Sender, Uninstalled: o.uninstalled}
			if o.paused {
				was.Suspended = o.suspended
			}
			s.Owners = append(s.Owners, was)
		}
	}
	content, err := json.Marshal(s)
	g.mu.Unlock()
	if err != nil {
		panic("githubtest: " + err.Error()) // the state is ours
	}
	tmp := filepath.Join(filepath.Dir(g.cfg.StateFile), "."+filepath.Base(g.cfg.StateFile)+".tmp")
	if os.WriteFile(tmp, content, 0o600) == nil {
		os.Rename(tmp, g.cfg.StateFile) //nolint:errcheck // the next change writes again
	}
}
