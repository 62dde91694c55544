package millrace

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// WaitCodes are all reasons to wait, in the order in which a job meets them: of several that hold it waits for the first.
var WaitCodes = []WaitCode{
	WaitLabelUnparseable, WaitPublicOff, WaitForksOff, WaitZoneSize, WaitSuspended, WaitPermission, WaitSelfHostedDisabled, WaitIPAllowList, WaitRunnerGroup, WaitRunnerGroupFull,
	WaitRunnerVersion, WaitGitHubDown, WaitRateLimited, WaitZoneMismatch, WaitZoneUnknown, WaitRetry, WaitRepositoryLimit, WaitNoHost,
	WaitZoneHosts, WaitTooBig,
	WaitHostUnavailable, WaitHostKept, WaitNoCapacity, WaitPlanLimit, WaitBooting, WaitRegistering, WaitForGitHub, WaitUnknown,
}

// waits is what is said of the reasons that are no incidents: what they are in a few words, what a person can do, and what
// the estimate rests on. A reason's own text and remedy have the numbers and names of the job's case.
var waits = map[WaitCode]struct{ title, remedy, basis string }{
	WaitLabelUnparseable: {
		"runs-on can't be understood", "Correct runs-on in the workflow and run it again.",
		"None: it never starts.",
	},
	WaitPublicOff: {
		"Public repositories are off in this org",
		"An owner or admin allows public repositories under Settings → Placement. Anybody can propose what runs there: give such jobs hosts in a network of their own.",
		"None: it lasts until somebody acts.",
	},
	WaitForksOff: {
		"Pull requests from forks are off in this org",
		"An owner or admin allows pull requests from forks under Settings → Placement; or let them run at GitHub, by runs-on in the workflow.",
		"None: it lasts until somebody acts.",
	},
	WaitZoneSize: {
		"Larger than jobs of its zone may be",
		"Ask for a smaller size in runs-on, or have an owner or admin raise the largest size under Settings → Placement.",
		"None: it lasts until somebody acts.",
	},
	WaitZoneUnknown: {
		"GitHub is asked whether it comes from a fork",
		"Nothing to do: it goes on as soon as GitHub answers.",
		"None: it is GitHub's to say.",
	},
	WaitZoneHosts: {
		"No host for jobs of its zone",
		"Give a host what jobs of its zone take, labels or closed networks, or change what they take under Settings → Placement.",
		"None: it lasts until somebody acts.",
	},
	WaitRetry: {
		"Its last VM did not come up",
		"It is tried again by itself. The log on the job's page and the agent's on the host say what went wrong.",
		"Exact: the pause is 5 s, doubled with each try, 5 min at the most. After it the VM boots.",
	},
	WaitNoHost: {
		"No host has its labels", "Add a host with these labels, or change runs-on in the workflow.",
		"None: it lasts until somebody acts.",
	},
	WaitTooBig: {
		"Larger than any host", "Ask for a smaller size in runs-on, or add a larger host.",
		"None: it lasts until somebody acts.",
	},
	WaitHostUnavailable: {
		"Its hosts are away", "Start the agent on one of the hosts, or enable it again.",
		"None: it lasts until a host is back.",
	},
	WaitRepositoryLimit: {
		"Its repository has all the VMs that it may have",
		"It starts by itself when one of the repository's jobs ends. An owner or admin raises the limit under Settings → Placement.",
		"The job's place in line, and past runs of the repository's jobs that run and of those before it.",
	},
	WaitHostKept: {
		"A host is kept free for it", "It starts by itself when enough of the jobs on that host end: until then no other is placed there. A smaller size in runs-on shortens the wait.",
		"The same as of no_free_capacity.",
	},
	WaitNoCapacity: {
		"No host has room", "It starts by itself when a job there ends. More hosts, or a smaller size in runs-on, shorten the wait.",
		"The job's place in line, and past runs of the jobs on the hosts that suit it and of those before it.",
	},
	WaitPlanLimit: {
		"All slots are in use", "It starts by itself when one of the org's jobs ends. A larger plan has more slots.",
		"The job's place in line, and past runs of the org's jobs that run and of those before it.",
	},
	WaitBooting: {
		"A VM boots for it", "Nothing to do: a VM that does not come up is replaced by itself.",
		"How long the host's last 50 VMs took from being placed until their runner was online.",
	},
	WaitRegistering: {
		"Its runner is about to connect", "Nothing to do: a VM whose runner does not connect is replaced by itself.",
		"The same as of booting.",
	},
	WaitForGitHub: {
		"GitHub is about to assign it", "Nothing to do: GitHub gives the job to an idle runner, within seconds as a rule.",
		"None: it is GitHub's to say.",
	},
	WaitUnknown: {
		"About to be placed", "Nothing to do: the reason is known in a moment.",
		"None.",
	},
}

