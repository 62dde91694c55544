package client

import (
	"time"

	"github.com/millrace-ci/millrace"
)

// Host is a host as the REST API shows it.
//
//	GET /api/v1/orgs/{org}/hosts          → List[Host]
//	GET /api/v1/orgs/{org}/hosts/{host}   → Host
type Host struct {
	ID        millrace.HostID     `json:"id"`
	Name      string              `json:"name"`
	Status    millrace.HostStatus `json:"status"`
	Refuses   string              `json:"refuses"` // why it takes no VM though it is online; "" when it does
	Facts     millrace.HostFacts  `json:"facts"`
	VMs       int                 `json:"vms"`       // live ones
	Committed millrace.Size       `json:"committed"` // their sum, to compare with facts.offer
	SeenAt    *time.Time          `json:"seen_at"`
	CreatedAt time.Time           `json:"created_at"`
}

// NewHost is h at time now on the wire, with its live VMs and their sum.
func NewHost(h millrace.Host, vms int, committed millrace.Size, now time.Time) Host {
	return Host{
		ID:        h.ID,
		Name:      h.Name,
		Status:    h.Status(now),
		Refuses:   h.Refuses,
		Facts:     h.Facts,
		VMs:       vms,
		Committed: committed,
		SeenAt:    Time(h.SeenAt),
		CreatedAt: h.CreatedAt.UTC(),
	}
}
