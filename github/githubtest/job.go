package githubtest

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// job is a workflow job; each is the only one of its run.
type job struct {
	ID, RunID                     int64
	Owner, Repo                   string
	Workflow, Name, Actor, Branch string
	Labels                        []string
	Public, Fork                  bool
	Status, Conclusion            string
	Steps                         []*step
	RunnerID                      int64
	RunnerName                    string
	CreatedAt                     time.Time
	StartedAt, CompletedAt        time.Time
	Log                           string

	runner     *runner // it was given to
	assignedAt time.Time
	cancelled  bool
}

type step struct {
	Name, Run          string
	Status, Conclusion string
	StartedAt, EndedAt time.Time
}

// maxLog bounds what is kept of one job's log.
const maxLog = 4 << 20

// QueueRequest is a job to queue, as POST /_standin/jobs takes it.
type QueueRequest struct {
	Owner    string      `json:"owner"`
	Repo     string      `json:"repo"`
	Workflow string      `json:"workflow"`
	Name     string      `json:"name"`
	Labels   []string    `json:"labels"`
	Steps    []QueueStep `json:"steps"`
	Actor    string      `json:"actor"`
	Branch   string      `json:"branch"`
	Public   bool        `json:"public"`
	Fork     bool        `json:"fork"`
}

// QueueStep is one step of a job: a name and what the shell runs.
type QueueStep struct {
	Name string `json:"name"`
	Run  string `json:"run"`
}

// Queue queues a job and sends its webhook, as GitHub would. The error says what is wrong with the request.
func (g *GitHub) Queue(in QueueRequest) (id int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.owners[strings.ToLower(in.Owner)]
	switch {
	case !ok:
		return 0, refuse(404, "there is no owner %q with the App installed", in.Owner)
	case in.Repo == "" || strings.ContainsAny(in.Repo, "/ "):
		return 0, refuse(422, "repo is the repository's name without its owner; got %q", in.Repo)
	case len(in.Labels) == 0:
		return 0, refuse(422, "labels are what stands in runs-on; give at least one")
	}
	now := g.now()
	j := &job{
		ID: g.nextID(), RunID: g.nextID(), Owner: o.Login, Repo: in.Repo, Workflow: cmp.Or(in.Workflow, "ci"), Name: cmp.Or(in.Name, "build"),
		Actor: cmp.Or(in.Actor, "mona"), Branch: cmp.Or(in.Branch, "main"), Labels: in.Labels, Public: in.Public, Fork: in.Fork,
		Status: "queued", CreatedAt: now,
	}
	for i, s := range in.Steps {
		j.Steps = append(j.Steps, &step{Name: cmp.Or(s.Name, fmt.Sprintf("Step %d", i+1)), Run: s.Run, Status: "queued"})
	}
	g.jobs[j.ID] = j
	g.send(o, j, "queued")
	g.assign()
	return j.ID, nil
}

func (j *job) sha() string {
	sum := sha1.Sum([]byte(j.Owner + "/" + j.Repo + "@" + j.Branch))
	return hex.EncodeToString(sum[:])
}

// cancel ends a job: at once when it is queued, otherwise its runner is told.
func (g *GitHub) cancel(j *job) {
	if j.Status == "completed" {
		return
	}
	told := j.cancelled
	j.cancelled = true
	if j.Status == "in_progress" && j.runner != nil && !j.runner.removed {
		if !told {
			j.runner.rouse()
		}
		return // the runner ends it
	}
	if j.runner != nil {
		j.runner.job = nil
	}
	g.complete(j, "cancelled")
}

// complete ends a job and removes its runner.
func (g *GitHub) complete(j *job, conclusion string) {
	if j.Status == "completed" {
		return
	}
	now := g.now()
	if j.StartedAt.IsZero() {
		j.StartedAt = now
	}
	j.Status, j.Conclusion, j.CompletedAt = "completed", conclusion, now
	for _, s := range j.Steps {
		if s.Status != "completed" {
			s.Status, s.Conclusion = "completed", "skipped"
			if conclusion == "cancelled" {
				s.Conclusion = "cancelled"
			}
		}
	}
	if j.runner != nil && j.RunnerID != 0 {
		j.runner.job = nil
		g.remove(j.runner)
	}
	g.send(g.owners[strings.ToLower(j.Owner)], j, "completed")
}

// lose ends a job whose runner is gone.
func (g *GitHub) lose(j *job) {
	j.Log += "The self-hosted runner lost communication with the server.\n"
	if j.cancelled {
		g.complete(j, "cancelled")
		return
	}
	g.complete(j, "failure")
}

// open are the jobs with a status, oldest first.
func (g *GitHub) open(status string) []*job {
	var list []*job
	for _, j := range g.jobs {
		if j.Status == status {
			list = append(list, j)
		}
	}
	slices.SortFunc(list, func(a, b *job) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// assign gives queued jobs, oldest first, to idle runners. Any runner of the job's owner or repository that has all its
// labels may get it: GitHub's routing, where nothing ties a runner to the job that it was made for.
func (g *GitHub) assign() {
	now := g.cfg.Now()
	for _, j := range g.open("queued") {
		if j.runner != nil {
			continue
		}
		var idle []*runner
		for _, r := range g.runners {
			if r.job == nil && r.online(now) && r.Owner == strings.ToLower(j.Owner) && (r.Repo == "" || r.Repo == strings.ToLower(j.Repo)) && superset(r.Labels, j.Labels) {
				idle = append(idle, r)
			}
		}
		if len(idle) == 0 {
			continue
		}
		slices.SortFunc(idle, func(a, b *runner) int { return cmp.Compare(a.ID, b.ID) })
		r := idle[g.cfg.Rand.IntN(len(idle))]
		r.job, j.runner, j.assignedAt = j, r, now
		r.rouse()
	}
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

// Times after which GitHub gives up (https://docs.github.com/en/actions/reference/limits and the page on self-hosted
// runners, "Routing precedence").
const (
	pickUpWithin = time.Minute      // an assigned job is queued again
	queuedAtMost = 24 * time.Hour   // a queued job is cancelled
	silentAtMost = 10 * time.Minute // a runner that says nothing has lost its job
	awayAtMost   = 24 * time.Hour   // an ephemeral runner that isn't connected is removed
)

// tidy does what GitHub does by the clock. A job that runs without a runner was loaded, and waits for Resume.
func (g *GitHub) tidy(now time.Time) {
	for _, r := range g.runners {
		last := r.seen
		if last.IsZero() {
			last = r.registered
		}
		if r.job == nil && now.Sub(last) > awayAtMost {
			g.remove(r)
		}
	}
	for _, j := range g.open("queued") {
		switch {
		case now.Sub(j.CreatedAt) > queuedAtMost:
			g.cancel(j)
		case j.runner != nil && now.Sub(j.assignedAt) > pickUpWithin:
			j.runner.job, j.runner = nil, nil
		}
	}
	for _, j := range g.open("in_progress") {
		if j.runner != nil && now.Sub(j.runner.seen) > silentAtMost {
			g.lose(j)
		}
	}
	g.assign()
}

func (g *GitHub) janitor() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.mu.Lock()
			g.tidy(g.cfg.Now())
			g.mu.Unlock()
		case <-g.ctx.Done():
			return
		}
	}
}
