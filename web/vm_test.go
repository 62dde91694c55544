package web_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// died is why a VM of the tests came to nothing.
const died = "Its kernel didn't come up within 60 s <b>."

// die has a VM end before its runner was online, after it printed something.
func (w *world) die(host millrace.Host, vm millrace.VM, says string) {
	w.t.Helper()
	org := w.Store.Org(w.Org.ID)
	if err := org.AppendConsole(w.t.Context(), host.ID, vm.ID, 0, []byte(says)); err != nil {
		w.t.Fatal(err)
	}
	gone := millrace.Observation{VMID: vm.ID, Epoch: vm.Epoch, State: millrace.VMGone, Steps: []millrace.Step{{State: millrace.VMBooting, Age: time.Second}, {State: millrace.VMGone}}, Reason: died}
	if _, err := org.Observe(w.t.Context(), host.ID, host.Epoch, "", []millrace.Observation{gone}); err != nil {
		w.t.Fatal(err)
	}
}

// retried is a job whose first VM came to nothing, on host, and whose second runs it there.
func (w *world) retried(host millrace.Host) (job millrace.JobID, first, second millrace.VM) {
	w.t.Helper()
	name := named("calm/app", "build", "of the second try", "main", "mona")
	id := w.queue(name)
	job = w.newest().ID
	w.pass(time.Second)
	w.place(host, millrace.WaitReason{})
	page, err := w.Store.Org(w.Org.ID).VMs(w.t.Context(), store.VMFilter{Job: job})
	if err != nil || len(page.VMs) != 1 {
		w.t.Fatalf("VMs of one job: %+v, %v", page.VMs, err)
	}
	first = page.VMs[0].VM
	w.pass(time.Minute)
	w.die(host, first, "Kernel panic - not syncing: No working init found.\n")
	w.pass(10 * time.Second)
	return job, first, w.run(host, id, millrace.StageRunning, 0, "", name)
}

// A VM that failed is found from its host and its job, and says what it printed and why it ended, also when its host is gone.
func TestVMThatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host, b := w.host("flaky", 30), w.member()
	job, first, second := w.retried(host)
	path := "/o/calm/vms/" + first.ID.String()
	_, page := w.get(b, "/o/calm/hosts/"+host.ID.String())
	contains(t, page, `href="`+path+`"`, `href="/o/calm/vms/`+second.ID.String()+`"`)
	_, page = w.get(b, "/o/calm/jobs/"+job.String())
	contains(t, page, `href="`+path+`"`, `href="/o/calm/vms/`+second.ID.String()+`"`, `href="/o/calm/hosts/`+host.ID.String()+`"`)
	contains(t, text(page), "Other VMs of this job Gone "+first.ID.String()+" on flaky , placed 1 min ago "+died+" Log")
	shows := func() {
		t.Helper()
		res, page := w.get(b, path)
		if res.StatusCode != http.StatusOK || strings.Contains(page, "every 2s") {
			t.Errorf("%s, or it is asked for again and again", res.Status)
		}
		contains(t, page, `href="/o/calm/jobs/`+job.String()+`"`, `href="/o/calm/hosts/`+host.ID.String()+`"`)
		contains(t, text(page), "Hosts / flaky VM", "State gone", "Zone private", "Reason "+died, "Meant for job "+job.String()+" Ran job none Placed", "Gone 18 Mar 2026, 12:01:01 UTC (+60,000 ms)", "Kernel panic - not syncing")
	}
	shows()
	_, page = w.get(b, "/o/calm/vms/"+second.ID.String())
	contains(t, page, "every 2s")
	contains(t, text(page), "Runs a job", "Ran job "+job.String(), "github.com/calm/app 2.113s")
	if part, whole := w.part(b, path), page; !strings.Contains(part, `id="machine"`) || strings.Contains(part, "<html") || !strings.Contains(whole, "<html") {
		t.Error("htmx gets something else than the live part")
	}
	if err := w.Store.Org(w.Org.ID).RemoveHost(t.Context(), w.Org.Caller(), host.ID, true); err != nil {
		t.Fatal(err)
	}
	shows()
	w.pass(millrace.LogRetention + time.Hour)
	if _, err := w.Store.ExpireBlobs(t.Context(), time.Now().Add(millrace.LogRetention+time.Hour)); err != nil {
		t.Fatal(err)
	}
	_, page = w.get(w.member(), path)
	contains(t, text(page), "What the VM printed was kept for 30 days.")
}

func (w *world) part(b *http.Client, path string) string {
	w.t.Helper()
	_, page := w.get(b, path, "HX-Request", "true")
	return page
}

// A VM that ran another job than its own is listed at both, and says so.
func TestVMThatRanAnotherJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host, b := w.host("rack-1", 10), w.member()
	mine := w.queue()
	job := w.newest().ID
	w.pass(time.Second)
	vm := w.place(host, millrace.WaitReason{})
	if err := w.Store.Org(w.Org.ID).SaveJIT(t.Context(), store.JITGrant{VM: vm, At: w.now()}, mine+5000, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	theirs := w.queue()
	other := w.newest().ID
	w.deliver(theirs, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = mine + 5000 })
	w.place(host, millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: "No host is free."})
	_, page := w.get(b, "/o/calm/vms/"+vm.ID.String())
	contains(t, page, `href="/o/calm/jobs/`+job.String()+`"`, `href="/o/calm/jobs/`+other.String()+`"`)
	_, page = w.get(b, "/o/calm/jobs/"+job.String())
	contains(t, text(page), "Other VMs of this job", "GitHub gave it another job .")
	_, page = w.get(b, "/o/calm/jobs/"+other.String())
	if strings.Contains(page, "Other VMs") || !strings.Contains(page, vm.ID.String()) {
		t.Error("the job that it ran lists it as another's")
	}
}
