package store

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/millrace-ci/millrace"
)

// Rows that are read for each job and each sync are scanned to where pgx writes at once: to the types beneath ours, and to these.
// For others it looks for a way anew with each statement, and takes IDs through their text.

// idOrZero is an ID of any kind; NULL is the zero ID.
type idOrZero [16]byte

// ScanUUID implements [pgtype.UUIDScanner].
func (id *idOrZero) ScanUUID(v pgtype.UUID) error {
	*id = v.Bytes
	return nil
}

func scanID[K millrace.Kind](id *millrace.ID[K]) *idOrZero { return (*idOrZero)(id) }

// timeOrZero is a time; NULL is the zero time.
type timeOrZero time.Time

// ScanTimestamptz implements [pgtype.TimestamptzScanner].
func (t *timeOrZero) ScanTimestamptz(v pgtype.Timestamptz) error {
	*t = timeOrZero(v.Time)
	return nil
}

func scanTime(t *time.Time) *timeOrZero { return (*timeOrZero)(t) }
