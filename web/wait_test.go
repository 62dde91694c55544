package web_test

import (
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// rest is the API over the same database.
func (w *world) rest() client.REST {
	w.t.Helper()
	server := httptest.NewServer(api.New(api.Config{Store: w.Store, Log: slog.New(slog.DiscardHandler)}))
	w.t.Cleanup(server.Close)
	return client.REST{URL: server.URL, Org: w.Org.Slug, Token: millrace.Secret(storetest.MustCreateToken(w.t, w.Store, w.Org)), HTTP: http.DefaultClient}
}

// newest is the job that was announced last.
func (w *world) newest() store.JobRow {
	w.t.Helper()
	page, err := w.Store.Org(w.Org.ID).Jobs(w.t.Context(), store.JobFilter{Limit: 1})
	if err != nil || len(page.Jobs) != 1 {
		w.t.Fatalf("%d jobs, %v", len(page.Jobs), err)
	}
	return page.Jobs[0]
}

// text is what is read on a page: no tags, and white space as it is shown.
func text(page string) string {
	var b strings.Builder
	for i, part := range strings.Split(page, "<") {
		if i > 0 {
			_, part, _ = strings.Cut(part, ">")
		}
		b.WriteString(" " + part)
	}
	return strings.Join(strings.Fields(html.UnescapeString(b.String())), " ")
}

// TestWaitsAreTheAPIs compares what a job's page says of its wait with what the API says, for every reason and with a VM
// that is on its way.
func TestWaitsAreTheAPIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.host("rack-1", 10)
	rest, b := w.rest(), w.member()
	compare := func(t *testing.T) client.Job {
		t.Helper()
		id := w.newest().ID
		job, err := rest.Job(t.Context(), id)
		if err != nil || job.Wait == nil || job.Wait.Text == "" || job.Wait.Remedy == "" {
			t.Fatalf("the API says %+v, %v", job.Wait, err)
		}
		_, page := w.get(b, "/o/calm/jobs/"+id.String())
		page = text(page)
		contains(t, page, "Why it waits "+string(job.Wait.Code), job.Wait.Text, job.Wait.Remedy)
		_, list := w.get(b, "/o/calm/jobs")
		list = text(list)
		contains(t, list, string(job.Wait.Code)+" "+job.Wait.Code.Title())
		if e := job.Wait.Estimate; e != nil {
			contains(t, page, e.In(w.now())+" From: "+e.Basis)
			contains(t, list, job.Wait.Code.Title()+", starts "+e.In(w.now()))
		} else {
			contains(t, page, "No estimate")
		}
		return job
	}
	for i, code := range millrace.WaitCodes {
		if code == millrace.WaitBooting {
			continue // needs the VM, below
		}
		w.pass(time.Minute)
		w.queue()
		reason := millrace.WaitReason{Code: code, Text: "It waits for “" + string(code) + "”, <9> & more.", Remedy: "Ask <somebody>."}
		if i%2 == 0 {
			reason.Remedy = "" // the code's own
			reason.Estimate = &millrace.Estimate{From: w.now().Add(2 * time.Minute), To: w.now().Add(5 * time.Minute), Basis: "the runs of <calm/app> & others"}
		}
		w.place(host, reason)
		if job := compare(t); job.Wait.Code != code || (job.Wait.Estimate == nil) != (reason.Estimate == nil) {
			t.Errorf("%s: %+v", code, job.Wait)
		}
	}

	w.pass(time.Minute)
	w.queue()
	if job := compare(t); job.Wait.Code != millrace.WaitUnknown {
		t.Errorf("not looked at yet: %+v", job.Wait)
	}
	w.place(host, millrace.WaitReason{})
	vm := *w.newest().VM
	w.observe(host, vm, millrace.VMBooting, millrace.Metering{})
	if job := compare(t); job.Wait.Code != millrace.WaitBooting {
		t.Errorf("booting: %+v", job.Wait)
	}
	if err := w.Store.Org(w.Org.ID).SaveJIT(t.Context(), store.JITGrant{VM: millrace.VM{ID: vm.ID, Epoch: vm.Epoch}}, 5000, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	if job := compare(t); job.Wait.Code != millrace.WaitRegistering {
		t.Errorf("registering: %+v", job.Wait)
	}
	w.observe(host, vm, millrace.VMOnline, millrace.Metering{})
	if job := compare(t); job.Wait.Code != millrace.WaitForGitHub {
		t.Errorf("online: %+v", job.Wait)
	}
	w.deliver(w.next, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 5000 })
	if _, page := w.get(b, "/o/calm/jobs/"+w.newest().ID.String()); strings.Contains(page, "Why it waits") {
		t.Error("a job that runs waits")
	}
}
