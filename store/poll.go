package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// How often a repository's jobs are read at GitHub. Deliveries get lost, and some are never sent: one that has jobs must
// be found within two minutes whatever happened. Reading what has not changed costs nothing of GitHub's quota; all else
// costs as much as it would once an hour, when the token is a new one.
const (
	pollActive  = time.Minute      // has open jobs, or had one within activeFor
	pollSilent  = 2 * time.Minute  // any, while its installation's hooks are silent
	pollQuiet   = 10 * time.Minute // any other
	activeFor   = 6 * time.Hour    //
	silentAfter = 30 * time.Minute // without a delivery
	missedFor   = 15 * time.Minute // that one find of what no delivery told counts as silence
	relistAfter = 10 * time.Minute // that an installation's list of repositories is good for; pollSilent while its hooks are silent
)

// Poll is a repository to read at GitHub.
type Poll struct {
	OrgID        millrace.OrgID
	RepositoryID int64
	Target       millrace.RepositoryTarget
	Open         bool // jobs of it are open here
}

// duePolls are the repositories whose poll is due at $1: a fifth of an installation's quota is kept for launches, and with
// less than half of it left polls come four times as far apart.
const duePolls = `
	WITH due AS (
	SELECT r.org_id, r.repository_id,
		EXISTS (SELECT FROM jobs j WHERE (j.org_id, j.repository_id) = (r.org_id, r.repository_id) AND j.status <> 'completed') AS open
	FROM repositories r JOIN installations i ON (i.org_id, i.installation_id) = (r.org_id, r.installation_id)
		JOIN orgs o ON o.org_id = r.org_id AND o.deleted_at IS NULL
	WHERE NOT EXISTS (SELECT FROM incidents c WHERE (c.org_id, c.installation_id) = (i.org_id, i.installation_id) AND c.closed_at IS NULL AND c.code = ANY($2))
		AND (r.unlisted_at IS NULL OR EXISTS (SELECT FROM jobs j WHERE (j.org_id, j.repository_id) = (r.org_id, r.repository_id) AND j.status <> 'completed'))
		AND i.deleted_at IS NULL AND (i.quota_limit = 0 OR i.quota_reset <= $1 OR i.quota_left >= i.quota_limit / 5)
		AND (r.polled_at IS NULL OR r.polled_at <= $1::timestamptz
			- CASE WHEN i.quota_limit > 0 AND i.quota_reset > $1 AND i.quota_left < i.quota_limit / 2 THEN 4 ELSE 1 END
			* CASE
				WHEN r.seen_at > $1::timestamptz - $3::interval
					OR EXISTS (SELECT FROM jobs j WHERE (j.org_id, j.repository_id) = (r.org_id, r.repository_id) AND j.status <> 'completed') THEN $4::interval
				WHEN i.heard_at IS NULL OR i.heard_at <= $1::timestamptz - $5::interval OR i.missed_at > $1::timestamptz - $6::interval THEN $7::interval
				ELSE $8::interval
			END)
	ORDER BY r.polled_at NULLS FIRST, r.org_id, r.repository_id LIMIT $9
	FOR NO KEY UPDATE OF r SKIP LOCKED
	), taken AS (
		UPDATE repositories r SET polled_at = $1 FROM due d WHERE (r.org_id, r.repository_id) = (d.org_id, d.repository_id)
		RETURNING r.org_id, r.repository_id, r.installation_id, r.full_name, d.open
	)
	SELECT * FROM taken ORDER BY org_id, repository_id`

// PollRound is what a tick of polls has to do.
type PollRound struct {
	// Reconciling says that the service starts, or was away: every repository is read, for what happened meanwhile may have
	// been told to nobody.
	Reconciling bool
	Unlisted    []int64 // installations whose repositories have not been listed for long
	Due         []Poll
}

// outage is how long polls may have been away before everything is read anew.
const outage = 3 * time.Minute

