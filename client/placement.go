package client

import (
	"context"
	"net/http"

	"github.com/millrace-ci/millrace"
)

// Placement is where and when an org's jobs run, on the wire.
//
//	GET   /api/v1/orgs/{org}/placement                    → Placement
//	PATCH /api/v1/orgs/{org}/placement   ChangePlacement  → Placement
type Placement struct {
	Strategy     millrace.Strategy `json:"strategy"`
	Repositories []Share           `json:"repositories" doc:"Those that are not like all others"`
	Zones        []ZoneRule        `json:"zones" doc:"All zones"`
}

// Share is what a repository gets of the slots and hosts.
type Share struct {
	RepositoryID int64  `json:"repository_id" doc:"GitHub's"`
	Repository   string `json:"repository"`
	Priority     int    `json:"priority"`
	Limit        int    `json:"limit" doc:"VMs at once; 0: no limit"`
}

// ZoneRule is what the jobs of a zone may do.
type ZoneRule struct {
	Zone        millrace.Zone   `json:"zone"`
	Allowed     bool            `json:"allowed"`
	HostLabels  []string        `json:"host_labels" doc:"That a host must have to run them"`
	Egress      millrace.Egress `json:"egress" doc:"What their VMs may reach"`
	MaxMilliCPU int             `json:"max_milli_cpu" doc:"0: no limit"`
	MaxMemoryMB int             `json:"max_memory_mb" doc:"0: no limit"`
}

// ChangePlacement is what may be changed of it. What is left out stays.
type ChangePlacement struct {
	Strategy     *millrace.Strategy `json:"strategy,omitempty" enum:"pack,spread"`
	Repositories []ChangeShare      `json:"repositories,omitempty" maxItems:"100"`
	Zones        []ChangeZoneRule   `json:"zones,omitempty" maxItems:"3"`
}

// ChangeShare changes a repository's share.
type ChangeShare struct {
	RepositoryID int64  `json:"repository_id,omitempty" doc:"GitHub's; without it the repository is found by its name"`
	Repository   string `json:"repository,omitempty" maxLength:"200" doc:"owner/name"`
	Priority     *int   `json:"priority,omitempty" minimum:"-5" maximum:"5" doc:"Each step doubles the repository's part of the slots"`
	Limit        *int   `json:"limit,omitempty" minimum:"0" maximum:"10000" doc:"VMs at once; 0: no limit"`
}

// ChangeZoneRule changes a zone's rule.
type ChangeZoneRule struct {
	Zone        millrace.Zone    `json:"zone" enum:"private,public,fork"`
	Allowed     *bool            `json:"allowed,omitempty"`
	HostLabels  *[]string        `json:"host_labels,omitempty" maxItems:"10"`
	Egress      *millrace.Egress `json:"egress,omitempty" enum:"internet,none"`
	MaxMilliCPU *int             `json:"max_milli_cpu,omitempty" minimum:"0" doc:"With max_memory_mb; 0: no limit"`
	MaxMemoryMB *int             `json:"max_memory_mb,omitempty" minimum:"0" doc:"With max_milli_cpu; 0: no limit"`
}

// NewPlacement is s on the wire.
func NewPlacement(s millrace.PlacementSettings) Placement {
	out := Placement{Strategy: s.Strategy, Repositories: []Share{}}
	for _, r := range s.Shares {
		out.Repositories = append(out.Repositories, Share(r))
	}
	for _, z := range millrace.Zones {
		r := s.Zone(z)
		out.Zones = append(out.Zones, ZoneRule{
			Zone: r.Zone, Allowed: r.Allowed, HostLabels: r.HostLabels, Egress: r.Egress, MaxMilliCPU: r.MaxSize.MilliCPU, MaxMemoryMB: r.MaxSize.MemoryMB,
		})
	}
	return out
}

// Change is c as the store takes it. Of a largest size both halves are given, or none.
func (c ChangePlacement) Change() (out millrace.PlacementChange, err error) {
	out.Strategy = c.Strategy
	for _, s := range c.Repositories {
		out.Shares = append(out.Shares, millrace.ShareChange(s))
	}
	for _, z := range c.Zones {
		to := millrace.ZoneChange{Zone: z.Zone, Allowed: z.Allowed, HostLabels: z.HostLabels, Egress: z.Egress}
		switch {
		case z.MaxMilliCPU != nil && z.MaxMemoryMB != nil:
			to.MaxSize = &millrace.Size{MilliCPU: *z.MaxMilliCPU, MemoryMB: *z.MaxMemoryMB}
		case z.MaxMilliCPU != nil || z.MaxMemoryMB != nil:
			return out, millrace.Errorf(millrace.Unprocessable, "Give max_milli_cpu and max_memory_mb, or neither; 0 is no limit.")
		}
		out.Zones = append(out.Zones, to)
	}
	return out, nil
}

// Placement is where and when the org's jobs run.
func (c REST) Placement(ctx context.Context) (Placement, error) {
	return get[Placement](ctx, c, "placement", nil)
}

// ChangePlacement changes where and when the org's jobs run.
func (c REST) ChangePlacement(ctx context.Context, to ChangePlacement) (Placement, error) {
	return send[Placement](ctx, c, http.MethodPatch, "placement", nil, to)
}
