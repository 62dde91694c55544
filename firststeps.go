package millrace

import "time"

// FirstSteps are the facts by which an org's checklist of first steps is shown.
type FirstSteps struct {
	Hidden        bool         // somebody put the checklist away
	Installations int          // linked, and neither suspended nor deleted
	HeardAt       time.Time    // the last delivery of any of them, to within a minute; zero: none came
	Repositories  int          // that they may see
	Some          []Repository // up to [SomeRepositories] of them, by name
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

// SomeRepositories is how many repositories a checklist proposes to begin with.
const SomeRepositories = 8

// Done is how many of the steps are taken, in order: the App is installed, a host added, it is online, a job came for it, and
// one ended well.
func (f FirstSteps) Done() int {
	n := 0
	for _, done := range [AllSteps]bool{f.Installations > 0, f.Hosts > 0, f.HostsOnline > 0 || f.FirstJob != nil, f.FirstJob != nil, f.FirstGreen != nil} {
		if !done {
			break
		}
		n++
	}
	return n
}

// AllSteps is how many steps there are.
const AllSteps = 5

// RunsOn is what a workflow's runs-on says for a VM of the org's default size. Pull requests of forks stay on GitHub's runners
// where there can be such, in a public repository: what they run is anybody's
// (docs.github.com, "Contexts reference": github.event is the webhook's payload; head.repo.fork is its pull request's).
func RunsOn(prefix string, arch Arch, public bool) string {
	ours, hosted := prefix, "ubuntu-latest"
	if arch == ARM64 {
		ours, hosted = prefix+"-arm64", "ubuntu-24.04-arm"
	}
	if !public {
		return "runs-on: " + ours
	}
	return "runs-on: ${{ github.event.pull_request.head.repo.fork && '" + hosted + "' || '" + ours + "' }}"
}

// StepJob is a job that a step is about.
type StepJob struct {
	ID          JobID
	Status      JobStatus
	Conclusion  string
	QueuedAt    time.Time
	CompletedAt time.Time // zero while it is open
}
