package store

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// heard is what this process heard of hosts since it last wrote that down.
type heard struct {
	mu    sync.Mutex
	beats map[millrace.HostID]beat
	began time.Time // of the writing that is under way; zero: none is
	since time.Time // from then on all of it was written, and soon: a host that was silent since is silent
}

type beat struct {
	org             millrace.OrgID
	epoch, sequence int64
	at              time.Time
}

// Heard notes a host's request: it lives. It is written by [Store.FlushHeard].
func (s *Store) Heard(org millrace.OrgID, host millrace.HostID, epoch, sequence int64) {
	s.heard.mu.Lock()
	defer s.heard.mu.Unlock()
	s.heard.note(host, beat{org, epoch, sequence, s.clock()})
}

// note keeps the later of two beats, and of one epoch the highest sequence: requests overtake each other. The caller holds
// the lock.
func (h *heard) note(host millrace.HostID, b beat) {
	if h.beats == nil {
		h.beats = map[millrace.HostID]beat{}
	}
	if old, ok := h.beats[host]; ok {
		if old.at.After(b.at) {
			old, b = b, old
		}
		if old.epoch > b.epoch {
			b.epoch, b.sequence = old.epoch, old.sequence
		} else if old.epoch == b.epoch {
			b.sequence = max(old.sequence, b.sequence)
		}
	}
	h.beats[host] = b
}

// FlushHeard writes what was heard of hosts in one statement. Ages are by this process's monotonic clock, times by the
// database's. A host that had been silent wakes the placer, and has it in its history. What can't be written now is written next
// time. Postgres is asked where nobody was heard, too: while it is away nobody can be, see [Store.hearsAll].
func (s *Store) FlushHeard(ctx context.Context) (err error) {
	s.heard.mu.Lock()
	beats := s.heard.beats
	s.heard.beats, s.heard.began = nil, s.clock()
	s.heard.mu.Unlock()
	defer func() {
		s.heard.mu.Lock()
		defer s.heard.mu.Unlock()
		if now := s.clock(); err != nil || now.Sub(s.heard.began) > soon {
			s.heard.since = now
		}
		s.heard.began = time.Time{}
	}()
	var orgs []millrace.OrgID
	var hosts []string
	var epochs, sequences, ages []int64
	for id, b := range beats {
		orgs, hosts = append(orgs, b.org), append(hosts, id.UUID())
		epochs, sequences = append(epochs, b.epoch), append(sequences, b.sequence)
		ages = append(ages, s.clock().Sub(b.at).Milliseconds())
	}
	var back []silence
	_, err = s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`
			WITH heard AS (
				SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS t (org_id, host_id, epoch, sequence, age)
			), locked AS ( -- in order: another server may be writing the same hosts
				SELECT b.org_id, b.host_id, b.seen_at, t.epoch, t.sequence, coalesce($6, transaction_timestamp()) - t.age * interval '1 millisecond' AS heard_at
				FROM host_beats b JOIN heard t ON (b.org_id, b.host_id) = (t.org_id, t.host_id::uuid)
				ORDER BY b.org_id, b.host_id FOR NO KEY UPDATE OF b
			), written AS (
				UPDATE host_beats b SET
					seen_at = greatest(b.seen_at, t.heard_at),
					sequence = CASE WHEN b.epoch = t.epoch THEN greatest(b.sequence, t.sequence) ELSE b.sequence END
				FROM locked t WHERE (b.org_id, b.host_id) = (t.org_id, t.host_id)
			)
			SELECT org_id, host_id, (SELECT name FROM hosts h WHERE (h.org_id, h.host_id) = (l.org_id, l.host_id)), seen_at
			FROM locked l WHERE seen_at <= coalesce($6, transaction_timestamp()) - $7::interval`,
			orgs, hosts, epochs, sequences, ages, s.at(), millrace.OfflineAfter).Query(func(rows pgx.Rows) (err error) {
			back, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (was silence, err error) {
				return was, row.Scan(&was.org, &was.host, &was.name, &was.since)
			})
			return err
		})
	})
	if err != nil {
		s.heard.mu.Lock()
		defer s.heard.mu.Unlock()
		for host, b := range beats {
			s.heard.note(host, b)
		}
		return err
	}
	if len(back) == 0 {
		return nil
	}
	return s.systemTx(ctx, func(tx *Tx) error {
		var b pgx.Batch
		for _, was := range back {
			tx.announceDemand(was.org)
			if s.hearsAll() {
				tx.queueReturned(&b, was)
			}
		}
		return tx.SendBatch(ctx, &b).Close()
	})
}

