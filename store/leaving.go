package store

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/millrace-ci/millrace"
)

// Deletion counts what would go if the org were deleted.
func (o Org) Deletion(ctx context.Context) (d millrace.OrgDeletion, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		return tx.QueryRow(ctx, `
			SELECT slug,
				(SELECT count(*) FROM memberships WHERE org_id = $1),
				(SELECT count(*) FROM installations WHERE org_id = $1),
				(SELECT count(*) FROM hosts WHERE org_id = $1),
				(SELECT count(*) FROM jobs WHERE org_id = $1),
				(SELECT count(*) FROM jobs WHERE org_id = $1 AND status = 'in_progress'),
				(SELECT count(*) FROM vms WHERE org_id = $1),
				(SELECT count(*) FROM api_tokens WHERE org_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2))
					+ (SELECT count(*) FROM enrollment_tokens WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND uses_left > 0)
			FROM orgs WHERE org_id = $1 AND deleted_at IS NULL`, o.id, tx.now).
			Scan(&d.Slug, &d.Members, &d.Installations, &d.Hosts, &d.Jobs, &d.RunningJobs, &d.VMs, &d.Tokens)
	})
	return d, err
}

var errNoOrg = millrace.Errorf(millrace.NotFound, "There is no such org.")

const leaves = "Its org was deleted."

// DeleteOrg deletes an org, whose slug its owner has typed: Unprocessable when that is another. From its commit on no
// lookup finds the org, nobody is a member of it, no token opens it, its deliveries are an unknown installation's, and
// nothing is launched, polled or probed for it. Its hosts alone are still known: they are told to end its VMs. A task
// erases the rest.
func (s *Store) DeleteOrg(ctx context.Context, actor millrace.Actor, org millrace.OrgID, slug string) error {
	lock := func(_ *Tx, b *pgx.Batch) { // a pass that is under way launches what it has decided, and is the last
		b.Queue(`SELECT pg_advisory_xact_lock($1, $2::bigint::integer)`, placementLock, org)
	}
	return s.tx(ctx, s.system, 0, func(tx *Tx) error {
		var typed string
		err := tx.QueryRow(ctx, `SELECT slug FROM orgs WHERE org_id = $1 AND deleted_at IS NULL`, org).Scan(&typed)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errNoOrg
		case err != nil:
			return err
		case slug != typed:
			return millrace.Errorf(millrace.Unprocessable, "Type %s, the org's short name, to delete it.", typed)
		}
		vms, err := tx.lockLive(ctx, org)
		if err != nil {
			return err
		}
		// Waits for those who are about to add to the org, as members or hosts, and keeps further ones waiting. VMs are locked
		// first: whoever has locked one may want to add a task.
		if _, err := tx.Exec(ctx, `SELECT FROM orgs WHERE org_id = $1 FOR UPDATE`, org); err != nil {
			return err
		}
		var b pgx.Batch
		for _, v := range vms {
			if v.RetireReason == "" {
				v.RetireReason = leaves
			}
			if v.RunnerID == 0 {
				// A registration that is being made right now finds the VM unwanted and is undone.
				if err := tx.queueStop(&b, &v); err != nil {
					return err
				}
			} else {
				tx.queueTask(&b, org, millrace.RetireVM{OrgID: org, VMID: v.ID})
			}
			tx.queueVM(&b, v)
		}
		b.Queue(`UPDATE orgs SET deleted_at = $2, deleted_by = $3 WHERE org_id = $1`, org, tx.now, actor.ID)
		b.Queue(`DELETE FROM api_tokens WHERE org_id = $1`, org)
		b.Queue(`DELETE FROM enrollment_tokens WHERE org_id = $1`, org)
		b.Queue(`DELETE FROM memberships WHERE org_id = $1 RETURNING user_id`, org).Query(func(rows pgx.Rows) error {
			members, err := pgx.CollectRows(rows, pgx.RowTo[millrace.UserID])
			for _, m := range members {
				tx.announceTo(TopicUser(m))
			}
			return err
		})
		tx.queueTask(&b, org, millrace.EraseOrg{OrgID: org})
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		tx.announceOrg(org)
		return tx.audit(ctx, org, actor, "org.deleted", typed)
	}, lock)
}

// lockLive are the org's VMs that are not yet told to end, locked.
func (tx *Tx) lockLive(ctx context.Context, org millrace.OrgID) ([]millrace.VM, error) {
	return many(ctx, tx, scanVM, `
		SELECT `+vmColumns+` FROM vms v WHERE v.org_id = $1 AND NOT v.ending ORDER BY v.vm_id FOR UPDATE`, org)
}

