package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// because is a reason with its own text, and its code's remedy.
func because(code millrace.WaitCode, format string, args ...any) millrace.WaitReason {
	return millrace.WaitReason{Code: code, Text: fmt.Sprintf(format, args...), Remedy: code.Remedy()}
}

// a host of d's architecture and labels: "an arm64 host with the label gpu".
func aHost(d millrace.Demand) string {
	if d.Arch == millrace.ArchAny {
		return "a " + hostOf(d)
	}
	return "an " + hostOf(d)
}

func hostOf(d millrace.Demand) string {
	s, with := string(d.Arch)+" host", ""
	if d.Arch == millrace.ArchAny {
		s = "host"
	}
	switch len(d.Extra) {
	case 0:
	case 1:
		with = " with the label " + d.Extra[0]
	default:
		with = " with the labels " + join(d.Extra, "and")
	}
	switch {
	case !d.Closed:
		return s + with
	case with == "":
		return s + " with closed networks"
	default:
		return s + with + " and closed networks"
	}
}

// join lists at most three of names: "a, b and c", "a, b, c and 4 more".
func join(names []string, word string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" %s %d more", word, len(names)-most)
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " " + word + " " + names[n-1]
	}
	return strings.Join(names, "")
}

func noHost(hosts []*free, d millrace.Demand) millrace.WaitReason {
	r := because(millrace.WaitNoHost, "The org has no %s.", hostOf(d))
	var near []string // hosts that lack labels only
	for _, f := range hosts {
		if f.host.HasLabels(millrace.Demand{Arch: d.Arch}) {
			near = append(near, f.host.Name)
		}
	}
	r.Remedy = "Add " + aHost(d) + ", or change runs-on in the workflow."
	if len(near) > 0 {
		slices.Sort(near)
		var missing []string
		for _, label := range d.Extra {
			if !slices.ContainsFunc(hosts, func(f *free) bool { return f.host.HasLabels(millrace.Demand{Arch: d.Arch, Extra: []string{label}}) }) {
				missing = append(missing, label)
			}
		}
		if len(missing) == 0 {
			missing = d.Extra // each is somewhere, together they are nowhere
		}
		label := "the label "
		if len(missing) > 1 {
			label = "the labels "
		}
		r.Remedy = "Give " + join(near, "or") + " " + label + join(missing, "and") + ", add such a host, or change runs-on in the workflow."
	}
	return r
}

// noZoneHost is that hosts suit d, and none of them the rule of its zone; open are those that do but for their networks.
func noZoneHost(rule millrace.ZoneRule, d millrace.Demand, open []*free) millrace.WaitReason {
	if len(open) > 0 {
		names := make([]string, len(open))
		for i, f := range open {
			names[i] = f.host.Name
		}
		slices.Sort(names)
		r := because(millrace.WaitZoneHosts, "VMs of %s may reach nothing but what hosts' owners open to them; on %s they reach all that the host does.", rule.Zone.Jobs(), join(names, "and"))
		r.Remedy = "Have the agent on " + join(names, "or") + " give VMs taps: millrace-agent doctor says there what it lacks. Or change what they may reach under Settings → Placement."
		return r
	}
	label := "the label "
	if len(rule.HostLabels) > 1 {
		label = "the labels "
	}
	label += join(rule.HostLabels, "and")
	r := because(millrace.WaitZoneHosts, "Jobs of %s may use hosts with %s only, and no %s has it.", rule.Zone.Jobs(), label, hostOf(d))
	if len(rule.HostLabels) > 1 {
		r.Text = strings.TrimSuffix(r.Text, "it.") + "them."
	}
	r.Remedy = "Give " + aHost(d) + " " + label + ", or change which hosts they may use under Settings → Placement."
	return r
}

func tooBig(matching []*free, d millrace.Demand) millrace.WaitReason {
	biggest := slices.MaxFunc(matching, func(a, b *free) int {
		x, y := a.host.Facts.Offer, b.host.Facts.Offer
		return cmp.Or(cmp.Compare(x.MemoryMB, y.MemoryMB), cmp.Compare(x.MilliCPU, y.MilliCPU), byID(b, a))
	})
	offer := biggest.host.Facts.Offer
	r := because(millrace.WaitTooBig, "Needs %s; the largest %s, %s, offers %s.", d.Size, hostOf(d), biggest.host.Name, offer)
	r.Remedy = fmt.Sprintf("Ask for at most %s in runs-on, or add a larger host.", offer)
	return r
}

