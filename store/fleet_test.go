package store_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// fleetOf is the fleet that a pass of st is given.
func (w *world) fleetOf(st *store.Store) (hosts []millrace.Host, boots map[millrace.HostID]millrace.Durations) {
	w.t.Helper()
	_, err := st.Place(w.t.Context(), w.ID, store.Unknown, func(p millrace.Pass) millrace.Decision {
		hosts, boots = slices.Clone(p.Hosts), p.Boots
		return millrace.Decision{}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return hosts, boots
}

// named is the one host with a name.
func named(t *testing.T, hosts []millrace.Host, name string) millrace.Host {
	t.Helper()
	i := slices.IndexFunc(hosts, func(h millrace.Host) bool { return h.Name == name })
	if i < 0 {
		t.Fatalf("no %s among %+v", name, hosts)
	}
	return hosts[i]
}

// exec executes what no server of ours does.
func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.root.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// sameFleet fails unless w's server, which has seen the fleet before, sees what one sees that has just started, and returns it.
func (w *world) sameFleet(after string) []millrace.Host {
	w.t.Helper()
	fresh, boots := w.fleetOf(storetest.OpenAt(w.t, w.db, w.now))
	hosts, known := w.fleetOf(w.st)
	if diff := cmp.Diff(fresh, hosts, cmpopts.EquateEmpty()) + cmp.Diff(boots, known, cmpopts.EquateEmpty()); diff != "" {
		w.t.Errorf("after %s a server that has started sees what another doesn't:\n%s", after, diff)
	}
	return hosts
}

// Passes read of hosts what has changed since, and miss no change of what they read.
func TestFleetFollows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1) // or there is nothing to decide
	second := storetest.MustEnroll(t, w.st, w.Tenant, "rack-2", key(3), key(4))
	before := w.sameFleet("nothing")
	if len(before) != 2 {
		t.Fatalf("%d hosts", len(before))
	}
	values := map[string]string{
		"name": `'rack-9'`, "arch": `'arm64'`, "emulates": `'{amd64}'`, "offer_cpu": `7000`, "offer_memory": `7000`, "max_vms": `7`, "labels": `'{rack-9}'`,
		"network": `'user'`, "admin": `'draining'`, "refuses": `'its disk is full'`, "boot_n": `7`, "boot_p50": `700`, "boot_p90": `900`, "removed_at": `now()`,
	}
	watched := column[string](t, w.root, `
		SELECT a.attname FROM pg_trigger t JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::smallint[]) WHERE t.tgname = 'hosts_note_change'
		ORDER BY a.attname = 'removed_at', a.attnum`)
	for _, read := range regexp.MustCompile(`h\.(\w+)`).FindAllStringSubmatch(store.FleetColumns, -1) {
		name := read[1]
		if !slices.Contains(watched, name) || values[name] == "" {
			t.Errorf("passes read %s, which the trigger doesn't watch, or this test doesn't change", name)
		}
	}
	for _, name := range watched { // it is removed last
		w.exec(`UPDATE hosts SET `+name+` = `+values[name]+` WHERE host_id = $1::text::uuid`, w.host.ID.UUID())
		after := w.sameFleet(name)
		if cmp.Equal(before, after) && name != "boot_n" && name != "boot_p50" && name != "boot_p90" {
			t.Errorf("nothing of a host changed with its %s", name)
		}
		before = after
	}
	if len(before) != 1 || before[0].ID != second.ID {
		t.Errorf("after one of two was removed there are %+v", before)
	}
	storetest.MustEnroll(t, w.st, w.Tenant, "rack-3", key(5), key(6))
	if after := w.sameFleet("an enrollment"); len(after) != 2 {
		t.Errorf("after one of two was removed and a third enrolled there are %d", len(after))
	}
}

// A change is seen by the pass after its commit, however long its transaction took.
func TestFleetFollowsSlowChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	slow, err := connect(t, w.db.Superuser).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Exec(t.Context(), `UPDATE hosts SET refuses = 'its disk is full'`); err != nil {
		t.Fatal(err)
	}
	storetest.MustEnroll(t, w.st, w.Tenant, "rack-2", key(3), key(4)) // a later transaction, committed before
	if hosts := w.sameFleet("what isn't committed"); len(hosts) != 2 || named(t, hosts, "rack-1").Refuses != "" {
		t.Errorf("saw %+v", hosts)
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if hosts := w.sameFleet("a slow change"); named(t, hosts, "rack-1").Refuses == "" {
		t.Errorf("saw %+v", hosts)
	}
}

// A pass knows which hosts are silent, and since when; and that one is heard again.
func TestFleetKnowsWhoIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	second := storetest.MustEnroll(t, w.st, w.Tenant, "rack-2", key(3), key(4))
	takes := func(after string, first, last bool) {
		t.Helper()
		hosts, _ := w.fleetOf(w.st)
		one, two := named(t, hosts, "rack-1"), named(t, hosts, "rack-2")
		if one.TakesVMs(w.now()) != first || two.TakesVMs(w.now()) != last {
			t.Errorf("after %s rack-1 was heard %s ago, rack-2 %s", after, w.now().Sub(one.SeenAt), w.now().Sub(two.SeenAt))
		}
	}
	sequence := int64(0)
	heard := func(host millrace.HostID) {
		t.Helper()
		sequence++
		w.st.Heard(w.ID, host, 1, sequence)
		if err := w.st.FlushHeard(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	takes("an enrollment", true, true)
	w.advance(millrace.OfflineAfter - time.Second)
	heard(second.ID)
	takes("29 s", true, true)
	since := w.now().Add(time.Second - millrace.OfflineAfter)
	w.advance(time.Second)
	takes("30 s", false, true)
	hosts, _ := w.fleetOf(w.st)
	if at := named(t, hosts, "rack-1").SeenAt; !at.Equal(since) {
		t.Errorf("rack-1 is silent since %s, not %s", at, since)
	}
	heard(w.host.ID)
	takes("a return", true, true)
}

// Whatever a database has counted that was restored from a copy: after a while all is read anew.
func TestFleetIsReadAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(1)
	w.sameFleet("an enrollment")
	w.exec(`ALTER TABLE hosts DISABLE TRIGGER hosts_note_change`)
	w.exec(`UPDATE hosts SET refuses = 'its disk is full', changed_xid = '1'`)
	if hosts, _ := w.fleetOf(w.st); hosts[0].Refuses != "" {
		t.Fatal("all hosts are read in each pass")
	}
	w.advance(time.Minute)
	w.sameFleet("a minute")
}
