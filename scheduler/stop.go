package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ci/millrace"
)

// stop is an incident that holds, or a zone's rule, and what it does to the jobs that it stops.
type stop struct {
	millrace.Incident
	verdict verdict
	title   string
	halts   bool // no runner can be registered; otherwise only a later try can
	shuns   bool // GitHub gives its jobs to no runner that is registered either
}

// stops are what stops jobs.
type stops struct {
	incidents map[int64][]*stop // of each installation, the one that counts first
	settings  *millrace.PlacementSettings
	zones     map[zoned]*stop // what the rules of zones stop, as it is met
}

// zoned is what a zone's rule stops: all jobs of a zone, or those of a size.
type zoned struct {
	code millrace.WaitCode
	zone millrace.Zone
	size millrace.Size
}

// stopped finds what stops jobs. An installation that is suspended has the incident of that, also when none was opened.
func stopped(p millrace.Pass) stops {
	all := map[int64][]*stop{}
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
	return stops{all, &p.Settings, map[zoned]*stop{}}
}

// of is the stop that j waits for; nil when nothing stops it. What lasts until somebody acts comes before what only delays.
func (s stops) of(j *millrace.Job) *stop {
	if code := s.settings.Refuses(j.Zone, j.Private); code != "" {
		return s.zone(zoned{code: code, zone: j.Zone}, j)
	}
	if !s.settings.Zone(j.Zone).Holds(j.Demand.Size) {
		return s.zone(zoned{millrace.WaitZoneSize, j.Zone, j.Demand.Size}, j)
	}
	for _, stop := range s.incidents[j.InstallationID] {
		if stop.Stops(j.InstallationID, j.RepositoryID) {
			return stop
		}
	}
	if !j.ZoneKnown {
		return s.zone(zoned{code: millrace.WaitZoneUnknown}, j)
	}
	return nil
}

// zone is what stops j and all jobs alike. GitHub would give them to a runner that is registered, too, so none must be.
func (s stops) zone(z zoned, j *millrace.Job) *stop {
	if known := s.zones[z]; known != nil {
		return known
	}
	r := because(z.code, "")
	switch z.code {
	case millrace.WaitPublicOff:
		r.Text = "This org runs no jobs of public repositories."
	case millrace.WaitForksOff:
		r.Text = "This org runs no pull requests from forks."
	case millrace.WaitZoneSize:
		r.Text = fmt.Sprintf("Needs %s; jobs of %s may have %s.", j.Demand.Size, z.zone.Jobs(), atMost(s.settings.Zone(z.zone).MaxSize))
	default:
		r.Text = "GitHub is being asked whether it comes from a fork."
	}
	stop := &stop{title: z.code.Title(), verdict: verdict{reason: r}, halts: true, shuns: true}
	s.zones[z] = stop
	return stop
}

// atMost is a largest size in words; a half of 0 has no limit.
func atMost(s millrace.Size) string {
	cpu, memory := words(s)
	switch {
	case s.MilliCPU == 0:
		return memory + " at the most"
	case s.MemoryMB == 0:
		return cpu + " at the most"
	}
	return cpu + " and " + memory + " at the most"
}

// bars reports whether s keeps v, which runs nothing, from running the job that s stops.
func (s *stop) bars(v *millrace.VM) bool {
	return s != nil && s.halts && (unregistered(v) || s.shuns && idle(v))
}

// asksAgain is when GitHub is asked again, if it is known and to come; GitHub names such a time for its rate limits only.
func (s *stop) asksAgain(now time.Time) (at time.Time, ok bool) {
	return s.ProbeAt, s.Code == millrace.WaitRateLimited && s.ProbeAt.After(now)
}
