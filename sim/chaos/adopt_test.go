package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
)

// TestAgentKilledUnderVMs kills the agent and its launcher, real processes, by turns, while jobs run in real VMs. Each job ends
// well, with its whole log, on the one VM that there ever was of it, and with all that it printed on its console.
func TestAgentKilledUnderVMs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w, err := start(ctx, t.TempDir(), options{seed: 1, length: time.Second, losesJobAfter: 10 * time.Minute, driver: "qemu", drain: time.Minute})
	defer func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	const lines, jobs = 40, 2
	for n := range jobs {
		id, err := w.github.Queue(githubtest.QueueRequest{
			Owner: "chaos", Repo: "repo", Name: fmt.Sprintf("job %d", n), Labels: []string{"millrace"},
			Steps: []githubtest.QueueStep{{Name: "count", Run: fmt.Sprintf("echo "+ranOn+"$RUNNER_NAME; for n in $(seq %d); do echo \"line $n.\"; sleep 0.5; done", lines)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.jobs = append(w.jobs, queuedJob{id: id})
	}
	// The first agent finds out how VMs run before it runs one, which takes longer than it lives below.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(w.launcherDir(), "probe.json")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent tried no VM within two minutes")
		}
	}
	kills := 0
	for deadline := time.Now().Add(3 * time.Minute); ; kills++ {
		running := 0
		for _, j := range w.queued() {
			if at, _ := w.github.Job(j.id); at.Status != "completed" {
				running++
			}
		}
		if running == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d jobs are not done after 3 min and %d kills", running, kills)
		}
		time.Sleep(2500 * time.Millisecond) // booting, running, ending: whatever they are at
		[]*process{w.agent, w.launcher}[kills%2].kill()
	}
	t.Logf("%d kills", kills)
	if _, open, err := w.balance(ctx); err != nil || len(open) > 0 {
		t.Fatalf("%v: %v", err, open)
	}

	books, err := w.readBooks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(ctx, store.Config{
		AppURL: w.postgres.URL("millrace_app", database), SystemURL: w.postgres.URL("millrace_system", database), BlobURL: "file://" + filepath.Join(w.dir, "blobs"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	whole := func(what, text string) {
		for n := 1; n <= lines; n++ {
			if c := strings.Count(text, fmt.Sprintf("line %d.\n", n)); c != 1 {
				t.Errorf("%s has line %d %d times:\n%s", what, n, c, text)
				return
			}
		}
	}
	for id, at := range books.standin {
		if at.Conclusion != "success" {
			t.Errorf("job %d ended %s", id, at.Conclusion)
		}
		whole("the log", at.Log)
	}
	if len(books.vms) != jobs {
		t.Errorf("%d VMs for %d jobs: %+v", len(books.vms), jobs, books.vms)
	}
	page, err := st.Org(w.orgs[0].ID).VMs(ctx, store.VMFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range page.VMs {
		if v.Reason != "" || v.ExitCode == nil || *v.ExitCode != 0 {
			t.Errorf("the VM ended because %q, with %v", v.Reason, v.ExitCode)
		}
		console, _, err := st.Org(w.orgs[0].ID).Console(ctx, v.ID, 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		whole("the console", string(console))
	}
}