// hostsAway is why none of the hosts that could run a job takes one.
func hostsAway(hosts []*free) millrace.WaitReason {
	var why, start, enable, see []string
	sorted := slices.SortedFunc(slices.Values(hosts), func(a, b *free) int {
		return cmp.Or(strings.Compare(a.host.Name, b.host.Name), byID(a, b))
	})
	for _, f := range sorted {
		h := f.host
		switch {
		case h.Admin != millrace.HostEnabled:
			why = append(why, h.Name+" is "+string(h.Admin))
			enable = append(enable, h.Name)
		case f.status == millrace.StatusOnline:
			why = append(why, h.Name+" takes none: "+h.Refuses)
			see = append(see, h.Name)
		default:
			why = append(why, h.Name+" is offline since "+h.SeenAt.UTC().Format("2 Jan, 15:04 UTC"))
			start = append(start, h.Name)
		}
	}
	r := because(millrace.WaitHostUnavailable, "No host that could run it takes jobs now: %s.", join(why, "and"))
	var remedies []string
	if len(see) > 0 {
		remedies = append(remedies, "see to "+join(see, "or"))
	}
	if len(start) > 0 {
		remedies = append(remedies, "start the agent on "+join(start, "or"))
	}
	if len(enable) > 0 {
		remedies = append(remedies, "enable "+join(enable, "or")+" again")
	} else if len(see) == 0 { // only silent ones
		remedies = append(remedies, "look why it can't reach this server")
	}
	r.Remedy = strings.Join(remedies, ", or ") + "."
	r.Remedy = strings.ToUpper(r.Remedy[:1]) + r.Remedy[1:]
	return r
}

// noCapacity is what the hosts of l lack for d.
func noCapacity(l *line, d millrace.Demand) (r millrace.WaitReason) {
	f := l.roomiest(d.Size.MemoryMB)
	if f.kept != nil && f.left.Holds(d.Size.Room()) {
		r = because(millrace.WaitNoCapacity, "What is free on %s is kept for a job of %s that has waited for long and needs %s.", f.host.Name, f.kept.Repository, f.kept.Demand.Size)
		return r
	}
	cpu, memory := words(d.Size)
	open := f.open()
	freeCPU, freeMemory := words(open.Size)
	shorter := "less than " + memory + " in runs-on"
	switch {
	case open.MemoryMB == 0:
		full, atMost := l.full()
		r = because(millrace.WaitNoCapacity, "Needs %s; %s.", memory, full)
		if atMost {
			shorter = "more for --max-vms there"
		}
	case open.MemoryMB < d.Size.MemoryMB:
		r = because(millrace.WaitNoCapacity, "Needs %s; the largest free slot on %s is %s, on %s.", memory, aHost(d), freeMemory, f.host.Name)
	case open.MilliCPU == 0:
		shorter = "less than " + cpu + " in runs-on"
		r = because(millrace.WaitNoCapacity, "Needs %s; no CPU is free on %s where %s is free.", cpu, aHost(d), memory)
	default:
		shorter = "less than " + cpu + " in runs-on"
		r = because(millrace.WaitNoCapacity, "Needs %s beside %s; the most that is free on %s is %s, on %s.", cpu, memory, aHost(d), freeCPU, f.host.Name)
	}
	r.Remedy = "It starts by itself when enough is free. Another " + hostOf(d) + ", or " + shorter + ", shortens the wait."
	return r
}

// full says that all of the line's hosts are: "no memory is free on a1". atMost: some run as many VMs as they may.
func (l *line) full() (text string, atMost bool) {
	if l.isFull == "" {
		var memory, vms []string
		for _, f := range l.hosts {
			if f.left.VMs < 1 {
				vms = append(vms, f.host.Name)
			} else {
				memory = append(memory, f.host.Name)
			}
		}
		slices.Sort(memory)
		slices.Sort(vms)
		var texts []string
		if len(memory) > 0 {
			texts = append(texts, "no memory is free on "+join(memory, "and"))
		}
		switch len(vms) {
		case 0:
		case 1:
			texts = append(texts, vms[0]+" runs as many VMs at once as its owner allows")
		default:
			texts = append(texts, join(vms, "and")+" run as many VMs at once as their owners allow")
		}
		l.isFull, l.atMost = strings.Join(texts, ", and "), len(vms) > 0
	}
	return l.isFull, l.atMost
}

// words are the two halves of a size: "4 vCPU" and "16 GB".
func words(s millrace.Size) (cpu, memory string) {
	cpu, memory, _ = strings.Cut(s.String(), ", ")
	return cpu, memory
}

