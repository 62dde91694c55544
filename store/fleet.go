package store

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

const (
	// rereadFleet is how long a fleet is known before all of it is read anew: a database that was restored from a copy has counted its
	// transactions otherwise.
	rereadFleet = time.Minute
	// seemsSilent is after how long it is looked whether a host was heard since. By the time that a pass looks it has waited for another
	// for less than the difference: that is its lock_timeout.
	seemsSilent = millrace.OfflineAfter - millrace.Heartbeat
)

// fleet is an org's hosts as this process's placement passes read them last. There may be many, and next to none changes from one pass
// to the next. When a host was heard is known until it would be silent.
type fleet struct {
	began time.Time // by this process's clock

	mu    sync.Mutex
	hosts []millrace.Host // by ID
	boots map[millrace.HostID]millrace.Durations
	xmin  string        // whatever hosts lacks, this transaction or a later one wrote
	ahead time.Duration // the database's clock, of this process's
}

// fleetColumns are what a pass reads of a host, each a column of the trigger hosts_note_change.
const fleetColumns = `h.name, h.arch, h.emulates, h.offer_cpu, h.offer_memory, h.max_vms, h.labels, h.network, h.admin, h.refuses, h.removed_at IS NOT NULL, h.boot_n, h.boot_p50, h.boot_p90`

// queueFleet reads an org's hosts: those that changed since this process read them, and when those were heard that seem silent.
// snapshot is of the same transaction, and taken before.
func (s *Store) queueFleet(b *pgx.Batch, org millrace.OrgID, snapshot *string, p *millrace.Pass) {
	f := s.fleet(org)
	xmin, silent := f.unknown(s.clock())
	b.Queue(`
		SELECT h.host_id, b.seen_at, `+fleetColumns+` FROM hosts h JOIN host_beats b ON (b.org_id, b.host_id) = (h.org_id, h.host_id)
		WHERE h.org_id = $1 AND h.changed_xid >= $2::text::xid8 ORDER BY h.host_id`, org, xmin).Query(func(rows pgx.Rows) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		h := millrace.Host{OrgID: org}
		var removed bool
		var n int
		var p50, p90 int64
		_, err := pgx.ForEachRow(rows, []any{
			scanID(&h.ID), scanTime(&h.SeenAt), &h.Name, (*string)(&h.Facts.Arch), &h.Facts.Emulates, &h.Facts.Offer.MilliCPU, &h.Facts.Offer.MemoryMB, &h.Facts.MaxVMs,
			&h.Facts.Labels, (*string)(&h.Facts.Network), (*string)(&h.Admin), &h.Refuses, &removed, &n, &p50, &p90,
		}, func() error {
			i, found := f.find(h.ID)
			switch {
			case removed && found:
				f.hosts = slices.Delete(f.hosts, i, i+1)
			case found:
				f.hosts[i] = h
			case !removed:
				f.hosts = slices.Insert(f.hosts, i, h)
			}
			delete(f.boots, h.ID)
			if n > 0 && !removed {
				f.boots[h.ID] = durations(n, p50, p90)
			}
			return nil
		})
		if err == nil {
			f.xmin, _, _ = strings.Cut(*snapshot, ":") // xmin:xmax:… (Postgres documentation, pg_snapshot)
		}
		return err
	})
	b.Queue(`SELECT b.host_id, b.seen_at FROM host_beats b WHERE b.org_id = $1 AND b.host_id = ANY($2::text[]::uuid[])`, org, silent).Query(func(rows pgx.Rows) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		var id millrace.HostID
		var at time.Time
		_, err := pgx.ForEachRow(rows, []any{scanID(&id), scanTime(&at)}, func() error {
			if i, found := f.find(id); found {
				f.hosts[i].SeenAt = at
			}
			return nil
		})
		f.ahead = p.Now.Sub(s.clock())
		p.Hosts, p.Boots = append(p.Hosts[:0], f.hosts...), maps.Clone(f.boots)
		return err
	})
}

// fleet is what is known of an org's hosts: nothing at first, and when that gets old.
func (s *Store) fleet(org millrace.OrgID) *fleet {
	now := s.clock()
	if known, ok := s.fleets.Load(org); ok && now.Sub(known.(*fleet).began) < rereadFleet {
		return known.(*fleet)
	}
	f := &fleet{began: now, boots: map[millrace.HostID]millrace.Durations{}, xmin: "0"}
	s.fleets.Store(org, f)
	return f
}

// unknown is since which transaction hosts may have changed, and which of those that are known seem silent.
func (f *fleet) unknown(now time.Time) (xmin string, silent []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.hosts {
		if now.Add(f.ahead).Sub(f.hosts[i].SeenAt) >= seemsSilent {
			silent = append(silent, f.hosts[i].ID.UUID())
		}
	}
	return f.xmin, silent
}

// find is where in hosts one is, or belongs.
func (f *fleet) find(id millrace.HostID) (int, bool) {
	return slices.BinarySearchFunc(f.hosts, id, func(h millrace.Host, id millrace.HostID) int { return bytes.Compare(h.ID[:], id[:]) })
}
