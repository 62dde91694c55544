package millrace_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

// The table in the docs is made from the code, so that the two cannot differ.
func TestWaitingDoc(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# Why a job waits

Every queued job has one reason: a code, what it waits for with its numbers, what a person can do, and, where it can be
known, when it is likely to start. The words are the same on the job's page, in the API (` + "`wait`" + `) and in
` + "`millrace jobs show`" + `. Of several reasons a job has the one that comes first here; those marked with an asterisk are
incidents: conditions at GitHub that stop all jobs of an installation or a repository. They are on the Incidents page and
under ` + "`/api/v1/orgs/{org}/incidents`" + `, open and close by themselves, and cost a job no try. ` + "`zone_mismatch`" + ` alone tells of what
has happened, and stops nothing. ` + "`make generate`" + ` makes this from the code.

| code | what it is | what to do | what an estimate rests on |
| --- | --- | --- | --- |
`)
	for _, c := range millrace.WaitCodes {
		mark := ""
		if c.IsIncident() {
			mark = " *"
		}
		fmt.Fprintf(&b, "| `%s`%s | %s | %s | %s |\n", c, mark, c.Title(), c.Remedy(), c.Basis())
	}
	b.WriteString(`
## How an estimate is made

Jobs that wait for the same stand in a line, in the order in which placement takes them: the repositories in turn, the one
with the fewest VMs for its priority first, each one's oldest job first. The line is played through 17 times, one of
thousands of jobs less often, but 5 times at least. In each play every job that
runs, and every job in line, takes as long as one of its past runs may: run times are taken as log-normal with the median
and the nine-in-ten of the job's last 50 successful runs, given how long it has run already, and less certain the fewer
runs there were. Jobs that never ran count as the org's typical one. The range is from the earliest to the latest start of
all plays.

A test plays queues on one slot, on many and on full hosts: of the jobs that had an estimate when they began to wait, at
least 80 % start within it. What nobody can know is left out: jobs that come later and go first, because their repository
has fewer VMs or because they are small enough for what is free, and hosts that are kept free for large jobs.

Nothing is estimated where nothing is known, and where the wait lasts until somebody acts. An estimate is stored anew when
it has moved by more than a fifth of the time that is left, and 5 s.
`)
	sameDoc(t, "docs/waiting.md", b.String())
}

// Every code is listed, and everything is said of it.
func TestWaitCodes(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "job.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if name, ok := spec.Type.(*ast.Ident); ok && name.Name == "WaitCode" {
				declared += len(spec.Names)
			}
		}
		return true
	})
	if declared == 0 || declared != len(millrace.WaitCodes) {
		t.Errorf("%d codes are declared and %d listed", declared, len(millrace.WaitCodes))
	}
	seen := map[millrace.WaitCode]bool{}
	for _, c := range millrace.WaitCodes {
		if seen[c] || c.Title() == "" || c.Remedy() == "" || c.Basis() == "" || c.IsIncident() != slices.Contains(millrace.IncidentCodes, c) {
			t.Errorf("%s is listed twice, or something of it isn't said", c)
		}
		seen[c] = true
	}
}

func TestEstimateIn(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for want, e := range map[string][2]time.Duration{
		"within 40 s":                            {0, 40 * time.Second},
		"in 2–4 s":                               {2100 * time.Millisecond, 3400 * time.Millisecond},
		"in 30–119 s":                            {30 * time.Second, 119 * time.Second},
		"within 3 min":                           {30 * time.Second, 130 * time.Second},
		"in 2–5 min":                             {2 * time.Minute, 5 * time.Minute},
		"in about 5 min":                         {5 * time.Minute, 5 * time.Minute},
		"in 1–3 h":                               {110 * time.Minute, 130 * time.Minute},
		"in 2–4 d":                               {60 * time.Hour, 80 * time.Hour},
		"any moment; it takes longer than usual": {-time.Minute, -time.Second},
		"within 1 s":                             {-time.Minute, time.Millisecond},
	} {
		got := millrace.Estimate{From: now.Add(e[0]), To: now.Add(e[1])}.In(now)
		if got != want {
			t.Errorf("%s to %s: %q, want %q", e[0], e[1], got, want)
		}
	}
}

// A queued job always has a reason and a remedy, however far its VM is.
func TestWaiting(t *testing.T) {
	t.Parallel()
	id := millrace.JobID{15: 1}
	placed := millrace.WaitReason{Code: millrace.WaitBooting, Text: "A VM boots for it on rack-2.", Remedy: "Nothing.", Estimate: &millrace.Estimate{Basis: "x"}}
	full := millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: "Full."}
	vm := func(state millrace.VMState, runner int64) *millrace.VM {
		return &millrace.VM{ForJob: id, State: state, RunnerID: runner}
	}
	for name, tc := range map[string]struct {
		stored   millrace.WaitReason
		vm       *millrace.VM
		code     millrace.WaitCode
		text     string
		estimate bool
	}{
		"not decided":        {millrace.WaitReason{}, nil, millrace.WaitUnknown, "It is about to be placed.", false},
		"no room":            {full, nil, millrace.WaitNoCapacity, "Full.", false},
		"pending":            {placed, vm(millrace.VMPending, 0), millrace.WaitBooting, "A VM boots for it on rack-2.", true},
		"booting, old words": {full, vm(millrace.VMBooting, 0), millrace.WaitBooting, "A VM boots for it.", false},
		"registered":         {placed, vm(millrace.VMBooting, 7), millrace.WaitRegistering, "Its VM boots, and its runner is registered at GitHub and about to connect.", true},
		"online":             {placed, vm(millrace.VMOnline, 7), millrace.WaitForGitHub, "Its runner is online; GitHub is about to give it the job.", false},
		"busy":               {placed, vm(millrace.VMBusy, 7), millrace.WaitForGitHub, "Its runner is at work; GitHub is about to say on which job.", false},
		"lost":               {placed, vm(millrace.VMLost, 7), millrace.WaitHostUnavailable, "The host of its VM went silent. It gets another VM once GitHub has removed that one's runner.", false},
		"gone":               {placed, vm(millrace.VMGone, 0), millrace.WaitUnknown, "Its VM ended. It is about to be placed again.", false},
		"gone, retried":      {full, vm(millrace.VMGone, 0), millrace.WaitNoCapacity, "Full.", false},
	} {
		w := millrace.Job{ID: id, Status: millrace.JobQueued, Wait: tc.stored}.Waiting(tc.vm)
		if w.Code != tc.code || w.Text != tc.text || w.Remedy == "" || (w.Estimate != nil) != tc.estimate {
			t.Errorf("%s: %+v", name, w)
		}
	}
	if w := (millrace.Job{ID: id, Status: millrace.JobInProgress, Wait: full}).Waiting(nil); w != (millrace.WaitReason{}) {
		t.Errorf("a job that runs waits for %+v", w)
	}
}

func TestIncidentText(t *testing.T) {
	t.Parallel()
	i := millrace.Incident{
		Code: millrace.WaitIPAllowList, Owner: "calm", Repository: "calm/app",
		OpenedAt: time.Date(2026, 3, 1, 9, 5, 0, 0, time.UTC), Detail: "\x1b[31mNo\n\tway\u202e.\u200b" + strings.Repeat("!", 1000),
	}
	want := "The organisation's IP allow list refuses Millrace (calm), since 1 Mar 2026, 09:05 UTC. GitHub said: “[31mNo way." + strings.Repeat("!", 288) + "…”"
	if diff := cmp.Diff(want, i.Text()); diff != "" {
		t.Error(diff)
	}
	i.RepositoryID, i.Detail = 7, " "
	if got := i.Text(); got != "The organisation's IP allow list refuses Millrace (calm/app), since 1 Mar 2026, 09:05 UTC." {
		t.Error(got)
	}
}
