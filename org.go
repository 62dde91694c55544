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
