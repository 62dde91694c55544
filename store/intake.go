package store

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/flate"

	"github.com/millrace-ci/millrace"
)

// IntakeResult says what became of a delivery.
type IntakeResult string

// The results.
const (
	IntakeStored              IntakeResult = "stored"
	IntakeIgnored             IntakeResult = "ignored"              // labels that aren't ours, or an event that we don't use
	IntakeUnknownInstallation IntakeResult = "unknown_installation" // not linked to any org
)

type intakeRequest struct {
	delivery millrace.Delivery
	body     []byte // deflated
	done     chan<- intakeDone
}

// ownerID is GitHub's id of the account that a delivery is of; 0: it does not say.
func (r intakeRequest) ownerID() int64 {
	if e := r.delivery.Installation; e != nil {
		return e.OwnerID
	}
	return r.delivery.Job.OwnerID
}

// urgent reports whether somebody waits for what it says: for a VM, or to see what has been installed.
func (r intakeRequest) urgent() bool {
	return r.delivery.Job == nil || r.delivery.Job.Job.Status == millrace.JobQueued
}

type intakeDone struct {
	result IntakeResult
	err    error
}

// maxIntakeBatch bounds one commit.
const maxIntakeBatch = 200

// Intake stores a delivery and joins what it says into its job, or has read at GitHub what it says has changed of an
// installation; it is durable when Intake returns. Deliveries that come
// while a commit is under way share the next one: the WAL's flush is what a webhook waits for.
func (s *Store) Intake(ctx context.Context, d millrace.Delivery) (IntakeResult, error) {
	if d.Job == nil && d.Installation == nil {
		return IntakeIgnored, nil
	}
	body, err := deflate(d.Body)
	if err != nil {
		return "", err
	}
	done := make(chan intakeDone, 1)
	if s.committed != nil {
		s.intakeBatch(ctx, []intakeRequest{{d, body, done}})
		r := <-done
		return r.result, r.err
	}
	select {
	case s.intake <- intakeRequest{d, body, done}:
	case <-ctx.Done():
		return "", ctx.Err()
	case <-s.stopped:
		return "", millrace.Errorf(millrace.Unavailable, "The service is stopping; deliver again.")
	}
	select {
	case r := <-done:
		return r.result, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// commitIntake gathers requests and commits them, two commits at a time, until ctx ends.
func (s *Store) commitIntake(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	commits := make(chan struct{}, 2)
	for {
		select {
		case commits <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case first := <-s.intake:
			batch := s.gather(ctx, first)
			wg.Go(func() {
				defer func() { <-commits }()
				s.intakeBatch(context.WithoutCancel(ctx), batch)
			})
		case <-ctx.Done():
			return
		}
	}
}

// gathersFor is how long deliveries for which nobody waits, two of a job's three, wait for others to share their commit.
const gathersFor = 10 * time.Millisecond

// gather takes the requests that share a commit with the first.
func (s *Store) gather(ctx context.Context, first intakeRequest) []intakeRequest {
	batch := []intakeRequest{first}
	late := time.NewTimer(gathersFor)
	defer late.Stop()
	for urgent := first.urgent(); len(batch) < maxIntakeBatch; {
		if urgent {
			select {
			case r := <-s.intake:
				batch = append(batch, r)
				continue
			default:
				return batch
			}
		}
		select {
		case r := <-s.intake:
			batch, urgent = append(batch, r), r.urgent()
		case <-late.C:
			urgent = true
		case <-ctx.Done():
			urgent = true
		}
	}
	return batch
}

// inLockOrder is the order in which whatever writes many jobs locks them, after all of their repositories, so that no two deadlock.
func inLockOrder(a, b millrace.Job) int {
	return cmp.Or(cmp.Compare(a.RepositoryID, b.RepositoryID), cmp.Compare(a.InstallationID, b.InstallationID), cmp.Compare(a.GitHubID, b.GitHubID))
}

// intakeBatch commits a batch; when that fails, each of it alone, so that one bad delivery can't fail its neighbours.
func (s *Store) intakeBatch(ctx context.Context, batch []intakeRequest) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second) // GitHub waits 10 s
	defer cancel()
	results := make([]IntakeResult, len(batch))
	tenants := map[int64]tenancy{}
	err := s.tx(ctx, s.system, 0, func(tx *Tx) error {
		return s.intakeInto(ctx, tx, batch, tenants, results)
	}, func(_ *Tx, b *pgx.Batch) { s.queueTenants(b, batch, tenants) })
	if err != nil && len(batch) > 1 {
		for _, r := range batch {
			s.intakeBatch(ctx, []intakeRequest{r})
		}
		return
	}
	for i, r := range batch {
		r.done <- intakeDone{results[i], err}
	}
}

