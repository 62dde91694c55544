package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
)

// TestDeliveries: our adapter takes what the stand-in sends, and it looks like GitHub's.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		app, err := github.New(github.Config{
			APIURL: h.APIURL(), AppID: h.AppID(), PrivateKeyPEM: h.PrivateKeyPEM(), WebhookSecrets: []string{h.WebhookSecret()},
		})
		if err != nil {
			h.t.Fatal(err)
		}
		job := h.queue("x")
		h.delivered(job)
		time.Sleep(2 * time.Second)
		m := h.online(h.asInstallation(h.owner), "/orgs/calm", "vm", "x")
		m.poll(h.t.Context())
		h.delivered(job)
		time.Sleep(3 * time.Second)
		m.call(fmt.Sprintf("jobs/%d/complete", job), `{"conclusion":"success"}`, http.StatusNoContent)
		if got := h.delivered(job); got != "queued in_progress completed" {
			h.t.Fatalf("delivered: %s", got)
		}
		guids := map[string]bool{}
		for _, d := range h.hooks {
			for name, want := range map[string]string{
				"Content-Type":                           `application/json`,
				"User-Agent":                             `GitHub-Hookshot/[0-9a-f]{7}`,
				"X-Github-Event":                         `workflow_job`,
				"X-Github-Delivery":                      `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`,
				"X-Github-Hook-Id":                       `\d+`,
				"X-Github-Hook-Installation-Target-Id":   strconv.FormatInt(h.AppID(), 10),
				"X-Github-Hook-Installation-Target-Type": `integration`,
				"X-Hub-Signature":                        `sha1=[0-9a-f]{40}`,
				"X-Hub-Signature-256":                    `sha256=[0-9a-f]{64}`,
			} {
				if got := d.header.Get(name); !regexp.MustCompile("^" + want + "$").MatchString(got) {
					h.t.Errorf("%s: %s: %q, want %s", d.action, name, got, want)
				}
			}
			guids[d.header.Get("X-GitHub-Delivery")] = true
			if len(d.body) < 7000 || len(d.body) > 12_000 {
				h.t.Errorf("%s: %d bytes; GitHub's have 7 to 9 KB", d.action, len(d.body))
			}
			got, err := app.Parse(d.header, d.body)
			if err != nil {
				h.t.Fatalf("%s: %v", d.action, err)
			}
			if got.Job.Job.GitHubID != job || got.InstallationID != h.owner.ID || got.Job.OwnerID != h.owner.OwnerID {
				h.t.Errorf("%s: %+v", d.action, got.Job)
			}
			if j := got.Job.Job; d.action == "completed" && (j.StartedAt.Sub(j.QueuedAt) != 2*time.Second || j.CompletedAt.Sub(j.StartedAt) != 3*time.Second || j.RunnerID != m.id) {
				h.t.Errorf("completed: %+v", j)
			}
		}
		if len(guids) != 3 {
			h.t.Errorf("three deliveries have %d GUIDs", len(guids))
		}
	})
}

// TestPayloadsHaveGitHubsFields: what the product doesn't read must be there too, and null where GitHub's is.
func TestPayloadsHaveGitHubsFields(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		event := func(owner string) (e map[string]any) {
			h.t.Helper()
			if err := json.Unmarshal(h.Event(h.queueAt(owner, "engine", "x"), "queued"), &e); err != nil {
				h.t.Fatal(err)
			}
			return e
		}
		e := event("calm")
		for path, fields := range map[string]string{
			"":             "action workflow_job repository sender installation organization",
			"workflow_job": "id run_id run_url run_attempt node_id head_sha head_branch url html_url status conclusion created_at started_at completed_at name steps check_run_url labels runner_id runner_name runner_group_id runner_group_name workflow_name",
			"repository":   "id node_id name full_name private owner html_url description fork url archive_url clone_url created_at default_branch topics visibility",
			"sender":       "login id node_id avatar_url url html_url type site_admin",
			"installation": "id node_id",
			"organization": "login id node_id url repos_url members_url avatar_url",
		} {
			object := e
			if path != "" {
				object = e[path].(map[string]any)
			}
			for _, f := range strings.Fields(fields) {
				if _, ok := object[f]; !ok {
					h.t.Errorf("%s has no %s", path, f)
				}
			}
		}
		job := e["workflow_job"].(map[string]any)
		for _, f := range []string{"conclusion", "completed_at", "runner_id", "runner_name", "runner_group_id", "runner_group_name"} {
			if job[f] != nil {
				h.t.Errorf("a queued job has %s: %v", f, job[f])
			}
		}
		if job["started_at"] != job["created_at"] {
			h.t.Error("GitHub gives a queued job its creation as its start")
		}
		h.AddOwner("mona", millrace.Personal)
		if _, ok := event("mona")["organization"]; ok {
			h.t.Error("a personal account's event has an organization")
		}
	})
}

