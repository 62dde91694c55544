package scheduler

import (
	"slices"
	"strings"

	"github.com/millrace-ci/millrace"
)

// Cover matches VMs to queued jobs: a queued job is covered by at most one VM, the one that stands for it. GitHub picks
// the runner, so a VM's job may have been run by another VM, or be over; such a VM now stands for a queued job that
// nothing covers, if its runner would be given that job, and is retired otherwise. It returns the queued jobs that still
// need a VM.
func Cover(p millrace.Pass) (d millrace.Decision, uncovered []millrace.Job) {
	needed := make(map[millrace.JobID]bool, len(p.Jobs))
	for _, j := range p.Jobs {
		needed[j.ID] = true
	}
	covered := make(map[millrace.JobID]bool, len(p.VMs))
	var surplus []millrace.VM
	for _, v := range p.VMs {
		switch {
		case !v.RanJob.IsZero() || v.State == millrace.VMStopping:
			// It has its job, or none ever.
		case needed[v.ForJob]:
			// A lost VM and one that is being unregistered cover too: their job may have another VM only once it is
			// certain that this one can't take it.
			covered[v.ForJob] = true
		case v.State == millrace.VMBusy || v.State == millrace.VMLost || v.RetireReason != "":
			// GitHub gave it a job that we haven't heard of yet; or it can't be told anything; or it is retired already.
		default:
			surplus = append(surplus, v)
		}
	}
	for _, j := range p.Jobs {
		if !covered[j.ID] {
			uncovered = append(uncovered, j)
		}
	}
	for _, v := range surplus {
		i := slices.IndexFunc(uncovered, func(j millrace.Job) bool { return takes(v, j) })
		if i < 0 {
			d.Retire = append(d.Retire, millrace.Retirement{VMID: v.ID, Reason: "Its job no longer needs it."})
			continue
		}
		d.Cover = append(d.Cover, millrace.Binding{VMID: v.ID, JobID: uncovered[i].ID})
		uncovered = slices.Delete(uncovered, i, i+1)
	}
	return d, uncovered
}

// takes reports whether GitHub would give j to v's runner, and v is what j asked for: same installation, zone, size and
// repository where that is where runners register, and j's labels among the runner's.
func takes(v millrace.VM, j millrace.Job) bool {
	if v.InstallationID != j.InstallationID || v.Zone != j.Zone || v.RepositoryID != j.RepositoryID && ownerOf(v.Repository) != ownerOf(j.Repository) {
		return false
	}
	if v.Size != j.Demand.Size || j.Demand.Arch != millrace.ArchAny && v.Arch != j.Demand.Arch {
		return false
	}
	for _, want := range j.Labels {
		if !slices.ContainsFunc(v.Labels, func(have string) bool { return strings.EqualFold(have, want) }) {
			return false
		}
	}
	return true
}

func ownerOf(fullName string) string {
	owner, _, _ := strings.Cut(fullName, "/")
	return strings.ToLower(owner)
}
