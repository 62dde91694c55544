package store

import "github.com/jackc/pgx/v5/pgxpool"

// AppPool is the app role's pool, for tests that look at whom it is logged in as.
func (s *Store) AppPool() *pgxpool.Pool { return s.app }

// Payload is what announces topics.
var Payload = payload

// OpenBlobs opens the blob store at an address.
var OpenBlobs = openBlobs