// Title says in a few words what c is.
func (c WaitCode) Title() string {
	if i, ok := incidents[c]; ok {
		return i.title
	}
	return waits[c].title
}

// Remedy says what a person can do about c.
func (c WaitCode) Remedy() string {
	if i, ok := incidents[c]; ok {
		return i.remedy
	}
	return waits[c].remedy
}

// Basis says what an estimate of when a job that waits for c starts rests on.
func (c WaitCode) Basis() string {
	if c == WaitRateLimited {
		return "When GitHub wants to be asked again; for runner registrations, of which GitHub allows 166 a minute for an installation, the job's place in line."
	}
	if c == WaitGitHubDown {
		return "None: it lasts until GitHub answers."
	}
	if c == WaitZoneMismatch {
		return "None: no job waits for it."
	}
	if c.IsIncident() {
		return "None: it lasts until somebody acts."
	}
	return waits[c].basis
}

// In is how soon e is in words, as of now: "in 2–5 min", "within 40 s".
func (e Estimate) In(now time.Time) string {
	from, to := e.From.Sub(now), e.To.Sub(now)
	if to <= 0 {
		return "any moment; it takes longer than usual"
	}
	unit, name := time.Second, "s"
	switch {
	case to >= 48*time.Hour:
		unit, name = 24*time.Hour, "d"
	case to >= 2*time.Hour:
		unit, name = time.Hour, "h"
	case to >= 2*time.Minute:
		unit, name = time.Minute, "min"
	}
	low, high := max(0, from)/unit, (to+unit-1)/unit // rounded away from each other
	switch low {
	case 0:
		return fmt.Sprintf("within %d %s", high, name)
	case high:
		return fmt.Sprintf("in about %d %s", high, name)
	default:
		return fmt.Sprintf("in %d–%d %s", low, high, name)
	}
}

// Waiting is why a queued job does not run yet, as people see it: placement's reason, or, when v stands for it, how far
// v is. v is the VM that is meant for the job, nil when there is none. The zero reason: the job does not wait.
func (j Job) Waiting(v *VM) WaitReason {
	if j.Status != JobQueued {
		return WaitReason{}
	}
	w := j.Wait
	meant := v != nil && v.ForJob == j.ID && v.RanJob.IsZero()
	ended := !meant || v.State == VMStopping || v.State == VMGone
	switch {
	case ended && w.Code == WaitBooting:
		w = WaitReason{Code: WaitUnknown, Text: "Its VM ended. It is about to be placed again."}
		if j.Failure != "" {
			w.Text = "Its VM ended: " + strings.TrimSuffix(j.Failure, ".") + ". It is about to be placed again."
		}
	case ended && w.Code == "":
		w = WaitReason{Code: WaitUnknown, Text: "It is about to be placed."}
	case ended:
	case v.State == VMLost:
		w = WaitReason{
			Code: WaitHostUnavailable, Text: "The host of its VM went silent. It gets another VM once GitHub has removed that one's runner.",
			Remedy: "It goes on by itself. Look whether the host and its agent are up.",
		}
	case v.State == VMOnline:
		w = WaitReason{Code: WaitForGitHub, Text: "Its runner is online; GitHub is about to give it the job."}
	case v.State == VMBusy:
		w = WaitReason{Code: WaitForGitHub, Text: "Its runner is at work; GitHub is about to say on which job."}
	case v.RunnerID != 0:
		w = WaitReason{Code: WaitRegistering, Text: "Its VM boots, and its runner is registered at GitHub and about to connect.", Estimate: w.Estimate}
	case w.Code != WaitBooting:
		w = WaitReason{Code: WaitBooting, Text: "A VM boots for it."}
	}
	if w.Remedy == "" {
		w.Remedy = w.Code.Remedy()
	}
	return w
}

// Concerns is whose jobs the incident stops: a repository's, or those of all its owner's.
func (i Incident) Concerns() string {
	if i.RepositoryID != 0 {
		return i.Repository
	}
	return i.Owner
}

// Text is the incident in words: what it is, of whom, since when, and what GitHub said.
func (i Incident) Text() string {
	s := fmt.Sprintf("%s (%s), since %s.", i.Code.Title(), i.Concerns(), i.OpenedAt.UTC().Format("2 Jan 2006, 15:04 UTC"))
	if said := i.Said(); said != "" {
		s += " GitHub said: “" + said + "”"
	}
	return s
}

// maxSaid is how much of what GitHub said is shown, in runes.
const maxSaid = 300

// Said is what GitHub said, in one line of at most 300 characters, all of them printable.
func (i Incident) Said() string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, i.Detail)
	said := []rune(strings.Join(strings.Fields(clean), " "))
	if len(said) > maxSaid {
		return string(said[:maxSaid-1]) + "…"
	}
	return string(said)
}
