package githubtest

import (
	"slices"
	"strings"
	"time"
)

// pool is what may meet at one owner: jobs that nobody has, and runners that have none.
type pool struct {
	waiting []*job    // by id, which is by age
	idle    []*runner // by id; some may have fallen silent
}

func (g *GitHub) pool(login string) *pool {
	login = strings.ToLower(login)
	p, ok := g.pools[login]
	if !ok {
		p = &pool{}
		g.pools[login] = p
	}
	return p
}

// mayRun is GitHub's routing, where nothing ties a runner to the job that it was made for: any runner of the job's owner
// or repository that has all its labels may get it.
func (g *GitHub) mayRun(r *runner, j *job) bool {
	if r.Repo == "" && g.excluded(j.Owner, j.Repo) {
		return false
	}
	return (r.Repo == "" || strings.EqualFold(r.Repo, j.Repo)) && superset(r.Labels, j.Labels)
}

// superset reports whether have contains all of want, ignoring case as GitHub does.
func superset(have, want []string) bool {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.EqualFold(h, w) }) {
			return false
		}
	}
	return true
}

// findRunner gives a waiting job to one of the idle runners that may run it, if there is any. Chance decides.
func (g *GitHub) findRunner(j *job) {
	if j.Status != "queued" || j.runner != nil {
		return
	}
	now := g.cfg.Now()
	var able []*runner
	for _, r := range g.pool(j.Owner).idle {
		if r.online(now) && g.mayRun(r, j) {
			able = append(able, r)
		}
	}
	if len(able) > 0 {
		g.give(able[g.cfg.Rand.IntN(len(able))], j)
	}
}

// findJob gives an idle runner the oldest waiting job that it may run, if there is any.
func (g *GitHub) findJob(r *runner) {
	p := g.pool(r.Owner)
	if _, idle := find(p.idle, r.ID); !idle || !r.online(g.cfg.Now()) {
		return
	}
	for _, j := range p.waiting {
		if g.mayRun(r, j) {
			g.give(r, j)
			return
		}
	}
}

func (g *GitHub) give(r *runner, j *job) {
	p := g.pool(j.Owner)
	p.waiting = drop(p.waiting, j)
	r.job, j.runner, j.assignedAt = j, r, g.cfg.Now()
	g.noted(r)
	r.rouse()
	if g.cfg.Assigned != nil {
		g.cfg.Assigned(r.ID, j.ID)
	}
}

// takeBack undoes give for a job that was not picked up.
func (g *GitHub) takeBack(j *job) {
	r := j.runner
	r.job, j.runner = nil, nil
	p := g.pool(j.Owner)
	p.waiting = put(p.waiting, j)
	g.noted(r)
}

// Times after which GitHub gives up (https://docs.github.com/en/actions/reference/limits and the page on self-hosted
// runners, "Routing precedence").
const (
	pickUpWithin = time.Minute      // an assigned job is queued again
	queuedAtMost = 24 * time.Hour   // a queued job is cancelled
	silentAtMost = 10 * time.Minute // a runner that says nothing has lost its job
	awayAtMost   = 24 * time.Hour   // an ephemeral runner that isn't connected is removed
)

// Tidy does what GitHub does by the clock: it queues jobs again that were not picked up, ends those of silent runners and
// those queued for a day, and forgets runners that stay away. With [Config.Send] somebody must call it every few seconds.
func (g *GitHub) Tidy() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.cfg.Now()
	for _, r := range slices.Clone(g.registered) {
		if r.job == nil && now.Sub(later(r.seen, r.registered)) > awayAtMost {
			g.remove(r)
		}
	}
	var again []*job
	var free []*runner
	for _, j := range slices.Clone(g.open) {
		switch {
		case j.Status == "in_progress": // one without a runner was loaded, and waits for Resume
			if j.runner != nil && now.Sub(j.runner.seen) > g.cfg.LosesJobAfter {
				g.lose(j)
			}
		case now.Sub(j.CreatedAt) > queuedAtMost:
			g.cancel(j)
		case j.runner != nil && now.Sub(j.assignedAt) > pickUpWithin:
			free = append(free, j.runner)
			g.takeBack(j)
			again = append(again, j)
		}
	}
	for _, j := range again {
		g.findRunner(j)
	}
	for _, r := range free {
		g.findJob(r)
	}
	g.forgetRemoved(now)
	g.hooks.forget(now)
}

func (g *GitHub) janitor() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.Tidy()
		case <-g.ctx.Done():
			return
		}
	}
}
