package web

import (
	"fmt"
	"net/http"
	"time"

	"github.com/millrace-ci/millrace/store"
)

// How a page's event stream behaves.
const (
	eventGap     = 250 * time.Millisecond // at least this long between two events: a burst is one
	eventPing    = 15 * time.Second       // proxies close streams that are silent
	eventRetry   = 2 * time.Second        // how long a browser waits before it comes back
	eventRecheck = time.Minute            // how often it is looked, whatever is announced, whether the visitor still may see the org
)

// events tells a browser that something of the org changed; what it is, the browser asks for. One event comes at the
// start, for what changed between the page and its stream.
func (s *server) events(w http.ResponseWriter, r *http.Request, v visit) error {
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if _, err := fmt.Fprintf(w, "retry: %d\n\n", eventRetry.Milliseconds()); err != nil {
		return nil // the browser is gone, here and below
	}
	ping, recheck := time.NewTicker(eventPing), time.NewTicker(eventRecheck)
	defer ping.Stop()
	defer recheck.Stop()
	user := s.Store.Bus.On(store.TopicUser(v.Session.User.ID)) // kept until it was heard: it may come with a change of the org
	for {
		changed := s.Store.Bus.On(store.TopicOrg(v.Org.OrgID))
		if _, err := fmt.Fprintf(w, "id: %d\nevent: changed\ndata: {}\n\n", s.Now().UnixMilli()); err != nil {
			return nil
		}
		if out.Flush() != nil {
			return nil
		}
		gap := time.After(eventGap)
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case <-ping.C:
				if _, err := fmt.Fprint(w, ": ping\n\n"); err != nil || out.Flush() != nil {
					return nil
				}
			case <-recheck.C:
				if _, err := s.visit(r); err != nil {
					return nil
				}
			case <-user:
				user = s.Store.Bus.On(store.TopicUser(v.Session.User.ID))
				if _, err := s.visit(r); err != nil {
					return nil
				}
			case <-r.Context().Done():
				return nil
			}
		}
		select {
		case <-gap:
		case <-r.Context().Done():
			return nil
		}
	}
}
