package githubtest_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github/githubtest"
)

func TestJobsOutliveARestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	synctest.Test(t, func(t *testing.T) {
		keep := func(c *githubtest.Config) { c.StateFile = file }
		h := newHub(t, keep)
		owner := h.owner
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		running := h.queue("x")
		m.poll(t.Context())
		waiting := h.queue("nobody-has-it")
		h.Close()
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}

		time.Sleep(time.Second)
		h = newHub(t, keep)
		defer h.Close()
		if h.owner != owner {
			t.Errorf("an owner has other ids after a restart: %+v, %+v", h.owner, owner)
		}
		if s := h.state(running); s.Status != "in_progress" || s.RunnerName != "vm" {
			t.Errorf("before Resume: %+v", s)
		}
		h.Resume()
		h.Resume()
		if s := h.state(running); s.Conclusion != "failure" || s.RunnerName != "vm" || h.delivered(running) != "completed" {
			t.Errorf("a running job lost its runner: %+v; delivered: %s", s, h.delivered(running))
		}
		if s := h.state(waiting); s.Status != "queued" {
			t.Errorf("a queued job: %+v", s)
		}
		if _, got := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "nobody-has-it").poll(t.Context()); got != waiting {
			t.Errorf("after the restart the runner got job %d, want %d", got, waiting)
		}
		if next := h.queue("x"); next <= waiting || next >= 1<<53 {
			t.Errorf("job %d comes after %d", next, waiting)
		}
		m.h = h
		m.call("session", "", http.StatusGone) // its registration is gone too
	})
}

func TestPeopleOutliveARestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	synctest.Test(t, func(t *testing.T) {
		keep := func(c *githubtest.Config) { c.StateFile, c.CallbackURLs = file, []string{callback} }
		h := newHub(t, keep)
		h.AddPerson("mona")
		if err := h.RenamePerson("mona", "lisa"); err != nil {
			t.Fatal(err)
		}
		if err := h.SetMember("nimble", "lisa", "admin"); err != nil {
			t.Fatal(err)
		}
		if err := h.SetFaults(githubtest.Faults{Uninstalled: githubtest.Owners{"calm"}}); err != nil {
			t.Fatal(err)
		}
		nimble, err := h.Install("nimble", "lisa")
		if err != nil {
			t.Fatal(err)
		}
		calm, err := h.Install("calm", "calm-admin")
		if err != nil || calm.ID == h.owner.ID {
			t.Fatalf("%+v, %v", calm, err)
		}
		authorize := (&loop{hub: h}).authorizeURL()
		if _, err := h.Approve(authorize, "lisa"); err != nil {
			t.Fatal(err)
		}
		people := h.People()
		h.Close()

		time.Sleep(time.Second)
		h = newHub(t, keep)
		defer h.Close()
		if again := h.People(); !slices.Equal(again, people) {
			t.Errorf("%+v, before: %+v", again, people)
		}
		if again, err := h.Install("nimble", "lisa"); err != nil || again != nimble || h.owner != calm {
			t.Errorf("%+v, %v and %+v", again, err, h.owner)
		}
		h.call(h.asInstallation(calm), "GET", api+"/installation/repositories", "", http.StatusOK, nil)
		b := &browser{loop: &loop{hub: h}}
		b.open("/login")
		b.press(1, "Sign in as lisa")
		b.codeIn(b.open(authorize)) // silently
	})
}

// TestASlowStart: what was saved waits for its owners, and a job that ran waits for Resume, when webhooks are heard.
func TestASlowStart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, func(c *githubtest.Config) { c.StateFile = file })
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		running := h.queue("x")
		m.poll(t.Context())
		old := h.queue("nobody-has-it")
		h.Close()

		time.Sleep(23*time.Hour + 59*time.Minute)
		gh, err := githubtest.New(githubtest.Config{URL: site, WebhookURL: webhook, Client: &http.Client{Transport: h}, StateFile: file})
		if err != nil {
			t.Fatal(err)
		}
		defer gh.Close()
		h.GitHub, h.hooks = gh, nil
		time.Sleep(2 * time.Minute)
		if s := h.state(running); s.Status != "in_progress" {
			t.Errorf("nobody listens yet, and the job is %+v", s)
		}
		if s := h.state(old); s.Conclusion != "cancelled" {
			t.Errorf("queued for a day: %+v", s)
		}
		gh.AddOwner("calm", millrace.Organization)
		gh.Resume()
		if s := h.state(running); s.Conclusion != "failure" || h.delivered(running) != "completed" {
			t.Errorf("%+v; delivered: %s", s, h.delivered(running))
		}
	})
}

// TestIDsNeverRepeat, not even without a state file, or when the clock stands still.
func TestIDsNeverRepeat(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	synctest.Test(t, func(t *testing.T) {
		seen := map[int64]bool{}
		for i := range 4 {
			keep := func(c *githubtest.Config) {
				if i < 2 {
					c.StateFile = file // at the same moment
				}
			}
			if i >= 2 {
				time.Sleep(time.Second)
			}
			h := newHub(t, keep)
			for range 50 {
				id := h.queue("x")
				if seen[id] {
					t.Fatalf("start %d: job %d again", i, id)
				}
				seen[id] = true
			}
			h.Close()
		}
	})
}

// TestTheStateIsSavedSoon: what is killed without a Close has lost a second at the most.
func TestTheStateIsSavedSoon(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	inBubble(t, func(c *githubtest.Config) { c.StateFile = file }, func(h *hub) {
		job := h.queue("x")
		time.Sleep(time.Second)
		second, err := githubtest.New(githubtest.Config{URL: site, StateFile: file})
		if err != nil {
			h.t.Fatal(err)
		}
		second.AddOwner("calm", millrace.Organization)
		if _, ok := second.Job(job); !ok {
			h.t.Error("the job isn't in the file")
		}
		second.Close()
	})
}

func TestAStateFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "github.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := githubtest.New(githubtest.Config{URL: site, StateFile: file}); err == nil {
		t.Error("no error")
	}
	if _, err := githubtest.New(githubtest.Config{URL: site, StateFile: filepath.Dir(file)}); err == nil {
		t.Error("a folder: no error")
	}
}
