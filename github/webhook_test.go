package github_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/github"
	"github.com/millrace-ci/millrace/github/githubtest"
)

const guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958"

// delivered are the headers of a delivery, signed with secret.
func delivered(secret, event string, body []byte) http.Header {
	h := http.Header{}
	githubtest.SetHeaders(h, secret, event, guid, body)
	return h
}

func hmacHex(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func queued(t testing.TB, gh *githubtest.GitHub) int64 {
	t.Helper()
	id, err := gh.Queue(githubtest.QueueRequest{
		Owner: "calm", Repo: "engine", Workflow: "ci", Name: "test (1)", Labels: []string{"millrace", "GPU"}, Actor: "mona", Branch: "feature/x",
		Steps: []githubtest.QueueStep{{Name: "Test", Run: "make test"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestParseLooksAtTheSignatureFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := w.Event(queued(t, w.GitHub), "queued")
	secret := w.WebhookSecret()
	good := "sha256=" + hmacHex(secret, body)
	header := func(signature string) http.Header {
		h := delivered(secret, "workflow_job", body)
		h.Set("X-Hub-Signature-256", signature)
		return h
	}
	sha1Only := delivered(secret, "workflow_job", body)
	sha1Only.Del("X-Hub-Signature-256")
	plain := header("sha256=00")
	plain.Set("Content-Type", "text/plain")
	for name, tc := range map[string]struct {
		header http.Header
		body   []byte
	}{
		"no signature":                       {http.Header{"Content-Type": {"application/json"}}, body},
		"SHA-1 alone":                        {sha1Only, body},
		"another secret":                     {header("sha256=" + hmacHex("x"+secret, body)), body},
		"the empty secret":                   {header("sha256=" + hmacHex("", body)), body},
		"no algorithm":                       {header(strings.TrimPrefix(good, "sha256=")), body},
		"another algorithm":                  {header("sha1=" + strings.TrimPrefix(good, "sha256=")), body},
		"cut short":                          {header(good[:len(good)-2]), body},
		"too long":                           {header(good + "00"), body},
		"not hexadecimal":                    {header(good[:len(good)-1] + "g"), body},
		"nothing but the algorithm":          {header("sha256="), body},
		"one byte changed":                   {header(good), append(bytes.Clone(body[:len(body)-1]), ' ')},
		"one byte more":                      {header(good), append(bytes.Clone(body), '\n')},
		"truncated":                          {header(good), body[:len(body)/2]},
		"empty":                              {header(good), nil},
		"wrong before it is not JSON":        {header("sha256=00"), []byte("{")},
		"wrong before it is another content": {plain, body},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := w.App.Parse(tc.header, tc.body)
			wantCode(t, err, millrace.Unauthenticated)
			if d.Job != nil || d.InstallationID != 0 || d.Body != nil {
				t.Errorf("it was decoded: %+v", d)
			}
		})
	}
	if _, err := w.App.Parse(header(good), body); err != nil {
		t.Errorf("the right signature: %v", err)
	}
}

func TestParseKnowsTwoSecretsWhileRotating(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := []byte(`{"action":"created","installation":{"id":7}}`)
	app := func(secrets ...string) *github.App {
		app, err := github.New(github.Config{APIURL: w.APIURL(), AppID: w.AppID(), PrivateKeyPEM: w.PrivateKeyPEM(), WebhookSecrets: secrets})
		if err != nil {
			t.Fatal(err)
		}
		return app
	}
	rotating := app("new", " old ")
	for _, secret := range []string{"new", "old"} {
		if _, err := rotating.Parse(delivered(secret, "installation", body), body); err != nil {
			t.Errorf("%s: %v", secret, err)
		}
	}
	for name, closed := range map[string]*github.App{"no secret": app(), "empty secrets": app("", " ")} {
		_, err := closed.Parse(delivered("", "installation", body), body)
		if millrace.CodeOf(err) != millrace.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseReadsAJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := queued(t, w.GitHub)
	state, _ := w.Job(id)
	parse := func(action string) millrace.Delivery {
		t.Helper()
		body := w.Event(id, action)
		d, err := w.App.Parse(delivered(w.WebhookSecret(), "workflow_job", body), body)
		if err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		if d.GUID != guid || d.Event != "workflow_job" || d.Action != action || d.InstallationID != w.Owner.ID || !bytes.Equal(d.Body, body) {
			t.Errorf("%s: %+v", action, d)
		}
		return d
	}
	got := parse("queued").Job
	if got.Action != "queued" || got.InstallationID != w.Owner.ID || got.OwnerID != w.Owner.OwnerID || got.OwnerLogin != "calm" {
		t.Errorf("event: %+v", got)
	}
	job := got.Job
	want := millrace.Job{
		InstallationID: w.Owner.ID, GitHubID: id, RunID: job.RunID, RunAttempt: 1, RepositoryID: job.RepositoryID, Repository: "calm/engine", Private: true,
		Zone: millrace.ZoneOf(true, false), ZoneKnown: true, Workflow: "ci", Name: "test (1)", Branch: "feature/x", SHA: job.SHA, ActorID: job.ActorID, Actor: "mona",
		Labels: []string{"millrace", "GPU"}, HTMLURL: job.HTMLURL, Status: millrace.JobQueued, QueuedAt: state.CreatedAt,
	}
	if diff := cmp.Diff(want, job); diff != "" {
		t.Errorf("queued (-want +got):\n%s", diff)
	}
	if job.RunID <= 0 || job.RepositoryID <= 0 || job.ActorID <= 0 || len(job.SHA) != 40 || !strings.HasPrefix(job.HTMLURL, w.URL()+"/calm/engine/actions/runs/") {
		t.Errorf("queued: %+v", job)
	}

	jit, err := w.App.CreateJIT(t.Context(), w.at(), "vm", job.Labels)
	if err != nil {
		t.Fatal(err)
	}
	m := w.machine(t, jit.Encoded)
	m.must(t, "session", "{}")
	m.must(t, "poll", "{}")
	want.Status, want.RunnerID, want.RunnerName = millrace.JobInProgress, jit.RunnerID, "vm"
	job = parse("in_progress").Job.Job
	want.StartedAt = job.StartedAt
	if diff := cmp.Diff(want, job); diff != "" {
		t.Errorf("in_progress (-want +got):\n%s", diff)
	}
	m.must(t, fmt.Sprintf("jobs/%d/complete", id), `{"conclusion":"failure"}`)
	want.Status, want.Conclusion = millrace.JobCompleted, "failure"
	job = parse("completed").Job.Job
	want.CompletedAt = job.CompletedAt
	if diff := cmp.Diff(want, job); diff != "" {
		t.Errorf("completed (-want +got):\n%s", diff)
	}
	if job.StartedAt.Before(state.CreatedAt) || job.CompletedAt.Before(job.StartedAt) || job.CompletedAt.Location() != time.UTC {
		t.Errorf("times: %v %v %v", state.CreatedAt, job.StartedAt, job.CompletedAt)
	}
}

// changed is a queued event with some fields set; a nil value removes the field. Paths are dotted.
func changed(t testing.TB, body []byte, set map[string]any) []byte {
	t.Helper()
	var e map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&e); err != nil {
		t.Fatal(err)
	}
	for path, value := range set {
		m := e
		keys := strings.Split(path, ".")
		for _, k := range keys[:len(keys)-1] {
			m = m[k].(map[string]any)
		}
		if last := keys[len(keys)-1]; value == nil {
			delete(m, last)
		} else {
			m[last] = value
		}
	}
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestParseRefusesWhatIsNotAJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := w.Event(queued(t, w.GitHub), "queued")
	for name, body := range map[string][]byte{
		"empty":                 {},
		"not JSON":              []byte("payload=%7B%7D"),
		"truncated":             body[:len(body)-1],
		"trailing data":         append(bytes.Clone(body), body...),
		"not UTF-8":             bytes.Replace(body, []byte("mona"), []byte("mon\xff"), 1),
		"an array":              []byte("[]"),
		"a number":              []byte("1"),
		"null":                  []byte("null"),
		"an empty object":       []byte("{}"),
		"nested deeply":         []byte(`{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`),
		"nested without end":    []byte(strings.Repeat(`{"a":`, 100_000)),
		"no job":                changed(t, body, map[string]any{"workflow_job": nil}),
		"a job that is text":    changed(t, body, map[string]any{"workflow_job": "x"}),
		"no installation":       changed(t, body, map[string]any{"installation": nil}),
		"no repository":         changed(t, body, map[string]any{"repository": nil}),
		"no repository name":    changed(t, body, map[string]any{"repository.full_name": nil}),
		"no id":                 changed(t, body, map[string]any{"workflow_job.id": nil}),
		"a negative id":         changed(t, body, map[string]any{"workflow_job.id": -1}),
		"an id past 2^63":       changed(t, body, map[string]any{"workflow_job.id": json.Number("9223372036854775808")}),
		"an id that is text":    changed(t, body, map[string]any{"workflow_job.id": "7"}),
		"no run":                changed(t, body, map[string]any{"workflow_job.run_id": 0}),
		"no status":             changed(t, body, map[string]any{"workflow_job.status": nil}),
		"an unknown status":     changed(t, body, map[string]any{"workflow_job.status": "paused"}),
		"no time":               changed(t, body, map[string]any{"workflow_job.created_at": nil, "workflow_job.started_at": nil}),
		"a repository of NUL":   changed(t, body, map[string]any{"repository.full_name": "\x00"}),
		"an attempt past 2^31":  changed(t, body, map[string]any{"workflow_job.run_attempt": 1 << 31}),
		"a time before time":    changed(t, body, map[string]any{"workflow_job.created_at": -1 << 62}),
		"the year 0":            changed(t, body, map[string]any{"workflow_job.created_at": "0000-01-01T00:00:00Z"}),
		"a time that is not":    changed(t, body, map[string]any{"workflow_job.created_at": "yesterday"}),
		"labels that are text":  changed(t, body, map[string]any{"workflow_job.labels": "millrace"}),
		"more than 100 labels":  changed(t, body, map[string]any{"workflow_job.labels": slices.Repeat([]string{"millrace"}, 101)}),
		"a negative repository": changed(t, body, map[string]any{"repository.id": -5}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := w.App.Parse(delivered(w.WebhookSecret(), "workflow_job", body), body)
			wantCode(t, err, millrace.Invalid)
		})
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "a/b/c"} {
		h := delivered(w.WebhookSecret(), "workflow_job", body)
		h.Set("Content-Type", kind)
		_, err := w.App.Parse(h, body)
		if millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("content type %q: %v", kind, err)
		}
	}
	h := delivered(w.WebhookSecret(), "workflow_job", body)
	h.Set("Content-Type", "application/json; charset=utf-8")
	if _, err := w.App.Parse(h, body); err != nil {
		t.Errorf("a content type with a character set: %v", err)
	}
}

// TestParseMakesTextsHarmless: what Postgres can't store or nobody wants to read doesn't stop a job.
func TestParseMakesTextsHarmless(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := changed(t, w.Event(queued(t, w.GitHub), "queued"), map[string]any{
		"workflow_job.name": "a\x00b", "workflow_job.workflow_name": strings.Repeat("é", 5000), "workflow_job.html_url": "javascript:alert(1)",
		"workflow_job.head_branch": nil, "workflow_job.runner_id": 5, "workflow_job.runner_name": "GitHub Actions 5", // as in GitHub's own example of queued
		"sender": nil, "workflow_job.run_attempt": nil, "action": "queued\x00", "workflow_job.labels": []string{"mill\x00race"},
	})
	body = bytes.Replace(body, []byte(`feature/x`), []byte(`\ud800`), 1) // half a surrogate pair
	header := delivered(w.WebhookSecret(), "workflow_job", body)
	header.Set("X-GitHub-Delivery", "7\xff2")
	d, err := w.App.Parse(header, body)
	if err != nil {
		t.Fatal(err)
	}
	if d.GUID != "72" {
		t.Errorf("GUID %q", d.GUID)
	}
	j := d.Job.Job
	if j.Name != "ab" || j.HTMLURL != "" || j.Actor != "" || j.Branch != "" || j.RunAttempt != 1 || d.Action != "queued" || d.Job.Action != "queued" {
		t.Errorf("%+v", d.Job)
	}
	if j.RunnerID != 0 || j.RunnerName != "" {
		t.Errorf("a queued job has a runner: %d %q", j.RunnerID, j.RunnerName)
	}
	if !utf8.ValidString(j.Workflow) || len(j.Workflow) > 1024 || len(j.Workflow) < 1000 {
		t.Errorf("a long text has %d bytes", len(j.Workflow))
	}
}

func TestParseTakesEventsItDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for event, body := range map[string]string{
		"ping":                          `{"zen":"Keep it logically awesome.","hook_id":1}`,
		"installation":                  `{"action":"dreamt","installation":{"id":7,"account":{"login":"calm"}}}`,
		"organization":                  `{"action":"member_invited","invitation":{"id":5},"user":{"id":6},"organization":{"id":51},"installation":{"id":7}}`,
		"repository":                    `{"action":"edited","repository":{"id":5},"installation":{"id":7}}`,
		"custom_property_values":        `{"action":"updated","installation":{"id":7}}`,
		"an event of the year 2050":     `{"action":"dreamt","installation":null,"workflow_job":5}`,
		"github_app_authorization":      `{"action":"revoked","sender":{"login":"mona"}}`,
		"installation_repositories\x00": `{"action":null}`,
	} {
		d, err := w.App.Parse(delivered(w.WebhookSecret(), event, []byte(body)), []byte(body))
		if err != nil || d.Job != nil || d.Installation != nil || d.Event != strings.ReplaceAll(event, "\x00", "") || string(d.Body) != body {
			t.Errorf("%s: %+v, %v", event, d, err)
		}
		if strings.Contains(body, `{"id":7`) && d.InstallationID != 7 {
			t.Errorf("%s: installation %d", event, d.InstallationID)
		}
	}
}

