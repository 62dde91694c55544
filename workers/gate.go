package workers

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// Gate is GitHub as the product calls it. What GitHub's refusals say of an installation becomes an incident, and what a
// call that went well proves ends one; while an incident says that GitHub is not to be called for an installation, no call
// is made. Incidents are in the database: every process keeps to them.
type Gate struct {
	github millrace.GitHub
	store  *store.Store
	log    *slog.Logger

	mu     sync.Mutex
	silent map[int64]silence // by installation; 0 is the App
}

var _ millrace.GitHub = (*Gate)(nil)

// silence is a row of calls that got no answer worth the name.
type silence struct {
	calls int
	since time.Time
}

// GitHub counts as down after this many calls in a row without an answer, over at least this long: single failures are
// its everyday, and are tried again by whoever called.
const (
	downAfterCalls = 3
	downAfter      = 10 * time.Second
)

// NewGate makes the gate before github.
func NewGate(github millrace.GitHub, st *store.Store, log *slog.Logger) *Gate {
	return &Gate{github: github, store: st, log: log, silent: map[int64]silence{}}
}

// proves are the codes of the incidents that a call which went well ends: any call, and one that registered a runner.
var (
	provenByAny          = []millrace.WaitCode{millrace.WaitSuspended, millrace.WaitIPAllowList, millrace.WaitGitHubDown}
	provenByRegistration = append([]millrace.WaitCode{
		millrace.WaitPermission, millrace.WaitSelfHostedDisabled, millrace.WaitRunnerGroupFull,
	}, provenByAny...)
)

// call makes one call for an installation. repository is 0 and "" unless what GitHub says concerns that one alone.
func (g *Gate) call(ctx context.Context, installation int64, proves []millrace.WaitCode, do func() error) error {
	open, now, err := g.store.OpenIncidents(ctx, installation)
	if err != nil {
		return err
	}
	for _, i := range open {
		if slices.Contains(millrace.StopsCalls, i.Code) {
			return refused(i)
		}
	}
	err = do()
	if err == nil {
		g.answered(installation)
		return g.close(ctx, installation, open, proves)
	}
	return cmp.Or(g.note(ctx, installation, now, err), err)
}

// refused is the error of a call that was not made.
func refused(i millrace.Incident) error {
	return millrace.Errorf(millrace.LimitReached, "GitHub is not called for %s now: %s.", i.Owner, i.Code.Title())
}

func (g *Gate) answered(installation int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.silent, installation)
}

// close ends the open incidents that a call which went well proves to be over.
func (g *Gate) close(ctx context.Context, installation int64, open []millrace.Incident, proves []millrace.WaitCode) error {
	for _, i := range open {
		if slices.Contains(proves, i.Code) {
			return g.store.CloseIncidents(ctx, installation, i.RepositoryID, proves...)
		}
	}
	return nil
}

// note opens the incident that a refusal names; its error is the store's.
func (g *Gate) note(ctx context.Context, installation int64, now time.Time, refusal error) error {
	c := millrace.ConditionOf(refusal)
	if c == nil {
		if millrace.CodeOf(refusal) != millrace.Unavailable {
			g.answered(installation)
		}
		return nil
	}
	if c.Code == millrace.WaitGitHubDown && !g.isDown(installation, now) {
		return nil
	}
	g.log.Warn("GitHub refuses", "installation", installation, "condition", c.Code, "detail", c.Detail)
	return g.store.OpenIncident(ctx, installation, 0, "", *c)
}

// isDown counts a call without an answer and reports whether that makes enough of them.
func (g *Gate) isDown(installation int64, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.silent[installation]
	if s.calls == 0 {
		s.since = now
	}
	s.calls++
	g.silent[installation] = s
	return s.calls >= downAfterCalls && now.Sub(s.since) >= downAfter
}

// CreateJIT registers a runner.
func (g *Gate) CreateJIT(ctx context.Context, at millrace.RunnerTarget, name string, labels []string) (config millrace.JITConfig, err error) {
	err = g.call(ctx, at.InstallationID, provenByRegistration, func() error {
		config, err = g.github.CreateJIT(ctx, at, name, labels)
		return err
	})
	return config, err
}

