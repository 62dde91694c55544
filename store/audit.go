package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// audit records a change in the transaction that makes it.
func (tx *Tx) audit(ctx context.Context, org millrace.OrgID, actor millrace.Actor, action, subject string, changes ...millrace.Change) error {
	var b pgx.Batch
	tx.queueAudit(&b, org, actor, action, subject, changes...)
	return tx.SendBatch(ctx, &b).Close()
}

// queueAudit is audit, in b.
func (tx *Tx) queueAudit(b *pgx.Batch, org millrace.OrgID, actor millrace.Actor, action, subject string, changes ...millrace.Change) {
	b.Queue(`
		INSERT INTO audit (org_id, at, audit_id, actor_kind, actor_id, actor_name, address, request_id, action, subject, changes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		org, tx.now, millrace.NewAuditID(tx.ids, tx.now), actor.Kind, actor.ID, actor.Name, actor.Address, actor.RequestID, action, subject, notNil(changes))
}

// AuditFilter narrows the audit log. Its zero value is all of it, newest first.
type AuditFilter struct {
	ActorKind millrace.ActorKind
	Actor     string // an ID, or a name as it was at that time
	Action    string // e.g. member.role_changed, or all that begin so with "member."
	Subject   string // an ID
	From, To  time.Time
	Cursor    string
	Limit     int // 1 to 100; 0 is 50
}

// AuditPage is one page of the audit log; Next is "" on the last.
type AuditPage struct {
	Entries []millrace.AuditEntry
	Next    string
}

// Audit lists changes, newest first.
func (o Org) Audit(ctx context.Context, f AuditFilter) (page AuditPage, err error) {
	limit := pageSize(f.Limit)
	var w where
	w.and(`org_id = ?`, o.id)
	if f.ActorKind != "" {
		w.and(`actor_kind = ?`, f.ActorKind)
	}
	if f.Actor != "" {
		w.and(`(actor_id = ? OR actor_name = ?)`, f.Actor, f.Actor)
	}
	if f.Action != "" {
		w.and(`(action = ? OR right(?, 1) = '.' AND starts_with(action, ?))`, f.Action, f.Action, f.Action)
	}
	if f.Subject != "" {
		w.and(`subject = ?`, f.Subject)
	}
	if !f.From.IsZero() {
		w.and(`at >= ?`, f.From)
	}
	if !f.To.IsZero() {
		w.and(`at < ?`, f.To)
	}
	if f.Cursor != "" {
		at, id, err := o.parseCursor(f.Cursor)
		if err != nil {
			return page, err
		}
		w.and(`(at, audit_id) < (?, ?::uuid)`, at, id)
	}
	sql := fmt.Sprintf(`
		SELECT audit_id, at, actor_kind, actor_id, actor_name, address, request_id, action, subject, changes FROM audit
		WHERE %s ORDER BY at DESC, audit_id DESC LIMIT %d`, w.sql.String(), limit+1)
	err = o.tx(ctx, func(tx *Tx) error {
		page.Entries, err = many(ctx, tx, func(row pgx.CollectableRow) (e millrace.AuditEntry, err error) {
			err = row.Scan(&e.ID, &e.At, &e.Actor.Kind, &e.Actor.ID, &e.Actor.Name, &e.Actor.Address, &e.Actor.RequestID, &e.Action, &e.Subject, &e.Changes)
			return e, err
		}, sql, w.args...)
		return err
	})
	if len(page.Entries) > limit {
		page.Entries = page.Entries[:limit]
		last := page.Entries[limit-1]
		page.Next = o.cursor(last.At, last.ID)
	}
	return page, err
}
