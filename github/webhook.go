package github

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// Parse verifies the signature over the raw body (X-Hub-Signature-256; the SHA-1 header proves nothing) and decodes what
// the product uses: https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_job.
func (a *App) Parse(header millrace.Header, body []byte) (millrace.Delivery, error) {
	if !a.signed(header.Get("X-Hub-Signature-256"), body) {
		return millrace.Delivery{}, millrace.Errorf(millrace.Unauthenticated, "The signature is missing or wrong.")
	}
	if kind, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || kind != "application/json" {
		return millrace.Delivery{}, millrace.Errorf(millrace.Invalid, "The content type must be application/json; set it in the App's webhook settings.")
	}
	if !utf8.Valid(body) || tooDeep(body) {
		return millrace.Delivery{}, errNotJSON
	}
	d := millrace.Delivery{GUID: clean(header.Get("X-GitHub-Delivery")), Event: clean(header.Get("X-GitHub-Event")), Body: body}
	if d.Event == "workflow_job" { // nearly all of them
		err := decodeJob(&d)
		return d, err
	}
	var envelope struct {
		Action       string `json:"action"`
		Installation struct {
			ID int64 `json:"id"`
		} `json:"installation"`
	}
	if err := decode(body, &envelope, "an event"); err != nil {
		return millrace.Delivery{}, err
	}
	d.Action, d.InstallationID = clean(envelope.Action), envelope.Installation.ID
	var err error
	if change := installationEvents[d.Event][d.Action]; change != "" {
		d.Installation, err = decodeInstallation(d.Event, change, body)
	}
	return d, err
}

var errNotJSON = millrace.Errorf(millrace.Invalid, "The body is not JSON.")

// decode reads a body into event, which should be a kind of event.
func decode(body []byte, event any, kind string) error {
	err := json.Unmarshal(body, event)
	switch syntax := (*json.SyntaxError)(nil); {
	case errors.As(err, &syntax):
		return errNotJSON
	case err != nil:
		return millrace.Errorf(millrace.Invalid, "The body is not %s.", kind)
	}
	return nil
}

func (a *App) signed(signature string, body []byte) bool {
	digest, ok := strings.CutPrefix(signature, "sha256=")
	if !ok {
		return false
	}
	got, err := hex.DecodeString(digest)
	if err != nil {
		return false
	}
	ok = false
	for _, secret := range a.secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		ok = hmac.Equal(mac.Sum(nil), got) || ok
	}
	return ok
}

// maxDepth is far above what any event has; encoding/json itself would go to 10,000.
const maxDepth = 64

