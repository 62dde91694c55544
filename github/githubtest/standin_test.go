package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

type standinJob struct {
	Status     string
	Conclusion *string
	RunnerName *string `json:"runner_name"`
	Steps      []struct {
		Number     int
		Name       string
		Status     string
		Conclusion *string
	}
	Log string
}

// TestTheControlInterface is design.md's "Outside contract": scripts rely on it.
func TestTheControlInterface(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		var queued struct {
			ID      int64
			RunID   int64  `json:"run_id"`
			HTMLURL string `json:"html_url"`
		}
		h.call("", "POST", "/_standin/jobs", `{
			"owner": "Calm", "repo": "engine", "workflow": "ci", "name": "test", "labels": ["x"], "actor": "mona", "branch": "main", "public": true, "fork": true,
			"steps": [{"name": "Say", "run": "echo hello"}, {"run": "true"}]}`, http.StatusCreated, &queued)
		if queued.ID == 0 || !strings.HasPrefix(queued.HTMLURL, site+"/calm/engine/actions/runs/") {
			h.t.Fatalf("%+v", queued)
		}
		path := fmt.Sprintf("/_standin/jobs/%d", queued.ID)
		state := func() (j standinJob) {
			h.t.Helper()
			h.call("", "GET", path, "", http.StatusOK, &j)
			return j
		}
		if j := state(); j.Status != "queued" || j.Conclusion != nil || j.RunnerName != nil || len(j.Steps) != 2 || j.Steps[0].Name != "Say" || j.Steps[1].Name == "" || j.Steps[1].Number != 2 || j.Log != "" {
			h.t.Errorf("queued: %+v", j)
		}
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		m.poll(h.t.Context())
		at := fmt.Sprintf("jobs/%d/", queued.ID)
		m.call(at+"steps/1", `{"status":"in_progress"}`, http.StatusNoContent)
		m.call(at+"log?step=1", "hello\n", http.StatusNoContent)
		if j := state(); j.Status != "in_progress" || j.Conclusion != nil || *j.RunnerName != "vm" || j.Steps[0].Status != "in_progress" || j.Log != "hello\n" {
			h.t.Errorf("in_progress: %+v", j)
		}
		m.call(at+"steps/1", `{"status":"completed","conclusion":"failure"}`, http.StatusNoContent)
		m.call(at+"complete", `{"conclusion":"failure"}`, http.StatusNoContent)
		if j := state(); j.Status != "completed" || *j.Conclusion != "failure" || *j.Steps[0].Conclusion != "failure" || *j.Steps[1].Conclusion != "skipped" || j.Log != "hello\n" {
			h.t.Errorf("completed: %+v", j)
		}
		var e struct {
			Repository struct {
				Private, Fork bool
				Visibility    string
				Forks         int `json:"forks_count"`
			}
		}
		if err := json.Unmarshal(h.Event(queued.ID, "completed"), &e); err != nil || e.Repository.Private || e.Repository.Fork || e.Repository.Forks != 1 || e.Repository.Visibility != "public" {
			h.t.Errorf("a public repository with a fork: %+v, %v", e, err)
		}
		var run struct {
			Event string
			Head  struct {
				ID       int64
				FullName string `json:"full_name"`
			} `json:"head_repository"`
			Repository struct{ ID int64 }
		}
		h.call(h.asInstallation(h.owner), "GET", fmt.Sprintf(api+"/repos/calm/engine/actions/runs/%d", queued.RunID), "", http.StatusOK, &run)
		if run.Event != "pull_request" || run.Head.FullName != "mona/engine" || run.Head.ID == run.Repository.ID {
			h.t.Errorf("the run of a fork's pull request: %+v", run)
		}

		var calls struct {
			Calls []struct {
				At, Method, Path string
				Status           int
			}
		}
		h.call("", "GET", "/_standin/calls", "", http.StatusOK, &calls)
		if c := calls.Calls; len(c) != 4 || c[1].Path != "/orgs/calm/actions/runners/generate-jitconfig" || c[1].Status != http.StatusCreated {
			h.t.Errorf("%+v", c)
		}
		h.call("", "GET", "/_standin/deliveries", "", http.StatusOK, nil)
	})
}