// keptFree is that f is kept free for a job, and what it lacks.
func keptFree(f *free, lacks *verdict) *verdict {
	v := &verdict{line: lacks.line}
	v.say = func() {
		if lacks.say != nil {
			lacks.say()
			lacks.say = nil
		}
		v.reason = because(millrace.WaitHostKept, "%s is kept free for it. %s", f.host.Name, lacks.reason.Text)
	}
	return v
}

// atLimit is that the repository of j has all the VMs that it may have.
func atLimit(repo *repository, j *millrace.Job) *verdict {
	r := because(millrace.WaitRepositoryLimit, "%s may have %d VMs at once, and has them.", j.Repository, repo.share.Limit)
	if repo.share.Limit == 1 {
		r.Text = j.Repository + " may have one VM at once, and has it."
	}
	return &verdict{reason: r, line: &line{of: j.RepositoryID, debt: repo.turns - repo.share.Limit}}
}

func noSlot(policy Policy) *verdict {
	r := because(millrace.WaitPlanLimit, "All %d slots of the plan are in use.", policy.Concurrency)
	if policy.Concurrency == 1 {
		r.Text = "The plan's one slot is in use."
	}
	return &verdict{reason: r, line: &line{debt: -policy.Slots}}
}

func noJIT(budget Budget, at time.Time) *verdict {
	r := because(millrace.WaitRateLimited, "GitHub allows %d runner registrations a minute for %s, and they are used up.", millrace.JITPerMinute, budget.Owner)
	r.Remedy = "It goes on by itself: registrations are spread over the minute."
	return &verdict{reason: r, line: &line{rate: &rate{from: at, basis: fmt.Sprintf("GitHub allows %d registrations a minute", millrace.JITPerMinute)}}}
}

// retry is why a job whose VMs did not come up gets no other one yet. When it does is in the estimate: a text that counts
// down would be another one at each pass.
func (p *placing) retry(j *millrace.Job) *verdict {
	low, _, high := p.past.boot()
	if j.Tries == 0 {
		r := because(millrace.WaitForGitHub, "Its VM ran a job of which GitHub has not told yet. GitHub is being asked whether this one still waits.")
		r.Estimate = &millrace.Estimate{From: p.now, To: j.RetryAt.Add(high), Basis: "GitHub's answer, or the end of the pause without one; then a VM boots"}
		return &verdict{reason: r}
	}
	failure := "Its VM ended before it was online"
	if j.Failure != "" {
		failure += ": " + strings.TrimSuffix(j.Failure, ".")
	}
	r := because(millrace.WaitRetry, "%s. After a pause comes try %d.", failure, j.Tries+1)
	tries := "1 failed try"
	if j.Tries != 1 {
		tries = fmt.Sprintf("%d failed tries", j.Tries)
	}
	r.Estimate = &millrace.Estimate{From: j.RetryAt.Add(low), To: j.RetryAt.Add(high), Basis: "the pause after " + tries + ", then a VM boots"}
	return &verdict{reason: r}
}

func booting(text string, e *millrace.Estimate) millrace.WaitReason {
	r := because(millrace.WaitBooting, "%s", text)
	r.Estimate = e
	return r
}

// booting is that a VM boots on f from now on.
func (f *free) booting(p *millrace.Pass) millrace.WaitReason {
	if f.boots == nil {
		r := booting("A VM boots for it on "+f.host.Name+".", boot(*p, f.host.ID, f.host.Name, p.Now))
		f.boots = &r
	}
	return *f.boots
}

// boot is when a VM that was placed on a host at time at is likely to be online; nil when nothing is known of the host.
func boot(p millrace.Pass, host millrace.HostID, name string, at time.Time) *millrace.Estimate {
	d, ok := p.Boots[host]
	if !ok {
		return nil
	}
	e := millrace.Estimate{From: later(at.Add(d.P50), p.Now), To: later(at.Add(d.P90), p.Now)}
	if d.N == 1 {
		e.Basis = fmt.Sprintf("the last VM on %s was online after %.1f s", name, d.P50.Seconds())
	} else {
		e.Basis = fmt.Sprintf("half of the last %d VMs on %s were online after %.1f s, nine in ten after %.1f s", d.N, name, d.P50.Seconds(), d.P90.Seconds())
	}
	return &e
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func hostNames(hosts []millrace.Host) map[millrace.HostID]string {
	names := make(map[millrace.HostID]string, len(hosts))
	for i := range hosts {
		names[hosts[i].ID] = hosts[i].Name
	}
	return names
}
