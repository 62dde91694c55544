package scheduler

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/millrace-ci/millrace"
)

// fleet answers why no host holds a job. Jobs by the thousand ask: hosts that have the same labels are found once for each
// set of labels, and those among them that offer the same are one class.
type fleet struct {
	hosts  []*free
	groups map[string]*group
	lines  map[string]*line // by the hosts whose VMs it waits for
}

// group is the hosts that have the labels and the architecture that some jobs ask for.
type group struct {
	hosts   []*free
	classes []*class
	lines   map[string]*line // by the classes that are large enough
}

// class is the hosts of a group that offer the same. How many VMs each runs at once makes no difference to one that is empty.
type class struct {
	offer         millrace.Size
	hosts, online []*free
}

func newFleet(hosts []*free) *fleet {
	return &fleet{hosts: hosts, groups: map[string]*group{}, lines: map[string]*line{}}
}

func (f *fleet) group(d millrace.Demand) *group {
	key := string(d.Arch) + "," + extra(d)
	if g, ok := f.groups[key]; ok {
		return g
	}
	g := &group{lines: map[string]*line{}}
	f.groups[key] = g
	byOffer := map[millrace.Size]*class{}
	for _, h := range f.hosts {
		if !h.host.HasLabels(d) {
			continue
		}
		g.hosts = append(g.hosts, h)
		c := byOffer[h.host.Facts.Offer]
		if c == nil {
			c = &class{offer: h.host.Facts.Offer}
			byOffer[c.offer] = c
			g.classes = append(g.classes, c)
		}
		c.hosts = append(c.hosts, h)
		if h.online {
			c.online = append(c.online, h)
		}
	}
	return g
}

// noRoom is why no host holds d now.
func (f *fleet) noRoom(d millrace.Demand) *verdict {
	g := f.group(d)
	if len(g.hosts) == 0 {
		return &verdict{reason: noHost(f.hosts, d)}
	}
	large, online := 0, 0
	key := make([]byte, (len(g.classes)+7)/8)
	for i, c := range g.classes {
		if d.Size.MilliCPU <= c.offer.MilliCPU && d.Size.MemoryMB <= c.offer.MemoryMB {
			large, online = large+len(c.hosts), online+len(c.online)
			key[i/8] |= 1 << (i % 8)
		}
	}
	switch {
	case large == 0:
		return &verdict{reason: tooBig(g.hosts, d)}
	case online == 0:
		return &verdict{reason: hostsAway(g.suitable(d, func(c *class) []*free { return c.hosts }))}
	}
	l := g.lines[string(key)]
	if l == nil {
		l = f.line(g.suitable(d, func(c *class) []*free { return c.online }))
		g.lines[string(key)] = l
	}
	v := &verdict{reason: millrace.WaitReason{Code: millrace.WaitNoCapacity}, line: l}
	v.say = func() { v.reason = noCapacity(l, d) } // once all is placed
	return v
}

// suitable are the hosts of the classes that hold d when empty, in order of their IDs.
func (g *group) suitable(d millrace.Demand, of func(*class) []*free) (list []*free) {
	for _, c := range g.classes {
		if d.Size.MilliCPU <= c.offer.MilliCPU && d.Size.MemoryMB <= c.offer.MemoryMB {
			list = append(list, of(c)...)
		}
	}
	slices.SortFunc(list, byID)
	return list
}

// line is the one of jobs that wait for one of hosts, whatever labels they ask for.
func (f *fleet) line(hosts []*free) *line {
	var key strings.Builder
	for _, h := range hosts {
		key.Write(binary.BigEndian.AppendUint32(nil, uint32(h.index)))
	}
	l := f.lines[key.String()]
	if l == nil {
		l = &line{hosts: hosts}
		f.lines[key.String()] = l
	}
	return l
}

// open is what of f VMs could have now.
func (f *free) open() millrace.Room {
	if f.left.VMs < 1 {
		return millrace.Room{}
	}
	return f.left.Positive()
}

// roomiest is the host of a line with the most CPU open among those with enough memory open, or, when none has, the one with
// the most memory open.
func (l *line) roomiest(memoryMB int) *free {
	if l.byMemory == nil {
		l.byMemory = slices.Clone(l.hosts)
		slices.SortStableFunc(l.byMemory, func(a, b *free) int { return cmp.Compare(b.open().MemoryMB, a.open().MemoryMB) })
		best := l.byMemory[0]
		for _, f := range l.byMemory {
			if f.open().MilliCPU > best.open().MilliCPU {
				best = f
			}
			l.mostCPU = append(l.mostCPU, best)
		}
	}
	n, _ := slices.BinarySearchFunc(l.byMemory, memoryMB, func(f *free, memory int) int {
		if f.open().MemoryMB >= memory {
			return -1
		}
		return 1
	})
	return l.mostCPU[max(0, n-1)]
}
