package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// usageKey is the column that a grouping groups by: constants of ours, never input.
var usageKey = map[millrace.UsageBy]string{
	millrace.ByRepository: `repository`,
	millrace.ByUser:       `actor`,
	millrace.ByDay:        `to_char(completed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')`,
}

// Usage sums the jobs that completed within [from, to) by a grouping: days in order, other groups by build time, largest
// first, at most 500 of them.
func (o Org) Usage(ctx context.Context, by millrace.UsageBy, from, to time.Time) (list []millrace.Usage, err error) {
	key, ok := usageKey[by]
	if !ok {
		return nil, millrace.Errorf(millrace.Unprocessable, "Usage is grouped by repository, user or day, not by %q.", by)
	}
	order := `build_ms DESC, key`
	if by == millrace.ByDay {
		order = `key`
	}
	err = o.tx(ctx, func(tx *Tx) error {
		list, err = many(ctx, tx, func(row pgx.CollectableRow) (u millrace.Usage, err error) {
			var build, vcpu, p50, p95 int64
			err = row.Scan(&u.Key, &u.Jobs, &u.Succeeded, &u.Failed, &u.Cancelled, &build, &vcpu, &p50, &p95)
			const ms = time.Millisecond
			u.BuildTime, u.VCPUTime, u.WaitP50, u.WaitP95 = time.Duration(build)*ms, time.Duration(vcpu)*ms, time.Duration(p50)*ms, time.Duration(p95)*ms
			return u, err
		}, `
			SELECT `+key+` AS key, count(*),
				count(*) FILTER (WHERE conclusion = 'success'),
				count(*) FILTER (WHERE conclusion IN ('failure', 'timed_out')),
				count(*) FILTER (WHERE conclusion = 'cancelled'),
				coalesce(sum(run_ms), 0)::bigint AS build_ms,
				coalesce(sum(run_ms * cpu / 1000), 0)::bigint,
				coalesce(percentile_disc(0.50) WITHIN GROUP (ORDER BY wait_ms) FILTER (WHERE started), 0),
				coalesce(percentile_disc(0.95) WITHIN GROUP (ORDER BY wait_ms) FILTER (WHERE started), 0)
			FROM job_facts
			WHERE org_id = $1 AND completed_at >= $2 AND completed_at < $3
			GROUP BY 1 ORDER BY `+order+` LIMIT 500`, o.id, from, to)
		return err
	})
	return list, err
}