// tenancy is what intake must know of an installation's org.
type tenancy struct {
	org          millrace.OrgID
	prefixes     []string
	std          millrace.Size
	installation int64     // the account's that it is by now: a delivery may be of one that was installed again since
	heard        time.Time // when a hook last came, to the minute
}

// queueTenants reads the orgs of deliveries, by their installations.
func (s *Store) queueTenants(b *pgx.Batch, batch []intakeRequest, tenants map[int64]tenancy) {
	ids := make([]int64, len(batch))
	for i, r := range batch {
		ids[i] = r.delivery.InstallationID
	}
	b.Queue(`
		SELECT i.installation_id, CASE WHEN i.deleted_at IS NULL THEN i.installation_id ELSE
				coalesce((SELECT n.installation_id FROM installations n WHERE (n.org_id, n.owner_id) = (i.org_id, i.owner_id) AND n.deleted_at IS NULL), i.installation_id) END,
			o.org_id, o.default_cpu, o.default_memory, o.actuated_labels, i.heard_at
		FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL WHERE i.installation_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
		var installation, current int64
		var org millrace.Org
		var heardAt *time.Time
		_, err := pgx.ForEachRow(rows, []any{&installation, &current, &org.ID, &org.DefaultSize.MilliCPU, &org.DefaultSize.MemoryMB, &org.ActuatedLabels, &heardAt}, func() error {
			tenants[installation] = tenancy{org.ID, org.Prefixes(s.prefixes), org.DefaultSize, current, val(heardAt)}
			return nil
		})
		return err
	})
}

func (s *Store) intakeInto(ctx context.Context, tx *Tx, batch []intakeRequest, tenants map[int64]tenancy, results []IntakeResult) error {
	owners, err := tx.ownersOrgs(ctx, batch, tenants)
	if err != nil {
		return err
	}
	var statements pgx.Batch
	var jobs []orgJob
	heard := map[int64]millrace.OrgID{} // once a minute is enough to know that hooks work
	relist := map[int64]millrace.OrgID{}
	for i, r := range batch {
		t, known := tenants[r.delivery.InstallationID]
		if known && tx.now.Sub(t.heard) > time.Minute {
			heard[r.delivery.InstallationID] = t.org
		}
		e := r.delivery.Installation
		if org, ours := owners[r.ownerID()]; !known && ours { // it was installed again: the same account, another id
			t.org = org
			if e == nil || e.Changed != millrace.InstallationState {
				tx.queueTask(&statements, org, millrace.ReadInstallation{InstallationID: r.delivery.InstallationID})
			}
		}
		if t.org == 0 || !known && e == nil { // a job of an installation that is not known yet is found by a poll
			results[i] = IntakeUnknownInstallation
			continue
		}
		if e != nil {
			switch e.Changed {
			case millrace.InstallationRepositories:
				relist[e.InstallationID] = t.org
			case millrace.InstallationPeople:
				tx.queueTask(&statements, t.org, millrace.ReadMembers{InstallationID: e.InstallationID, PersonID: e.PersonID})
			case millrace.InstallationState:
				tx.queueTask(&statements, t.org, millrace.ReadInstallation{InstallationID: e.InstallationID})
			}
			results[i] = IntakeStored
			tx.queueDelivery(&statements, t.org, r)
			continue
		}
		job := r.delivery.Job.Job
		job.InstallationID = t.installation
		if !t.labelled(&job) {
			results[i] = IntakeIgnored
			continue
		}
		results[i] = IntakeStored
		jobs = append(jobs, orgJob{t.org, job})
		tx.queueDelivery(&statements, t.org, r)
	}
	var completed closing
	tx.queueJobs(&statements, jobs, &completed)
	for _, installation := range slices.Sorted(maps.Keys(heard)) {
		statements.Queue(`UPDATE installations SET heard_at = greatest(heard_at, $3) WHERE (org_id, installation_id) = ($1, $2)`, heard[installation], installation, tx.now)
	}
	for _, installation := range slices.Sorted(maps.Keys(relist)) { // the next round of polls lists its repositories
		statements.Queue(`UPDATE installations SET listed_at = NULL WHERE (org_id, installation_id) = ($1, $2) AND listed_at IS NOT NULL`,
			relist[installation], installation)
	}
	if statements.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, &statements).Close(); err != nil {
		return err
	}
	s.closeJobs(tx, completed)
	return nil
}

// ownersOrgs are the orgs of the accounts of deliveries whose installation is no org's.
func (tx *Tx) ownersOrgs(ctx context.Context, batch []intakeRequest, tenants map[int64]tenancy) (map[int64]millrace.OrgID, error) {
	var owners []int64
	for _, r := range batch {
		if _, known := tenants[r.delivery.InstallationID]; !known && r.ownerID() != 0 {
			owners = append(owners, r.ownerID())
		}
	}
	if len(owners) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, `
		SELECT a.owner_id, l.org_id FROM unnest($1::bigint[]) AS a (owner_id), LATERAL (`+accountOrg("a.owner_id")+`) l WHERE l.deleted_at IS NULL`, owners)
	if err != nil {
		return nil, err
	}
	orgs := map[int64]millrace.OrgID{}
	var owner int64
	var org millrace.OrgID
	_, err = pgx.ForEachRow(rows, []any{&owner, &org}, func() error { orgs[owner] = org; return nil })
	return orgs, err
}

// labelled notes what a job's labels demand, and reports whether they are ours; other jobs are ignored.
func (t tenancy) labelled(job *millrace.Job) bool {
	demand, ours, err := millrace.ParseLabels(job.Labels, t.prefixes, t.std)
	job.Demand = demand
	if ours && err != nil {
		job.Wait = millrace.WaitReason{Code: millrace.WaitLabelUnparseable, Text: millrace.MessageOf(err), Remedy: "Correct runs-on in the workflow and run it again."}
	}
	return ours
}

func (tx *Tx) queueDelivery(b *pgx.Batch, org millrace.OrgID, r intakeRequest) {
	d := r.delivery
	b.Queue(`
		INSERT INTO deliveries (org_id, received_at, guid, event, action, installation_id, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, org, tx.now, d.GUID, d.Event, d.Action, d.InstallationID, r.body)
}

type orgJob struct {
	org millrace.OrgID
	millrace.Job
}

// queueJobs joins jobs, in the order in which they came, into their rows and those of their repositories. All repositories are written
// before the first job, or two that share one would wait for each other: the first for its new name, the second for a job of the first.
func (tx *Tx) queueJobs(b *pgx.Batch, jobs []orgJob, completed *closing) {
	inOrder := func(a, b orgJob) int {
		return cmp.Or(cmp.Compare(a.RepositoryID, b.RepositoryID), cmp.Compare(a.org, b.org))
	}
	slices.Reverse(jobs) // what came last says what a repository is called, and of which installation it is, and its jobs with it
	slices.SortStableFunc(jobs, inOrder)
	for i := range jobs {
		if i > 0 && inOrder(jobs[i-1], jobs[i]) == 0 {
			jobs[i].InstallationID = jobs[i-1].InstallationID
			continue
		}
		tx.queueRepository(b, jobs[i].org, jobs[i].Job)
	}
	slices.SortStableFunc(jobs, func(a, b orgJob) int { return inLockOrder(a.Job, b.Job) })
	for _, j := range jobs {
		tx.queueJob(b, j.org, j.Job, completed)
	}
}

// queueRepository writes what an event of a job says of its repository.
func (tx *Tx) queueRepository(b *pgx.Batch, org millrace.OrgID, j millrace.Job) {
	// Most often there is nothing to write, and the row is shared with whoever takes in its other jobs: a conflict would have them
	// wait. Only who moves a repository to another installation, and its open jobs with it, locks it against them, before anything else
	// (FOR UPDATE). Who renames it doesn't, or two that share it and have a new name for it would wait for each other.
	b.Queue(`
		WITH same AS MATERIALIZED (
			SELECT FROM repositories WHERE (org_id, repository_id, installation_id, full_name, private) = ($1, $2, $3, $4, $5)
				AND unlisted_at IS NULL AND seen_at >= $6::timestamptz - interval '1 hour'
			FOR KEY SHARE
		), moves AS MATERIALIZED ( -- what it finds decides nothing: it is for the lock
			SELECT FROM repositories WHERE (org_id, repository_id) = ($1, $2) AND installation_id <> $3 FOR UPDATE
		)
		INSERT INTO repositories (org_id, repository_id, installation_id, full_name, private, seen_at)
		SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT FROM same) AND (SELECT count(*) FROM moves) >= 0
		ON CONFLICT ON CONSTRAINT repositories_pkey DO UPDATE SET
			full_name = excluded.full_name, private = excluded.private, seen_at = excluded.seen_at, installation_id = excluded.installation_id, unlisted_at = NULL`,
		org, j.RepositoryID, j.InstallationID, j.Repository, j.Private, tx.now)
}

// queueJob joins an event's job into its row. The join is commutative, associative and idempotent: the status is the
// greatest seen; a fact that only some events carry is kept once known, and where two events differ (a renamed repository)
// the greater value wins, so that the order of events cannot matter. A job that begins or ceases to wait, or whose runner
// or zone becomes known, is news for placement; most of what else is told, and all that is told twice, is none.
func (tx *Tx) queueJob(b *pgx.Batch, org millrace.OrgID, j millrace.Job, completed *closing) {
	var id millrace.JobID
	var before, after *millrace.JobStatus
	var runnerBefore, runnerAfter *int64
	var zoneBefore, zoneAfter *string
	var closedBefore *time.Time
	b.Queue(`
		WITH before AS (SELECT status, runner_id, zone || zone_known AS zone, CASE WHEN status = 'completed' THEN `+closedAt+` END AS closed_at FROM jobs j WHERE (org_id, installation_id, github_job_id, run_attempt) = ($1, $3, $4, $6))
		INSERT INTO jobs (
			org_id, job_id, installation_id, github_job_id, run_id, run_attempt, repository_id, repository, private, zone, zone_known,
			workflow, name, branch, sha, actor_id, actor, labels, html_url, status, conclusion, runner_id, runner_name,
			queued_at, started_at, completed_at, received_at, arch, cpu, memory, burstable, extra_labels,
			wait_code, wait_text, wait_remedy, tries, failure)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
			$23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, 0, '')
		ON CONFLICT ON CONSTRAINT jobs_github_key DO UPDATE SET
			status       = greatest(jobs.status, excluded.status),
			conclusion   = greatest(jobs.conclusion, excluded.conclusion),
			runner_id    = greatest(jobs.runner_id, excluded.runner_id),
			runner_name  = greatest(jobs.runner_name, excluded.runner_name),
			queued_at    = least(jobs.queued_at, excluded.queued_at),
			started_at   = greatest(jobs.started_at, excluded.started_at),
			completed_at = greatest(jobs.completed_at, excluded.completed_at),
			name         = greatest(jobs.name, excluded.name),
			workflow     = greatest(jobs.workflow, excluded.workflow),
			branch       = greatest(jobs.branch, excluded.branch),
			actor_id     = greatest(jobs.actor_id, excluded.actor_id),
			actor        = greatest(jobs.actor, excluded.actor),
			repository   = greatest(jobs.repository, excluded.repository),
			private      = jobs.private AND excluded.private,
			-- The less trusted of the two: a repository may be made public while its job waits.
			zone         = CASE WHEN 'fork' IN (jobs.zone, excluded.zone) THEN 'fork' WHEN 'public' IN (jobs.zone, excluded.zone) THEN 'public' ELSE 'private' END,
			zone_known   = jobs.zone_known OR excluded.zone_known
		RETURNING job_id, (SELECT status::text FROM before), status::text, (SELECT runner_id FROM before), runner_id, (SELECT zone FROM before), zone || zone_known, (SELECT closed_at FROM before)`,
		org, millrace.NewJobID(tx.ids, tx.now), j.InstallationID, j.GitHubID, j.RunID, j.RunAttempt, j.RepositoryID, j.Repository,
		j.Private, j.Zone, j.ZoneKnown, j.Workflow, j.Name, j.Branch, j.SHA, j.ActorID, j.Actor, j.Labels, j.HTMLURL, j.Status, j.Conclusion,
		j.RunnerID, j.RunnerName, j.QueuedAt, ptr(j.StartedAt), ptr(j.CompletedAt), tx.now, j.Demand.Arch, j.Demand.Size.MilliCPU,
		j.Demand.Size.MemoryMB, j.Demand.Burstable, notNil(j.Demand.Extra), j.Wait.Code, j.Wait.Text, j.Wait.Remedy).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(&id, &before, &after, &runnerBefore, &runnerAfter, &zoneBefore, &zoneAfter, &closedBefore); err != nil {
			return err
		}
		tx.announceOrg(org)
		if *after == millrace.JobCompleted {
			completed.add(org, id, closedBefore)
		}
		switch {
		case *after == millrace.JobQueued && (before == nil || *before == millrace.JobWaiting):
			tx.announceDemand(org)
		case before == nil || *before != *after && *before == millrace.JobQueued || *runnerBefore != *runnerAfter:
			tx.announceTie(org)
		case *zoneBefore != *zoneAfter:
			tx.announceRules(org)
		}
		return nil
	})
}

// deflate keeps no state between bodies: the standard library's clears 1.2 MB for each, or has a pool of them push everything else out
// of the processor's cache.
func deflate(body []byte) ([]byte, error) {
	var b bytes.Buffer
	err := flate.StatelessDeflate(&b, body, true, nil)
	return b.Bytes(), err
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
