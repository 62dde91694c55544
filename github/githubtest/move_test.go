package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// follow makes a call and follows where it is sent, as http.Client does.
func (l *loop) follow(method, path, auth, body string) (int, []byte) {
	l.t.Helper()
	w := l.send(l.t.Context(), auth, method, path, body)
	want := http.StatusTemporaryRedirect // of a call that must not become a GET
	if method == http.MethodGet {
		want = http.StatusMovedPermanently
	}
	if w.Code >= 300 && w.Code < 400 {
		if w.Code != want {
			l.t.Errorf("%s %s: %d, want %d", method, path, w.Code, want)
		}
		return l.follow(method, strings.TrimPrefix(w.Header().Get("Location"), site), auth, body)
	}
	return w.Code, w.Body.Bytes()
}

func TestARepositoryIsRenamed(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	job := l.queue("x")
	auth := l.asInstallation(l.owner)
	jobAt := func(repo string) string { return fmt.Sprintf("%s/repos/%s/actions/jobs/%d", api, repo, job) }
	registerAt := func(repo string) string { return api + "/repos/" + repo + "/actions/runners/generate-jitconfig" }
	if err := l.MoveRepository("calm", "engine", "calm", "motor"); err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"calm/engine", "calm/motor"} {
		if status, body := l.follow("GET", jobAt(repo), auth, ""); status != http.StatusOK {
			t.Errorf("%s: %d %s", repo, status, body)
		}
		status, body := l.follow("POST", registerAt(repo), auth, fmt.Sprintf(`{"name": %q, "runner_group_id": 1, "labels": ["x"]}`, repo))
		if status != http.StatusCreated {
			t.Errorf("%s: %d %s", repo, status, body)
		}
	}
	var runners struct{ Runners []struct{ ID int64 } }
	if status, body := l.follow("GET", api+"/repos/calm/engine/actions/runners", auth, ""); status != http.StatusOK || json.Unmarshal(body, &runners) != nil || len(runners.Runners) != 2 {
		t.Fatalf("%d %s", status, body)
	}
	if status, _ := l.follow("DELETE", fmt.Sprintf("%s/repos/calm/engine/actions/runners/%d", api, runners.Runners[0].ID), auth, ""); status != http.StatusNoContent {
		t.Errorf("removed by the old name: %d", status)
	}

	var list struct {
		Repositories []struct {
			ID       int64
			FullName string `json:"full_name"`
		}
	}
	l.call(auth, "GET", api+"/installation/repositories", "", http.StatusOK, &list)
	if len(list.Repositories) != 1 || list.Repositories[0].FullName != "calm/motor" {
		t.Fatalf("%+v", list)
	}
	l.out = nil
	l.queueAt("calm", "motor", "x")
	if body := string(l.out[0].Body); !strings.Contains(body, `"full_name":"calm/motor"`) {
		t.Errorf("the event says %s", body)
	}

	// Somebody makes another of the old name.
	l.queueAt("calm", "engine", "x")
	old := list.Repositories[0].ID
	l.call(auth, "GET", api+"/installation/repositories", "", http.StatusOK, &list)
	if len(list.Repositories) != 2 || list.Repositories[0].ID == old || list.Repositories[1].ID != old {
		t.Errorf("%+v", list)
	}
	if status, _ := l.follow("GET", jobAt("calm/engine"), auth, ""); status != http.StatusNotFound {
		t.Errorf("the new repository answers for the old one: %d", status)
	}
	if l.MoveRepository("calm", "engine", "calm", "motor") == nil || l.MoveRepository("calm", "nothing", "calm", "x") == nil {
		t.Error("two repositories of one name, or one of none")
	}
}

func TestARepositoryIsTransferred(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	job := l.queue("x")
	auth := l.asInstallation(l.owner)
	if err := l.MoveRepository("calm", "engine", "stranger", "engine"); err != nil {
		t.Fatal(err)
	}
	if status, _ := l.follow("GET", fmt.Sprintf("%s/repos/calm/engine/actions/jobs/%d", api, job), auth, ""); status != http.StatusNotFound {
		t.Errorf("another owner's job: %d", status)
	}
	l.runner("vm", "x")
	if len(l.assigned) != 0 {
		t.Errorf("a runner got another owner's job: %v", l.assigned)
	}
	l.out = nil
	l.Cancel(job)
	if s := l.state(job); s.Status != "completed" || len(l.out) != 0 {
		t.Errorf("%+v, and %d events of a repository that the App may not see", s, len(l.out))
	}
}