// silence is that of a host which was offline.
type silence struct {
	org   millrace.OrgID
	host  millrace.HostID
	name  string
	since time.Time // it was last heard
}

// queueReturned notes in a host's history that it is heard again.
func (tx *Tx) queueReturned(b *pgx.Batch, was silence) {
	tx.queueAudit(b, was.org, millrace.Actor{Kind: millrace.ActorHost, ID: was.host.String(), Name: was.name}, "host.returned", was.host.String(),
		millrace.Change{Field: "heard", Before: was.since.UTC().Format(time.RFC3339), After: tx.now.UTC().Format(time.RFC3339)})
}

// soon is how long [Store.FlushHeard] takes at most while Postgres is there.
const soon = 5 * time.Second

// hearsAll reports whether this server has run, and had its database, for long enough to have heard every host that lives: before,
// their silence may be the service's own.
func (s *Store) hearsAll() bool {
	s.heard.mu.Lock()
	defer s.heard.mu.Unlock()
	now := s.clock()
	waits := !s.heard.began.IsZero() && now.Sub(s.heard.began) > soon
	return !waits && now.Sub(s.heard.since) >= millrace.OfflineAfter
}

// MarkLost marks the VMs of silent hosts as lost and has those that ran no job unregistered: only then may their jobs
// have another. One that is being stopped is unregistered already, and its job may have another: it can't be lost. It
// returns how many it marked. A server that has just started, or has its database again, has heard nobody: it marks none until it
// could have heard everybody, or an outage of the service would cost all VMs that wait for a job.
func (s *Store) MarkLost(ctx context.Context) (n int, err error) {
	if !s.hearsAll() {
		return 0, nil
	}
	var longest *time.Time
	now, err := s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`
			SELECT min(seen_at) FROM host_beats b
			WHERE EXISTS (SELECT FROM vms v WHERE (v.org_id, v.host_id) = (b.org_id, b.host_id) AND v.state IN ('pending', 'booting', 'online', 'busy'))`).
			QueryRow(func(row pgx.Row) error { return row.Scan(&longest) })
	})
	if err != nil || longest == nil || longest.After(now.Add(-millrace.OfflineAfter)) { // as a rule
		return 0, err
	}
	err = s.systemTx(ctx, func(tx *Tx) error {
		vms, err := many(ctx, tx, scanVM, `
			SELECT `+vmColumns+` FROM vms v JOIN host_beats b ON (b.org_id, b.host_id) = (v.org_id, v.host_id)
			WHERE b.seen_at <= $1 AND v.state IN ('pending', 'booting', 'online', 'busy')
			ORDER BY v.org_id, v.vm_id LIMIT 1000 FOR UPDATE OF v`, tx.now.Add(-millrace.OfflineAfter))
		if err != nil {
			return err
		}
		var b pgx.Batch
		for _, v := range vms {
			if err := v.To(millrace.VMLost, tx.now); err != nil {
				return err
			}
			v.Reason = "Its host went silent."
			if v.RanJob.IsZero() && v.RetireReason == "" {
				v.RetireReason = "Its host went silent."
				tx.queueTask(&b, v.OrgID, millrace.RetireVM{OrgID: v.OrgID, VMID: v.ID})
			}
			tx.queueVM(&b, v)
			tx.announceOrg(v.OrgID)
		}
		n = len(vms)
		if n == 0 {
			return nil
		}
		return tx.SendBatch(ctx, &b).Close()
	})
	return n, err
}
