package scheduler

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-ci/millrace"
)

// free is a host and what is left of it.
type free struct {
	host   *millrace.Host
	index  int // in the order of IDs
	status millrace.HostStatus
	online bool // it takes VMs
	left   millrace.Room
	kept   *millrace.Job // it takes no other than this one; nil: any
	in     []*pool
	boots  *millrace.WaitReason // that a VM boots here; nil: not said yet
}

// tightest orders hosts by what is left of them; no two are equal.
func tightest(a, b *free) int {
	if a.left.Size != b.left.Size {
		return cmp.Or(cmp.Compare(a.left.MemoryMB, b.left.MemoryMB), cmp.Compare(a.left.MilliCPU, b.left.MilliCPU))
	}
	return byID(a, b)
}

// freeHosts is what is left of each host.
func freeHosts(fleet millrace.Pass) []*free {
	used := make(map[millrace.HostID]millrace.Room, len(fleet.Hosts))
	for i := range fleet.VMs {
		v := &fleet.VMs[i]
		used[v.HostID] = used[v.HostID].Plus(v.Size.Room())
	}
	hosts, all := make([]*free, len(fleet.Hosts)), make([]free, len(fleet.Hosts))
	for i := range fleet.Hosts {
		h := &fleet.Hosts[i]
		hosts[i] = &all[i]
		all[i] = free{host: h, status: h.Status(fleet.Now), online: h.TakesVMs(fleet.Now), left: h.Facts.Room().Minus(used[h.ID])}
	}
	slices.SortFunc(hosts, byID)
	for i, f := range hosts {
		f.index = i
	}
	return hosts
}

func byID(a, b *free) int { return bytes.Compare(a.host.ID[:], b.host.ID[:]) }

// room is the free capacity of a fleet. Jobs by the thousand look for a host in it: each set of labels that they ask for
// has the hosts that have them, by architecture, sorted by what is left.
type room struct {
	hosts  []*free
	spread bool
	least  millrace.Room // what no waiting job asks less of: a host with less left holds none
	pools  map[string][]*pool
}

// pool is the online hosts that run one architecture and have some labels, the tightest first.
type pool struct {
	runs
	hosts  []*free
	memory int // that is left on all of them
}

// runs is an architecture and how hosts run it. A host that emulates others is in several pools.
type runs struct {
	arch     millrace.Arch
	emulated bool
}

// suits reports whether jobs that ask for arch may run so. Those that take any never want it emulated: it is many times slower.
func (r runs) suits(arch millrace.Arch) bool {
	return arch == r.arch || arch == millrace.ArchAny && !r.emulated
}

// compare orders by architecture, emulated ones last: an arch's own hosts come first.
func (r runs) compare(other runs) int {
	switch {
	case r.emulated == other.emulated:
		return strings.Compare(string(r.arch), string(other.arch))
	case other.emulated:
		return -1
	default:
		return 1
	}
}

func newRoom(hosts []*free, least millrace.Room, strategy millrace.Strategy) *room {
	return &room{hosts: hosts, spread: strategy == millrace.Spread, least: least, pools: map[string][]*pool{}}
}

// smallest is the least CPU and the least memory that any of jobs asks for.
func smallest(jobs []*millrace.Job) millrace.Room {
	var least millrace.Size
	for _, j := range jobs {
		size := j.Demand.Size
		if size.MilliCPU > 0 && (least.MilliCPU == 0 || size.MilliCPU < least.MilliCPU) {
			least.MilliCPU = size.MilliCPU
		}
		if size.MemoryMB > 0 && (least.MemoryMB == 0 || size.MemoryMB < least.MemoryMB) {
			least.MemoryMB = size.MemoryMB
		}
	}
	return least.Room()
}

// with are the pools of hosts that have d's extra labels, in order.
func (r *room) with(extra string, d millrace.Demand) []*pool {
	if pools, ok := r.pools[extra]; ok {
		return pools
	}
	by := map[runs]*pool{}
	for _, f := range r.hosts {
		if !f.online || f.kept != nil || f.left.VMs < 1 || !f.host.HasLabels(millrace.Demand{Arch: millrace.ArchAny, Extra: d.Extra, Closed: d.Closed}) {
			continue
		}
		all := []runs{{arch: f.host.Facts.Arch}}
		for _, arch := range f.host.Facts.Emulates {
			all = append(all, runs{arch, true})
		}
		for _, runs := range all {
			p := by[runs]
			if p == nil {
				p = &pool{runs: runs}
				by[runs] = p
			}
			p.hosts, p.memory = append(p.hosts, f), p.memory+f.left.MemoryMB
			f.in = append(f.in, p)
		}
	}
	pools := slices.SortedFunc(maps.Values(by), func(a, b *pool) int { return a.compare(b.runs) })
	for _, p := range pools {
		slices.SortFunc(p.hosts, tightest)
	}
	r.pools[extra] = pools
	return pools
}

// fit is the online host that holds d and has the least left, or the most where jobs are spread; nil when none does. For
// any architecture it looks among those of the one with more memory free first; for one architecture it looks at those that
// emulate it last.
func (r *room) fit(s shape, d millrace.Demand) *free {
	pools := r.with(s.extra, d)
	if d.Arch == millrace.ArchAny && len(pools) > 1 {
		pools = slices.Clone(pools)
		slices.SortStableFunc(pools, func(a, b *pool) int { return cmp.Compare(b.memory, a.memory) })
	}
	for _, p := range pools {
		if !p.suits(d.Arch) {
			continue
		}
		from, _ := slices.BinarySearchFunc(p.hosts, d.Size.MemoryMB, func(f *free, memory int) int { return cmp.Compare(f.left.MemoryMB, memory) })
		holds := func(f *free) bool { return d.Size.MilliCPU <= f.left.MilliCPU }
		large := p.hosts[from:] // by their memory
		if r.spread {
			for _, f := range slices.Backward(large) {
				if holds(f) {
					return f
				}
			}
		} else if i := slices.IndexFunc(large, holds); i >= 0 {
			return large[i]
		}
	}
	return nil
}

// take takes f out of its pools. It is found by what is left of it, so before that changes.
func (r *room) take(f *free) {
	for _, p := range f.in {
		at, _ := slices.BinarySearchFunc(p.hosts, f, tightest)
		p.hosts = slices.Delete(p.hosts, at, at+1)
		p.memory -= f.left.MemoryMB
	}
}

// keep keeps f free for j.
func (r *room) keep(f *free, j *millrace.Job) {
	r.take(f)
	f.in, f.kept = nil, j
}

// use takes size of what is left of f.
func (r *room) use(f *free, size millrace.Size) {
	r.take(f)
	f.left = f.left.Minus(size.Room())
	if !f.left.Holds(r.least) {
		f.in = nil
	}
	for _, p := range f.in {
		at, _ := slices.BinarySearchFunc(p.hosts, f, tightest)
		p.hosts = slices.Insert(p.hosts, at, f)
		p.memory += f.left.MemoryMB
	}
}
