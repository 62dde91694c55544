package store

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// placementLock is the class of the advisory locks that keep two passes for one org apart; the object is the org.
const placementLock = 1

// maxPassJobs bounds the queued jobs that one pass looks at: those that a VM covers, then the oldest.
const maxPassJobs = 10_000

// Placed is what a placement pass did.
type Placed struct {
	VMs    int       // launched
	At     time.Time // when, by the database's clock
	NextAt time.Time // as in [millrace.Decision], by the same clock
	Waits  bool      // some job may have no VM
}

// Place runs one placement pass for org: it locks, reads, has decide decide, and writes, in one transaction. A slot and a
// unit of the installation's JIT budget are reserved here, by the VM's row. When the last pass, of whatever server, saw all
// transactions that ask for this one, and the time to look again has not come, it does nothing. It does nothing for an org that was
// deleted either, nor, without any lock, for one that is settled: most passes that aren't wanted at once are asked for by a job that
// started or ended, or by a VM that ended. What decide is given is its own only while it runs.
func (s *Store) Place(ctx context.Context, org millrace.OrgID, asked Asked, decide func(millrace.Pass) millrace.Decision) (placed Placed, err error) {
	l := look{untied: true} // there may be some
	read := asked.Urgency == AtOnce && asked.Known()
	if !read {
		now, err := s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) { s.queueLook(b, org, &l) })
		if err != nil || l.done(asked) {
			return Placed{At: now}, err
		}
		read = !l.first()
	}
	var snapshot string
	var last *time.Time
	pass := s.passes.Get().(*millrace.Pass)
	defer s.passes.Put(pass)
	seen := false
	lock := func(tx *Tx, b *pgx.Batch) {
		b.Queue(`SELECT pg_advisory_xact_lock($1, $2::bigint::integer)`, placementLock, org)
		// The lock may have been waited for.
		b.Queue(`SELECT coalesce($1, statement_timestamp()), pg_current_snapshot()::text`, s.at()).QueryRow(func(row pgx.Row) error { return row.Scan(&tx.now, &snapshot) })
		if l.untied {
			s.queueTie(b, tx, org)
		}
		if read { // the rest of a look would save nothing by now; what is committed after the tie asks for a pass of its own
			l.untied = false
			b.Queue(`SELECT `+hasStrays, org).QueryRow(func(row pgx.Row) error { return row.Scan(&l.strays) })
		} else {
			s.queueLook(b, org, &l)
		}
		if asked.Known() {
			// A snapshot that is ahead is of the database that this one is a copy of.
			b.Queue(`
				SELECT next_at FROM placements WHERE org_id = $1 AND pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
					AND NOT EXISTS (SELECT FROM unnest($2::xid8[]) AS t (xid) WHERE NOT pg_visible_in_snapshot(t.xid, snapshot))`, org, asked.Commits).Query(func(rows pgx.Rows) error {
				if seen = rows.Next(); !seen {
					return nil
				}
				return rows.Scan(&last)
			})
		}
		if read { // what was looked at will most likely be the same under the lock
			s.queuePass(b, tx, org, &snapshot, pass, &l)
		}
	}
	err = s.tx(ctx, s.system, 0, func(tx *Tx) error {
		placed = Placed{At: tx.now}
		if seen && (last == nil || last.After(tx.now)) {
			placed.NextAt, placed.Waits = val(last), true // another pass knows
			return nil
		}
		for l.first() || !read {
			if l.strays {
				if err := tx.endStrays(ctx, org); err != nil {
					return err
				}
			}
			var b pgx.Batch
			switch {
			case l.untied:
				s.queueTie(&b, tx, org)
				fallthrough
			case l.strays:
				s.queueLook(&b, org, &l)
				read = false
			case l.done(asked):
				return nil
			default:
				s.queuePass(&b, tx, org, &snapshot, pass, &l)
				read = true
			}
			if err := tx.SendBatch(ctx, &b).Close(); err != nil {
				return err
			}
		}
		if pass.Org.ID == 0 { // it was deleted
			s.fleets.Delete(org)
			return nil
		}
		decision := decide(*pass)
		vms, err := tx.lockDecided(ctx, *pass, &decision)
		if err != nil {
			return err
		}
		placed.VMs, placed.NextAt, placed.Waits = len(decision.Place), decision.NextAt, len(decision.Wait) > 0
		return tx.writeDecision(*pass, decision, vms, l.resumed, snapshot)
	}, lock)
	return placed, err
}

