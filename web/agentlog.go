package web

import (
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// agentLogView is what the page of a host's agent log shows.
type agentLogView struct {
	Path string // of the host
	Host store.HostRow
	Log  string
	Cut  bool // the log's beginning is left out
	Now  time.Time
}

// by is what the command line calls the host.
func (v agentLogView) by() string {
	if v.Host.RemovedAt.IsZero() {
		return v.Host.Name
	}
	return v.Host.ID.String()
}

func (s *server) agentLog(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseHostID(r.PathValue("host"))
	if err != nil {
		return err
	}
	org := s.Store.Org(v.Org.OrgID)
	view := agentLogView{Path: v.path("/hosts/") + id.String(), Now: s.Now()}
	if view.Host, err = org.AnyHost(r.Context(), id); err != nil {
		return err
	}
	text, _, err := org.AgentLog(r.Context(), id, millrace.LogPosition{}, logTail)
	if err != nil {
		return err
	}
	view.Cut = len(text) == logTail
	view.Log = millrace.PlainText(text, view.Cut)
	f, err := s.frame(r, v, view.Host.Name+": agent log", "hosts")
	if err != nil {
		return err
	}
	return live(w, r, f, agentLogNow(view), agentLogPage(f, v, view))
}
