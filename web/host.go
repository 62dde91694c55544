package web

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

// hostsView is what the hosts page shows.
type hostsView struct {
	Path      string
	URL       string // of this server, for the agent
	MayEnroll bool
	Token     millrace.Secret // just made; shown once
	Waiting   bool            // a token was shown: the host is to come
	Hosts     []store.HostRow
	Now       time.Time
}

func (s *server) hosts(w http.ResponseWriter, r *http.Request, v visit) error {
	return s.showHosts(w, r, v, "")
}

// makeEnrollmentToken makes a token and shows it, in this answer only.
func (s *server) makeEnrollmentToken(w http.ResponseWriter, r *http.Request, v visit) error {
	_, token, err := s.Store.Org(v.Org.OrgID).CreateEnrollmentToken(r.Context(), v.By.Actor, store.NewEnrollmentToken{})
	if err != nil {
		return err
	}
	return s.showHosts(w, r, v, token)
}

func (s *server) showHosts(w http.ResponseWriter, r *http.Request, v visit, token millrace.Secret) error {
	view := hostsView{Path: "/o/" + v.Org.Slug + "/hosts", URL: s.URL, MayEnroll: v.By.May(millrace.HostsWrite), Token: token, Now: s.Now()}
	view.Waiting = token != "" || r.URL.Query().Has("waiting")
	var err error
	if view.Hosts, err = s.Store.Org(v.Org.OrgID).Hosts(r.Context()); err != nil {
		return err
	}
	f, err := s.frame(r, v, "Hosts", "hosts")
	if err != nil {
		return err
	}
	if partial(r) {
		return render(w, r, http.StatusOK, ui.Part(f, hostList(view)))
	}
	return render(w, r, http.StatusOK, hostsPage(f, view))
}

// here is what the live part is fetched from.
func (v hostsView) here() string {
	if v.Waiting {
		return v.Path + "?waiting"
	}
	return v.Path
}

// command enrolls a machine. The token goes in by standard input, so that it is in no list of processes.
func (v hostsView) command() string {
	token := "TOKEN"
	if v.Token != "" {
		token = v.Token.Reveal()
	}
	return fmt.Sprintf("echo %s | sudo millrace-agent enroll --url %s && sudo millrace-agent run", token, v.URL)
}

func cpus(milli int) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(milli)/1000), "0"), ".")
}
