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
	start := func() {
		t.Helper()
		if _, err := w.org.StartHost(t.Context(), w.host.ID, "", storetest.Facts()); err != nil {
			t.Fatal(err)
		}
	}
	start()
	admin(millrace.HostEnabled, false, false)
	code(t, w.org.RebootHost(t.Context(), w.Caller(), w.host.ID), "")
	admin(millrace.HostDraining, false, true)
	code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, millrace.HostEnabled), "") // called off
	admin(millrace.HostEnabled, false, false)
	code(t, w.org.RebootHost(t.Context(), w.Caller(), w.host.ID), "")
	start()
	admin(millrace.HostEnabled, false, false)
	code(t, w.org.SetHostAdmin(t.Context(), w.Caller(), w.host.ID, millrace.HostDisabled), "")
	start()
	admin(millrace.HostDisabled, false, false)
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