// BeginPolls begins a round: it takes at most limit repositories whose poll is due, those that waited longest first, and
// the installations whose repositories are to be listed, and notes that they are read now. What fails is due again after
// the usual pause.
func (s *Store) BeginPolls(ctx context.Context, limit int) (round PollRound, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		round = PollRound{}
		var last *time.Time
		err := tx.QueryRow(ctx, `
			WITH before AS (SELECT swept_at FROM sweeps WHERE name = 'polls'), written AS (
				INSERT INTO sweeps (name, swept_at) VALUES ('polls', $1)
				ON CONFLICT ON CONSTRAINT sweeps_pkey DO UPDATE SET swept_at = excluded.swept_at
			)
			SELECT (SELECT swept_at FROM before)`, tx.now).Scan(&last)
		if err != nil {
			return err
		}
		if round.Reconciling = last == nil || tx.now.Sub(*last) >= outage; round.Reconciling {
			if _, err := tx.Exec(ctx, `
				UPDATE repositories SET polled_at = NULL WHERE (org_id, repository_id) IN (
					SELECT org_id, repository_id FROM repositories WHERE polled_at IS NOT NULL ORDER BY repository_id, org_id FOR NO KEY UPDATE)`); err != nil {
				return err
			}
		}
		var b pgx.Batch
		b.Queue(unlisted, tx.now, relistAfter, millrace.StopsCalls, silentAfter, missedFor, pollSilent).Query(func(rows pgx.Rows) (err error) {
			round.Unlisted, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
		b.Queue(duePolls, tx.now, millrace.StopsCalls, activeFor, pollActive, silentAfter, missedFor, pollSilent, pollQuiet, limit).Query(func(rows pgx.Rows) (err error) {
			round.Due, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Poll, err error) {
				err = row.Scan(&p.OrgID, &p.RepositoryID, &p.Target.InstallationID, &p.Target.FullName, &p.Open)
				return p, err
			})
			return err
		})
		return tx.SendBatch(ctx, &b).Close()
	})
	return round, err
}

// Polled is what came of a poll.
type Polled struct {
	Missed int // jobs or changes that no delivery had told
	// Unseen are jobs that are open here and were not among what GitHub listed: what became of them must be asked.
	Unseen []millrace.Job
}

// settling is how long a job may be known to one side only: a delivery or a list may be on its way.
const settling = 20 * time.Second

// JoinPoll joins what a poll of a repository read into its jobs, as [Store.Intake] joins an event. An answer can be stale:
// it brings jobs forward, and never ends one by leaving it out.
func (s *Store) JoinPoll(ctx context.Context, p Poll, open millrace.OpenJobs) (polled Polled, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		owner, err := tx.pollsFor(ctx, p)
		if err != nil {
			return err
		}
		// Jobs of one that was transferred are asked for one by one, those that it had before.
		open.Jobs = slices.DeleteFunc(slices.Clone(open.Jobs), func(e millrace.JobEvent) bool { return !isOf(e, owner) })
		polled, err = s.joinRead(ctx, tx, p, owner, open.Jobs)
		if err != nil {
			return err
		}
		listed := make([]int64, 0, len(open.Jobs))
		for _, e := range open.Jobs {
			listed = append(listed, e.Job.GitHubID)
		}
		polled.Unseen, err = many(ctx, tx, scanJob, `
			SELECT `+jobColumns+` FROM jobs j
			WHERE (j.org_id, j.repository_id, j.installation_id) = ($1, $2, $3) AND j.status <> 'completed' AND j.received_at < $4 AND NOT j.github_job_id = ANY($5)
			ORDER BY j.confirmed_at NULLS FIRST, j.job_id LIMIT 50`,
			p.OrgID, p.RepositoryID, p.Target.InstallationID, tx.now.Add(-settling), listed)
		if err != nil {
			return err
		}
		var b pgx.Batch
		// A renamed repository is polled under the name that GitHub gives it.
		if len(open.Jobs) > 0 {
			b.Queue(`UPDATE repositories SET full_name = $3 WHERE (org_id, repository_id) = ($1, $2) AND full_name <> $3`, p.OrgID, p.RepositoryID, open.Jobs[0].Job.Repository)
		}
		if q := open.Quota; q.Limit > 0 {
			b.Queue(`
				UPDATE installations SET quota_limit = $3, quota_left = $4, quota_reset = $5
				WHERE (org_id, installation_id) = ($1, $2) AND (quota_limit, quota_left / 100, quota_reset) IS DISTINCT FROM ($3, $4 / 100, $5)`,
				p.OrgID, p.Target.InstallationID, q.Limit, q.Remaining, q.Reset)
		}
		if polled.Missed > 0 {
			b.Queue(`UPDATE installations SET missed_at = $3 WHERE (org_id, installation_id) = ($1, $2)`, p.OrgID, p.Target.InstallationID, tx.now)
		}
		if b.Len() == 0 {
			return nil
		}
		return tx.SendBatch(ctx, &b).Close()
	})
	return polled, err
}

