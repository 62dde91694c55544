package millrace

import "time"

// Pass is all that one placement decision for one org may look at, read in one transaction after every VM was tied to
// the job that GitHub says its runner runs. Every list is ordered by the ID of its rows, so that the same pass gives the
// same decision.
type Pass struct {
	Now           time.Time
	Org           Org
	Jobs          []Job // queued
	VMs           []VM  // live, including those that are being retired
	Hosts         []Host
	Installations []InstallationBudget
	Incidents     []Incident // open

	// What estimates rest on; what nothing is known of is left out.
	Runs  map[VMID]Durations   // of a busy VM's job, over its past runs
	Queue map[JobID]Durations  // of a queued job, over its past runs
	Boots map[HostID]Durations // from placed to online, over the host's last VMs
}

// InstallationBudget is an installation and how many JIT configs it may still make at Pass.Now.
type InstallationBudget struct {
	Installation
	JITLeft float64
}

// Decision is what a placement pass changes.
type Decision struct {
	Cover  []Binding            // VMs that now stand for another job than the one they were launched for
	Place  []Placement          // new VMs
	Retire []Retirement         // VMs that no job needs
	Wait   map[JobID]WaitReason // for every queued job without a VM: why
	// NextAt is when the same facts would give another decision (a backoff ends, the JIT budget refills, GitHub is asked
	// again); zero: never. That estimates move with time is no other decision: any later pass renews them.
	NextAt time.Time
}

// Binding makes a VM stand for a job.
type Binding struct {
	VMID  VMID
	JobID JobID
	Wait  WaitReason // as in [Placement]
}

// Placement is a new VM for a job on a host.
type Placement struct {
	JobID  JobID
	HostID HostID
	Arch   Arch       // the job's, or the host's where the job takes any
	Wait   WaitReason // that its VM boots, and when it is likely to be online
}

// Retirement is a VM to unregister and stop, and why.
type Retirement struct {
	VMID   VMID
	Reason string
}
