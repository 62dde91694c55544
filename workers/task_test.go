package workers_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/workers"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// registry is GitHub's side: it knows runners, some of them busy, and can fail.
type registry struct {
	millrace.GitHub // of which these tests use nothing else
	mu              sync.Mutex
	busy            map[int64]bool
	failing         int
	deleted         chan int64
}

func (r *registry) CreateJIT(context.Context, millrace.RunnerTarget, string, []string) (millrace.JITConfig, error) {
	return millrace.JITConfig{}, errors.New("not asked for here")
}

func (r *registry) ListRunners(context.Context, millrace.RunnerTarget) ([]millrace.Runner, error) {
	return nil, nil
}

func (r *registry) OpenJobs(context.Context, millrace.RepositoryTarget) (millrace.OpenJobs, error) {
	return millrace.OpenJobs{}, nil
}

func (r *registry) InstallationRepositories(context.Context, int64) ([]millrace.Repository, error) {
	return nil, nil
}

func (r *registry) Installations(context.Context) ([]millrace.Installation, error) {
	return nil, errors.New("not asked for here")
}

func (r *registry) DeliveryTries(context.Context, string) ([]millrace.DeliveryTry, string, error) {
	return nil, "", nil
}

func (r *registry) FindRunner(context.Context, millrace.RunnerTarget, string) (millrace.Runner, error) {
	return millrace.Runner{}, errors.New("not asked for here")
}

func (r *registry) DeleteRunner(_ context.Context, at millrace.RunnerTarget, id int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Owner != "calm" || at.Repository != "" {
		return errors.New("wrong place")
	}
	if r.failing > 0 {
		r.failing--
		return millrace.Errorf(millrace.Unavailable, "GitHub is down.")
	}
	r.deleted <- id
	if r.busy[id] {
		return millrace.Errorf(millrace.Conflict, "busy")
	}
	return nil
}

// world runs workers over a tenant with one host and one job whose VM is registered as runner 4711.
type world struct {
	t      *testing.T
	st     *store.Store
	github *registry
	tenant storetest.Tenant
	host   millrace.Host
	vm     millrace.VM
}

func newWorld(t *testing.T, github *registry) *world {
	t.Helper()
	github.deleted = make(chan int64, 10)
	w := &world{t: t, st: storetest.Open(t), github: github}
	w.tenant = storetest.MustCreateOrg(t, w.st, "calm")
	w.host = storetest.MustEnroll(t, w.st, w.tenant, "rack-1", make([]byte, 32), make([]byte, 32))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- workers.New(workers.Config{Store: w.st, GitHub: github, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	told := w.st.Bus.On(store.TopicHost(w.host.ID))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.tenant, 1, millrace.JobQueued))
	w.wait(told)
	desired, err := w.org().Desired(t.Context(), w.host.ID)
	if err != nil || len(desired.VMs) != 1 {
		t.Fatalf("the host should have %v, %v", desired.VMs, err)
	}
	w.vm = desired.VMs[0]
	if err := w.org().SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: w.vm.ID, Epoch: w.vm.Epoch}}, 4711, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) org() store.Org { return w.st.Org(w.tenant.ID) }

func (w *world) wait(ch <-chan struct{}) {
	w.t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		w.t.Fatal("nothing happened")
	}
}

func cancelled(j *millrace.Job) { j.Conclusion, j.StartedAt = "cancelled", time.Time{} }

// A job that is cancelled while it is queued: its VM's registration goes first, then the VM.
func TestCancelledWhileQueued(t *testing.T) {
	t.Parallel()
	w := newWorld(t, &registry{failing: 1}) // and GitHub fails once
	told := w.st.Bus.On(store.TopicHost(w.host.ID))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.tenant, 1, millrace.JobCompleted, cancelled))
	select {
	case id := <-w.github.deleted:
		if id != 4711 {
			t.Fatalf("runner %d was deleted", id)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the registration is still there")
	}
	w.wait(told)
	if desired, err := w.org().Desired(t.Context(), w.host.ID); err != nil || len(desired.VMs) != 0 {
		t.Errorf("the host should still have %v, %v", desired.VMs, err)
	}
	row, err := w.org().VM(t.Context(), w.vm.ID)
	if err != nil || row.State != millrace.VMStopping || row.Reason == "" {
		t.Errorf("the VM is %s because %q, %v", row.State, row.Reason, err)
	}
}

// A runner that GitHub calls busy is left alone.
func TestBusyRunnerIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, &registry{busy: map[int64]bool{4711: true}})
	changed := w.st.Bus.On(store.TopicOrg(w.tenant.ID))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.tenant, 1, millrace.JobCompleted, cancelled))
	<-w.github.deleted
	for {
		row, err := w.org().VM(t.Context(), w.vm.ID)
		if err != nil {
			t.Fatal(err)
		}
		if row.State == millrace.VMStopping {
			t.Fatal("a busy runner's VM is stopped")
		}
		if row.State == millrace.VMBusy && row.RetireReason == "" {
			break
		}
		w.wait(changed)
		changed = w.st.Bus.On(store.TopicOrg(w.tenant.ID))
	}
	if n := len(w.github.deleted); n > 0 {
		t.Errorf("GitHub was asked %d more times", n)
	}
}

// The closed facts of a completed job are written by a task.
func TestFactsAreWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, &registry{})
	changed := w.st.Bus.On(store.TopicOrg(w.tenant.ID))
	storetest.MustIntake(t, w.st, storetest.Delivery(w.tenant, 1, millrace.JobCompleted, func(j *millrace.Job) { j.RunnerID = 4711 }))
	for {
		usage, err := w.org().Usage(t.Context(), millrace.ByRepository, time.Now().AddDate(0, 0, -2), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(usage) == 1 && usage[0].BuildTime == time.Minute && usage[0].WaitP50 == 10*time.Second {
			return
		}
		w.wait(changed)
		changed = w.st.Bus.On(store.TopicOrg(w.tenant.ID))
	}
}