// EndVMs ends the VMs of a deleted org and returns how many hold its erasure back: none after [millrace.LeaveAtMost], and
// none of an org that is erased. Conflict when the org is not deleted.
func (s *Store) EndVMs(ctx context.Context, org millrace.OrgID) (live int, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		live = 0
		var since *time.Time
		err := tx.QueryRow(ctx, `SELECT deleted_at FROM orgs WHERE org_id = $1`, org).Scan(&since)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return err
		case since == nil:
			return millrace.Errorf(millrace.Conflict, "Org %d is not deleted.", org)
		case tx.now.Sub(*since) >= millrace.LeaveAtMost:
			return nil
		case tx.now.Sub(*since) >= millrace.LeaveInOrder:
			vms, err := tx.lockLive(ctx, org)
			if err != nil {
				return err
			}
			var b pgx.Batch
			for _, v := range vms {
				v.RetireReason = leaves
				if err := tx.queueStop(&b, &v); err != nil {
					return err
				}
				tx.queueVM(&b, v)
			}
			if b.Len() > 0 {
				if err := tx.SendBatch(ctx, &b).Close(); err != nil {
					return err
				}
			}
		}
		return tx.QueryRow(ctx, `SELECT count(*) FROM vms WHERE org_id = $1 AND gone_at IS NULL`, org).Scan(&live)
	})
	return live, err
}

// EraseBlobs deletes what the blob store holds of an org, and returns how many blobs those were. The caller knows that the
// org is deleted.
func (s *Store) EraseBlobs(ctx context.Context, org millrace.OrgID) (n int, err error) {
	for _, prefix := range []string{consolesKey(org), agentLogsKey(org)} {
		erased, err := s.deleteBlobs(ctx, prefix, func(*blob.ListObject) (unwanted, last bool) { return true, false })
		if n += erased; err != nil {
			return n, err
		}
	}
	return n, nil
}

// ExpireBlobs deletes the consoles and agents' logs that nothing was added to for [millrace.LogRetention], and returns how many
// pieces those were.
// An org's consoles are listed as their VMs began, and no further than to those that are younger: what is kept costs nothing.
func (s *Store) ExpireBlobs(ctx context.Context, now time.Time) (n int, err error) {
	old := func(at time.Time) bool { return now.Sub(at) > millrace.LogRetention }
	n, err = s.deleteBlobs(ctx, "agent-logs/", func(o *blob.ListObject) (unwanted, last bool) { return old(o.ModTime), false })
	if err != nil {
		return n, err
	}
	for orgs := s.blobs.List(&blob.ListOptions{Prefix: "consoles/", Delimiter: "/"}); ; {
		org, err := orgs.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		expired, err := s.deleteBlobs(ctx, org.Key, func(o *blob.ListObject) (unwanted, last bool) {
			vm, err := millrace.ParseVMID(path.Base(path.Dir(o.Key)))
			return old(o.ModTime), err == nil && !old(vm.Time())
		})
		if n += expired; err != nil {
			return n, err
		}
	}
}

// deleteBlobs deletes those below prefix that are unwanted, in the order of their keys and before the last, and returns how many.
func (s *Store) deleteBlobs(ctx context.Context, prefix string, is func(*blob.ListObject) (unwanted, last bool)) (n int, err error) {
	for list := s.blobs.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		unwanted, last := is(object)
		if last {
			return n, nil
		}
		if !unwanted {
			continue
		}
		if err := s.blobs.Delete(ctx, object.Key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return n, err
		}
		n++
		if s.blobDir != "" {
			_ = os.Remove(filepath.Join(s.blobDir, filepath.FromSlash(path.Dir(object.Key)))) // the last one's folder, or it isn't empty
		}
	}
}

// EraseOrg erases at most so many rows of a deleted org, and returns how many of each table, and whether that was all: then
// the database has counted that no table holds a row of it. An org that is erased already has nothing to erase.
func (s *Store) EraseOrg(ctx context.Context, org millrace.OrgID, most int) (erased map[string]int64, all bool, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		erased = map[string]int64{}
		rows, err := tx.Query(ctx, `SELECT name, erased FROM erase_org($1, $2, $3)`, org, tx.now, most)
		if err != nil {
			return err
		}
		var name string
		var n int64
		tx.announceOrg(org) // whoever still looks at it looks again
		_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { erased[name] = n; return nil })
		return err
	})
	return erased, len(erased) == 0 || erased["orgs"] > 0, err
}

// FindDeletedOrgs asks once more for the erasure of orgs that should be erased by now: no task is for ever. It returns how
// many those are.
func (s *Store) FindDeletedOrgs(ctx context.Context) (n int, err error) {
	err = s.systemTx(ctx, func(tx *Tx) error {
		orgs, err := many(ctx, tx, pgx.RowTo[millrace.OrgID], `
			SELECT org_id FROM orgs WHERE deleted_at <= $1 ORDER BY org_id`, tx.now.Add(-millrace.LeaveAtMost-eraseWithin))
		if err != nil || len(orgs) == 0 {
			return err
		}
		var b pgx.Batch
		for _, org := range orgs {
			tx.queueTask(&b, org, millrace.EraseOrg{OrgID: org})
		}
		n = len(orgs)
		return tx.SendBatch(ctx, &b).Close()
	})
	return n, err
}

// eraseWithin is how long an erasure may take before it is asked for again. One that takes longer is done twice at once,
// which does no harm.
const eraseWithin = 10 * time.Minute