// JoinRead joins what GitHub says of one job into its row.
func (s *Store) JoinRead(ctx context.Context, p Poll, e millrace.JobEvent) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		owner, err := tx.pollsFor(ctx, p)
		if err != nil {
			return err
		}
		_, err = s.joinRead(ctx, tx, p, owner, []millrace.JobEvent{e})
		return err
	})
}

// pollsFor is GitHub's id of the account whose repository was polled; 0 when the installation that it was polled for has
// ended meanwhile: then the answer is nobody's.
func (tx *Tx) pollsFor(ctx context.Context, p Poll) (owner int64, err error) {
	err = tx.QueryRow(ctx, `SELECT owner_id FROM installations WHERE (org_id, installation_id) = ($1, $2) AND deleted_at IS NULL`,
		p.OrgID, p.Target.InstallationID).Scan(&owner)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return owner, err
}

// isOf reports whether what GitHub says is of a repository of that account. One that was transferred answers to its old name
// whoever may see it, and if it is public everybody may: what happens in it now is its new owner's.
func isOf(e millrace.JobEvent, owner int64) bool { return e.OwnerID == 0 || e.OwnerID == owner }

// joinRead joins jobs that were read at GitHub for owner, and counts those that say more than we knew. Of a job in a
// repository that was transferred to another account it says how one ends that began here; one that still waits is that
// account's, and is denied here.
func (s *Store) joinRead(ctx context.Context, tx *Tx, p Poll, owner int64, events []millrace.JobEvent) (polled Polled, err error) {
	if len(events) == 0 || owner == 0 {
		return polled, nil
	}
	org, err := tx.readOrg(ctx, p.OrgID)
	if err != nil {
		return polled, err
	}
	type key struct {
		id      int64
		attempt int
	}
	type known struct {
		status    millrace.JobStatus
		runner    int64
		confirmed *time.Time
		denials   int
		unclear   bool
		zone      millrace.Zone
		zoneKnown bool
	}
	have := map[key]known{}
	ids := make([]int64, 0, len(events))
	for _, e := range events {
		ids = append(ids, e.Job.GitHubID)
	}
	rows, err := tx.Query(ctx, `
		SELECT github_job_id, run_attempt, status::text, runner_id, confirmed_at, denials, tries = 0 AND retry_at IS NOT NULL, zone, zone_known FROM jobs
		WHERE (org_id, installation_id) = ($1, $2) AND github_job_id = ANY($3)`, p.OrgID, p.Target.InstallationID, ids)
	if err != nil {
		return polled, err
	}
	var k key
	var row known
	if _, err := pgx.ForEachRow(rows, []any{&k.id, &k.attempt, &row.status, &row.runner, &row.confirmed, &row.denials, &row.unclear, &row.zone, &row.zoneKnown}, func() error {
		have[k] = row
		return nil
	}); err != nil {
		return polled, err
	}
	tenant := tenancy{org: org.ID, prefixes: org.Prefixes(s.prefixes), std: org.DefaultSize, installation: p.Target.InstallationID}
	var b pgx.Batch
	var joined *millrace.Job
	var completed closing
	for _, e := range inOrder(events) {
		job := e.Job
		if job.InstallationID != p.Target.InstallationID || job.RepositoryID != p.RepositoryID {
			continue // a name that was given up may be somebody else's by now
		}
		before, ok := have[key{job.GitHubID, job.RunAttempt}]
		if !isOf(e, owner) {
			switch {
			case !ok:
				continue
			case job.Status == millrace.JobWaiting, job.Status == millrace.JobQueued:
				b.Queue(deny+` AND (installation_id, github_job_id, run_attempt) = ($3, $4, $5)`, org.ID, tx.now, job.InstallationID, job.GitHubID, job.RunAttempt)
				continue
			}
			job.Repository = p.Target.FullName // it ran in what was called so
		}
		news := !ok || job.Status.After(before.status) || job.RunnerID != 0 && before.runner == 0
		traced := job.ZoneKnown && !before.zoneKnown || job.Zone == millrace.ZoneFork && before.zone != millrace.ZoneFork
		switch {
		case (news || traced) && tenant.labelled(&job):
			joined = &job
			tx.queueJob(&b, org.ID, job, &completed)
			if news && tx.now.Sub(latest(job.QueuedAt, job.StartedAt, job.CompletedAt)) > settling {
				polled.Missed++
			}
		case news:
			continue // not ours
		case before.unclear && job.Status == millrace.JobQueued:
			tx.announceDemand(org.ID)
		case job.Status == millrace.JobCompleted || before.confirmed != nil && before.denials == 0 && tx.now.Sub(*before.confirmed) < 5*time.Minute:
			continue
		}
		if job.Status != millrace.JobCompleted {
			b.Queue(`
				UPDATE jobs SET confirmed_at = $5, denials = 0, denied_at = NULL, retry_at = CASE WHEN tries > 0 THEN retry_at END
				WHERE (org_id, installation_id, github_job_id, run_attempt) = ($1, $2, $3, $4)`,
				org.ID, job.InstallationID, job.GitHubID, job.RunAttempt, tx.now)
		}
	}
	if b.Len() == 0 {
		return polled, nil
	}
	// The repository before its jobs, as intake locks them: its row may be written after them by who polls.
	var repository pgx.Batch
	repository.Queue(`SELECT FROM repositories WHERE (org_id, repository_id) = ($1, $2) FOR NO KEY UPDATE`, p.OrgID, p.RepositoryID)
	if joined != nil {
		tx.queueRepository(&repository, org.ID, *joined)
	}
	if err := tx.SendBatch(ctx, &repository).Close(); err != nil {
		return polled, err
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return polled, err
	}
	s.closeJobs(tx, completed)
	return polled, nil
}