func TestParseReadsWhatChangedOfAnInstallation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const (
		state, repositories, people = millrace.InstallationState, millrace.InstallationRepositories, millrace.InstallationPeople

		installation = `"installation":{"id":7,"account":{"id":51,"login":"calm","type":"Organization"}}`
		reference    = `"installation":{"id":7,"node_id":"I_7"}`
		organization = `"organization":{"id":51,"login":"calm"}`
		membership   = `"membership":{"state":"active","role":"member","user":{"id":9,"login":"mona"}}`
		repository   = `"repository":{"id":5,"full_name":"calm/engine","owner":{"id":51}}`
	)
	for _, tc := range []struct {
		event, action string
		rest          string
		want          millrace.InstallationEvent
	}{
		{"installation", "created", installation + `,"repositories":[{"id":5}],"requester":null`, millrace.InstallationEvent{OwnerID: 51, Changed: state}},
		{"installation", "deleted", installation, millrace.InstallationEvent{OwnerID: 51, Changed: state}},
		{"installation", "suspend", installation, millrace.InstallationEvent{OwnerID: 51, Changed: state}},
		{"installation", "unsuspend", installation, millrace.InstallationEvent{OwnerID: 51, Changed: state}},
		{"installation", "new_permissions_accepted", installation, millrace.InstallationEvent{OwnerID: 51, Changed: state}},
		{"installation", "deleted", reference, millrace.InstallationEvent{Changed: state}},
		{"installation", "deleted", `"installation":{"id":7,"account":{"id":-5}}`, millrace.InstallationEvent{Changed: state}},
		{
			"installation_target", "renamed", reference + `,"account":{"id":51,"login":"still"},"target_type":"Organization","changes":{"login":{"from":"calm"}}`,
			millrace.InstallationEvent{OwnerID: 51, Changed: state},
		},
		{"organization", "renamed", reference + `,"changes":{"login":{"from":"calm"}},` + organization, millrace.InstallationEvent{OwnerID: 51, Changed: state}},
		{"organization", "member_added", reference + "," + organization + "," + membership, millrace.InstallationEvent{OwnerID: 51, Changed: people, PersonID: 9}},
		{"organization", "member_removed", reference + "," + organization + "," + membership, millrace.InstallationEvent{OwnerID: 51, Changed: people, PersonID: 9}},
		{"organization", "member_removed", reference + `,"membership":{"user":null}`, millrace.InstallationEvent{Changed: people}},
		{"installation_repositories", "added", installation + `,"repositories_added":[{"id":5}]`, millrace.InstallationEvent{OwnerID: 51, Changed: repositories}},
		{"installation_repositories", "removed", installation + `,"repositories_removed":[{"id":5}]`, millrace.InstallationEvent{OwnerID: 51, Changed: repositories}},
		{"repository", "created", reference + "," + repository + "," + membership, millrace.InstallationEvent{Changed: repositories}},
		{"repository", "deleted", reference + "," + repository, millrace.InstallationEvent{Changed: repositories}},
		{"repository", "renamed", reference + "," + repository, millrace.InstallationEvent{Changed: repositories}},
		{"repository", "privatized", reference + "," + repository, millrace.InstallationEvent{Changed: repositories}},
		{"repository", "publicized", reference + "," + repository, millrace.InstallationEvent{Changed: repositories}},
		{"repository", "transferred", reference + "," + repository + "," + organization, millrace.InstallationEvent{Changed: repositories}}, // maybe to another's
	} {
		body := fmt.Appendf(nil, `{"action":%q,"sender":{"id":1},%s}`, tc.action, tc.rest)
		d, err := w.App.Parse(delivered(w.WebhookSecret(), tc.event, body), body)
		tc.want.InstallationID = 7
		if err != nil || d.Job != nil || d.Installation == nil || *d.Installation != tc.want || d.InstallationID != 7 || d.Action != tc.action {
			t.Errorf("%s %s: %+v (%+v), %v, want %+v", tc.event, tc.action, d.Installation, d, err, tc.want)
		}
		for name, body := range map[string][]byte{
			"no installation":              changed(t, body, map[string]any{"installation": nil}),
			"a negative installation":      changed(t, body, map[string]any{"installation.id": -7}),
			"an installation past 2^63":    changed(t, body, map[string]any{"installation.id": json.Number("9223372036854775808")}),
			"an installation that is text": changed(t, body, map[string]any{"installation": "7"}),
			"an account that is text":      changed(t, body, map[string]any{"installation.account": "calm"}),
			"an organization that is text": changed(t, body, map[string]any{"organization": "calm"}),
			"a membership that is a list":  changed(t, body, map[string]any{"membership": []int{1}}),
		} {
			d, err := w.App.Parse(delivered(w.WebhookSecret(), tc.event, body), body)
			if millrace.CodeOf(err) != millrace.Invalid || d.Installation != nil {
				t.Errorf("%s %s, %s: %+v, %v", tc.event, tc.action, name, d.Installation, err)
			}
		}
	}
}

