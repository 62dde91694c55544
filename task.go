package millrace

// A task is background work: its arguments are its identity, and doing it twice is as good as once. Use
// cases write tasks to the outbox in their own transaction; the workers relay and run them.

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

// TraceRun asks GitHub whether the jobs of a workflow run come from a fork.
type TraceRun struct {
	OrgID          OrgID `json:"org_id"`
	InstallationID int64 `json:"installation_id"`
	RunID          int64 `json:"run_id"`
}

// Kind is the task's name.
func (TraceRun) Kind() string { return "run.trace" }

// EraseOrg erases a deleted org once its VMs are gone: consoles, rows and all. It is repeated until nothing is left.
type EraseOrg struct {
	OrgID OrgID `json:"org_id"`
}

// Kind is the task's name.
func (EraseOrg) Kind() string { return "org.erase" }

// ReadInstallation reads an installation's state at GitHub: whether it is there, suspended or renamed. Of one that nobody
// here knows it is read whose it is.
type ReadInstallation struct {
	InstallationID int64 `json:"installation_id"`
}

// Kind is the task's name.
func (ReadInstallation) Kind() string { return "installation.read" }

// ReadMembers reads at GitHub who is in the organisation of an installation.
type ReadMembers struct {
	InstallationID int64 `json:"installation_id"`
	PersonID       int64 `json:"person_id,omitempty"` // GitHub's id of whom it is about; 0: anybody
}

// Kind is the task's name.
func (ReadMembers) Kind() string { return "members.read" }

// SweepInstallations reads the installations that are not as we know them.
type SweepInstallations struct{}

// Kind is the task's name.
func (SweepInstallations) Kind() string { return "installations.sweep" }

// SweepMembers reads who is in the organisations of people who are using the service.
type SweepMembers struct{}

// Kind is the task's name.
func (SweepMembers) Kind() string { return "members.sweep" }

// FindDeletedOrgs has the orgs erased that should be by now.
type FindDeletedOrgs struct{}

// Kind is the task's name.
func (FindDeletedOrgs) Kind() string { return "orgs.find_deleted" }

// KeepPartitions makes the partitions of the coming two months and drops those past retention.
type KeepPartitions struct{}

// Kind is the task's name.
func (KeepPartitions) Kind() string { return "partitions.keep" }

// ExpireLogs deletes consoles and agents' logs that are older than [LogRetention].
type ExpireLogs struct{}

// Kind is the task's name.
func (ExpireLogs) Kind() string { return "logs.expire" }

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

// ProbeIncidents looks whether the conditions of open incidents still hold.
type ProbeIncidents struct{}

// Kind is the task's name.
func (ProbeIncidents) Kind() string { return "incidents.probe" }