// inOrder are events in the order in which their jobs are locked.
func inOrder(events []millrace.JobEvent) []millrace.JobEvent {
	list := slices.Clone(events)
	slices.SortStableFunc(list, func(a, b millrace.JobEvent) int { return inLockOrder(a.Job, b.Job) })
	return list
}

func latest(times ...time.Time) time.Time {
	return slices.MaxFunc(times, time.Time.Compare)
}

// A job that GitHub says it doesn't have is given up after that many reads in a row, over that long: by then a repository
// that was renamed is read by its new name (relistAfter). One that waits is given up after GitHub's limit of 24 h, unless
// GitHub said within the last hour that it still waits.
const (
	denialsToGiveUp = 3
	deniedFor       = 15 * time.Minute
	queuedAtMost    = 25 * time.Hour
	confirmedFor    = time.Hour
)

// DenyJob notes that GitHub says it has no such job. One answer means nothing, for reads can be stale.
func (s *Store) DenyJob(ctx context.Context, org millrace.OrgID, job millrace.JobID) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, deny+` AND job_id = $3`, org, tx.now, job)
		return err
	})
}

const deny = `UPDATE jobs SET denials = denials + 1, denied_at = coalesce(denied_at, $2) WHERE org_id = $1 AND status <> 'completed'`

// GiveUpJobs completes, as stale, the jobs that GitHub has denied for long enough, or has not confirmed though their time
// is over.
func (s *Store) GiveUpJobs(ctx context.Context) (n int, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		rows, err := tx.Query(ctx, `
			WITH over AS (
				SELECT org_id, job_id FROM jobs
				WHERE status <> 'completed' AND (
					denials >= $2 AND denied_at <= $1::timestamptz - $3::interval
					-- Nobody can tell how those end that ran when the App was taken away.
					OR EXISTS (SELECT FROM installations i WHERE (i.org_id, i.installation_id) = (jobs.org_id, jobs.installation_id) AND i.deleted_at <= $1::timestamptz - $4::interval)
					OR status <> 'in_progress' AND received_at <= $1::timestamptz - $4::interval AND (confirmed_at IS NULL OR confirmed_at <= $1::timestamptz - $5::interval)
				)
				ORDER BY repository_id, installation_id, github_job_id, run_attempt LIMIT 500 FOR NO KEY UPDATE
			)
			UPDATE jobs j SET status = 'completed', conclusion = $6, completed_at = $1
			FROM over o WHERE (j.org_id, j.job_id) = (o.org_id, o.job_id) RETURNING j.org_id, j.job_id`,
			tx.now, denialsToGiveUp, deniedFor, queuedAtMost, confirmedFor, millrace.ConclusionStale)
		if err != nil {
			return err
		}
		var completed closing
		var org millrace.OrgID
		var job millrace.JobID
		if _, err := pgx.ForEachRow(rows, []any{&org, &job}, func() error {
			completed.add(org, job, nil)
			tx.announceOrg(org)
			tx.announceDemand(org)
			return nil
		}); err != nil {
			return err
		}
		n = len(completed.jobs)
		s.closeJobs(tx, completed)
		return nil
	})
	return n, err
}

