package web

import (
	"net/http"
	"net/url"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

// incidentsView is what the incidents page shows: those that are open, then those that are over, each newest first.
type incidentsView struct {
	Path         string // without query
	Jobs         string // the jobs page
	Query        url.Values
	Open, Closed store.IncidentPage
	ShowOpen     bool // not on later pages of those that are over
	ShowClosed   bool // not on later pages of those that are open
	Now          time.Time
}

// Where a page of incidents begins; without either, both lists are shown from their beginnings.
const (
	openCursor   = "open"
	closedCursor = "cursor"
)

func (s *server) incidents(w http.ResponseWriter, r *http.Request, v visit) error {
	q := r.URL.Query()
	view := incidentsView{
		Path: r.URL.Path, Jobs: "/o/" + v.Org.Slug + "/jobs", Query: q, Now: s.Now(),
		ShowOpen: q.Get(closedCursor) == "", ShowClosed: q.Get(openCursor) == "",
	}
	if !view.ShowOpen && !view.ShowClosed {
		return millrace.Errorf(millrace.Invalid, "The address has places in two lists, %q and %q; there is one at a time.", openCursor, closedCursor)
	}
	org := s.Store.Org(v.Org.OrgID)
	var err error
	if view.ShowOpen {
		if view.Open, err = org.Incidents(r.Context(), store.IncidentFilter{Open: true, Cursor: q.Get(openCursor)}); err != nil {
			return err
		}
	}
	if view.ShowClosed {
		if view.Closed, err = org.Incidents(r.Context(), store.IncidentFilter{Closed: true, Cursor: q.Get(closedCursor)}); err != nil {
			return err
		}
	}
	f, err := s.frame(r, v, "Incidents", "incidents")
	if err != nil {
		return err
	}
	if partial(r) {
		return render(w, r, http.StatusOK, ui.Part(f, incidentList(view)))
	}
	return render(w, r, http.StatusOK, incidentsPage(f, view))
}

// here is the path with its query: what the live part is fetched from.
func (v incidentsView) here() string { return with(v.Path, v.Query) }

func (v incidentsView) from(list, cursor string) string {
	return with(v.Path, url.Values{list: {cursor}})
}

// first reports whether both lists are shown from their beginnings.
func (v incidentsView) first() bool { return v.ShowOpen && v.ShowClosed }

// none reports whether there never was an incident.
func (v incidentsView) none() bool {
	return v.first() && len(v.Open.Incidents) == 0 && len(v.Closed.Incidents) == 0
}

// waitingJobs is where the jobs that i stops are among those that wait.
func (v incidentsView) waitingJobs(i millrace.Incident) string {
	q := url.Values{"status": {string(millrace.JobQueued)}}
	if i.RepositoryID != 0 {
		q.Set("repository", i.Repository)
	}
	return with(v.Jobs, q)
}
