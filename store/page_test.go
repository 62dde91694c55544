package store_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// pages reads a list to its end; between two pages something new comes, which must not show up nor move anything.
func pages(t *testing.T, next func(cursor string) (ids []string, after string, err error), between func()) (all []string) {
	t.Helper()
	cursor := ""
	for range 100 {
		ids, after, err := next(cursor)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ids...)
		if after == "" {
			return all
		}
		cursor = after
		between()
	}
	t.Fatal("the list has no end")
	return nil
}

// Pages together are the list, in order, though most rows have the same time and new ones come meanwhile.
func TestJobPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range int64(25) {
		if i%10 == 0 {
			w.advance(time.Microsecond) // the finest that Postgres keeps
		}
		w.queue(i + 1)
	}
	want := column[string](t, w.root, `SELECT github_job_id::text FROM jobs ORDER BY received_at DESC, job_id DESC`)
	for _, limit := range []int{1, 7, 24, 25, 100} {
		late := int64(limit * 1000)
		got := pages(t, func(cursor string) (ids []string, after string, err error) {
			page, err := w.org.Jobs(t.Context(), store.JobFilter{Status: []millrace.JobStatus{millrace.JobQueued}, Cursor: cursor, Limit: limit})
			for _, j := range page.Jobs {
				if j.GitHubID < 1000 {
					ids = append(ids, strconv.FormatInt(j.GitHubID, 10))
				}
			}
			return ids, page.Next, err
		}, func() {
			late++
			w.advance(time.Microsecond)
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, late, millrace.JobCompleted))
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pages of %d:\n%s", limit, diff)
		}
	}
}

func TestJobFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, status := range millrace.JobStatuses {
		for r := range int64(2) {
			storetest.MustIntake(t, w.st, storetest.Delivery(w.Tenant, 10*int64(i)+r, status, func(j *millrace.Job) {
				j.RepositoryID, j.Repository = 70+r, fmt.Sprintf("calm/%d", r)
			}))
		}
	}
	count := func(f store.JobFilter) int {
		t.Helper()
		page, err := w.org.Jobs(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Jobs)
	}
	for _, c := range []struct {
		filter store.JobFilter
		want   int
	}{
		{store.JobFilter{}, 8},
		{store.JobFilter{Limit: 3}, 3},
		{store.JobFilter{Limit: -1}, 8},
		{store.JobFilter{Limit: 1 << 40}, 8},
		{store.JobFilter{Status: []millrace.JobStatus{millrace.JobQueued}}, 2},
		{store.JobFilter{Status: []millrace.JobStatus{millrace.JobQueued, millrace.JobWaiting}}, 4},
		{store.JobFilter{Repository: "calm/1"}, 4},
		{store.JobFilter{Repository: "calm/1", Status: []millrace.JobStatus{millrace.JobCompleted}}, 1},
		{store.JobFilter{Repository: "' OR true --"}, 0},
		{store.JobFilter{Repository: "calm/?"}, 0},
	} {
		if got := count(c.filter); got != c.want {
			t.Errorf("%+v: %d jobs, want %d", c.filter, got, c.want)
		}
	}
	for _, cursor := range []string{"?", "AAAA", "!!!!", "' OR true --", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "\x00"} {
		_, err := w.org.Jobs(t.Context(), store.JobFilter{Cursor: cursor})
		code(t, err, millrace.Invalid)
		_, err = w.org.VMs(t.Context(), store.VMFilter{Cursor: cursor})
		code(t, err, millrace.Invalid)
	}
	counts, err := w.org.JobCounts(t.Context())
	want := map[millrace.JobStatus]int{millrace.JobWaiting: 2, millrace.JobQueued: 2, millrace.JobInProgress: 2, millrace.JobCompleted: 2}
	if diff := cmp.Diff(want, counts); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	w.advance(24 * time.Hour)
	if counts, err = w.org.JobCounts(t.Context()); err != nil || counts[millrace.JobCompleted] != 0 || counts[millrace.JobQueued] != 2 {
		t.Errorf("a day later: %v, %v", counts, err)
	}
	names, err := w.org.Repositories(t.Context())
	if diff := cmp.Diff([]string{"calm/0", "calm/1"}, names); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestVMPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.MustEnroll(t, w.st, w.Tenant, "rack-2", key(3), key(4))
	hosts := []millrace.HostID{w.host.ID, second.ID}
	w.pass(nothing)
	for i := range int64(9) {
		w.queue(i + 1)
	}
	w.pass(func(p millrace.Pass) (d millrace.Decision) {
		for i, j := range p.Jobs {
			d.Place = append(d.Place, millrace.Placement{JobID: j.ID, HostID: hosts[i%2], Arch: millrace.AMD64})
		}
		return d
	})
	list := func(f store.VMFilter) []string {
		t.Helper()
		return pages(t, func(cursor string) (ids []string, after string, err error) {
			f.Cursor, f.Limit = cursor, 2
			page, err := w.org.VMs(t.Context(), f)
			for _, v := range page.VMs {
				ids = append(ids, v.ID.UUID())
			}
			return ids, page.Next, err
		}, func() {})
	}
	all := column[string](t, w.root, `SELECT vm_id::text FROM vms ORDER BY placed_at DESC, vm_id DESC`)
	if diff := cmp.Diff(all, list(store.VMFilter{})); diff != "" || len(all) != 9 {
		t.Errorf("all:\n%s", diff)
	}
	if got := list(store.VMFilter{Host: second.ID}); len(got) != 4 {
		t.Errorf("%d VMs on the second host", len(got))
	}
	first := w.job(w.jobID(1)).VM
	if first.HostID == w.host.ID {
		w.observe(millrace.VMGone, first.ID)
	} else if _, err := w.org.Observe(t.Context(), second.ID, 1, "", []millrace.Observation{{VMID: first.ID, Epoch: 1, State: millrace.VMGone}}); err != nil {
		t.Fatal(err)
	}
	if got := list(store.VMFilter{Live: true}); len(got) != 8 {
		t.Errorf("%d live VMs", len(got))
	}
}