func TestQueueingHasDefaults(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		var queued struct{ ID int64 }
		h.call("", "POST", "/_standin/jobs", `{"owner":"calm","repo":"engine","labels":["x"]}`, http.StatusCreated, &queued)
		var e struct {
			Job struct {
				Name       string
				Workflow   string `json:"workflow_name"`
				HeadBranch string `json:"head_branch"`
				Labels     []string
			} `json:"workflow_job"`
			Sender     struct{ Login string }
			Repository struct{ Private, Fork bool }
		}
		if err := json.Unmarshal(h.Event(queued.ID, "queued"), &e); err != nil {
			h.t.Fatal(err)
		}
		if e.Job.Name == "" || e.Job.Workflow == "" || e.Job.HeadBranch == "" || e.Sender.Login == "" || !e.Repository.Private || e.Repository.Fork {
			h.t.Errorf("%+v", e)
		}
	})
}

func TestTheControlInterfaceSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		for _, tc := range []struct {
			method, path, body string
			want               int
			says               string
		}{
			{"POST", "/_standin/jobs", `{"owner":"nobody","repo":"engine","labels":["x"]}`, 404, "nobody"},
			{"POST", "/_standin/jobs", `{"repo":"engine","labels":["x"]}`, 404, "owner"},
			{"POST", "/_standin/jobs", `{"owner":"calm","labels":["x"]}`, 422, "repo"},
			{"POST", "/_standin/jobs", `{"owner":"calm","repo":"calm/engine","labels":["x"]}`, 422, "without its owner"},
			{"POST", "/_standin/jobs", `{"owner":"calm","repo":"engine"}`, 422, "labels"},
			{"POST", "/_standin/jobs", `{"owner":"calm","repo":"engine","labels":"x"}`, 400, "labels"},
			{"POST", "/_standin/jobs", `{"owner":"calm","repo":"engine","labels":["x"],"runs-on":"x"}`, 400, "runs-on"},
			{"POST", "/_standin/jobs", `{`, 400, "not a job"},
			{"POST", "/_standin/jobs", ``, 400, "not a job"},
			{"POST", "/_standin/jobs", `{"owner":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "1 MiB"},
			{"GET", "/_standin/jobs/1", ``, 404, "no job"},
			{"GET", "/_standin/jobs/x", ``, 404, "no job"},
			{"POST", "/_standin/jobs/1/cancel", ``, 404, "no job"},
			{"PUT", "/_standin/faults", `{"dorp":1}`, 422, "dorp"},
			{"PUT", "/_standin/faults", `{"drop":2}`, 422, "drop"},
			{"PUT", "/_standin/faults", `{"drop":"often"}`, 422, "drop"},
			{"PUT", "/_standin/faults", `{"stale_s":-1}`, 422, "stale_s"},
			{"PUT", "/_standin/faults", `{"runner_group_excludes":["engine"]}`, 422, "owner/repo"},
			{"PUT", "/_standin/faults", `null`, 400, "JSON"},
			{"POST", "/_standin/jobs/1/rerun", ``, 404, "no job"},
			{"POST", "/_standin/repositories", `{"owner":"nobody","name":"x"}`, 404, "nobody"},
			{"POST", "/_standin/repositories", `{"owner":"calm","name":"x/y"}`, 422, "name"},
			{"POST", "/_standin/repositories", `{"owner":"calm","repo":"x"}`, 400, "repo"},
			{"PUT", "/_standin/faults", `drop`, 400, "JSON"},
			{"POST", "/_standin/samples/nonsense", ``, 404, "sample"},
		} {
			w := h.send(h.t.Context(), "", tc.method, tc.path, tc.body)
			var out struct{ Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != tc.want || !strings.Contains(out.Message, tc.says) {
				h.t.Errorf("%s %s %.60s: %d %.200s, want %d with %q", tc.method, tc.path, tc.body, w.Code, w.Body, tc.want, tc.says)
			}
		}
		h.call("", "PUT", "/_standin/faults", "{}", http.StatusNoContent, nil)
		if len(h.hooks) != 0 {
			h.t.Error("something was delivered")
		}
	})
}
