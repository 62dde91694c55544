package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// Guesses of secrets are counted by who makes them, in Postgres: a limit that each server keeps for itself is as many times
// as high. A count begins anew guessLength after its first guess.
const guessLength = millrace.DeviceLength

// wrong counts a wrong guess of subject's, and returns how many there are.
func (tx *Tx) wrong(ctx context.Context, subject string) (n int, err error) {
	err = tx.QueryRow(ctx, `
		INSERT INTO guesses AS g (subject, since, wrong) VALUES ($1, $2, 1)
		ON CONFLICT ON CONSTRAINT guesses_pkey DO UPDATE SET
			since = CASE WHEN g.since > $3 THEN g.since ELSE $2 END,
			wrong = CASE WHEN g.since > $3 THEN least(g.wrong, 1000000) ELSE 0 END + 1
		RETURNING wrong`, subject, tx.now, tx.now.Add(-guessLength)).Scan(&n)
	return n, err
}

// right takes a guess back that was counted before it was known to be right.
func (tx *Tx) right(ctx context.Context, subject string) error {
	_, err := tx.Exec(ctx, `UPDATE guesses SET wrong = wrong - 1 WHERE subject = $1`, subject)
	return err
}

// guesses is how many wrong ones there are of subject's.
func (tx *Tx) guesses(ctx context.Context, subject string) (n int, err error) {
	err = tx.QueryRow(ctx, `SELECT wrong FROM guesses WHERE subject = $1 AND since > $2`, subject, tx.now.Add(-guessLength)).Scan(&n)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return n, err
}

// ForgetGuesses deletes the counts that count no more.
func (s *Store) ForgetGuesses(ctx context.Context) error {
	return s.systemTx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM guesses WHERE since < $1`, tx.now.Add(-guessLength-time.Minute))
		return err
	})
}
