package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// auditView is what the audit log's page shows.
type auditView struct {
	Path  string // without query
	Query url.Values
	Page  store.AuditPage
	Now   time.Time
}

func (s *server) audit(w http.ResponseWriter, r *http.Request, v visit) error {
	q := r.URL.Query()
	filter := store.AuditFilter{
		ActorKind: millrace.ActorKind(q.Get("kind")), Actor: q.Get("actor"), Action: q.Get("action"), Subject: q.Get("subject"), Cursor: q.Get("cursor"),
	}
	if filter.ActorKind != "" && !slices.Contains(millrace.ActorKinds, filter.ActorKind) {
		return millrace.Errorf(millrace.Unprocessable, "%q is no kind of actor; a change is made by a user, a token, a host or the system.", filter.ActorKind)
	}
	page, err := s.Store.Org(v.Org.OrgID).Audit(r.Context(), filter)
	if err != nil {
		return err
	}
	f, err := s.settingsFrame(r, v, "Audit log")
	if err != nil {
		return err
	}
	return render(w, r, http.StatusOK, auditPage(f, v, auditView{Path: v.path("/audit"), Query: q, Page: page, Now: s.Now()}))
}

// filtered reports whether not all of the log is asked for.
func (v auditView) filtered() bool {
	for _, name := range []string{"kind", "actor", "action", "subject"} {
		if v.Query.Get(name) != "" {
			return true
		}
	}
	return false
}

// only is the log with one more filter, from its beginning.
func (v auditView) only(name, value string) string {
	return with(v.Path, url.Values{name: {value}})
}

// hostLog is the page of a host's agent log, which outlasts the host.
func (v auditView) hostLog(host string) string {
	return strings.TrimSuffix(v.Path, "/audit") + "/hosts/" + host + "/log"
}

// older is the next page.
func (v auditView) older() string {
	q := url.Values{"cursor": {v.Page.Next}}
	for _, name := range []string{"kind", "actor", "action", "subject"} {
		if value := v.Query.Get(name); value != "" {
			q.Set(name, value)
		}
	}
	return with(v.Path, q)
}
