package millrace

import (
	"context"
	"time"
)

// Ports are the far sides of a network, as the rest of the product needs them. Adapters implement them; cmd passes
// them in.

// Delivery is one webhook delivery whose signature was verified.
type Delivery struct {
	GUID           string // GitHub's X-GitHub-Delivery; a redelivery has the same
	Event          string
	Action         string
	InstallationID int64
	Body           []byte
	Job            *JobEvent          // for workflow_job; nil for every other event
	Installation   *InstallationEvent // for events that tell of an installation; nil for every other
}

// WebhookSource verifies and decodes deliveries.
type WebhookSource interface {
	// Parse verifies the signature over the raw body first and decodes after. Errors: Unauthenticated for a missing
	// or wrong signature, Invalid for a body that isn't JSON or hasn't the event's shape. An unknown event is no error.
	Parse(header Header, body []byte) (Delivery, error)
}

// Header is an [net/http.Header].
type Header interface{ Get(name string) string }

// RunnerTarget is where a runner registers: an organisation, or one repository of a personal account.
type RunnerTarget struct {
	InstallationID int64
	Owner          string
	Repository     string // name without owner; "" registers at the organisation
}

// JITConfig is a just-in-time runner registration.
type JITConfig struct {
	RunnerID int64
	Encoded  Secret // what the runner is started with
}

// Runner is GitHub's view of a registered runner.
type Runner struct {
	ID     int64
	Name   string
	Online bool
	Busy   bool
}

// Runners is GitHub's side of VMs. Any of its errors may hold a [Condition].
type Runners interface {
	// CreateJIT registers an ephemeral runner. Conflict: the name is taken.
	CreateJIT(ctx context.Context, at RunnerTarget, name string, labels []string) (JITConfig, error)
	// FindRunner finds a runner by its exact name. NotFound: there is none.
	FindRunner(ctx context.Context, at RunnerTarget, name string) (Runner, error)
	// DeleteRunner removes a registration; one that is gone already is no error. Conflict: it runs a job.
	DeleteRunner(ctx context.Context, at RunnerTarget, id int64) error
	// ListRunners lists all runners that are registered there.
	ListRunners(ctx context.Context, at RunnerTarget) ([]Runner, error)
	// GroupAdmits reports whether the group of the runners that [Runners.CreateJIT] registers there may be used by a
	// repository of that owner: GitHub gives its jobs to none of them otherwise, and says so nowhere else.
	GroupAdmits(ctx context.Context, at RunnerTarget, r Repository) (bool, error)
}

// Repositories is what GitHub knows of repositories and their jobs. Any of its errors may hold a [Condition].
type Repositories interface {
	// OpenJobs reads the jobs of the repository's runs that are queued or in progress, in whatever status each is. It
	// asks conditionally: what has not changed since this process last asked costs nothing of the quota.
	OpenJobs(ctx context.Context, at RepositoryTarget) (OpenJobs, error)
	// Job reads one job. NotFound: GitHub has no such job, or says so for now.
	Job(ctx context.Context, at RepositoryTarget, id int64) (JobEvent, error)
	// FromFork reports whether a workflow run is of a fork's code: no webhook of a job says so. NotFound: GitHub has no such
	// run, or says so for now.
	FromFork(ctx context.Context, at RepositoryTarget, run int64) (bool, error)
	// InstallationRepositories lists the repositories that the installation may see; OrgID is not set.
	InstallationRepositories(ctx context.Context, installation int64) ([]Repository, error)
	// Installation reads an installation's state; OrgID is not set. NotFound: it was uninstalled, and nothing else.
	Installation(ctx context.Context, installation int64) (Installation, error)
	// Installations lists all installations of the App and their states, in no order.
	Installations(ctx context.Context) ([]Installation, error)
	// Uninstall takes the App away from its owner; where it is gone already is no error.
	Uninstall(ctx context.Context, installation int64) error
}

// People is what GitHub knows of who is in an organisation. Its errors may hold a [Condition].
type People interface {
	// Members lists all members of the organisation whose login is owner, in no order. NotFound: the App was uninstalled
	// there, or it is no organisation. Conflict: it has another login by now, which [Repositories.Installation] tells.
	// Forbidden without a condition: its owner has not accepted the permission for it. Lists are asked for conditionally.
	Members(ctx context.Context, installation int64, owner string) ([]GitHubMember, error)
}

// RepositoryTarget is a repository of an installation.
type RepositoryTarget struct {
	InstallationID int64
	FullName       string // owner/name
}

// OpenJobs is what a poll of a repository found.
type OpenJobs struct {
	Jobs  []JobEvent
	Quota Quota
}

// Quota is what is left of an installation's hourly calls; its zero value is unknown.
type Quota struct {
	Limit, Remaining int
	Reset            time.Time
}

// Plenty reports whether at least half of the quota is left: nobody needs to hold back. So it is when nothing is known.
func (q Quota) Plenty() bool { return 2*q.Remaining >= q.Limit }

// Deliveries are the App's webhook deliveries as GitHub keeps them, for a few days.
type Deliveries interface {
	// DeliveryTries lists a page of the tries to deliver, newest first; next is "" on the last page.
	DeliveryTries(ctx context.Context, cursor string) (page []DeliveryTry, next string, err error)
	// Redeliver has GitHub deliver once more, with the same GUID and as a delivery of its own. NotFound: GitHub keeps
	// it no more.
	Redeliver(ctx context.Context, id int64) error
}

// DeliveryTry is one try of a delivery.
type DeliveryTry struct {
	ID          int64
	GUID        string
	DeliveredAt time.Time // GitHub's clock
	StatusCode  int       // of our answer, if there was one
	OK          bool      // it got a 2xx in time
}

// GitHub is all of GitHub that the product calls.
type GitHub interface {
	Runners
	Repositories
	People
	Deliveries
}

// SignIn is GitHub's login for people. What it returns is read once; the person's token is then forgotten.
//
// Errors of [SignIn.Exchange] and [SignIn.PollDevice]. Forbidden: the person refused. Gone: the code was used, has expired,
// or isn't this browser's; they must begin again. Unavailable: GitHub is away. Everything else is our own mistake.
type SignIn interface {
	// AuthCodeURL is where a browser is sent. GitHub sends it back with the state, and with a code or an error
	// (access_denied: the person refused). The verifier stays with us until then. selectAccount lets the person choose who
	// they are; otherwise GitHub asks nothing of somebody who has been here before.
	AuthCodeURL(state, verifier string, selectAccount bool) string
	// Exchange says who the code stands for. It works once.
	Exchange(ctx context.Context, code, verifier string) (GitHubPerson, error)
	// DeviceCode begins the sign-in of something without a browser.
	DeviceCode(ctx context.Context) (DeviceCode, error)
	// PollDevice says who confirmed the code. Conflict: nobody yet. LimitReached: it came too early, and five more seconds
	// must pass between polls from now on.
	PollDevice(ctx context.Context, code Secret) (GitHubPerson, error)
}