// tooDeep reports whether the body nests deeper than maxDepth, without decoding it.
func tooDeep(body []byte) bool {
	depth, inString, escaped := 0, false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// Bounds of texts; GitHub's own are smaller.
const (
	maxText  = 1024
	maxNames = 100
)

// installationEvents are the events that tell of an installation, by action; what the others say is of no use here.
var installationEvents = map[string]map[string]millrace.InstallationChange{
	"installation": {
		"created": millrace.InstallationState, "deleted": millrace.InstallationState, "suspend": millrace.InstallationState,
		"unsuspend": millrace.InstallationState, "new_permissions_accepted": millrace.InstallationState,
	},
	"installation_target":       {"renamed": millrace.InstallationState},
	"installation_repositories": {"added": millrace.InstallationRepositories, "removed": millrace.InstallationRepositories},
	"organization": {
		"renamed": millrace.InstallationState, "member_added": millrace.InstallationPeople, "member_removed": millrace.InstallationPeople,
	},
	"repository": {
		"created": millrace.InstallationRepositories, "deleted": millrace.InstallationRepositories, "renamed": millrace.InstallationRepositories,
		"transferred": millrace.InstallationRepositories, "privatized": millrace.InstallationRepositories, "publicized": millrace.InstallationRepositories,
	},
}

func decodeInstallation(event string, change millrace.InstallationChange, body []byte) (*millrace.InstallationEvent, error) {
	type account struct {
		ID int64 `json:"id"`
	}
	var e struct {
		Installation struct {
			ID      int64   `json:"id"`
			Account account `json:"account"` // of the events of an installation
		} `json:"installation"`
		Account      account `json:"account"` // of installation_target
		Organization account `json:"organization"`
		Membership   struct {
			User account `json:"user"`
		} `json:"membership"`
	}
	const kind = "an event of an installation"
	if err := decode(body, &e, kind); err != nil {
		return nil, err
	}
	if e.Installation.ID <= 0 {
		return nil, millrace.Errorf(millrace.Invalid, "The body is not %s.", kind)
	}
	owner := cmp.Or(e.Installation.Account.ID, e.Account.ID)
	if event == "organization" { // with other events it is a repository's, which may have been transferred to it
		owner = e.Organization.ID
	}
	out := &millrace.InstallationEvent{InstallationID: e.Installation.ID, OwnerID: max(0, owner), Changed: change}
	if change == millrace.InstallationPeople {
		out.PersonID = max(0, e.Membership.User.ID)
	}
	return out, nil
}

// jobDelivery is what is used of a workflow_job event. Most of one is the repository, in some hundred members, and there are
// three for each job.
type jobDelivery struct {
	Action       string `json:"action"`
	Installation struct {
		ID int64 `json:"id"`
	} `json:"installation"`
	Repository struct {
		ID         *int64  `json:"id"`
		FullName   *string `json:"full_name"`
		Private    *bool   `json:"private"`
		ForksCount *int    `json:"forks_count"`
		Owner      account `json:"owner"`
	} `json:"repository"`
	Sender account `json:"sender"`
	Job    struct {
		github.WorkflowJob
		Steps skipped `json:"steps"`
	} `json:"workflow_job"`
}

type account struct {
	ID    *int64  `json:"id"`
	Login *string `json:"login"`
}

// skipped is a value of which nothing is used.
type skipped struct{}

// UnmarshalJSON implements [json.Unmarshaler].
func (skipped) UnmarshalJSON([]byte) error { return nil }

func decodeJob(d *millrace.Delivery) error {
	const kind = "a workflow_job event"
	var e jobDelivery
	if err := decode(d.Body, &e, kind); err != nil {
		return err
	}
	repo := github.Repository{
		ID: e.Repository.ID, FullName: e.Repository.FullName, Private: e.Repository.Private, ForksCount: e.Repository.ForksCount,
		Owner: &github.User{ID: e.Repository.Owner.ID, Login: e.Repository.Owner.Login},
	}
	event, ok := jobEvent(e.Installation.ID, &repo, &github.User{ID: e.Sender.ID, Login: e.Sender.Login}, &e.Job.WorkflowJob)
	if !ok {
		return millrace.Errorf(millrace.Invalid, "The body is not %s.", kind)
	}
	// The action says more than the status where the two differ: a delivery that is late carries the job's present status
	// with yesterday's action, and both are true of the job.
	event.Action = clean(e.Action)
	d.Action, d.InstallationID, d.Job = event.Action, event.InstallationID, event
	return nil
}

// jobEvent is what GitHub says of a job, in an event or when asked; Action is its status. It is not ok when it lacks what a
// job must have.
func jobEvent(installation int64, repo *github.Repository, actor *github.User, j *github.WorkflowJob) (_ *millrace.JobEvent, ok bool) {
	status, known := statuses[j.GetStatus()]
	switch {
	case !known, installation <= 0, j.GetID() <= 0, j.GetRunID() <= 0, repo.GetID() <= 0, len(j.Labels) > maxNames:
		return nil, false
	case clean(repo.GetFullName()) == "", j.GetRunAttempt() > math.MaxInt32:
		return nil, false
	case j.GetCreatedAt().IsZero() && j.GetStartedAt().IsZero():
		return nil, false
	}
	for _, t := range []github.Timestamp{j.GetCreatedAt(), j.GetStartedAt(), j.GetCompletedAt()} {
		if year := t.Year(); !t.IsZero() && (year < 1970 || year > 9999) {
			return nil, false
		}
	}
	job := millrace.Job{
		InstallationID: installation, GitHubID: j.GetID(), RunID: j.GetRunID(), RunAttempt: max(1, int(j.GetRunAttempt())),
		RepositoryID: repo.GetID(), Repository: clean(repo.GetFullName()), Private: repo.GetPrivate(),
		// Only the run says whether it is a fork's, but where there is no fork it can't be.
		Zone: millrace.ZoneOf(repo.GetPrivate(), false), ZoneKnown: repo.GetPrivate() && repo.ForksCount != nil && *repo.ForksCount == 0,
		Workflow: clean(j.GetWorkflowName()), Name: clean(j.GetName()), Branch: clean(j.GetHeadBranch()), SHA: clean(j.GetHeadSHA()),
		ActorID: actor.GetID(), Actor: clean(actor.GetLogin()), HTMLURL: httpURL(j.GetHTMLURL()), Status: status,
		QueuedAt: first(j.GetCreatedAt().Time, j.GetStartedAt().Time), Labels: make([]string, 0, len(j.Labels)),
	}
	for _, label := range j.Labels {
		job.Labels = append(job.Labels, clean(label))
	}
	if status == millrace.JobInProgress || status == millrace.JobCompleted {
		job.RunnerID, job.RunnerName = max(0, j.GetRunnerID()), clean(j.GetRunnerName())
		job.StartedAt = j.GetStartedAt().Time
	}
	if status == millrace.JobCompleted {
		job.Conclusion = clean(j.GetConclusion())
		job.CompletedAt = first(j.GetCompletedAt().Time, j.GetStartedAt().Time, job.QueuedAt)
	}
	owner := repo.GetOwner()
	return &millrace.JobEvent{
		Action: j.GetStatus(), InstallationID: installation, OwnerID: owner.GetID(), OwnerLogin: clean(owner.GetLogin()), Job: job,
	}, true
}

// statuses maps GitHub's statuses to ours: requested and pending come before queued and ask for nothing.
var statuses = map[string]millrace.JobStatus{
	"requested": millrace.JobWaiting, "pending": millrace.JobWaiting, "waiting": millrace.JobWaiting,
	"queued": millrace.JobQueued, "in_progress": millrace.JobInProgress, "completed": millrace.JobCompleted,
}

func first(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t.UTC()
		}
	}
	return time.Time{}
}

// clean bounds a text and removes what Postgres can't store: NUL, and bytes that aren't UTF-8, which a header may hold.
// Everything else is kept as it is and made harmless where it is shown.
func clean(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// httpURL is s when it is a link that may be followed, else "".
func httpURL(s string) string {
	if s = clean(s); strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") {
		return s
	}
	return ""
}