// TestParseReadsWhatTheStandInSends: of all that is done to an installation, and of nothing else.
func TestParseReadsWhatTheStandInSends(t *testing.T) {
	t.Parallel()
	var got []string
	var app *github.App
	gh, err := githubtest.New(githubtest.Config{URL: "http://github.test", Send: func(o githubtest.Outgoing) {
		d, err := app.Parse(o.Header, o.Body)
		line := d.Event + " " + d.Action
		if i := d.Installation; i != nil {
			line += fmt.Sprintf(" %d %d %s %d", i.InstallationID, i.OwnerID, i.Changed, i.PersonID)
		}
		if got = append(got, line); err != nil {
			t.Error(err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	app = newApp(t, gh, nil)
	calm, mona := gh.AddOwner("calm", millrace.Organization), gh.AddPerson("mona")
	queued(t, gh)
	for _, err := range []error{
		gh.SetMember("calm", "mona", "member"), gh.RemoveMember("calm", "mona"), gh.CreateRepository("calm", "website", true), gh.CreateRepository("calm", "website", false),
		gh.MoveRepository("calm", "website", "calm", "site"), gh.MoveRepository("calm", "site", "stranger", "site"), gh.RenameOwner("calm", "still"),
		gh.Suspend("still", true), gh.Suspend("still", false), gh.Uninstall("still"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	again, err := gh.Install("still", "calm-admin")
	if err != nil {
		t.Fatal(err)
	}
	ids := fmt.Sprintf("%d %d", calm.ID, calm.OwnerID)
	want := []string{
		"workflow_job queued",
		fmt.Sprintf("organization member_added %s people %d", ids, mona.ID),
		fmt.Sprintf("organization member_removed %s people %d", ids, mona.ID),
		fmt.Sprintf("repository created %d 0 repositories 0", calm.ID),
		"installation_repositories added " + ids + " repositories 0",
		fmt.Sprintf("repository privatized %d 0 repositories 0", calm.ID),
		fmt.Sprintf("repository renamed %d 0 repositories 0", calm.ID),
		"installation_repositories removed " + ids + " repositories 0",
		"organization renamed " + ids + " state 0",
		"installation_target renamed " + ids + " state 0",
		"installation suspend " + ids + " state 0",
		"installation unsuspend " + ids + " state 0",
		"installation deleted " + ids + " state 0",
		fmt.Sprintf("installation created %d %d state 0", again.ID, calm.OwnerID),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseKnowsEachStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := w.Event(queued(t, w.GitHub), "queued")
	for status, want := range map[string]millrace.JobStatus{
		"waiting": millrace.JobWaiting, "requested": millrace.JobWaiting, "pending": millrace.JobWaiting, "queued": millrace.JobQueued,
		"in_progress": millrace.JobInProgress, "completed": millrace.JobCompleted,
	} {
		body := changed(t, body, map[string]any{"action": status, "workflow_job.status": status})
		d, err := w.App.Parse(delivered(w.WebhookSecret(), "workflow_job", body), body)
		if err != nil || d.Job.Job.Status != want {
			t.Errorf("%s: %+v, %v", status, d.Job, err)
			continue
		}
		// Cancelled while queued: it is completed at some time, and no runner ran it.
		if want == millrace.JobCompleted && (d.Job.Job.CompletedAt.IsZero() || d.Job.Job.RunnerID != 0) {
			t.Errorf("%s: %+v", status, d.Job.Job)
		}
	}
}

// FuzzParse throws signed bodies at Parse: it refuses, or what it makes of them can be stored.
func FuzzParse(f *testing.F) {
	gh, err := githubtest.New(githubtest.Config{URL: "http://github.test"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(gh.Close)
	gh.AddOwner("calm", millrace.Organization)
	app, err := github.New(github.Config{APIURL: gh.APIURL(), AppID: 1, PrivateKeyPEM: gh.PrivateKeyPEM(), WebhookSecrets: []string{"s"}})
	if err != nil {
		f.Fatal(err)
	}
	body := gh.Event(queued(f, gh), "queued")
	for _, seed := range [][]byte{
		body, changed(f, body, map[string]any{"workflow_job.status": "completed", "workflow_job.conclusion": "cancelled"}),
		[]byte(`{"action":"completed","workflow_job":{"id":1,"run_id":1,"status":"completed","created_at":1700000000},"repository":{"id":1,"full_name":"a/b"},"installation":{"id":1}}`),
		[]byte("{}"), []byte("null"), []byte(`{"action":null,"workflow_job":null}`), []byte("\xff"), nil,
	} {
		f.Add("workflow_job", seed)
	}
	f.Add("installation", []byte(`{"action":"created","installation":{"id":7,"account":{"id":51,"login":"calm"}}}`))
	f.Add("organization", []byte(`{"action":"member_added","installation":{"id":7},"organization":{"id":51},"membership":{"user":{"id":9}}}`))
	f.Add("repository", []byte(`{"action":"renamed","installation":{"id":7},"repository":{"id":5}}`))
	f.Add("ping", []byte(`{"zen":"Half measures are as bad as nothing at all."}`))
	f.Fuzz(func(t *testing.T, event string, body []byte) {
		original := bytes.Clone(body)
		d, err := app.Parse(delivered("s", event, body), body)
		if !bytes.Equal(body, original) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			if code := millrace.CodeOf(err); code != millrace.Invalid {
				t.Fatalf("a signed body: %s, %v", code, err)
			}
			return
		}
		if (d.Job != nil) != (d.Event == "workflow_job") {
			t.Fatalf("%q: job %+v", d.Event, d.Job)
		}
		if i := d.Installation; i != nil {
			if i.InstallationID <= 0 || i.InstallationID != d.InstallationID || i.OwnerID < 0 || i.PersonID < 0 || i.Changed == "" || d.Job != nil {
				t.Fatalf("%q %q: %+v", d.Event, d.Action, i)
			}
		}
		if d.Job == nil {
			return
		}
		j := d.Job.Job
		for _, id := range []int64{d.InstallationID, j.InstallationID, j.GitHubID, j.RunID, j.RepositoryID, int64(j.RunAttempt)} {
			if id <= 0 {
				t.Fatalf("an id is %d: %+v", id, j)
			}
		}
		if !slices.Contains(millrace.JobStatuses, j.Status) || j.RunnerID < 0 || j.RunAttempt > math.MaxInt32 || j.QueuedAt.Year() < 1970 || (j.Status == millrace.JobCompleted) != !j.CompletedAt.IsZero() {
			t.Fatalf("%+v", j)
		}
		texts := append([]string{d.Action, d.Job.Action, d.Job.OwnerLogin, j.Repository, j.Workflow, j.Name, j.Branch, j.SHA, j.Actor, j.HTMLURL, j.Conclusion, j.RunnerName}, j.Labels...)
		for _, s := range texts {
			if !utf8.ValidString(s) || strings.Contains(s, "\x00") || len(s) > 1024 {
				t.Fatalf("Postgres can't store %q", s)
			}
		}
	})
}
