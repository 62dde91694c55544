package millrace

import (
	"strings"
	"time"
)

// Org is a tenant: it has members, hosts, one plan and one or more installations.
type Org struct {
	ID          OrgID
	Slug        string // in URLs; globally unique
	Name        string
	Plan        PlanName
	Concurrency int  // slots the org pays for: VMs that may exist at once
	DefaultSize Size // what a label without a size gets
	// ActuatedLabels says that the prefix "actuated" is understood beside our own.
	ActuatedLabels bool
	CreatedAt      time.Time
}

// OrgDeletion is what goes when an org is deleted.
type OrgDeletion struct {
	Slug          string // to be typed by whoever means it
	Members       int
	Installations int
	Hosts         int
	Jobs          int // all that there are, with their facts
	RunningJobs   int // of these; they are ended
	VMs           int // all that there were, with their consoles
	Tokens        int // API and enrollment tokens that can be used
}

// How long a deleted org's VMs may hold back its erasure. At first a VM ends as any does, its registration at GitHub first;
// then it is ended whatever GitHub says or doesn't; and in the end the org is erased though its host may not have said
// that the VM is gone.
const (
	LeaveInOrder = 5 * time.Minute
	LeaveAtMost  = 10 * time.Minute
)

// CheckSlug returns an Invalid error when slug cannot be an org's.
func CheckSlug(slug string) error {
	inner := strings.Trim(slug, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
	if slug == "" || len(slug) > 39 || !inner || slug[0] == '-' || slug[len(slug)-1] == '-' {
		return Errorf(Invalid, "An org's short name has 1 to 39 lower-case letters, digits and inner hyphens; %q has not.", slug)
	}
	return nil
}

// Prefixes are the label prefixes of the org, given those of the server.
func (o Org) Prefixes(server []string) []string {
	if !o.ActuatedLabels {
		return server
	}
	return append(append([]string(nil), server...), "actuated")
}
