package millrace

import "context"

// Ports are the far sides of a network, as the rest of the product needs them. Adapters implement them; cmd passes
// them in.

// Delivery is one webhook delivery whose signature was verified.
type Delivery struct {
	GUID           string // GitHub's X-GitHub-Delivery; a redelivery has the same
	Event          string
	Action         string
	InstallationID int64
	Body           []byte
	Job            *JobEvent // for workflow_job; nil for every other event
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

// Runners is GitHub's side of VMs.
type Runners interface {
	// CreateJIT registers an ephemeral runner. Conflict: the name is taken.
	CreateJIT(ctx context.Context, at RunnerTarget, name string, labels []string) (JITConfig, error)
	// FindRunner finds a runner by its exact name. NotFound: there is none.
	FindRunner(ctx context.Context, at RunnerTarget, name string) (Runner, error)
	// DeleteRunner removes a registration; one that is gone already is no error. Conflict: it runs a job.
	DeleteRunner(ctx context.Context, at RunnerTarget, id int64) error
}
