package workers_test

import (
	"context"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/workers"
)

// runs is a GitHub that knows of runs whether they are of forks, or does not.
type runs struct {
	millrace.GitHub
	fork map[int64]bool
	n    int
}

func (r *runs) FromFork(_ context.Context, at millrace.RepositoryTarget, run int64) (bool, error) {
	r.n++
	if fork, ok := r.fork[run]; ok && at.FullName == "calm/app" {
		return fork, nil
	}
	return false, millrace.Errorf(millrace.NotFound, "There is no such run.")
}

// GitHub is asked about a run until it answers, and no more once it did.
func TestTraceRun(t *testing.T) {
	t.Parallel()
	st := storetest.Open(t)
	calm := storetest.MustCreateOrg(t, st, "calm")
	storetest.MustIntake(t, st, storetest.Delivery(calm, 1, millrace.JobQueued, func(j *millrace.Job) { j.ZoneKnown = false }))
	github := &runs{fork: map[int64]bool{}}
	w := workers.New(workers.Config{Store: st, GitHub: github})
	task := millrace.TraceRun{OrgID: calm.ID, InstallationID: calm.Installation.ID, RunID: 10}
	if err := w.Do(t.Context(), task); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("GitHub does not know the run yet: %v", err)
	}
	github.fork[10] = true
	for range 2 {
		if err := w.Do(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	if github.n != 2 {
		t.Errorf("GitHub was asked %d times", github.n)
	}
	if _, ok, err := st.Untraced(t.Context(), task); ok || err != nil {
		t.Errorf("the run is still to be asked about: %v", err)
	}
}