const (
	// statedAt is when a statement is made whose second argument is [Store.at].
	statedAt = `coalesce($2::timestamptz, statement_timestamp())`
	// hasStrays reports whether some VM of org $1 was seen to run a job of another zone.
	hasStrays = `EXISTS (SELECT FROM vms v WHERE v.org_id = $1 AND v.stray)`
	// strays reports whether v runs its job j, which is of another zone. A pass must look for it: when a job's zone becomes known while
	// a VM is being tied to it, neither of the two transactions sees the other's part, nor marks the VM.
	strays = `v.gone_at IS NULL AND NOT v.ending AND j.status <> 'completed' AND j.zone <> v.zone`
	// resumes reports whether j pauses until it is known which job its VM ran, and that is known by now.
	resumes = `j.tries = 0 AND j.retry_at IS NOT NULL
		AND EXISTS (SELECT FROM vms v WHERE (v.org_id, v.for_job) = (j.org_id, j.job_id) AND v.ran_job IS NOT NULL)
		AND NOT EXISTS (SELECT FROM vms v WHERE (v.org_id, v.for_job) = (j.org_id, j.job_id) AND v.ran_job IS NULL AND v.busy_at IS NOT NULL)`
	// unmatched are the VMs of org $1, of now and lately, whose runner was not seen with a job.
	unmatched = `v.org_id = $1 AND v.ran_job IS NULL AND v.runner_id <> 0 AND coalesce(v.gone_at, 'infinity') > ` + statedAt + ` - interval '1 hour'`
)

// look is what a pass looks at first.
type look struct {
	untied  bool // there are VMs to tie first
	strays  bool // there are VMs to end first
	idle    bool // no job is queued, and each VM has run one that it may
	settled bool // each queued job has its VM, and each VM that has run none has its queued job: there is a change of rules to see to, or what a pass put off

	resumed []millrace.JobID // that paused, and need not any more
}

// first reports whether there is something to do before a decision.
func (l look) first() bool { return l.untied || l.strays }

// done reports whether there is nothing to decide.
func (l look) done(asked Asked) bool {
	return !l.first() && (l.idle || l.settled && asked.Known() && len(asked.Commits) > 0)
}

// queueLook looks at an org.
func (s *Store) queueLook(b *pgx.Batch, org millrace.OrgID, l *look) {
	b.Queue(`
		WITH v AS MATERIALIZED ( -- or the planner begins with all jobs that ever ran
			SELECT v.org_id, v.installation_id, v.runner_id FROM vms v WHERE `+unmatched+`
		)
		SELECT EXISTS (SELECT FROM v JOIN jobs j ON (j.org_id, j.installation_id, j.runner_id) = (v.org_id, v.installation_id, v.runner_id) AND j.runner_id <> 0),
			`+hasStrays+`,
			NOT EXISTS (SELECT FROM jobs j WHERE j.org_id = $1 AND j.status = 'queued')
				AND NOT EXISTS (SELECT FROM vms v WHERE v.org_id = $1 AND v.gone_at IS NULL AND v.ran_job IS NULL)
				AND NOT EXISTS (SELECT FROM vms v JOIN jobs j ON (j.org_id, j.job_id) = (v.org_id, v.ran_job) WHERE v.org_id = $1 AND `+strays+`),
			NOT EXISTS (
				SELECT FROM jobs j WHERE j.org_id = $1 AND j.status = 'queued' AND NOT EXISTS (
					SELECT FROM vms v WHERE (v.org_id, v.for_job) = (j.org_id, j.job_id) AND v.ran_job IS NULL AND NOT v.ending
				)
			) AND NOT EXISTS (
				SELECT FROM vms v WHERE v.org_id = $1 AND v.ran_job IS NULL AND NOT v.ending AND NOT EXISTS (
					SELECT FROM jobs j WHERE (j.org_id, j.job_id) = (v.org_id, v.for_job) AND j.status = 'queued'
				)
			)`,
		org, s.at()).QueryRow(func(row pgx.Row) error { return row.Scan(&l.untied, &l.strays, &l.idle, &l.settled) })
}

