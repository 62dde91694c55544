package workers_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/workers"
)

// erase tries to erase the hub's org, and reports whether that is put off.
func (h *hub) erase() (later bool) {
	h.t.Helper()
	err := h.work.Do(h.t.Context(), millrace.EraseOrg{OrgID: h.tenant.ID})
	var snooze *river.JobSnoozeError
	if errors.As(err, &snooze) {
		return true
	}
	h.must(err)
	return false
}

// relayed are the tasks that use cases asked for; none of them is done.
func (h *hub) relayed() (list []river.JobArgs) {
	h.t.Helper()
	_, err := h.st.RelayOutbox(h.t.Context(), func(_ context.Context, _ pgx.Tx, kind string, args []byte) error {
		task, err := workers.DecodeTask(kind, args)
		list = append(list, task)
		return err
	})
	h.must(err)
	return list
}

// erased reports whether the hub's host is known no more, as everything of its org.
func (h *hub) erased() bool {
	_, err := h.st.HostCredentials(h.t.Context(), h.host.ID)
	return millrace.CodeOf(err) == millrace.NotFound
}

// A deleted org's runners go at GitHub first, then its VMs, a busy one with its job, and then everything.
func TestEraseOrg(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	busy, idle := h.connect(h.launch()), h.register(h.launch())
	h.PickUp(busy.RunnerID)
	h.answer(http.StatusOK)
	h.place()
	h.relayed()
	h.must(h.st.DeleteOrg(t.Context(), storetest.System, h.tenant.ID, h.tenant.Slug))
	for _, task := range h.relayed() {
		if task == (millrace.EraseOrg{OrgID: h.tenant.ID}) {
			continue
		}
		h.do(task)
	}
	if h.Registered(idle.RunnerID) {
		t.Error("the idle runner is still registered")
	}
	if !h.Registered(busy.RunnerID) {
		t.Error("GitHub removed a busy runner: this test proves little")
	}
	for _, v := range []millrace.VM{idle, busy} {
		if state := h.vm(v.ID).State; state != millrace.VMStopping {
			t.Errorf("VM %s is %s", v.ID, state)
		}
	}
	if !h.erase() {
		t.Fatal("the org is erased while its VMs are live")
	}
	h.observe(busy, millrace.VMGone) // and of the other one the host knows nothing more
	if h.erase() || !h.erased() {
		t.Error("the org is not erased")
	}
	if h.erase() { // once more
		t.Error("an erased org can't be erased again")
	}
	h.do(millrace.FindDeletedOrgs{})
}

// A VM whose host says nothing, of an org whose GitHub does not answer, holds the erasure back for ten minutes.
func TestEraseOrgAtMost(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	h.connect(h.launch())
	h.cut = true
	h.must(h.st.DeleteOrg(t.Context(), storetest.System, h.tenant.ID, h.tenant.Slug))
	for range 10 {
		if !h.erase() {
			t.Fatal("the org is erased before its time")
		}
		h.silence(time.Minute)
	}
	if h.erase() || !h.erased() {
		t.Error("the org is not erased")
	}
}

// Nobody erases an org by mistake.
func TestEraseOrgThatNobodyDeleted(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	var cancel *river.JobCancelError
	if err := h.work.Do(t.Context(), millrace.EraseOrg{OrgID: h.tenant.ID}); !errors.As(err, &cancel) {
		t.Errorf("the task ends with %v", err)
	}
	if h.erased() {
		t.Error("the org is erased")
	}
}

// The whole of it, by workers that run: the deletion alone is asked for.
func TestDeletedOrgIsErasedByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, &registry{})
	told, gone := w.st.Bus.On(store.TopicHost(w.host.ID)), w.st.Bus.On(store.TopicOrg(w.tenant.ID))
	if err := w.st.DeleteOrg(t.Context(), storetest.System, w.tenant.ID, w.tenant.Slug); err != nil {
		t.Fatal(err)
	}
	if id := <-w.github.deleted; id != 4711 {
		t.Errorf("runner %d was deleted", id)
	}
	w.wait(told)
	if desired, err := w.org().Desired(t.Context(), w.host.ID); err != nil || len(desired.VMs) != 0 {
		t.Fatalf("the host should still have %v, %v", desired.VMs, err)
	}
	if _, err := w.org().Observe(t.Context(), w.host.ID, w.host.Epoch, "", nil); err != nil {
		t.Fatal(err)
	}
	for {
		w.wait(gone)
		gone = w.st.Bus.On(store.TopicOrg(w.tenant.ID))
		if _, err := w.st.HostCredentials(t.Context(), w.host.ID); millrace.CodeOf(err) == millrace.NotFound {
			return
		}
	}
}
