package millrace

import "time"

// FirstSteps are the facts by which an org's checklist of first steps is shown.
type FirstSteps struct {
	Hidden        bool // somebody put the checklist away
	Installations int  // linked, and neither suspended nor deleted
	Repositories  int  // that they may see
	// Token is the latest enrollment token that can still be used, TokenMade whether there ever was one.
	Token       *EnrollmentToken
	TokenMade   bool
	Hosts       int
	HostsOnline int
	HostSeenAt  time.Time // when any host was last heard; zero: none was
	FirstJob    *StepJob  // the first with a label of ours
	FirstGreen  *StepJob  // the first that ended with success
	// Causes are why it may not go on: the codes of open incidents, then those that the last ten jobs wait for, each once.
	Causes []WaitCode
}

// StepJob is a job that a step is about.
type StepJob struct {
	ID          JobID
	Status      JobStatus
	Conclusion  string
	QueuedAt    time.Time
	CompletedAt time.Time // zero while it is open
}
