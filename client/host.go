package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/millrace-ci/millrace"
)

// Host is a host as the REST API shows it.
//
//	GET    /api/v1/orgs/{org}/hosts                  → List[Host]
//	GET    /api/v1/orgs/{org}/hosts/{host}           → Host
//	PATCH  /api/v1/orgs/{org}/hosts/{host}           ChangeHost → Host
//	POST   /api/v1/orgs/{org}/hosts/{host}/restart   → Host
//	POST   /api/v1/orgs/{org}/hosts/{host}/reboot    → Host
//	POST   /api/v1/orgs/{org}/hosts/{host}/rotate-keys → Host
//	DELETE /api/v1/orgs/{org}/hosts/{host}?force=true
type Host struct {
	ID        millrace.HostID     `json:"id"`
	Name      string              `json:"name"`
	Status    millrace.HostStatus `json:"status"`
	Admin     millrace.HostAdmin  `json:"admin"`
	Refuses   string              `json:"refuses"` // why it takes no VM though it is online; "" when it does
	Facts     millrace.HostFacts  `json:"facts"`
	Ephemeral bool                `json:"ephemeral" doc:"Removed 15 minutes after it was last heard"`
	Restart   bool                `json:"restart_pending"`
	Reboot    bool                `json:"reboot_pending"`
	Rotate    bool                `json:"rotate_keys_pending"`
	KeysAt    time.Time           `json:"keys_at" doc:"When its agent made its keys"`
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
		Admin:     h.Admin,
		Refuses:   h.Refuses,
		Facts:     h.Facts,
		Ephemeral: h.Ephemeral,
		Restart:   h.Restart,
		Reboot:    h.Reboot,
		Rotate:    h.Rotate,
		KeysAt:    h.KeysAt.UTC(),
		VMs:       vms,
		Committed: committed,
		SeenAt:    Time(h.SeenAt),
		CreatedAt: h.CreatedAt.UTC(),
	}
}

// ChangeHost is what may be changed of a host.
type ChangeHost struct {
	Admin millrace.HostAdmin `json:"admin" enum:"enabled,draining,disabled" doc:"Whether it takes jobs; draining and disabled ones finish what runs"`
}

// Hosts are the org's hosts.
func (c REST) Hosts(ctx context.Context) (List[Host], error) {
	return get[List[Host]](ctx, c, "hosts", nil)
}

// Host is one host.
func (c REST) Host(ctx context.Context, id millrace.HostID) (Host, error) {
	return get[Host](ctx, c, "hosts/"+id.String(), nil)
}

// ChangeHost drains, disables or enables a host.
func (c REST) ChangeHost(ctx context.Context, id millrace.HostID, to ChangeHost) (Host, error) {
	return send[Host](ctx, c, http.MethodPatch, "hosts/"+id.String(), nil, to)
}

// RestartHost has a host's agent start anew.
func (c REST) RestartHost(ctx context.Context, id millrace.HostID) (Host, error) {
	return post[Host](ctx, c, "hosts/"+id.String()+"/restart", nil)
}

// RotateHostKeys has a host's agent make new keys.
func (c REST) RotateHostKeys(ctx context.Context, id millrace.HostID) (Host, error) {
	return post[Host](ctx, c, "hosts/"+id.String()+"/rotate-keys", nil)
}

// RebootHost drains a host and reboots its machine.
func (c REST) RebootHost(ctx context.Context, id millrace.HostID) (Host, error) {
	return post[Host](ctx, c, "hosts/"+id.String()+"/reboot", nil)
}

// RemoveHost removes a host. Conflict: it has VMs, and force is not set.
func (c REST) RemoveHost(ctx context.Context, id millrace.HostID, force bool) error {
	v := url.Values{}
	if force {
		v.Set("force", "true")
	}
	_, err := send[struct{}](ctx, c, http.MethodDelete, "hosts/"+id.String(), v, nil)
	return err
}
