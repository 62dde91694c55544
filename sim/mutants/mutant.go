package main

// mutant is a bug: in a file, some text that occurs once is another. It is caught when the scenario whose name begins so
// fails.
type mutant struct {
	bug      string
	file     string
	old, new string
	scenario string
}

var mutants = []mutant{
	{
		"a VM that runs a job is destroyed though GitHub refused to remove its runner", "workers/task.go",
		"return w.store.KeepBusy(ctx, t.OrgID, t.VMID)", "return w.store.Unregistered(ctx, t.OrgID, t.VMID)", "9 ",
	},
	{"a VM is destroyed while its runner is registered", "workers/task.go", "if r.VM.RunnerID != 0 {", "if false {", "8 "},
	{"a job gets another VM while it has one", "scheduler/cover.go", "covered[v.ForJob] = true", "covered[v.ForJob] = v.RetireReason == \"\" && v.State == millrace.VMOnline", "2 "},
	{"a VM that nobody needs is kept", "scheduler/cover.go", `d.Retire = append(d.Retire, millrace.Retirement{VMID: v.ID, Reason: "Its job no longer needs it."})`, "_ = names", "18 "},
	{"a VM's end wakes nobody", "store/host.go", "\t\t\ttx.announceRoom(o.id)\n", "", "5 a place"},
	{"an idle runner is never given up", "vm.go", "case v.State == VMOnline && since(v.Stamps.Online) >= assignedWithin:", "case false:", "13, 14"},
	{"the latest event decides the status", "store/intake.go", "greatest(jobs.status, excluded.status)", "excluded.status", "17 "},
	{"a completed job that a poll finds is not closed", "store/intake.go", "if *after == millrace.JobCompleted {", "if false {", "1 a queued"},
	{"the plan's slots are not counted", "scheduler/place.go", "\tp.policy.Slots--\n", "", "19 "},
	{"what is placed takes no room", "scheduler/place.go", "\tp.room.use(best, j.Demand.Size)\n", "", "19 "},
	{"GitHub is called while it asks not to be", "workers/gate.go", "if slices.Contains(millrace.StopsCalls, i.Code) {", "if false {", "15 "},
	{"a refusal is not kept", "workers/gate.go", "return g.store.OpenIncident(ctx, installation, 0, \"\", *c)", "return nil", "21 IP"},
	{"an incident is never closed", "workers/probe.go", "if err == nil && over {", "if err == nil && over && i.ID.IsZero() {", "21 self"},
	{"failed deliveries are left alone", "workers/sweep.go", "func worthRepeating(status int) bool { return status != 400 && status != 413 }", "func worthRepeating(status int) bool { return status == 413 }", "1 the service"},
	{"active repositories are polled once an hour", "store/poll.go", "pollActive  = time.Minute ", "pollActive  = time.Hour ", "1 a queued"},
	{"jobs that a poll does not list are not asked for", "workers/poll.go", "for _, job := range polled.Unseen {", "for _, job := range polled.Unseen[:0] {", "1 a queued"},
	{"registrations that are left over stay", "workers/sweep.go", "for _, r := range orphans {", "for _, r := range orphans[:0] {", "24 "},
	{"jobs that an incident stops are placed", "scheduler/place.go", "if stop := p.stops.of(j); stop != nil {", "if stop := p.stops.of(j); stop != nil && j.ID.IsZero() {", "21 self"},
	{"a VM that is being destroyed is destroyed again", "store/retire.go", "if v.State == millrace.VMGone || v.State == millrace.VMStopping {\n\t\t\treturn nil", "if v.State == millrace.VMGone && v.State == millrace.VMStopping {\n\t\t\treturn nil", "8 "},
	{"the pause after a failed try is hours", "store/host.go", "least(interval '5 minutes', interval '5 seconds'", "greatest(interval '5 hours', interval '5 seconds'", "4, 12"},
	{"the placer forgets when it is to look again", "workers/placer.go", "o.NextAt = sooner(o.NextAt, e.NextAt)", "o.NextAt = sooner(o.NextAt, time.Time{})", "4, 12"},
	{"an announcement during a pass is forgotten", "workers/placer.go", "if s.Orgs[e.Org] = o; o.idle() {", "o.Asked = store.Asked{}\n\t\tif s.Orgs[e.Org] = o; o.idle() {", "5 jobs"},
	{"a pass stands for what it did not see", "store/placement.go", "WHERE NOT pg_visible_in_snapshot(t.xid, snapshot)", "WHERE t.xid = '0'", "5 jobs"},
	{"a job that waits for hours is given up", "store/poll.go", "queuedAtMost    = 25 * time.Hour\n\tconfirmedFor    = time.Hour", "queuedAtMost    = 25 * time.Minute\n\tconfirmedFor    = time.Second", "7 "},
	{"a lost host is never missed", "workers/workers.go", "{Every: 5 * time.Second, Task: millrace.FindLostHosts{}},", "{Every: 5000 * time.Hour, Task: millrace.FindLostHosts{}},", "16 "},
}
