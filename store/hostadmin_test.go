package store_test

import (
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// A host is drained, restarted, rebooted and removed by whoever may, in their own org, with an entry in the audit log each.
func TestHostAdmin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	member := w.Caller()
	member.Role = millrace.RoleMember
	rival := storetest.MustCreateOrg(t, w.st, "stranger")
	for name, do := range map[string]func(by millrace.Caller, org millrace.OrgID) error{
		"admin": func(by millrace.Caller, org millrace.OrgID) error {
			return w.st.Org(org).SetHostAdmin(t.Context(), by, w.host.ID, millrace.HostDraining)
		},
		"restart": func(by millrace.Caller, org millrace.OrgID) error {
			return w.st.Org(org).RestartAgent(t.Context(), by, w.host.ID)
		},
		"reboot": func(by millrace.Caller, org millrace.OrgID) error {
			return w.st.Org(org).RebootHost(t.Context(), by, w.host.ID)
		},
		"remove": func(by millrace.Caller, org millrace.OrgID) error {
			return w.st.Org(org).RemoveHost(t.Context(), by, w.host.ID, true)
		},
	} {
		if code := millrace.CodeOf(do(member, w.ID)); code != millrace.Forbidden {
			t.Errorf("%s by a member: %s", name, code)
		}
		if code := millrace.CodeOf(do(rival.Caller(), rival.ID)); code != millrace.NotFound {
			t.Errorf("%s from another org: %s", name, code)
		}
	}
	admin := func(want millrace.HostAdmin, restart, reboot bool) {
		t.Helper()
		row, err := w.org.Host(t.Context(), w.host.ID)
		if err != nil || row.Admin != want || row.Restart != restart || row.Reboot != reboot {
			t.Errorf("%s, restart %t, reboot %t, %v; want %s, %t, %t", row.Admin, row.Restart, row.Reboot, err, want, restart, reboot)
		}
		desired, err := w.org.Desired(t.Context(), w.host.ID)
		if err != nil || desired.Restart != restart || desired.Reboot != reboot {
			t.Errorf("desired %+v, %v", desired, err)
		}
	}
	code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, "bogus"), millrace.Unprocessable)
	for range 2 {
		code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, millrace.HostDraining), "")
		admin(millrace.HostDraining, false, false)
	}
	code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, millrace.HostEnabled), "")
	code(t, w.org.RestartAgent(t.Context(), w.Caller(), w.host.ID), "")
	admin(millrace.HostEnabled, true, false)
	start := func(boot string, reboots bool) {
		t.Helper()
		facts := storetest.Facts()
		facts.Reboots = reboots
		if _, err := w.org.StartHost(t.Context(), w.host.ID, boot, facts); err != nil {
			t.Fatal(err)
		}
	}
	version := func() int64 {
		t.Helper()
		desired, err := w.org.Desired(t.Context(), w.host.ID)
		if err != nil {
			t.Fatal(err)
		}
		return desired.Version
	}
	start("boot-1", true)
	admin(millrace.HostEnabled, false, false)
	code(t, w.org.RebootHost(t.Context(), w.Caller(), w.host.ID), "")
	admin(millrace.HostDraining, false, true)
	asked := version()
	code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, millrace.HostEnabled), "") // called off
	admin(millrace.HostEnabled, false, false)
	if version() == asked {
		t.Error("the host isn't told that it is not to reboot any more")
	}
	code(t, w.org.RebootHost(t.Context(), w.Caller(), w.host.ID), "")
	start("boot-1", true) // its agent alone
	admin(millrace.HostDraining, false, true)
	start("boot-2", true)
	admin(millrace.HostEnabled, false, false)
	code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, millrace.HostDisabled), "")
	code(t, w.org.RebootHost(t.Context(), w.Caller(), w.host.ID), "")
	admin(millrace.HostDisabled, false, true)
	start("boot-3", false)
	admin(millrace.HostDisabled, false, false)
	code(t, w.org.RebootHost(t.Context(), w.Caller(), w.host.ID), millrace.Conflict) // its owner doesn't want that
	code(t, w.org.RotateKeys(t.Context(), w.Caller(), w.host.ID), "")
	start("boot-3", false)
	if desired, err := w.org.Desired(t.Context(), w.host.ID); err != nil || !desired.Rotate {
		t.Errorf("keys that were asked for, after a restart: %+v, %v", desired, err)
	}
	if n := scalar[int](t, w.root, `SELECT count(DISTINCT action) FROM audit WHERE actor_id = $1 AND action IN ('host.changed', 'host.restarted', 'host.rebooted')`, w.Owner.ID.String()); n != 3 {
		t.Errorf("%d kinds of entries", n)
	}
}

