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

// KeepPartitions makes the partitions of the coming two months and drops those past retention.
type KeepPartitions struct{}

// Kind is the task's name.
func (KeepPartitions) Kind() string { return "partitions.keep" }

// FindLostHosts marks the VMs of silent hosts as lost and wakes the placer.
type FindLostHosts struct{}

// Kind is the task's name.
func (FindLostHosts) Kind() string { return "hosts.find_lost" }
