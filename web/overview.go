package web

import (
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// overviewView is what the overview shows: what is now, and the newest jobs.
type overviewView struct {
	Path   string
	Counts map[millrace.JobStatus]int // completed: within 24 h
	Org    millrace.Org
	Hosts  []store.HostRow // nil for who may not see hosts
	Jobs   jobsView        // the newest, for who may see jobs
	Steps  stepsView
	Now    time.Time
}

// newestJobs is how many jobs the overview shows.
const newestJobs = 8

func (s *server) overview(w http.ResponseWriter, r *http.Request, v visit) error {
	org := s.Store.Org(v.Org.OrgID)
	view := overviewView{Path: v.path("/"), Now: s.Now(), Jobs: jobsView{Path: v.path("/jobs"), Now: s.Now()}}
	var err error
	if view.Org, err = s.Store.OrgBySlug(r.Context(), v.Org.Slug); err != nil {
		return err
	}
	if view.Counts, err = org.JobCounts(r.Context()); err != nil {
		return err
	}
	if v.By.May(millrace.HostsRead) {
		if view.Hosts, err = org.Hosts(r.Context()); err != nil {
			return err
		}
	}
	if v.By.May(millrace.JobsRead) {
		if view.Jobs.Page, err = org.Jobs(r.Context(), store.JobFilter{Limit: newestJobs}); err != nil {
			return err
		}
	}
	if view.Steps, err = s.firstSteps(r, v, view.Hosts); err != nil {
		return err
	}
	f, err := s.frame(r, v, "Overview", "overview")
	if err != nil {
		return err
	}
	return live(w, r, f, overviewNow(v, f, view), overviewPage(f, v, view))
}
