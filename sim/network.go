package sim

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/store"
)

// poll is a sync that is held until there is news for its host.
type poll struct {
	host  *host
	call  int
	have  int64
	known store.Desired // of the version that the host has
	stale bool          // an announcement that there is another was lost
	reply func(client.SyncResponse)
}

// send takes a delivery from GitHub and brings it to a server after its delay.
func (s *Sim) send(out githubtest.Outgoing) {
	s.load.sent(out)
	s.after(out.Delay+s.network(), func() {
		began := s.now
		status := 0
		if srv := s.anyServer(); srv != nil {
			alive := srv.do(func() {
				r := httptest.NewRequest(http.MethodPost, "/webhooks/github", bytes.NewReader(out.Body))
				r.Header = out.Header
				w := httptest.NewRecorder()
				srv.handler.ServeHTTP(w, r)
				status = w.Code
			})
			if !alive {
				status = 0
			}
		}
		if status == http.StatusOK {
			s.report.Delivered++
			s.undelivered[out.GUID] = false
		} else if _, tried := s.undelivered[out.GUID]; !tried {
			s.undelivered[out.GUID] = true
		}
		s.github.Answered(out.DeliveryID, status, s.now.Sub(began))
	})
}

// toGitHub is a server's way to GitHub.
type toGitHub struct{ srv *server }

// RoundTrip calls the stand-in.
func (t toGitHub) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	s := t.srv.sim
	t.srv.point()
	s.report.Calls++
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // a panic's value
			resp, err = nil, io.ErrUnexpectedEOF
		} else if p != nil {
			panic(p)
		}
	}()
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.RequestURI = r.URL.RequestURI()
	s.github.ServeHTTP(w, r)
	t.srv.point()
	return w.Result(), nil
}

// sync is what a server does with a sync, as the API's handler does: it takes the observations, and answers at once when
// the list is another than the host has, when it changes, or after a heartbeat.
func (srv *server) sync(p *poll, epoch int64, in client.SyncRequest) error {
	s := srv.sim
	observed, err := api.Observations(in.VMs)
	if err != nil {
		return err
	}
	desired, err := srv.st.Org(p.host.org.ID).Observe(s.ctx, p.host.id, epoch, in.Refuses, observed)
	if err != nil {
		return err
	}
	srv.st.Heard(p.host.org.ID, p.host.id, epoch, 0) // sequence numbers are the signed calls' own
	if desired.Version != p.have {
		p.reply(api.SyncResponse(desired, nil, s.now))
		return nil
	}
	p.known = desired
	srv.polls[p.host.id] = p
	life := srv.life
	s.after(millrace.UntilHeartbeat(p.host.id, s.now), func() {
		if srv.life == life && srv.polls[p.host.id] == p {
			srv.do(func() { srv.answer(p, true) })
		}
	})
	return nil
}

// answer answers a held sync, if there is news or it is late.
func (srv *server) answer(p *poll, late bool) {
	if late && !p.stale { // it would read what it has
		delete(srv.polls, p.host.id)
		p.reply(api.SyncResponse(p.known, nil, srv.sim.now))
		return
	}
	desired, err := srv.st.Org(p.host.org.ID).Desired(srv.sim.ctx, p.host.id)
	if err != nil {
		srv.sim.tolerate(err)
		return
	}
	if desired.Version != p.have || late {
		delete(srv.polls, p.host.id)
		p.reply(api.SyncResponse(desired, nil, srv.sim.now))
	}
}

// toServer is a host's way to the control plane: any process that is up.
type toServer struct{ h *host }

// RoundTrip calls a server's API.
func (t toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	srv := t.h.sim.anyServer()
	if srv == nil {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	r.RequestURI = r.URL.RequestURI()
	if !srv.do(func() { srv.handler.ServeHTTP(w, r) }) {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}
