package store

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-ci/millrace"
)

// AppPool is the app role's pool, for tests that look at whom it is logged in as.
func (s *Store) AppPool() *pgxpool.Pool { return s.app }

// Payload is what announces topics.
var Payload = payload

// ExportedColumns are the columns that an export leaves out of each table that it has; PassedOver are the other tables.
func ExportedColumns() (without map[string][]string, passedOver []string) {
	without = map[string][]string{}
	for _, t := range exported {
		without[t.name] = slices.Sorted(maps.Keys(t.without))
	}
	return without, slices.Sorted(maps.Keys(notExported))
}

// OpenBlobs opens the blob store at an address.
var OpenBlobs = openBlobs

// FleetColumns are what passes read of hosts.
const FleetColumns = fleetColumns

// WatchVMsAtOnce is WatchVMs, which looks at so many at a time.
func (s *Store) WatchVMsAtOnce(ctx context.Context, n int) (int, error) { return s.watchVMs(ctx, n) }

// IntakeTogether is Intake of deliveries that share a commit.
func (s *Store) IntakeTogether(ctx context.Context, deliveries ...millrace.Delivery) (err error) {
	batch := make([]intakeRequest, len(deliveries))
	done := make(chan intakeDone, len(deliveries))
	for i, d := range deliveries {
		batch[i] = intakeRequest{d, []byte{}, done}
	}
	s.intakeBatch(ctx, batch)
	for range deliveries {
		err = errors.Join(err, (<-done).err)
	}
	return err
}
