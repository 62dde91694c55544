package scheduler

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// Cover matches VMs to queued jobs: a queued job is covered by at most one VM, the one that stands for it. GitHub picks
// the runner, so a VM's job may have been run by another VM, or be over; such a VM now stands for a queued job that
// nothing covers, if its runner would be given that job, and is retired otherwise. It stands for jobs of its zone only, and
// where its rule lets them run. One that is at work on a job of which
// nobody has told yet most likely runs one of those: it stands for that until it is known. A VM whose runner is yet to be
// registered while GitHub registers none for its job is retired too, and so is one whose job GitHub gives to no runner. It
// returns the queued jobs that still need a VM.
func Cover(p millrace.Pass) (d millrace.Decision, uncovered []*millrace.Job) {
	return cover(p, stopped(p))
}

func cover(p millrace.Pass, stops stops) (d millrace.Decision, uncovered []*millrace.Job) {
	needed := make(map[millrace.JobID]*millrace.Job, len(p.Jobs))
	for i := range p.Jobs {
		needed[p.Jobs[i].ID] = &p.Jobs[i]
	}
	rules := newRules(&p)
	covered := make(map[millrace.JobID]bool, len(p.VMs))
	var surplus, atWork []*millrace.VM
	for i := range p.VMs {
		v := &p.VMs[i]
		j := needed[v.ForJob]
		switch {
		case !v.RanJob.IsZero() || v.State == millrace.VMStopping:
			// It has its job, or none ever.
		case j != nil && v.RetireReason == "" && stops.of(j).bars(v):
			d.Retire = append(d.Retire, millrace.Retirement{VMID: v.ID, Reason: "Its job can't start: " + stops.of(j).title + "."})
		case j != nil && v.RetireReason == "" && idle(v) && !rules.admit(v, j.Zone):
			d.Retire = append(d.Retire, millrace.Retirement{VMID: v.ID, Reason: "Its job may not run in it by the rule of its zone."})
		case j != nil:
			// A lost VM and one that is being unregistered cover too: their job may have another VM only once it is
			// certain that this one can't take it.
			covered[v.ForJob] = true
		case v.State == millrace.VMLost || v.RetireReason != "":
			// It can't be told anything, or is retired already.
		case v.State == millrace.VMBusy:
			if p.Now.Sub(v.Stamps.Busy) < unheardFor {
				atWork = append(atWork, v)
			}
		default:
			surplus = append(surplus, v)
		}
	}
	open := make([]*millrace.Job, 0, len(p.Jobs))
	for i := range p.Jobs {
		if !covered[p.Jobs[i].ID] {
			open = append(open, &p.Jobs[i])
		}
	}
	if len(surplus) == 0 && len(atWork) == 0 {
		return d, open
	}
	kinds := byKind(open, perRepository(p.Installations), stops, rules)
	names := hostNames(p.Hosts)
	for _, v := range surplus {
		j := kinds.take(v)
		if j == nil {
			d.Retire = append(d.Retire, millrace.Retirement{VMID: v.ID, Reason: "Its job no longer needs it."})
			continue
		}
		wait := booting("A VM that another job no longer needs stands for it, on "+names[v.HostID]+".", nil)
		if v.State != millrace.VMOnline {
			wait.Estimate = boot(p, v.HostID, names[v.HostID], v.Stamps.Placed)
		}
		d.Cover = append(d.Cover, millrace.Binding{VMID: v.ID, JobID: j.ID, Wait: wait})
		covered[j.ID] = true
	}
	for _, v := range atWork {
		if j := kinds.take(v); j != nil {
			d.Cover = append(d.Cover, millrace.Binding{VMID: v.ID, JobID: j.ID, Wait: booting("A VM is at work on it, it seems; GitHub is about to say so.", nil)})
			covered[j.ID] = true
		}
	}
	for _, j := range open {
		if !covered[j.ID] {
			uncovered = append(uncovered, j)
		}
	}
	return d, uncovered
}

// rules are what zones let their jobs do, and the hosts that they speak of.
type rules struct {
	settings *millrace.PlacementSettings
	hosts    map[millrace.HostID]*millrace.Host
}

