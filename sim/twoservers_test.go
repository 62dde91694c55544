package sim_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/agent"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/guest/testrunner"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
	"github.com/millrace-ci/millrace/vm"
	"github.com/millrace-ci/millrace/vm/fake"
	"github.com/millrace-ci/millrace/workers"
)

// echo is the inside of a fake machine: the test runner, whose steps only say what they would run.
func echo(ctx context.Context, conn io.ReadWriteCloser, _ vm.Spec) error {
	return testrunner.InProcess(ctx, conn, func(_ context.Context, script string, _ []string, out io.Writer) error {
		_, err := fmt.Fprintln(out, script)
		return err
	})
}

// TestTwoServers runs two replicas, each with its own store and workers, on one database. Webhooks go to both in turn, each
// of two agents speaks to another one, and GitHub gives jobs to any runner: every job runs once, and the books balance.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	const total = 24
	db := storetest.NewDatabase(t)
	setup := storetest.OpenAt(t, db, nil)

	turn := make(chan string, 2)
	webhooks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := <-turn
		turn <- to
		forward(w, r, to)
	}))
	t.Cleanup(webhooks.Close)
	forge := httptest.NewUnstartedServer(nil)
	gh, err := githubtest.New(githubtest.Config{URL: "http://" + forge.Listener.Addr().String(), WebhookURL: webhooks.URL + "/webhooks/github"})
	if err != nil {
		t.Fatal(err)
	}
	forge.Config.Handler = gh
	forge.Start()
	t.Cleanup(func() { gh.Close(); forge.CloseClientConnections(); forge.Close() })
	owner := gh.AddOwner("calm", millrace.Organization)
	org, _, err := setup.CreateOrg(t.Context(), store.NewOrg{
		Slug: "calm", Name: "Calm", Concurrency: 6, DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512},
		Owner: millrace.User{GitHubID: owner.SenderID, Login: "calm-admin"}, Installations: []millrace.Installation{owner.Installation},
	})
	if err != nil {
		t.Fatal(err)
	}

	stores := []*store.Store{storetest.OpenAt(t, db, nil), storetest.OpenAt(t, db, nil)} // closed after all that uses them
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var servers []*httptest.Server
	t.Cleanup(func() {
		began := time.Now()
		stop() // ends the long polls
		running.Wait()
		t.Logf("stopping took %v", time.Since(began))
		for _, server := range servers {
			server.Close()
		}
	})
	for i, st := range stores {
		app, err := github.New(github.Config{
			APIURL: gh.APIURL(), AppID: gh.AppID(), PrivateKeyPEM: gh.PrivateKeyPEM(), WebhookSecrets: []string{gh.WebhookSecret()},
			Pauses: st,
		})
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		work := workers.New(workers.Config{Store: st, GitHub: app, Log: log})
		server := httptest.NewUnstartedServer(api.New(api.Config{Store: st, Webhooks: app, Runners: work.Gate(), Log: log}))
		server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
		server.Start()
		servers = append(servers, server)
		turn <- server.URL
		running.Go(func() {
			if err := work.Run(ctx); err != nil {
				t.Errorf("workers of replica %d: %v", i, err)
			}
		})

		_, token, err := setup.Org(org.ID).CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
		if err != nil {
			t.Fatal(err)
		}
		facts := storetest.Facts()
		facts.Offer.MilliCPU = 3000 // of six slots each host holds three
		dir := t.TempDir()
		id, err := agent.Enroll(t.Context(), agent.EnrollConfig{URL: server.URL, Token: token, Name: fmt.Sprintf("rack-%d", i), Dir: dir, Facts: facts})
		if err != nil {
			t.Fatal(err)
		}
		seal, err := id.SealKeys()
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			err := agent.Run(ctx, agent.Config{Server: id.Client(), Host: id.HostID, SealKeys: seal, Driver: fake.Driver{Guest: echo}, Dir: dir, EndVMs: true, Facts: facts, Log: log})
			if err != nil {
				t.Errorf("agent %d: %v", i, err)
			}
		})
	}

	defer func() {
		if t.Failed() {
			rows := db.Rows(t)
			for _, table := range []string{"jobs", "vms", "hosts", "host_beats", "repositories", "installations", "incidents", "river_job"} {
				t.Logf("%s:\n%s", table, rows[table])
			}
		}
	}()
	began := time.Now()
	var ids []int64
	for n := range total {
		id, err := gh.Queue(githubtest.QueueRequest{
			Owner: "calm", Repo: fmt.Sprintf("repo-%d", n%3), Name: fmt.Sprintf("job %d", n), Labels: []string{"millrace"},
			Steps: []githubtest.QueueStep{{Name: "say", Run: fmt.Sprintf("this is %d", n)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for n, id := range ids {
		within(t, time.Minute, fmt.Sprintf("job %d completes", n), func() bool {
			job, _ := gh.Job(id)
			return job.Status == "completed"
		})
		if job, _ := gh.Job(id); job.Conclusion != "success" || !strings.Contains(job.Log, fmt.Sprintf("this is %d", n)) {
			t.Errorf("job %d: %+v", n, job)
		}
	}
	t.Logf("all ran after %v", time.Since(began))
	var jobs store.JobPage
	within(t, 20*time.Second, "all rows are completed, with the VMs that ran them, and all VMs gone", func() bool {
		if jobs, err = setup.Org(org.ID).Jobs(t.Context(), store.JobFilter{Limit: 100}); err != nil {
			t.Fatal(err)
		}
		live, err := setup.Org(org.ID).VMs(t.Context(), store.VMFilter{Live: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs.Jobs {
			if j.Status != millrace.JobCompleted || j.VM == nil || j.VM.RanJob != j.ID { // which VM ran a job is known a moment after its end, at times
				return false
			}
		}
		return len(live.VMs) == 0
	})
	t.Logf("all are gone after %v", time.Since(began))
	ran := map[millrace.VMID]bool{}
	hosts := map[string]int{}
	for _, j := range jobs.Jobs {
		if ran[j.VM.ID] {
			t.Errorf("VM %s is said to have run two jobs", j.VM.ID)
		}
		ran[j.VM.ID] = true
		hosts[j.HostName]++
	}
	all, err := setup.Org(org.ID).VMs(t.Context(), store.VMFilter{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	if len(ran) != total || len(all.VMs) > total+total/4 {
		t.Errorf("%d jobs in %d VMs, of which %d ran one", total, len(all.VMs), len(ran))
	}
	if len(hosts) != 2 {
		t.Errorf("the jobs ran on %v", hosts)
	}
	t.Logf("%d jobs, %d VMs, by host %v", total, len(all.VMs), hosts)
	within(t, 20*time.Second, "usage counts every job once", func() bool {
		usage, err := setup.Org(org.ID).Usage(t.Context(), millrace.ByRepository, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, u := range usage {
			sum += u.Jobs
		}
		return sum == total
	})
	within(t, 10*time.Second, "no registration is left at GitHub", func() bool { return gh.Runners() == 0 })
}

// forward passes a delivery on to one replica.
func forward(w http.ResponseWriter, r *http.Request, to string) {
	out, err := http.NewRequestWithContext(r.Context(), r.Method, to+r.URL.Path, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	out.Header = r.Header.Clone()
	out.ContentLength = r.ContentLength
	resp, err := http.DefaultClient.Do(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
}
