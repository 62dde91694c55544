package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// stepsView is the checklist of an org's first steps.
type stepsView struct {
	millrace.FirstSteps
	Repository millrace.Repository // whose line is shown; zero: none is known
	Chosen     bool                // by the visitor
	RunsOn     string
	GitHub     string
	URL        string // of this server, as agents reach it
	PublicOff  bool   // the repository is public, and the org runs no jobs of those
	Now        time.Time
}

// firstSteps reads how far the org is. hosts are those that the visitor sees.
func (s *server) firstSteps(r *http.Request, v visit, hosts []store.HostRow) (view stepsView, err error) {
	view = stepsView{GitHub: s.GitHub, URL: s.URL, Now: s.Now()}
	if view.FirstSteps, err = s.Store.Org(v.Org.OrgID).FirstSteps(r.Context()); err != nil {
		return view, err
	}
	if len(view.Some) > 0 {
		view.Repository = view.Some[0]
	}
	chosen := slices.IndexFunc(view.Some, func(repo millrace.Repository) bool {
		return strconv.FormatInt(repo.ID, 10) == r.URL.Query().Get("repository")
	})
	if chosen >= 0 {
		view.Repository, view.Chosen = view.Some[chosen], true
	}
	if view.Repository.ID != 0 && !view.Repository.Private {
		settings, err := s.Store.Org(v.Org.OrgID).PlacementSettings(r.Context())
		if err != nil {
			return view, err
		}
		view.PublicOff = !settings.Zone(millrace.ZonePublic).Allowed
	}
	arch := millrace.AMD64
	if len(hosts) > 0 && !slices.ContainsFunc(hosts, func(h store.HostRow) bool { return h.Facts.Arch == millrace.AMD64 }) {
		arch = millrace.ARM64
	}
	view.RunsOn = millrace.RunsOn(s.Store.LabelPrefix(), arch, view.Repository.ID != 0 && !view.Repository.Private)
	return view, nil
}

// shown reports whether the checklist is on the page: until all is done, unless somebody put it away.
func (v stepsView) shown() bool { return !v.Hidden && v.Done() < millrace.AllSteps }

// query keeps the visitor's choice when the page's live part is fetched anew.
func (v stepsView) query() string {
	if !v.Chosen {
		return ""
	}
	return "?" + url.Values{"repository": {strconv.FormatInt(v.Repository.ID, 10)}}.Encode()
}

// workflows is where a repository's workflows are edited at GitHub.
func (v stepsView) workflows() string {
	return v.GitHub + "/" + (&url.URL{Path: v.Repository.FullName}).EscapedPath() + "/tree/HEAD/.github/workflows"
}

func (s *server) hideChecklist(w http.ResponseWriter, r *http.Request, v visit) error {
	if err := s.Store.Org(v.Org.OrgID).HideChecklist(r.Context(), v.By, r.PostFormValue("hidden") == "yes"); err != nil {
		return err
	}
	http.Redirect(w, r, v.path("/"), http.StatusSeeOther)
	return nil
}