// Two machines with one key: the second is refused, whichever speaks next, and an agent that merely restarts is not.
func TestClonedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	start := func(boot string, want millrace.Code) int64 {
		t.Helper()
		epoch, err := w.org.StartHost(t.Context(), w.host.ID, boot, storetest.Facts())
		code(t, err, want)
		return epoch
	}
	speaks := func(epoch int64) time.Time {
		t.Helper()
		w.advance(10 * time.Second)
		if err := w.org.Cloned(t.Context(), w.host.ID, epoch); err != nil {
			t.Fatal(err)
		}
		row, err := w.org.Host(t.Context(), w.host.ID)
		if err != nil {
			t.Fatal(err)
		}
		return row.ClonedAt
	}
	first := start("boot-1", "")
	again := start("boot-1", "")
	if at := speaks(first); !at.IsZero() {
		t.Errorf("a restart on the same machine is a clone since %s", at)
	}
	copied := start("boot-2", "")
	if err := w.org.Cloned(t.Context(), w.host.ID, again); err != nil { // at once: it was under way
		t.Fatal(err)
	}
	if at := speaks(first); !at.IsZero() { // long ago
		t.Errorf("an old request makes a clone since %s", at)
	}
	if at := speaks(again); !at.Equal(w.now()) {
		t.Errorf("cloned at %s, want now", at)
	}
	start("boot-2", millrace.Conflict)
	_, err := w.org.Observe(t.Context(), w.host.ID, copied, "", nil)
	code(t, err, millrace.Unauthenticated)
	start("boot-1", "")
	start("boot-3", "") // it was rebooted
	start("boot-2", millrace.Conflict)
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'host.cloned'`); n != 1 {
		t.Errorf("%d entries in the audit log", n)
	}
}

// The first machine may speak before it can be told from one that is restarted. Then it starts anew: with the boot from before.
func TestClonedHostThatSpeaksAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	start := func(boot string, want millrace.Code) (epoch int64) {
		t.Helper()
		epoch, err := w.org.StartHost(t.Context(), w.host.ID, boot, storetest.Facts())
		code(t, err, want)
		return epoch
	}
	says := func(epoch int64, vms ...millrace.Observation) {
		t.Helper()
		if _, err := w.org.Observe(t.Context(), w.host.ID, epoch, "", vms); err != nil {
			t.Fatal(err)
		}
	}
	ended := millrace.Observation{VMID: vm, Epoch: 1, State: millrace.VMGone, Reason: "It isn't here."}
	original := start("boot-1", "")
	w.advance(time.Second)
	w.beat(w.host.ID, original, 1)
	copied := start("boot-2", "")
	says(copied, ended) // the copy has the journal, and no such VM
	if state := w.vm(vm).State; state != millrace.VMPending {
		t.Errorf("by the word of a copy a VM is %s", state)
	}
	w.advance(3 * time.Second)
	if err := w.org.Cloned(t.Context(), w.host.ID, original); err != nil {
		t.Fatal(err)
	}
	original = start("boot-1", "")
	start("boot-2", millrace.Conflict)
	if row, err := w.org.Host(t.Context(), w.host.ID); err != nil || !row.ClonedAt.Equal(w.now()) {
		t.Errorf("cloned at %s, want now; %v", row.ClonedAt, err)
	}
	says(original, ended)
	if state := w.vm(vm).State; state != millrace.VMGone {
		t.Errorf("by its own host's word a VM is %s", state)
	}
}

// A machine that was heard just now and comes with another boot was booted, if nobody else speaks for as long as one would.
func TestEndsAfterAFastReboot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	for _, boot := range []string{"boot-1", "boot-2"} {
		w.advance(time.Second)
		epoch, err := w.org.StartHost(t.Context(), w.host.ID, boot, storetest.Facts())
		code(t, err, "")
		w.host.Epoch = epoch
	}
	for _, then := range []struct {
		wait time.Duration
		want millrace.VMState
	}{{millrace.OfflineAfter - time.Second, millrace.VMPending}, {time.Second, millrace.VMGone}} {
		w.advance(then.wait)
		w.observe(millrace.VMGone, vm)
		if state := w.vm(vm).State; state != then.want {
			t.Errorf("%v later it is %s, want %s", then.wait, state, then.want)
		}
	}
}

// The number of a start is used up for good: in other servers, and in those that start later.
func TestUseFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	another := storetest.OpenAt(t, w.db, w.now).Org(w.ID)
	code(t, w.org.UseFirst(t.Context(), w.host.ID, 7), "")
	code(t, another.UseFirst(t.Context(), w.host.ID, 7), millrace.Unauthenticated)
	code(t, another.UseFirst(t.Context(), w.host.ID, 6), millrace.Unauthenticated)
	code(t, another.UseFirst(t.Context(), w.host.ID, 8), "")
	code(t, w.st.Org(storetest.MustCreateOrg(t, w.st, "stranger").ID).UseFirst(t.Context(), w.host.ID, 9), millrace.Unauthenticated)
}

// A host that is removed is nobody's: its requests are known as such, its VMs end without it, its name and place are free.
func TestRemoveHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fresh, registered := w.place(w.queue(1)), w.place(w.queue(2))
	if err := w.org.SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: registered, Epoch: 1}}, 77, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	code(t, w.org.RemoveHost(t.Context(), w.Caller(), w.host.ID, false), millrace.Conflict)
	code(t, w.org.RemoveHost(t.Context(), w.Caller(), w.host.ID, true), "")
	code(t, w.org.RemoveHost(t.Context(), w.Caller(), w.host.ID, false), "")
	_, err := w.org.Host(t.Context(), w.host.ID)
	code(t, err, millrace.NotFound)
	if c, err := w.st.HostCredentials(t.Context(), w.host.ID); err != nil || !c.Removed {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = w.org.StartHost(t.Context(), w.host.ID, "", storetest.Facts())
	code(t, err, millrace.NotFound)
	if state := w.vm(fresh).State; state != millrace.VMStopping {
		t.Errorf("a VM without a registration is %s", state)
	}
	if v := w.vm(registered); v.State != millrace.VMLost || v.RetireReason != "Its host was removed." {
		t.Errorf("a VM with one is %s: %s", v.State, v.RetireReason)
	}
	if err := w.st.Unregistered(t.Context(), w.ID, registered); err != nil {
		t.Fatal(err)
	}
	w.advance(2 * time.Minute)
	if _, err := w.st.WatchVMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, vm := range []millrace.VMID{fresh, registered} {
		if state := w.vm(vm).State; state != millrace.VMGone {
			t.Errorf("two minutes later a VM is %s", state)
		}
	}
	again := storetest.MustEnroll(t, w.st, w.Tenant, w.host.Name, key(80), key(81))
	if list, err := w.org.Hosts(t.Context()); err != nil || len(list) != 1 || list[0].ID != again.ID {
		t.Errorf("%+v, %v", list, err)
	}
}
