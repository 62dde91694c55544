package store

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

var errToken = millrace.Errorf(millrace.Unauthenticated, "The API token is missing or not valid.")

// hintLength is how much of a secret is kept to tell it from others: its prefix and four of its 38 characters.
const hintLength = len(millrace.APITokenPrefix) + 4

const tokenColumns = `t.org_id, t.token_id, t.user_id, t.name, t.hint, t.scopes, t.created_at, t.expires_at, t.revoked_at, t.last_used_at, t.last_address, t.last_agent`

func scanToken(row pgx.CollectableRow, more ...any) (t millrace.APIToken, err error) {
	var user *millrace.UserID
	var revoked, used *time.Time
	err = row.Scan(append([]any{
		&t.OrgID, &t.ID, &user, &t.Name, &t.Hint, &t.Scopes, &t.CreatedAt, &t.ExpiresAt, &revoked, &used, &t.LastUsedBy.Address, &t.LastUsedBy.UserAgent,
	}, more...)...)
	if user != nil {
		t.UserID = *user
	}
	t.RevokedAt, t.LastUsedAt = val(revoked), val(used)
	return t, err
}

// CreateAPIToken makes an API token. Its secret is shown once. Errors: those of [millrace.NewAPIToken.Check].
func (o Org) CreateAPIToken(ctx context.Context, by millrace.Caller, n millrace.NewAPIToken) (token millrace.APIToken, secret millrace.Secret, err error) {
	if n.Days == 0 {
		n.Days = millrace.DefaultTokenDays
	}
	err = o.tx(ctx, func(tx *Tx) error {
		if err := n.Check(by, tx.now); err != nil {
			return err
		}
		token, secret, err = tx.insertToken(ctx, o.id, by, n)
		return err
	})
	return token, secret, err
}

func (tx *Tx) insertToken(ctx context.Context, org millrace.OrgID, by millrace.Caller, n millrace.NewAPIToken) (millrace.APIToken, millrace.Secret, error) {
	secret, hash := newSecret(millrace.APITokenPrefix)
	t := millrace.APIToken{
		OrgID: org, ID: millrace.NewAPITokenID(tx.ids, tx.now), Name: n.Name, Hint: secret.Reveal()[:hintLength], Scopes: n.Scopes,
		CreatedAt: tx.now, ExpiresAt: tx.now.AddDate(0, 0, n.Days), Role: millrace.RoleAdmin,
	}
	var user *millrace.UserID
	if !n.OfOrg {
		user, t.UserID, t.Role = &by.UserID, by.UserID, by.Role
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO api_tokens (org_id, token_id, user_id, name, hash, hint, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		org, t.ID, user, t.Name, hash, t.Hint, t.Scopes, t.CreatedAt, t.ExpiresAt)
	if err != nil {
		return t, "", err
	}
	return t, secret, tx.audit(ctx, org, by.Actor, "api_token.created", t.ID.String(),
		millrace.Change{Field: "name", After: t.Name}, millrace.Change{Field: "scopes", After: millrace.JoinScopes(n.Scopes, ", ")},
		millrace.Change{Field: "expires_at", After: t.ExpiresAt.UTC().Format(time.RFC3339)}, millrace.Change{Field: "of_org", After: yesNo(n.OfOrg)})
}

// APITokens lists the tokens that by may see, newest first: their own, and everybody's with that right. Those that ended
// more than 30 days ago are left out.
func (o Org) APITokens(ctx context.Context, by millrace.Caller) (list []millrace.APIToken, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		members, err := tx.members(ctx)
		if err != nil {
			return err
		}
		logins := map[millrace.UserID]millrace.Member{}
		for _, m := range members {
			logins[m.ID] = m
		}
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (millrace.APIToken, error) {
			t, err := scanToken(row)
			t.Login, t.Role = logins[t.UserID].Login, logins[t.UserID].Role
			if t.UserID.IsZero() {
				t.Role = millrace.RoleAdmin
			}
			return t, err
		}, `
			SELECT `+tokenColumns+` FROM api_tokens t
			WHERE t.org_id = $1 AND (t.user_id = $2 OR $3) AND coalesce(t.revoked_at, t.expires_at) > $4
			ORDER BY t.created_at DESC, t.token_id DESC`, o.id, by.UserID, by.May(millrace.OrgTokensWrite), tx.now.AddDate(0, 0, -30))
		return err
	})
	return list, err
}