// queueTie ties VMs to the jobs that their runners were seen with: GitHub picked the runner, whatever it was launched for. Of a
// job that may come from a fork GitHub is asked now: nobody did if the first that was heard of it is that it runs.
func (s *Store) queueTie(b *pgx.Batch, tx *Tx, org millrace.OrgID) {
	b.Queue(`
		WITH ran AS (
			SELECT v.vm_id, j.job_id, j.installation_id, j.run_id, j.zone_known OR j.status = 'completed' AS zone_known, j.zone
			FROM vms v JOIN jobs j ON (j.org_id, j.installation_id, j.runner_id) = (v.org_id, v.installation_id, v.runner_id) AND j.runner_id <> 0
			WHERE `+unmatched+`
			ORDER BY v.vm_id FOR UPDATE OF v
		), traced AS (
			INSERT INTO outbox (org_id, kind, args, at)
			SELECT DISTINCT $1::bigint, $3, jsonb_build_object('org_id', $1::bigint, 'installation_id', installation_id, 'run_id', run_id), `+statedAt+`
			FROM ran WHERE NOT zone_known
		)
		UPDATE vms v SET ran_job = ran.job_id, stray = ran.zone <> v.zone, changed_at = `+statedAt+`, jit_sealed = NULL,
			busy_at = coalesce(v.busy_at, `+statedAt+`),
			state = CASE WHEN v.state IN ('pending', 'booting', 'online') THEN 'busy' ELSE v.state END
		FROM ran WHERE (v.org_id, v.vm_id) = ($1, ran.vm_id) RETURNING ran.zone_known`, org, s.at(), millrace.TraceRun{}.Kind()).Query(func(rows pgx.Rows) error {
		var known bool
		_, err := pgx.ForEachRow(rows, []any{&known}, func() error {
			if !known {
				tx.announceTo(topicTasks)
			}
			return nil
		})
		return err
	})
}