// unlisted are the installations whose repositories have not been listed for long at $1.
const unlisted = `
	WITH due AS (
		SELECT i.org_id, i.installation_id FROM installations i JOIN orgs o ON o.org_id = i.org_id AND o.deleted_at IS NULL
		WHERE i.deleted_at IS NULL AND (i.listed_at IS NULL OR i.listed_at <= $1::timestamptz - CASE
				WHEN i.heard_at IS NULL OR i.heard_at <= $1::timestamptz - $4::interval OR i.missed_at > $1::timestamptz - $5::interval THEN $6::interval
				ELSE $2::interval
			END)
			AND NOT EXISTS (SELECT FROM incidents c WHERE (c.org_id, c.installation_id) = (i.org_id, i.installation_id) AND c.closed_at IS NULL AND c.code = ANY($3))
		ORDER BY i.org_id, i.installation_id LIMIT 20 FOR NO KEY UPDATE OF i SKIP LOCKED
	), taken AS (
		UPDATE installations i SET listed_at = $1 FROM due d
		WHERE (i.org_id, i.installation_id) = (d.org_id, d.installation_id) RETURNING i.installation_id
	)
	SELECT * FROM taken ORDER BY 1`

// SaveRepositories keeps the repositories that an installation may see: those without jobs so far are known for polls, those
// that were renamed are polled under their new names, and those that it may see no more once their open jobs are closed not at
// all. What they had stays. Rows are written in the order in which intake locks them.
func (s *Store) SaveRepositories(ctx context.Context, installation int64, list []millrace.Repository) error {
	listed := make(map[int64]millrace.Repository, len(list))
	for _, r := range list {
		listed[r.ID] = r
	}
	return s.systemTx(ctx, func(tx *Tx) error {
		ids := notNil(slices.Collect(maps.Keys(listed)))
		unlisted, err := many(ctx, tx, pgx.RowTo[int64], `
			SELECT r.repository_id FROM repositories r JOIN installations i USING (org_id, installation_id)
			WHERE i.installation_id = $1 AND i.deleted_at IS NULL AND r.unlisted_at IS NULL AND NOT r.repository_id = ANY($2)`, installation, ids)
		if err != nil {
			return err
		}
		ids = append(ids, unlisted...)
		slices.Sort(ids)
		var b pgx.Batch
		for _, id := range ids {
			r, ok := listed[id]
			if !ok {
				b.Queue(`
					UPDATE repositories r SET unlisted_at = $3 FROM installations i
					WHERE (r.org_id, r.installation_id) = (i.org_id, i.installation_id) AND i.installation_id = $1 AND r.repository_id = $2 AND i.deleted_at IS NULL`,
					installation, id, tx.now)
				continue
			}
			b.Queue(`
				WITH moves AS MATERIALIZED ( -- who takes in jobs of one that is moved is waited for: what it finds decides nothing
					SELECT FROM repositories r JOIN installations i USING (org_id)
					WHERE i.installation_id = $1 AND r.repository_id = $2 AND r.installation_id <> i.installation_id FOR UPDATE OF r
				)
				INSERT INTO repositories (org_id, repository_id, installation_id, full_name, private, seen_at)
				SELECT org_id, $2, installation_id, $3, $4, '-infinity' FROM installations
				WHERE installation_id = $1 AND deleted_at IS NULL AND (SELECT count(*) FROM moves) >= 0
				ON CONFLICT ON CONSTRAINT repositories_pkey DO UPDATE SET
					full_name = excluded.full_name, private = excluded.private, installation_id = excluded.installation_id, unlisted_at = NULL
				WHERE (repositories.full_name, repositories.private, repositories.installation_id) IS DISTINCT FROM (excluded.full_name, excluded.private, excluded.installation_id)
					OR repositories.unlisted_at IS NOT NULL`,
				installation, id, r.FullName, r.Private)
		}
		return tx.SendBatch(ctx, &b).Close()
	})
}