func newRules(p *millrace.Pass) rules {
	r := rules{&p.Settings, make(map[millrace.HostID]*millrace.Host, len(p.Hosts))}
	for i := range p.Hosts {
		r.hosts[p.Hosts[i].ID] = &p.Hosts[i]
	}
	return r
}

// admit reports whether a job of a zone may run in v.
func (r rules) admit(v *millrace.VM, zone millrace.Zone) bool {
	rule, host := r.settings.Zone(zone), r.hosts[v.HostID]
	return v.Zone == zone && v.Egress == rule.Egress && host != nil && host.HasLabels(rule.Asks(millrace.Demand{Arch: millrace.ArchAny}))
}

// idle reports whether v runs nothing and can be told something.
func idle(v *millrace.VM) bool { return v.State != millrace.VMBusy && v.State != millrace.VMLost }

// unheardFor is how long a job may run without anybody having told of it: within that time polls find it.
const unheardFor = 2 * time.Minute

// unregistered reports whether v's runner is yet to be registered.
func unregistered(v *millrace.VM) bool {
	return v.RunnerID == 0 && (v.State == millrace.VMPending || v.State == millrace.VMBooting)
}

// perRepository are the installations whose runners register at one repository: those of personal accounts.
func perRepository(list []millrace.InstallationBudget) map[int64]bool {
	m := map[int64]bool{}
	for _, i := range list {
		m[i.ID] = i.OwnerType != millrace.Organization
	}
	return m
}

// kind is all of a job that a runner must suit; repository is 0 where runners register at the organisation. stop is what stops
// them; nil when nothing does.
type kind struct {
	installation, repository int64
	stop                     *stop
	zone                     millrace.Zone
	arch                     millrace.Arch
	size                     millrace.Size
	labels                   string
}

// kinds are jobs that nothing covers, those of one kind together: thousands of jobs are of few kinds.
type kinds []*ofKind

type ofKind struct {
	kind
	wants []string // its labels
	rules rules
	jobs  []waitingJob
}

type waitingJob struct {
	place int // in the list of all
	job   *millrace.Job
}

func byKind(jobs []*millrace.Job, perRepository map[int64]bool, stops stops, rules rules) (list kinds) {
	known := map[kind]*ofKind{}
	for i, j := range jobs {
		k := kind{installation: j.InstallationID, zone: j.Zone, arch: j.Demand.Arch, size: j.Demand.Size, labels: strings.ToLower(strings.Join(j.Labels, ","))}
		k.stop = stops.of(j)
		if perRepository[j.InstallationID] {
			k.repository = j.RepositoryID
		}
		of, ok := known[k]
		if !ok {
			of = &ofKind{kind: k, wants: j.Labels, rules: rules}
			known[k] = of
			list = append(list, of)
		}
		of.jobs = append(of.jobs, waitingJob{i, j})
	}
	return list
}

// take removes and returns the first job that GitHub would give to v's runner; nil when there is none.
func (list kinds) take(v *millrace.VM) *millrace.Job {
	var first *ofKind
	for _, of := range list {
		if len(of.jobs) > 0 && (first == nil || of.jobs[0].place < first.jobs[0].place) && of.suits(v) {
			first = of
		}
	}
	if first == nil {
		return nil
	}
	j := first.jobs[0].job
	first.jobs = first.jobs[1:]
	return j
}

// suits reports whether GitHub would give jobs of this kind to v's runner, and v is what they asked for: same
// installation, a zone whose rule it keeps, size and repository where that is where runners register, and their labels among the runner's.
func (of *ofKind) suits(v *millrace.VM) bool {
	if v.InstallationID != of.installation || !of.rules.admit(v, of.zone) || of.repository != 0 && v.RepositoryID != of.repository {
		return false
	}
	if of.stop.bars(v) {
		return false
	}
	if v.Size != of.size || of.arch != millrace.ArchAny && v.Arch != of.arch {
		return false
	}
	for _, want := range of.wants {
		if !slices.ContainsFunc(v.Labels, func(have string) bool { return strings.EqualFold(have, want) }) {
			return false
		}
	}
	return true
}
