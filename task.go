package millrace

// A task is background work: its arguments are its identity, and doing it twice is as good as once. Use
// cases write tasks to the outbox in their own transaction; the workers relay and run them.

// CloseJob writes the closed facts of a completed job, which insights read.
type CloseJob struct {
	OrgID OrgID `json:"org_id"`
	JobID JobID `json:"job_id"`
}

// Kind is the task's name.
func (CloseJob) Kind() string { return "job.close" }

// RetireVM removes a VM's registration at GitHub and then, if the VM still exists, lets its host destroy it. A busy
// runner (GitHub answers 422) is left alone.
type RetireVM struct {
	OrgID OrgID `json:"org_id"`
	VMID  VMID  `json:"vm_id"`
}

// Kind is the task's name.
func (RetireVM) Kind() string { return "vm.retire" }

// CheckRunnerGroup looks whether the runner group is why GitHub gave the runner that was meant for a job none.
type CheckRunnerGroup struct {
	OrgID OrgID `json:"org_id"`
	JobID JobID `json:"job_id"`
}

// Kind is the task's name.
func (CheckRunnerGroup) Kind() string { return "runner_group.check" }

// EraseOrg erases a deleted org once its VMs are gone: consoles, rows and all. It is repeated until nothing is left.
type EraseOrg struct {
	OrgID OrgID `json:"org_id"`
}

// Kind is the task's name.
func (EraseOrg) Kind() string { return "org.erase" }

// FindDeletedOrgs has the orgs erased that should be by now.
type FindDeletedOrgs struct{}

// Kind is the task's name.
func (FindDeletedOrgs) Kind() string { return "orgs.find_deleted" }

// KeepPartitions makes the partitions of the coming two months and drops those past retention.
type KeepPartitions struct{}

// Kind is the task's name.
func (KeepPartitions) Kind() string { return "partitions.keep" }

// FindLostHosts marks the VMs of silent hosts as lost and wakes the placer.
type FindLostHosts struct{}

// Kind is the task's name.
func (FindLostHosts) Kind() string { return "hosts.find_lost" }

// SweepDeliveries has GitHub deliver again what failed since the last sweep.
type SweepDeliveries struct{}

// Kind is the task's name.
func (SweepDeliveries) Kind() string { return "deliveries.sweep" }

// PollRepositories reads the open jobs of the repositories whose poll is due.
type PollRepositories struct{}

// Kind is the task's name.
func (PollRepositories) Kind() string { return "repositories.poll" }

// GiveUpJobs completes the jobs that GitHub knows no more.
type GiveUpJobs struct{}

// Kind is the task's name.
func (GiveUpJobs) Kind() string { return "jobs.give_up" }

// WatchVMs retires VMs that should have got further by now.
type WatchVMs struct{}

// Kind is the task's name.
func (WatchVMs) Kind() string { return "vms.watch" }

// SweepRunners removes registrations at GitHub whose VM is gone.
type SweepRunners struct{}

// Kind is the task's name.
func (SweepRunners) Kind() string { return "runners.sweep" }

// ReadMembers reads who belongs to the organisations whose members were not read for a while.
type ReadMembers struct{}

// Kind is the task's name.
func (ReadMembers) Kind() string { return "members.read" }

// ProbeIncidents looks whether the conditions of open incidents still hold.
type ProbeIncidents struct{}

// Kind is the task's name.
func (ProbeIncidents) Kind() string { return "incidents.probe" }
