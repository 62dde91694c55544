package store

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// uptimeSlack is by how much a VM's clock may be ahead of ours.
const uptimeSlack = time.Minute

// AppendSamples joins what host says that a VM of its own used. It may be repeated; an older epoch, and what contradicts
// what is known, change nothing.
func (o Org) AppendSamples(ctx context.Context, host millrace.HostID, vm millrace.VMID, epoch int64, samples millrace.Series) error {
	var placed time.Time
	var current, known int64
	var p packed
	return o.store.tx(ctx, o.store.app, o.id, func(tx *Tx) error {
		if epoch != current {
			return nil
		}
		had := p.series()
		if known != epoch {
			had = nil
		}
		latest := tx.now.Sub(placed) + uptimeSlack
		for len(samples) > 0 && samples.Last().UptimeMS > latest.Milliseconds() {
			samples = samples[:len(samples)-1]
		}
		has := had.Join(samples...)
		if has.Last() == had.Last() {
			return nil
		}
		p = pack(has)
		tx.last.Queue(`
			UPDATE vm_samples SET epoch = $4, time_ms = $5, memory_mb = $6, peak_cpu = $7, cpu_ms = $8,
				disk_read_kb = $9, disk_write_kb = $10, net_rx_kb = $11, net_tx_kb = $12
			WHERE (org_id, vm_id, placed_at) = ($1, $2, $3)`,
			append([]any{o.id, vm, placed, epoch}, p.args()...)...)
		return nil
	}, func(_ *Tx, b *pgx.Batch) {
		// The row is there before it is locked: two calls at once would both add it.
		b.Queue(`
			INSERT INTO vm_samples (org_id, placed_at, vm_id, epoch, time_ms, memory_mb, peak_cpu, cpu_ms, disk_read_kb, disk_write_kb, net_rx_kb, net_tx_kb)
			SELECT org_id, placed_at, vm_id, epoch, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}' FROM vms WHERE (org_id, vm_id, host_id) = ($1, $2, $3)
			ON CONFLICT DO NOTHING`, o.id, vm, host)
		b.Queue(`
			SELECT v.placed_at, v.epoch, s.epoch, `+packedColumns+`
			FROM vms v JOIN vm_samples s ON (s.org_id, s.vm_id, s.placed_at) = (v.org_id, v.vm_id, v.placed_at)
			WHERE (v.org_id, v.vm_id, v.host_id) = ($1, $2, $3) FOR UPDATE OF s`, o.id, vm, host).QueryRow(func(row pgx.Row) error {
			return row.Scan(append([]any{&placed, &current, &known}, p.targets()...)...)
		})
	})
}

// Samples are what a VM of the org used over time; none when nothing is known of it, or not any more.
func (o Org) Samples(ctx context.Context, vm millrace.VMID) (s millrace.Series, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		var p packed
		err := tx.QueryRow(ctx, `
			SELECT `+packedColumns+` FROM vms v JOIN vm_samples s ON (s.org_id, s.vm_id, s.placed_at) = (v.org_id, v.vm_id, v.placed_at)
			WHERE (v.org_id, v.vm_id) = ($1, $2)`, o.id, vm).Scan(p.targets()...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		s = p.series()
		return err
	})
	return s, err
}

// HostLoads are what was committed and used of a host in n spans of time that end now. A VM that lived no longer than a span
// is taken as even. One whose runner never came online is left out: it was there for seconds, and no index finds it.
func (o Org) HostLoads(ctx context.Context, host millrace.HostID, span time.Duration, n int) (loads []millrace.Load, from time.Time, err error) {
	err = o.tx(ctx, func(tx *Tx) error {
		from = tx.now.Add(-time.Duration(n) * span)
		stays, err := many(ctx, tx, func(row pgx.CollectableRow) (s millrace.Stay, err error) {
			var p packed
			targets := []any{&s.From, &s.To, &s.Size.MilliCPU, &s.Size.MemoryMB, &s.Usage.CPUMillis, &s.Usage.PeakMemory}
			err = row.Scan(append(targets, p.targets()...)...)
			s.Samples = p.series()
			return s, err
		}, `
			SELECT coalesce(v.booting_at, v.placed_at), coalesce(v.gone_at, $3), v.cpu, v.memory, v.cpu_ms, v.peak_memory, `+packedColumns+`
			FROM vms v LEFT JOIN vm_samples s ON (s.org_id, s.vm_id, s.placed_at) = (v.org_id, v.vm_id, v.placed_at)
				AND coalesce(v.gone_at, $3) - v.placed_at > $6
			WHERE (v.org_id, v.host_id) = ($1, $2) AND v.online_at IS NOT NULL
				AND v.placed_at > $5 AND coalesce(v.gone_at, 'infinity') > $4`,
			o.id, host, tx.now, from, from.Add(-millrace.MaxJobTime), span)
		loads = millrace.Loads(stays, from, span, n)
		return err
	})
	return loads, from, err
}

// packed is a series as its row has it.
type packed [8][]int32

const packedColumns = `s.time_ms, s.memory_mb, s.peak_cpu, s.cpu_ms, s.disk_read_kb, s.disk_write_kb, s.net_rx_kb, s.net_tx_kb`

// packs are what the columns hold of a sample: in which unit, and whether as what was added since the one before.
var packs = [len(packed{})]struct {
	of    func(*millrace.Sample) *int64
	unit  int64
	added bool
}{
	{func(s *millrace.Sample) *int64 { return &s.UptimeMS }, 1, true},
	{func(s *millrace.Sample) *int64 { return &s.Memory }, 1 << 20, false},
	{func(s *millrace.Sample) *int64 { return &s.PeakCPU }, 1, false},
	{func(s *millrace.Sample) *int64 { return &s.CPUMillis }, 1, true},
	{func(s *millrace.Sample) *int64 { return &s.DiskRead }, 1 << 10, true},
	{func(s *millrace.Sample) *int64 { return &s.DiskWrite }, 1 << 10, true},
	{func(s *millrace.Sample) *int64 { return &s.NetRx }, 1 << 10, true},
	{func(s *millrace.Sample) *int64 { return &s.NetTx }, 1 << 10, true},
}

// pack rounds down to whole units. What no column holds, which no machine does in a second, is added with later samples.
func pack(s millrace.Series) (p packed) {
	for i, c := range packs {
		p[i] = make([]int32, len(s))
		sum := int64(0)
		for n := range s {
			v := *c.of(&s[n]) / c.unit
			if c.added {
				v -= sum
			}
			p[i][n] = int32(min(v, math.MaxInt32))
			sum += int64(p[i][n])
		}
	}
	return p
}

func (p packed) series() millrace.Series {
	s := make(millrace.Series, len(p[0]))
	for i, c := range packs {
		sum := int64(0)
		for n, v := range p[i] {
			if c.added {
				sum += int64(v)
			} else {
				sum = int64(v)
			}
			*c.of(&s[n]) = sum * c.unit
		}
	}
	return s
}

func (p *packed) targets() (list []any) {
	for i := range p {
		list = append(list, &p[i])
	}
	return list
}

func (p *packed) args() (list []any) {
	for _, column := range p {
		list = append(list, column)
	}
	return list
}
