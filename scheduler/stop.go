package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
)

// stop is an incident that holds and what it does to the jobs that it stops.
type stop struct {
	millrace.Incident
	verdict verdict
	title   string
	halts   bool // no runner can be registered; otherwise only a later try can
	shuns   bool // GitHub gives its jobs to no runner that is registered either
}

// stops are the incidents of each installation, the one that counts first.
type stops map[int64][]*stop

// stopped finds what stops jobs. An installation that is suspended has the incident of that, also when none was opened.
func stopped(p millrace.Pass) stops {
	all := make(stops)
	add := func(i millrace.Incident) {
		all[i.InstallationID] = append(all[i.InstallationID], &stop{
			Incident: i, title: i.Code.Title(),
			verdict: verdict{reason: millrace.WaitReason{Code: i.Code, Text: i.Text(), Remedy: i.Remedy()}},
			halts:   i.Code != millrace.WaitRateLimited && i.Code != millrace.WaitGitHubDown,
			shuns:   i.Code == millrace.WaitRunnerGroup && i.RepositoryID != 0,
		})
	}
	for _, i := range p.Incidents {
		add(i)
	}
	for _, i := range p.Installations {
		known := func(s *stop) bool { return s.Code == millrace.WaitSuspended && s.Open() && s.RepositoryID == 0 }
		if !i.SuspendedAt.IsZero() && !slices.ContainsFunc(all[i.ID], known) {
			add(millrace.Incident{Code: millrace.WaitSuspended, InstallationID: i.ID, Owner: i.OwnerLogin, OpenedAt: i.SuspendedAt})
		}
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b *stop) int {
			return cmp.Or(
				cmp.Compare(slices.Index(millrace.WaitCodes, a.Code), slices.Index(millrace.WaitCodes, b.Code)),
				a.OpenedAt.Compare(b.OpenedAt), slices.Compare(a.ID[:], b.ID[:]),
			)
		})
	}
	return all
}

// of is the stop that j waits for; nil when nothing stops it. What halts comes before what only delays.
func (s stops) of(j *millrace.Job) *stop {
	for _, stop := range s[j.InstallationID] {
		if stop.Stops(j.InstallationID, j.RepositoryID) {
			return stop
		}
	}
	return nil
}

// bars reports whether s keeps v, which runs nothing, from running the job that s stops.
func (s *stop) bars(v *millrace.VM) bool {
	return s != nil && s.halts && (unregistered(v) || s.shuns && v.State != millrace.VMBusy && v.State != millrace.VMLost)
}

// asksAgain is when GitHub is asked again, if it is known and to come; GitHub names such a time for its rate limits only.
func (s *stop) asksAgain(now time.Time) (at time.Time, ok bool) {
	return s.ProbeAt, s.Code == millrace.WaitRateLimited && s.ProbeAt.After(now)
}