// FindRunner finds a runner by its name.
func (g *Gate) FindRunner(ctx context.Context, at millrace.RunnerTarget, name string) (r millrace.Runner, err error) {
	err = g.call(ctx, at.InstallationID, provenByAny, func() error {
		r, err = g.github.FindRunner(ctx, at, name)
		return err
	})
	return r, err
}

// DeleteRunner removes a registration.
func (g *Gate) DeleteRunner(ctx context.Context, at millrace.RunnerTarget, id int64) error {
	return g.call(ctx, at.InstallationID, provenByAny, func() error { return g.github.DeleteRunner(ctx, at, id) })
}

// ListRunners lists the runners that are registered there.
func (g *Gate) ListRunners(ctx context.Context, at millrace.RunnerTarget) (list []millrace.Runner, err error) {
	err = g.call(ctx, at.InstallationID, provenByAny, func() error {
		list, err = g.github.ListRunners(ctx, at)
		return err
	})
	return list, err
}

// GroupAdmits reports whether the runners' group may be used by a repository.
func (g *Gate) GroupAdmits(ctx context.Context, at millrace.RunnerTarget, r millrace.Repository) (admits bool, err error) {
	err = g.call(ctx, at.InstallationID, provenByAny, func() error {
		admits, err = g.github.GroupAdmits(ctx, at, r)
		return err
	})
	return admits, err
}

// OpenJobs reads a repository's open jobs.
func (g *Gate) OpenJobs(ctx context.Context, at millrace.RepositoryTarget) (open millrace.OpenJobs, err error) {
	err = g.call(ctx, at.InstallationID, provenByAny, func() error {
		open, err = g.github.OpenJobs(ctx, at)
		return err
	})
	return open, err
}

// Job reads one job.
func (g *Gate) Job(ctx context.Context, at millrace.RepositoryTarget, id int64) (e millrace.JobEvent, err error) {
	err = g.call(ctx, at.InstallationID, provenByAny, func() error {
		e, err = g.github.Job(ctx, at, id)
		return err
	})
	return e, err
}

// FromFork reports whether a run is of a fork's code.
func (g *Gate) FromFork(ctx context.Context, at millrace.RepositoryTarget, run int64) (fork bool, err error) {
	err = g.call(ctx, at.InstallationID, provenByAny, func() error {
		fork, err = g.github.FromFork(ctx, at, run)
		return err
	})
	return fork, err
}

// InstallationRepositories lists the repositories that an installation may see.
func (g *Gate) InstallationRepositories(ctx context.Context, installation int64) (list []millrace.Repository, err error) {
	err = g.call(ctx, installation, provenByAny, func() error {
		list, err = g.github.InstallationRepositories(ctx, installation)
		return err
	})
	return list, err
}

// Members lists who is in an organisation.
func (g *Gate) Members(ctx context.Context, installation int64, owner string) (list []millrace.GitHubMember, err error) {
	err = g.call(ctx, installation, provenByAny, func() error {
		list, err = g.github.Members(ctx, installation, owner)
		return err
	})
	return list, err
}

// The App's own calls are for no installation: they are made whatever its incidents are.

// Installation reads an installation's state.
func (g *Gate) Installation(ctx context.Context, installation int64) (millrace.Installation, error) {
	return g.github.Installation(ctx, installation)
}

// Installations lists the App's installations.
func (g *Gate) Installations(ctx context.Context) ([]millrace.Installation, error) {
	return g.github.Installations(ctx)
}

// Uninstall takes the App away from its owner.
func (g *Gate) Uninstall(ctx context.Context, installation int64) error {
	return g.github.Uninstall(ctx, installation)
}

// DeliveryTries lists a page of deliveries.
func (g *Gate) DeliveryTries(ctx context.Context, cursor string) ([]millrace.DeliveryTry, string, error) {
	return g.github.DeliveryTries(ctx, cursor)
}

// Redeliver has a delivery delivered again.
func (g *Gate) Redeliver(ctx context.Context, id int64) error { return g.github.Redeliver(ctx, id) }