// TestADeliveryIsTriedOnce, whatever becomes of it, and is kept.
func TestADeliveryIsTriedOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		h.answer = func(r *http.Request) (int, error) {
			switch len(h.hooks) {
			case 1:
				return http.StatusInternalServerError, nil
			case 2:
				<-r.Context().Done() // a receiver that hangs
				return 0, r.Context().Err()
			default:
				return http.StatusAccepted, nil
			}
		}
		ids := make([]int64, 3)
		for i := range ids {
			ids[i] = h.queue("x")
			synctest.Wait()
			if i == 1 {
				time.Sleep(10 * time.Second)
				synctest.Wait() // GitHub lists tries in the order in which they ended
			}
		}
		began := time.Now()
		if err := h.Settled(h.t.Context()); err != nil || time.Since(began) > time.Second {
			h.t.Errorf("settled after %v: %v", time.Since(began), err)
		}
		time.Sleep(time.Hour)
		for _, id := range ids {
			if got := h.delivered(id); got != "queued" {
				h.t.Errorf("delivered: %s", got)
			}
		}
		type delivery struct {
			ID             int64
			GUID           string
			Event, Action  string
			Status         string
			StatusCode     int `json:"status_code"`
			Duration       float64
			Redelivery     bool
			InstallationID int64     `json:"installation_id"`
			DeliveredAt    time.Time `json:"delivered_at"`
		}
		var list []delivery
		h.call(h.asApp(), "GET", api+"/app/hook/deliveries", "", http.StatusOK, &list)
		var kept struct{ Deliveries []delivery }
		h.call("", "GET", "/_standin/deliveries", "", http.StatusOK, &kept)
		if len(list) != 3 || len(kept.Deliveries) != 3 {
			h.t.Fatalf("%+v, %+v", list, kept)
		}
		for i, want := range []struct {
			status   int
			duration float64
		}{{202, 0}, {0, 10}, {500, 0}} { // the newest first
			d := list[i]
			if d.StatusCode != want.status || d.Duration != want.duration || (d.Status == "OK") != (want.status == 202) || d.Status == "" {
				h.t.Errorf("%+v, want %+v", d, want)
			}
			if d != kept.Deliveries[i] || d.GUID == "" || d.Event != "workflow_job" || d.Action != "queued" || d.InstallationID != h.owner.ID || d.Redelivery || d.DeliveredAt.IsZero() {
				h.t.Errorf("%+v", d)
			}
		}
	})
}

// TestDeliveriesDoNotWaitForEachOther: a receiver that hangs costs one delivery, and GitHub's users nothing.
func TestDeliveriesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(h *hub) {
		hang := make(chan struct{})
		h.answer = func(*http.Request) (int, error) { <-hang; return http.StatusOK, nil }
		slow := h.queue("x")
		synctest.Wait()
		h.mu.Lock()
		h.answer = nil
		h.mu.Unlock()
		began := time.Now()
		next := h.queue("x")
		if h.delivered(next) != "queued" || time.Since(began) != 0 {
			h.t.Error("a delivery waits for another")
		}
		var tried []struct{ ID int64 }
		h.call(h.asApp(), "GET", api+"/app/hook/deliveries", "", http.StatusOK, &tried)
		if len(tried) != 1 {
			h.t.Errorf("GitHub lists %d deliveries, want the one that has ended", len(tried))
		}
		close(hang)
		if h.delivered(slow) != "queued" {
			h.t.Error("the slow one is lost")
		}
	})
}

func TestNoWebhookURLSendsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *githubtest.Config) { c.WebhookURL = "" }, func(h *hub) {
		if job := h.queue("x"); h.delivered(job) != "" {
			h.t.Error("a webhook was sent")
		}
	})
}
