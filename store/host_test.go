package store_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func TestEnrollmentTokenWorksOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, secret, err := w.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			n := byte(i)
			_, slug, err := w.st.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: secret.Reveal(), Name: "racer-" + string('a'+rune(i%26)) + string('a'+rune(i/26)), SignKey: key(100 + n), SealKey: key(100 + n), Facts: storetest.Facts()})
			if err == nil {
				won.Add(1)
				if slug != "calm" {
					t.Errorf("enrolled into %q", slug)
				}
				return
			}
			code(t, err, millrace.Conflict)
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d hosts were enrolled with a token for one", won.Load())
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM hosts WHERE name LIKE 'racer-%'`); n != 1 {
		t.Errorf("%d hosts", n)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'host.enrolled'`); n != 2 {
		t.Errorf("%d entries in the audit log, want 2", n)
	}
}

func TestEnrollmentRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mint := func(uses int, life time.Duration) string {
		_, secret, err := w.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{Uses: uses, Life: life})
		if err != nil {
			t.Fatal(err)
		}
		return secret.Reveal()
	}
	revoked := mint(1, time.Hour)
	if _, err := w.root.Exec(t.Context(), `UPDATE enrollment_tokens SET revoked_at = now()`); err != nil {
		t.Fatal(err)
	}
	expired, good := mint(1, time.Minute), mint(3, time.Hour)
	w.advance(time.Minute)
	for name, tt := range map[string]struct {
		secret string
		want   millrace.Code
	}{
		"none":            {"", millrace.Unauthenticated},
		"expired":         {expired, millrace.TokenExpired},
		"revoked":         {revoked, millrace.Unauthenticated},
		"mistyped":        {good[:len(good)-1] + "!", millrace.Invalid},
		"unknown":         {millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal(), millrace.Unauthenticated},
		"of another kind": {storetest.MustCreateToken(t, w.st, w.Tenant), millrace.Unauthenticated},
	} {
		_, _, err := w.st.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: tt.secret, Name: "rack-2", SignKey: key(3), SealKey: key(4), Facts: storetest.Facts()})
		if millrace.CodeOf(err) != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'enrollment_token.refused'`); n != 2 {
		t.Errorf("%d refusals are noted, want those of the tokens that there were", n)
	}
	// What is refused for another reason leaves the token as it was.
	_, _, err := w.st.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: good, Name: "rack-1", SignKey: key(5), SealKey: key(6), Facts: storetest.Facts()})
	code(t, err, millrace.Conflict)
	_, _, err = w.st.EnrollHost(t.Context(), millrace.Actor{}, store.Enrollment{Secret: good, Name: "rack-3", SignKey: key(1), SealKey: key(6), Facts: storetest.Facts()})
	code(t, err, millrace.Conflict)
	if n := scalar[int](t, w.root, `SELECT max(uses_left) FROM enrollment_tokens`); n != 3 {
		t.Errorf("the token has %d uses left, want 3", n)
	}
}

// Whoever follows a token hears of what becomes of it, and others don't: who has a token of one org can't busy another's pages,
// and who has none busies nobody's.
func TestEnrollmentIsAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rival := storetest.MustCreateOrg(t, w.st, "rival")
	token, secret, err := w.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{CIDR: "192.0.2.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	enroll := func(secret string) error {
		_, _, err := w.st.EnrollHost(t.Context(), millrace.Actor{Address: "192.0.3.1"}, store.Enrollment{Secret: secret, Name: "rack-2", SignKey: key(3), SealKey: key(4), Facts: storetest.Facts()})
		return err
	}
	heard := func(what string, want bool, act func() error, code millrace.Code) {
		t.Helper()
		w.heard(w.st)
		ours, theirs := w.st.Bus.On(store.TopicOrg(w.ID)), w.st.Bus.On(store.TopicOrg(rival.ID))
		if err := act(); millrace.CodeOf(err) != code {
			t.Fatalf("%s: %v", what, err)
		}
		w.heard(w.st)
		select {
		case <-ours:
			if !want {
				t.Errorf("%s is announced", what)
			}
		default:
			if want {
				t.Errorf("%s is not announced", what)
			}
		}
		select {
		case <-theirs:
			t.Errorf("%s is announced to another org", what)
		default:
		}
	}
	unknown := millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal()
	heard("a token that isn't known", false, func() error { return enroll(unknown) }, millrace.Unauthenticated)
	heard("a mistyped token", false, func() error { return enroll(secret.Reveal() + "x") }, millrace.Invalid)
	heard("a refusal", true, func() error { return enroll(secret.Reveal()) }, millrace.Forbidden)
	heard("another org's revocation", false, func() error {
		return w.st.Org(rival.ID).RevokeEnrollmentToken(t.Context(), storetest.System, token.ID)
	}, millrace.NotFound)
	heard("a revocation", true, func() error { return w.org.RevokeEnrollmentToken(t.Context(), storetest.System, token.ID) }, "")
	heard("a second one", false, func() error { return w.org.RevokeEnrollmentToken(t.Context(), storetest.System, token.ID) }, "")
	got, err := w.org.EnrollmentToken(t.Context(), token.ID)
	if err != nil || !got.RevokedAt.Equal(w.now()) || got.CIDR != token.CIDR || got.UsesLeft != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = w.st.Org(rival.ID).EnrollmentToken(t.Context(), token.ID)
	code(t, err, millrace.NotFound)
	_, leaked, err := w.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	heard("one that was in an address", true, func() error { return w.st.RevokeLeaked(t.Context(), millrace.Actor{}, leaked.Reveal()) }, "")
}

// What a token says of its hosts holds, whatever the agent says, then and later; and it works from where it may.
func TestEnrollmentTokenBinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, secret, err := w.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{Uses: 9, Labels: []string{"gpu", "Rack"}, CIDR: "192.0.2.0/24", Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	enroll := func(n byte, address string, labels ...string) (millrace.Host, error) {
		facts := storetest.Facts()
		facts.Labels = labels
		h, _, err := w.st.EnrollHost(t.Context(), millrace.Actor{Address: address}, store.Enrollment{Secret: secret.Reveal(), Name: "spot-" + string('a'+rune(n)), SignKey: key(60 + n), SealKey: key(70 + n), Facts: facts})
		return h, err
	}
	for _, address := range []string{"", "x", "192.0.3.1", "2001:db8::1", "::ffff:192.0.3.1"} {
		_, err := enroll(0, address)
		code(t, err, millrace.Forbidden)
	}
	_, err = enroll(0, "192.0.2.1", "rack", "trusted")
	code(t, err, millrace.Forbidden)
	h, err := enroll(0, "192.0.2.1", "RACK")
	if err != nil || !slices.Equal(h.Facts.Labels, []string{"gpu", "Rack"}) || !h.Ephemeral {
		t.Fatalf("%+v, %v", h, err)
	}
	again, err := enroll(0, "192.0.2.1") // the answer got lost
	if err != nil || again.ID != h.ID {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := enroll(1, "::ffff:192.0.2.7"); err != nil {
		t.Error(err)
	}
	if n := scalar[int](t, w.root, `SELECT uses_left FROM enrollment_tokens WHERE ephemeral`); n != 7 {
		t.Errorf("%d uses are left, want 7", n)
	}
	facts := storetest.Facts()
	facts.Labels = []string{"trusted"}
	if _, err := w.org.StartHost(t.Context(), h.ID, "", facts); err != nil {
		t.Fatal(err)
	}
	if row, err := w.org.Host(t.Context(), h.ID); err != nil || !slices.Equal(row.Facts.Labels, []string{"gpu", "Rack"}) {
		t.Errorf("after a start with other labels: %v, %v", row.Facts.Labels, err)
	}
	for _, bad := range []store.NewEnrollmentToken{{CIDR: "192.0.2.1/24"}, {CIDR: "x"}, {Labels: []string{""}}, {Labels: []string{"a b"}}, {Labels: make([]string, 101)}, {Labels: []string{"a\x00"}}} {
		_, _, err := w.org.CreateEnrollmentToken(t.Context(), storetest.System, bad)
		code(t, err, millrace.Unprocessable)
	}
	// One that was read by others is worth nothing, once.
	for range 2 {
		if err := w.st.RevokeLeaked(t.Context(), millrace.Actor{}, secret.Reveal()); err != nil {
			t.Error(err)
		}
	}
	_, err = enroll(2, "192.0.2.1")
	code(t, err, millrace.Unauthenticated)
	if err := w.st.RevokeLeaked(t.Context(), millrace.Actor{}, "mret_x"); err != nil {
		t.Error(err)
	}
	// Ephemeral hosts that vanish are removed, others are not.
	w.advance(millrace.VanishedAfter - time.Second)
	if n, err := w.st.RemoveVanished(t.Context()); n != 0 || err != nil {
		t.Errorf("too soon: %d, %v", n, err)
	}
	w.advance(time.Second)
	if n, err := w.st.RemoveVanished(t.Context()); n != 2 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	if list, err := w.org.Hosts(t.Context()); err != nil || len(list) != 1 || list[0].ID != w.host.ID {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestStartRaisesTheEpoch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	facts := storetest.Facts()
	facts.Offer.MilliCPU, facts.MaxVMs, facts.Emulates, facts.Network = 2000, 7, []millrace.Arch{millrace.ARM64}, millrace.NetworkTap
	if row, err := w.org.Host(t.Context(), w.host.ID); err != nil || row.Facts.Network != millrace.NetworkUnknown { // its agent said none
		t.Errorf("%+v, %v", row, err)
	}
	facts.Findings = []millrace.Finding{{Check: "ksm", Level: millrace.LevelWarning, Found: "It is on.", Do: "Switch it off.", Command: "echo 2 >/sys/kernel/mm/ksm/run"}}
	epoch, err := w.org.StartHost(t.Context(), w.host.ID, "", facts)
	if err != nil || epoch != w.host.Epoch+1 {
		t.Fatalf("epoch %d, %v", epoch, err)
	}
	gone := []millrace.Observation{{VMID: vm, Epoch: 1, State: millrace.VMGone}}
	_, err = w.org.Observe(t.Context(), w.host.ID, w.host.Epoch, "", gone)
	code(t, err, millrace.Unauthenticated)
	if state := w.vm(vm).State; state != millrace.VMPending {
		t.Errorf("the older process's word made the VM %s", state)
	}
	row, err := w.org.Host(t.Context(), w.host.ID)
	if err != nil || row.Facts.Offer.MilliCPU != 2000 || row.Facts.MaxVMs != 7 || row.Facts.Network != millrace.NetworkTap || !row.Facts.Runs(millrace.ARM64) || !slices.Equal(row.Facts.Findings, facts.Findings) || row.VMs != 1 || row.Committed.MilliCPU != 1000 {
		t.Errorf("%+v, %v", row, err)
	}
}

func TestFailedBootIsTriedAgainLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.queue(1)
	for try := 1; try <= 9; try++ {
		vm := w.place(job)
		w.advance(10 * time.Second)
		_, err := w.org.Observe(t.Context(), w.host.ID, w.host.Epoch, "", []millrace.Observation{{VMID: vm, Epoch: 1, State: millrace.VMGone, Reason: "no kernel"}})
		if err != nil {
			t.Fatal(err)
		}
		row := w.job(job)
		if row.Tries != try || row.Failure != "no kernel" || row.RetryAt.Sub(w.now()) != millrace.Backoff(try) {
			t.Errorf("after try %d: tries %d, failure %q, again in %s, want %s", try, row.Tries, row.Failure, row.RetryAt.Sub(w.now()), millrace.Backoff(try))
		}
		// The same message again is no other failure.
		w.observe(millrace.VMGone, vm)
		if row := w.job(job); row.Tries != try {
			t.Errorf("a repeat made it %d tries", row.Tries)
		}
	}
	if got := w.tasks(); len(got) != 0 {
		t.Errorf("tasks %v for VMs that were never registered", got)
	}
}

func TestEndOfARegisteredVMThatRanNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	w.register(vm, 4711)
	w.observe(millrace.VMOnline, vm)
	w.observe(millrace.VMGone, vm)
	if diff := cmp.Diff([]string{millrace.RetireVM{}.Kind()}, w.tasks()); diff != "" {
		t.Errorf("its registration stays at GitHub: %s", diff)
	}
}

func TestStoppingVMThatIsNotReportedIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	silent, stopping := w.place(w.queue(1)), w.place(w.queue(2))
	w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Retire: []millrace.Retirement{{VMID: stopping, Reason: "test"}}}
	})
	if state := w.vm(stopping).State; state != millrace.VMStopping {
		t.Fatalf("an unregistered VM that is retired is %s", state)
	}
	desired, err := w.org.Desired(t.Context(), w.host.ID)
	if err != nil || len(desired.VMs) != 1 || desired.VMs[0].ID != silent {
		t.Errorf("the host should have %+v, %v", desired.VMs, err)
	}
	w.observe(millrace.VMBooting, silent, stopping)
	if state := w.vm(stopping).State; state != millrace.VMStopping {
		t.Errorf("a VM that the host still has is %s", state)
	}
	w.observe(millrace.VMBooting)
	if state := w.vm(stopping).State; state != millrace.VMGone {
		t.Errorf("a stopping VM that the host has not is %s", state)
	}
	if state := w.vm(silent).State; state != millrace.VMPending {
		t.Errorf("a VM that should run and isn't reported is %s: a report may be older than its order", state)
	}
	if row := w.job(w.jobID(2)); row.Tries != 0 {
		t.Errorf("being retired counts as %d failed tries", row.Tries)
	}
}

// beat is what the server does with a host's request.
func (w *world) beat(host millrace.HostID, epoch, sequence int64) {
	w.t.Helper()
	w.st.Heard(w.ID, host, epoch, sequence)
	if err := w.st.FlushHeard(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) markLost() int {
	w.t.Helper()
	n, err := w.st.MarkLost(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestSilentHostLosesItsVMs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	idle, busy := w.place(w.queue(1)), w.place(w.queue(2))
	w.register(busy, 4712)
	storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 2, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 4712 }))
	w.pass(nothing)
	w.advance(millrace.OfflineAfter - time.Second)
	if n := w.markLost(); n != 0 {
		t.Fatalf("%d VMs are lost a second early", n)
	}
	w.advance(time.Second)
	if n := w.markLost(); n != 2 {
		t.Fatalf("%d VMs are lost, want 2", n)
	}
	if a, b := w.vm(idle), w.vm(busy); a.State != millrace.VMLost || a.RetireReason == "" || b.State != millrace.VMLost || b.RetireReason != "" {
		t.Errorf("idle %s, retired because %q; busy %s, retired because %q", a.State, a.RetireReason, b.State, b.RetireReason)
	}
	if diff := cmp.Diff([]string{millrace.RetireVM{}.Kind()}, w.tasks()); diff != "" {
		t.Error(diff)
	}
	if n := w.markLost(); n != 0 || len(w.tasks()) != 1 {
		t.Errorf("marked %d again, tasks %v", n, w.tasks())
	}

	w.beat(w.host.ID, w.host.Epoch, 9)
	if status := w.pass(nothing).Hosts[0].Status(w.now()); status != millrace.StatusOnline {
		t.Errorf("the host that is back is %s", status)
	}
	w.observe(millrace.VMBusy, busy)
	if state := w.vm(busy).State; state != millrace.VMBusy {
		t.Errorf("the VM that is back is %s", state)
	}
	if n := w.markLost(); n != 0 {
		t.Errorf("%d VMs of a host that is back are lost", n)
	}
}

// A lost VM's job gets another VM once the lost one is unregistered, and it keeps that one for as long as the host is
// silent: the old VM doesn't stand for the job again.
func TestJobOfASilentHostMovesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.MustEnroll(t, w.st, w.Tenant, "rack-2", key(3), key(4))
	job := w.queue(1)
	old := w.place(job)
	w.advance(millrace.OfflineAfter)
	w.beat(second.ID, second.Epoch, 1)
	if n := w.markLost(); n != 1 {
		t.Fatalf("%d VMs are lost", n)
	}
	if err := w.st.Unregistered(t.Context(), w.ID, old); err != nil {
		t.Fatal(err)
	}
	w.pass(func(millrace.Pass) millrace.Decision {
		return millrace.Decision{Place: []millrace.Placement{{JobID: job, HostID: second.ID, Arch: millrace.AMD64}}}
	})
	if n := w.markLost(); n != 0 {
		t.Errorf("%d VMs were lost twice", n)
	}
	if v := w.job(job).VM; v == nil || v.ID == old || v.HostID != second.ID {
		t.Errorf("the job has %+v", v)
	}
	// The silent host comes back and reports what it still has; then it has it no more.
	w.beat(w.host.ID, w.host.Epoch, 1)
	w.observe(millrace.VMOnline, old)
	w.observe(millrace.VMOnline)
	if state := w.vm(old).State; state != millrace.VMGone {
		t.Errorf("the replaced VM is %s", state)
	}
	if row := w.job(job); row.Tries != 0 {
		t.Errorf("the move counts as %d failed tries", row.Tries)
	}
}

func TestHostsAreListedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.MustEnroll(t, w.st, w.Tenant, "an-older", key(3), key(4))
	rows, err := w.org.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(rows))
	for _, r := range rows {
		names = append(names, r.Name)
	}
	if !slices.IsSorted(names) || len(names) != 2 {
		t.Errorf("hosts %s", strings.Join(names, ", "))
	}
}

// What a host should be doing is the same whether what it reports is news, which is joined, or not, and as what is read then.
func TestObserveNews(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stays, ends := w.place(w.queue(1)), w.place(w.queue(2))
	report := func(state millrace.VMState) {
		t.Helper()
		for range 2 { // the second time there is none
			got, err := w.org.Observe(t.Context(), w.host.ID, w.host.Epoch, "its disk is full", []millrace.Observation{
				{VMID: stays, Epoch: 1, State: millrace.VMOnline}, {VMID: ends, Epoch: 1, State: state, Reason: "as observed"},
			})
			if err != nil {
				t.Fatal(err)
			}
			want, err := w.org.Desired(t.Context(), w.host.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", state, diff)
			}
		}
	}
	report(millrace.VMBusy)
	report(millrace.VMGone)
	if v := w.vm(ends); v.State != millrace.VMGone || w.vm(stays).State != millrace.VMOnline {
		t.Errorf("%s and %s", v.State, w.vm(stays).State)
	}
	if host, err := w.org.Host(t.Context(), w.host.ID); err != nil || host.Refuses != "its disk is full" {
		t.Errorf("%q, %v", host.Refuses, err)
	}
}

// Between a view of a host and what it observes, all may change: news is joined into what there is, or refused.
func TestObserveByAnOldView(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	view := func() store.HostView {
		t.Helper()
		v, err := w.st.ViewHost(t.Context(), w.host.ID)
		if err != nil || v.OrgID != w.host.OrgID || v.Epoch != w.host.Epoch {
			t.Fatalf("%+v, %v", v.HostCredentials, err)
		}
		return v
	}
	before := view()
	vm := w.place(w.queue(1))
	select {
	case <-before.Changed:
	default:
		t.Error("a VM for the host, and its view says nothing")
	}
	report := func(v store.HostView, state millrace.VMState) (store.Desired, error) {
		return v.Observe(t.Context(), "", []millrace.Observation{{VMID: vm, Epoch: 1, State: state}})
	}
	pending := view()
	w.observe(millrace.VMBusy, vm)
	if d, err := report(pending, millrace.VMOnline); err != nil || len(d.VMs) != 1 || d.VMs[0].State != millrace.VMBusy || w.vm(vm).State != millrace.VMBusy {
		t.Errorf("an old report: %+v, %v, and it is %s", d, err, w.vm(vm).State)
	}
	busy := view()
	if _, err := w.org.StartHost(t.Context(), w.host.ID, "", storetest.Facts()); err != nil {
		t.Fatal(err)
	}
	_, err := report(busy, millrace.VMGone)
	code(t, err, millrace.Unauthenticated)
	w.host.Epoch++
	started := view()
	code(t, w.org.RemoveHost(t.Context(), w.Caller(), w.host.ID, true), "")
	_, err = report(started, millrace.VMGone)
	code(t, err, millrace.HostRemoved)
	_, err = w.st.ViewHost(t.Context(), millrace.HostID{1})
	code(t, err, millrace.NotFound)
}