// queuePass reads all that a pass decides by, but the jobs that are refused and wait for that already: strangers may queue
// any number of those. Of an org that was deleted it reads none. What it finds out besides, it notes in l: that a VM strays,
// and which jobs pause no longer.
func (s *Store) queuePass(b *pgx.Batch, tx *Tx, org millrace.OrgID, snapshot *string, p *millrace.Pass, l *look) {
	l.resumed = nil
	*p = millrace.Pass{
		Jobs: p.Jobs[:0], VMs: p.VMs[:0], Hosts: p.Hosts[:0], // an earlier pass's, for their memory: hosts may be many
		Runs: map[millrace.VMID]millrace.Durations{}, Queue: map[millrace.JobID]millrace.Durations{},
	}
	b.Queue(`SELECT `+orgColumns+` FROM orgs WHERE org_id = $1 AND deleted_at IS NULL`, org).Query(func(rows pgx.Rows) (err error) {
		p.Now = tx.now
		p.Org, err = pgx.CollectExactlyOneRow(rows, scanOrg)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	// VMs before jobs: a VM that ends between the two is taken to be there still, and its end asks for another pass. The other way
	// round its job would seem to have no VM, and to be free to have another.
	b.Queue(`
		SELECT `+vmColumns+`, coalesce(`+strays+`, false), `+durationColumns+` FROM vms v LEFT JOIN jobs j ON (j.org_id, j.job_id) = (v.org_id, v.ran_job)`+jobDurations+`
		WHERE v.org_id = $1 AND v.gone_at IS NULL ORDER BY v.vm_id`, org).Query(func(rows pgx.Rows) (err error) {
		var v millrace.VM
		var stray bool
		var d nullableDurations
		_, err = pgx.ForEachRow(rows, append(append(vmTargets(&v), &stray), d.targets()...), func() error {
			l.strays = l.strays || stray
			if past, known := d.durations(); known {
				p.Runs[v.ID] = past
			}
			p.VMs = append(p.VMs, v)
			return nil
		})
		return err
	})
	b.Queue(`
		SELECT `+jobColumns+`, `+resumes+`, `+durationColumns+` FROM (
			SELECT * FROM jobs j
			WHERE j.org_id = $1 AND j.status = 'queued' AND `+refusal+` IS DISTINCT FROM j.wait_code
			ORDER BY EXISTS (SELECT FROM vms v WHERE (v.org_id, v.for_job) = (j.org_id, j.job_id) AND v.ran_job IS NULL AND NOT v.ending) DESC,
				j.received_at, j.job_id
			LIMIT $2
		) j`+jobDurations+` ORDER BY j.job_id`, org, maxPassJobs).Query(func(rows pgx.Rows) (err error) {
		var j millrace.Job
		var e nullableEstimate
		var d nullableDurations
		var resumes bool
		_, err = pgx.ForEachRow(rows, append(append(jobTargets(&j, &e), &resumes), d.targets()...), func() error {
			j.Wait.Estimate = e.estimate()
			if resumes {
				j.RetryAt = time.Time{}
				l.resumed = append(l.resumed, j.ID)
			}
			if past, known := d.durations(); known {
				p.Queue[j.ID] = past
			}
			p.Jobs = append(p.Jobs, j)
			return nil
		})
		return err
	})
	s.queueFleet(b, org, snapshot, p)
	b.Queue(`
		SELECT org_id, installation_id, owner_id, owner_login, owner_type, suspended_at, jit_left, jit_at
		FROM installations WHERE org_id = $1 ORDER BY installation_id`, org).Query(func(rows pgx.Rows) (err error) {
		p.Installations, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (i millrace.InstallationBudget, err error) {
			var suspended *time.Time
			var at time.Time
			err = row.Scan(&i.OrgID, &i.ID, &i.OwnerID, &i.OwnerLogin, &i.OwnerType, &suspended, &i.JITLeft, &at)
			i.SuspendedAt = val(suspended)
			i.JITLeft = math.Min(millrace.JITPerMinute, i.JITLeft+p.Now.Sub(at).Minutes()*millrace.JITPerMinute)
			return i, err
		})
		return err
	})
	b.Queue(`SELECT `+incidentColumns+incidentFrom+` WHERE i.org_id = $1 AND i.closed_at IS NULL ORDER BY i.incident_id`, org).Query(func(rows pgx.Rows) (err error) {
		p.Incidents, err = pgx.CollectRows(rows, scanIncident)
		return err
	})
	queueSettings(b, org, &p.Settings)
}

// queueSnapshot notes what the pass saw, and when the next is due whatever comes.
func queueSnapshot(b *pgx.Batch, org millrace.OrgID, snapshot string, next time.Time) {
	b.Queue(`
		INSERT INTO placements (org_id, snapshot, next_at) SELECT o.org_id, $2::text::pg_snapshot, $3 FROM orgs o WHERE o.org_id = $1 AND o.deleted_at IS NULL
		ON CONFLICT ON CONSTRAINT placements_pkey DO UPDATE SET snapshot = excluded.snapshot, next_at = excluded.next_at`, org, snapshot, ptr(next))
}

func (tx *Tx) writeDecision(p millrace.Pass, d millrace.Decision, vms map[millrace.VMID]millrace.VM, resumed []millrace.JobID, snapshot string) error {
	org := p.Org.ID
	jobs := make(map[millrace.JobID]millrace.Job, len(p.Jobs))
	for _, j := range p.Jobs {
		jobs[j.ID] = j
	}
	b := &tx.last
	queueSnapshot(b, org, snapshot, d.NextAt)
	waits := map[millrace.JobID]millrace.WaitReason{}
	hosts := map[millrace.HostID]bool{}
	spent := map[int64]float64{}
	for _, c := range d.Cover {
		b.Queue(`UPDATE vms SET for_job = $3, changed_at = $4 WHERE (org_id, vm_id) = ($1, $2)`, org, c.VMID, c.JobID, p.Now)
		waits[c.JobID] = c.Wait
	}
	for _, r := range d.Retire {
		v := vms[r.VMID]
		v.RetireReason = r.Reason
		if v.RunnerID == 0 {
			// Nothing to unregister: a registration that is being made right now finds the VM unwanted and is undone.
			if err := v.To(millrace.VMStopping, p.Now); err != nil {
				return err
			}
			hosts[v.HostID] = true
		} else {
			tx.queueTask(b, org, millrace.RetireVM{OrgID: org, VMID: v.ID})
		}
		tx.queueVM(b, v)
	}
	for _, place := range d.Place {
		j := jobs[place.JobID]
		id := millrace.NewVMID(tx.ids, p.Now)
		b.Queue(`
			INSERT INTO vms (org_id, vm_id, host_id, for_job, state, epoch, zone, egress, arch, cpu, memory, burstable, labels, installation_id,
				repository_id, repository, runner_id, runner_name, reason, retire_reason, peak_memory, cpu_ms, disk_read, disk_write, net_rx,
				net_tx, placed_at, changed_at)
			VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 0, $16, '', '', 0, 0, 0, 0, 0, 0, $17, $17)`,
			org, id, place.HostID, j.ID, millrace.VMPending, j.Zone, p.Settings.Zone(j.Zone).Egress, place.Arch, j.Demand.Size.MilliCPU, j.Demand.Size.MemoryMB,
			j.Demand.Burstable, j.Labels, j.InstallationID, j.RepositoryID, j.Repository, millrace.RunnerName(id, 1), p.Now)
		waits[j.ID] = place.Wait
		hosts[place.HostID] = true
		spent[j.InstallationID]++
	}
	traced := make([]millrace.Job, 0, len(d.Trace))
	for _, id := range d.Trace {
		traced = append(traced, jobs[id])
	}
	tx.queueTraces(b, org, traced)
	for job, reason := range d.Wait {
		waits[job] = reason
	}
	changed := len(d.Cover)+len(d.Retire)+len(d.Place) > 0
	var waiting []millrace.Job
	for _, j := range p.Jobs {
		reason, ok := waits[j.ID]
		news := ok && !reason.Like(j.Wait, p.Now)
		if news {
			j.Wait = reason
		}
		if news || slices.Contains(resumed, j.ID) {
			waiting = append(waiting, j)
			changed = true
		}
	}
	slices.SortFunc(waiting, inLockOrder)
	for _, j := range waiting {
		if slices.Contains(resumed, j.ID) {
			b.Queue(`UPDATE jobs j SET retry_at = NULL WHERE (org_id, job_id) = ($1, $2) AND `+resumes, org, j.ID)
		}
		var from, to *time.Time
		basis := ""
		if e := j.Wait.Estimate; e != nil {
			from, to, basis = &e.From, &e.To, e.Basis
		}
		b.Queue(`
			UPDATE jobs SET wait_code = $3, wait_text = $4, wait_remedy = $5, wait_from = $6, wait_to = $7, wait_basis = $8
			WHERE (org_id, job_id) = ($1, $2)`, org, j.ID, j.Wait.Code, j.Wait.Text, j.Wait.Remedy, from, to, basis)
	}
	for i := range p.Hosts { // in their order, so that no two passes deadlock
		if id := p.Hosts[i].ID; hosts[id] {
			tx.queueDesired(b, org, id)
		}
	}
	for _, i := range p.Installations {
		if n := spent[i.ID]; n > 0 {
			b.Queue(`UPDATE installations SET jit_left = $3, jit_at = $4 WHERE (org_id, installation_id) = ($1, $2)`, org, i.ID, i.JITLeft-n, p.Now)
		}
	}
	if changed {
		tx.announceOrg(org)
	}
	return nil
}

// passAgain is how soon a pass looks again at VMs that were being written.
const passAgain = 200 * time.Millisecond

// lockDecided reads the VMs that d covers jobs with or retires once more, now locked: since the pass read them one may have got its
// runner. It drops from d what is said of those that end, or that somebody writes: a pass has VMs locked already, those that it tied,
// and two that wait for each other's would fail. Those are looked at again soon.
func (tx *Tx) lockDecided(ctx context.Context, p millrace.Pass, d *millrace.Decision) (map[millrace.VMID]millrace.VM, error) {
	if len(d.Cover)+len(d.Retire) == 0 {
		return nil, nil
	}
	ids := make([]string, 0, len(d.Cover)+len(d.Retire))
	for _, c := range d.Cover {
		ids = append(ids, c.VMID.UUID())
	}
	for _, r := range d.Retire {
		ids = append(ids, r.VMID.UUID())
	}
	vms, err := many(ctx, tx, scanVM, `
		SELECT `+vmColumns+` FROM vms v
		WHERE v.org_id = $1 AND v.vm_id = ANY($2::text[]::uuid[]) AND NOT v.ending ORDER BY v.vm_id FOR UPDATE SKIP LOCKED`, p.Org.ID, ids)
	if err != nil {
		return nil, err
	}
	locked := make(map[millrace.VMID]millrace.VM, len(vms))
	for _, v := range vms {
		locked[v.ID] = v
	}
	decided := len(ids)
	d.Cover = slices.DeleteFunc(d.Cover, func(c millrace.Binding) bool { return locked[c.VMID].ID.IsZero() })
	d.Retire = slices.DeleteFunc(d.Retire, func(r millrace.Retirement) bool { return locked[r.VMID].ID.IsZero() })
	if again := p.Now.Add(passAgain); len(d.Cover)+len(d.Retire) < decided && (d.NextAt.IsZero() || again.Before(d.NextAt)) {
		d.NextAt = again
	}
	return locked, nil
}

// OrgsWithDemand are the orgs that have a job which isn't completed or a VM that isn't gone: any may need a pass.
func (s *Store) OrgsWithDemand(ctx context.Context) (Demand, error) {
	demand := Demand{}
	_, err := s.roundTrip(ctx, s.system, 0, func(b *pgx.Batch) {
		b.Queue(`
			SELECT org_id FROM orgs o
			WHERE o.deleted_at IS NULL AND (EXISTS (SELECT FROM jobs j WHERE j.org_id = o.org_id AND j.status <> 'completed')
				OR EXISTS (SELECT FROM vms v WHERE v.org_id = o.org_id AND v.gone_at IS NULL))`).Query(func(rows pgx.Rows) error {
			var org millrace.OrgID
			_, err := pgx.ForEachRow(rows, []any{&org}, func() error {
				demand[org] = Unknown
				return nil
			})
			return err
		})
	})
	return demand, err
}