// RevokeAPIToken ends a token at once. One that ended already is no error. NotFound: there is none that by may see.
func (o Org) RevokeAPIToken(ctx context.Context, by millrace.Caller, id millrace.APITokenID) error {
	return o.tx(ctx, func(tx *Tx) error {
		var name string
		var revoked bool
		err := tx.QueryRow(ctx, `
			WITH before AS (
				SELECT token_id, name, revoked_at FROM api_tokens WHERE org_id = $1 AND token_id = $2 AND (user_id = $3 OR $4) FOR NO KEY UPDATE
			), written AS (
				UPDATE api_tokens t SET revoked_at = $5 FROM before b WHERE t.org_id = $1 AND t.token_id = b.token_id AND b.revoked_at IS NULL RETURNING 1
			)
			SELECT b.name, EXISTS (SELECT FROM written) FROM before b`, o.id, id, by.UserID, by.May(millrace.OrgTokensWrite), tx.now).Scan(&name, &revoked)
		if err != nil || !revoked {
			return err
		}
		return tx.audit(ctx, o.id, by.Actor, "api_token.revoked", id.String(), millrace.Change{Field: "name", Before: name})
	})
}

// TokenAuth is the API token with this secret, and notes that it is used, to the minute. Unauthenticated when it is
// malformed, unknown, expired or revoked, or its user is a member no more; the same error for each.
func (s *Store) TokenAuth(ctx context.Context, secret string, from millrace.Device) (token millrace.APIToken, err error) {
	hash, ok := millrace.HashSecret(millrace.APITokenPrefix, secret)
	if !ok {
		return token, errToken
	}
	err = s.lookupTx(ctx, func(tx *Tx) error {
		if _, err := tx.orgOf(ctx, `SELECT org_of_api_token($1)`, hash); err != nil {
			return err
		}
		token, err = one(ctx, tx, func(row pgx.CollectableRow) (millrace.APIToken, error) {
			var role millrace.Role
			t, err := scanToken(row, &role)
			t.Role = role
			return t, err
		}, `
			SELECT `+tokenColumns+`, coalesce(m.role, 'admin')
			FROM api_tokens t LEFT JOIN memberships m ON (m.org_id, m.user_id) = (t.org_id, t.user_id)
			WHERE t.hash = $1 AND t.revoked_at IS NULL AND t.expires_at > $2 AND (t.user_id IS NULL OR m.role IS NOT NULL)`, hash, tx.now)
		if err != nil || tx.now.Sub(token.LastUsedAt) < time.Minute {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE api_tokens SET last_used_at = $3, last_address = $4, last_agent = $5 WHERE org_id = $1 AND token_id = $2`,
			token.OrgID, token.ID, tx.now, from.Address, bounded(from.UserAgent))
		return err
	})
	if millrace.CodeOf(err) == millrace.NotFound {
		err = errToken
	}
	return token, err
}

// NewEnrollmentToken is an enrollment token to make.
type NewEnrollmentToken struct {
	Uses      int           // 0: 1
	Life      time.Duration // 0: an hour
	Labels    []string      // nil: the host's owner says
	CIDR      string        // "": from anywhere
	Ephemeral bool
}

const enrollmentColumns = `org_id, token_id, uses_left, labels, cidr, ephemeral, created_at, expires_at`

func scanEnrollmentToken(row pgx.CollectableRow, more ...any) (t millrace.EnrollmentToken, err error) {
	var cidr *netip.Prefix
	err = row.Scan(append([]any{&t.OrgID, &t.ID, &t.UsesLeft, &t.Labels, &cidr, &t.Ephemeral, &t.CreatedAt, &t.ExpiresAt}, more...)...)
	if cidr != nil {
		t.CIDR = *cidr
	}
	return t, err
}

// sqlPrefix is NULL for the zero prefix.
func sqlPrefix(p netip.Prefix) *netip.Prefix {
	if !p.IsValid() {
		return nil
	}
	return &p
}

func enrollmentToken(row pgx.CollectableRow) (millrace.EnrollmentToken, error) {
	return scanEnrollmentToken(row)
}

// endedEnrollmentToken reads one that may have been revoked: enrollmentColumns, revoked_at.
func endedEnrollmentToken(row pgx.CollectableRow) (millrace.EnrollmentToken, error) {
	var revoked *time.Time
	t, err := scanEnrollmentToken(row, &revoked)
	t.RevokedAt = val(revoked)
	return t, err
}

// CreateEnrollmentToken makes a token that turns machines into hosts of the org. Its secret is shown once.
func (o Org) CreateEnrollmentToken(ctx context.Context, actor millrace.Actor, n NewEnrollmentToken) (token millrace.EnrollmentToken, secret millrace.Secret, err error) {
	if n.Uses == 0 {
		n.Uses = 1
	}
	if n.Life == 0 {
		n.Life = millrace.DefaultEnrollmentLife
	}
	if n.Uses < 1 || n.Uses > millrace.MaxEnrollmentUses || n.Life < time.Second || n.Life > millrace.MaxEnrollmentLife {
		return token, "", millrace.Errorf(millrace.Unprocessable, "An enrollment token has 1 to %d uses and lives for at most %d days.",
			millrace.MaxEnrollmentUses, millrace.MaxEnrollmentLife/(24*time.Hour))
	}
	if err := millrace.CheckHostLabels(n.Labels); err != nil {
		return token, "", err
	}
	var from netip.Prefix
	if n.CIDR != "" {
		if from, err = netip.ParsePrefix(n.CIDR); err != nil || from != from.Masked() {
			return token, "", millrace.Errorf(millrace.Unprocessable, "%.60q is no network, such as 192.0.2.0/24 or 2001:db8::/32.", n.CIDR)
		}
	}
	secret, hash := newSecret(millrace.EnrollmentTokenPrefix)
	err = o.tx(ctx, func(tx *Tx) error {
		token = millrace.EnrollmentToken{
			OrgID: o.id, ID: millrace.NewEnrollmentTokenID(tx.ids, tx.now), UsesLeft: n.Uses, Labels: n.Labels, CIDR: from, Ephemeral: n.Ephemeral,
			CreatedAt: tx.now, ExpiresAt: tx.now.Add(n.Life),
		}
		_, err := tx.Exec(ctx, `INSERT INTO enrollment_tokens (hash, `+enrollmentColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			hash, o.id, token.ID, token.UsesLeft, token.Labels, sqlPrefix(from), token.Ephemeral, token.CreatedAt, token.ExpiresAt)
		if err != nil {
			return err
		}
		changes := []millrace.Change{{Field: "uses", After: strconv.Itoa(n.Uses)}, {Field: "expires_at", After: token.ExpiresAt.UTC().Format(time.RFC3339)}}
		if n.Labels != nil {
			changes = append(changes, millrace.Change{Field: "labels", After: strings.Join(n.Labels, ", ")})
		}
		if n.CIDR != "" {
			changes = append(changes, millrace.Change{Field: "cidr", After: from.String()})
		}
		if n.Ephemeral {
			changes = append(changes, millrace.Change{Field: "ephemeral", After: yesNo(true)})
		}
		return tx.audit(ctx, o.id, actor, "enrollment_token.created", token.ID.String(), changes...)
	})
	return token, secret, err
}

// EnrollmentTokens lists the tokens that could still enroll a host, newest first.
func (o Org) EnrollmentTokens(ctx context.Context) (list []millrace.EnrollmentToken, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, enrollmentToken, `
			SELECT `+enrollmentColumns+` FROM enrollment_tokens
			WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND uses_left > 0 ORDER BY created_at DESC, token_id DESC`, o.id, tx.now)
		return err
	})
	return list, err
}

// EnrollmentToken finds a token, whether it works still or not. NotFound: the org has none with this ID.
func (o Org) EnrollmentToken(ctx context.Context, id millrace.EnrollmentTokenID) (token millrace.EnrollmentToken, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		token, err = one(ctx, tx, endedEnrollmentToken, `SELECT `+enrollmentColumns+`, revoked_at FROM enrollment_tokens WHERE (org_id, token_id) = ($1, $2)`, o.id, id)
		return err
	})
	return token, err
}

// RevokeEnrollmentToken ends an enrollment token at once; one that ended already is no error.
func (o Org) RevokeEnrollmentToken(ctx context.Context, actor millrace.Actor, id millrace.EnrollmentTokenID) error {
	return o.tx(ctx, func(tx *Tx) error {
		var revoked bool
		err := tx.QueryRow(ctx, `
			WITH before AS (
				SELECT token_id, revoked_at FROM enrollment_tokens WHERE org_id = $1 AND token_id = $2 FOR NO KEY UPDATE
			), written AS (
				UPDATE enrollment_tokens t SET revoked_at = $3 FROM before b WHERE t.org_id = $1 AND t.token_id = b.token_id AND b.revoked_at IS NULL RETURNING 1
			)
			SELECT EXISTS (SELECT FROM written) FROM before`, o.id, id, tx.now).Scan(&revoked)
		if err != nil || !revoked {
			return err
		}
		tx.announceOrg(o.id) // a page may wait for its hosts
		return tx.audit(ctx, o.id, actor, "enrollment_token.revoked", id.String())
	})
}
