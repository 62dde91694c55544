package web

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

// hostsView is what the hosts page shows.
type hostsView struct {
	Path      string
	MayEnroll bool
	Made      *enrollment                // just made; shown once
	Follow    millrace.EnrollmentToken   // whose hosts are awaited, for who may make such; zero: none
	Refused   *millrace.AuditEntry       // the last machine that was refused with it
	Tokens    []millrace.EnrollmentToken // that still work, for who may make such
	Hosts     []store.HostRow
	Now       time.Time
}

// enrollment is an enrollment token with its secret, and how to use it.
type enrollment struct {
	Token  millrace.EnrollmentToken
	Secret millrace.Secret
	URL    string // of this server
}

func (s *server) hosts(w http.ResponseWriter, r *http.Request, v visit) error {
	follow, _ := millrace.ParseEnrollmentTokenID(r.URL.Query().Get("token")) // none, when it is none
	return s.showHosts(w, r, v, nil, follow)
}

// newEnrollmentView is the form of an enrollment token.
type newEnrollmentView struct {
	Path    string
	Token   store.NewEnrollmentToken
	Labels  string
	Problem string
}

// enrollmentLives are the lives that the form offers.
var enrollmentLives = []struct {
	Name string
	Life time.Duration
}{
	{"an hour", time.Hour}, {"a day", 24 * time.Hour}, {"a week", 7 * 24 * time.Hour}, {"30 days", millrace.MaxEnrollmentLife},
}

func (s *server) newEnrollmentToken(w http.ResponseWriter, r *http.Request, v visit) error {
	return s.showNewEnrollmentToken(w, r, v, http.StatusOK, newEnrollmentView{Token: store.NewEnrollmentToken{Uses: 10, Life: 24 * time.Hour}})
}

func (s *server) showNewEnrollmentToken(w http.ResponseWriter, r *http.Request, v visit, status int, view newEnrollmentView) error {
	f, err := s.frame(r, v, "Add many hosts", "hosts")
	if err != nil {
		return err
	}
	view.Path = v.path("/hosts")
	return render(w, r, status, newEnrollmentPage(f, view))
}

// makeEnrollmentToken makes a token and shows it, in this answer only.
func (s *server) makeEnrollmentToken(w http.ResponseWriter, r *http.Request, v visit) error {
	n := store.NewEnrollmentToken{CIDR: strings.TrimSpace(r.PostFormValue("cidr")), Ephemeral: r.PostFormValue("ephemeral") != ""}
	labels := r.PostFormValue("labels")
	if fields := strings.FieldsFunc(labels, func(c rune) bool { return c == ',' || c == ' ' }); len(fields) > 0 {
		n.Labels = fields
	}
	n.Uses, n.Life = formInt(r, "uses"), time.Duration(formInt(r, "hours"))*time.Hour
	token, secret, err := s.Store.Org(v.Org.OrgID).CreateEnrollmentToken(r.Context(), v.By.Actor, n)
	if millrace.CodeOf(err) == millrace.Unprocessable {
		return s.showNewEnrollmentToken(w, r, v, http.StatusUnprocessableEntity, newEnrollmentView{Token: n, Labels: labels, Problem: millrace.MessageOf(err)})
	}
	if err != nil {
		return err
	}
	return s.showHosts(w, r, v, &enrollment{token, secret, s.URL}, token.ID)
}

// formInt is a field of a form: 0 when it isn't there, and -1, which no field takes, when it is no such number.
func formInt(r *http.Request, field string) int {
	text := r.PostFormValue(field)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1<<20 {
		return -1
	}
	return n
}

func (s *server) revokeEnrollmentToken(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseEnrollmentTokenID(r.PathValue("token"))
	if err != nil {
		return err
	}
	if err := s.Store.Org(v.Org.OrgID).RevokeEnrollmentToken(r.Context(), v.By.Actor, id); err != nil {
		return err
	}
	http.Redirect(w, r, v.path("/hosts"), http.StatusSeeOther)
	return nil
}

func (s *server) showHosts(w http.ResponseWriter, r *http.Request, v visit, made *enrollment, follow millrace.EnrollmentTokenID) error {
	view := hostsView{Path: v.path("/hosts"), MayEnroll: v.By.May(millrace.HostsWrite), Made: made, Now: s.Now()}
	org := s.Store.Org(v.Org.OrgID)
	var err error
	if view.Hosts, err = org.Hosts(r.Context()); err != nil {
		return err
	}
	if view.MayEnroll {
		if view.Tokens, err = org.EnrollmentTokens(r.Context()); err != nil {
			return err
		}
		if view.Follow, view.Refused, err = s.follow(r.Context(), v, follow); err != nil {
			return err
		}
	}
	f, err := s.frame(r, v, "Hosts", "hosts")
	if err != nil {
		return err
	}
	return live(w, r, f, hostList(view), hostsPage(f, view))
}

// follow finds a token, and the last machine that was refused with it. One that the org doesn't have is none.
func (s *server) follow(ctx context.Context, v visit, id millrace.EnrollmentTokenID) (token millrace.EnrollmentToken, refused *millrace.AuditEntry, err error) {
	if id.IsZero() {
		return token, nil, nil
	}
	org := s.Store.Org(v.Org.OrgID)
	token, err = org.EnrollmentToken(ctx, id)
	if millrace.CodeOf(err) == millrace.NotFound {
		return millrace.EnrollmentToken{}, nil, nil
	}
	if err != nil || !v.By.May(millrace.AuditRead) {
		return token, nil, err
	}
	page, err := org.Audit(ctx, store.AuditFilter{Action: "enrollment_token.refused", Subject: id.String(), From: token.CreatedAt, Limit: 1})
	if len(page.Entries) > 0 {
		refused = &page.Entries[0]
	}
	return token, refused, err
}

// follows reports whether the page follows a token.
func (v hostsView) follows() bool { return !v.Follow.ID.IsZero() }

// here is what the live part is fetched from.
func (v hostsView) here() string {
	if !v.follows() {
		return v.Path
	}
	return v.Path + "?token=" + v.Follow.ID.String()
}

// fresh are the hosts that were made with the token that is followed.
func (v hostsView) fresh() (list []store.HostRow) {
	for _, h := range v.Hosts {
		if v.follows() && h.TokenID == v.Follow.ID {
			list = append(list, h)
		}
	}
	return list
}

// ended says why no host is to be awaited of the token that is followed; "" when one is.
func (v hostsView) ended() string {
	switch t := v.Follow; {
	case !t.RevokedAt.IsZero():
		return "The token was revoked: " + ui.Absolute(t.RevokedAt) + "."
	case !t.ExpiresAt.After(v.Now):
		return "The token has expired: " + ui.Absolute(t.ExpiresAt) + "."
	case t.UsesLeft <= 0:
		return "The token is used up by other machines, which are hosts no more."
	}
	return ""
}

// refused is the last machine that was refused with the token that is followed; nil when it became a host since.
func (v hostsView) refused() *millrace.AuditEntry {
	for _, h := range v.fresh() {
		if v.Refused != nil && h.Name == v.Refused.Actor.Name && h.CreatedAt.After(v.Refused.At) {
			return nil
		}
	}
	return v.Refused
}

// command adds a machine. The token goes in by standard input, so that it is in no list of processes: echo is the shell's own. A
// pipe's end is that of its last command: what can't be fetched has to tell that.
func (e enrollment) command() string {
	return fmt.Sprintf("{ echo %s=%s; curl -fsSL %s/install.sh || echo exit 1; } | sudo sh", tokenVariable, e.Secret.Reveal(), e.URL)
}

// tokenVariable is where install.sh and the agent look for an enrollment token.
const tokenVariable = "MILLRACE_ENROLL_TOKEN"

// cloudInit is the same for a machine that is about to be made (cloudinit.readthedocs.io, "Module reference": write_files, runcmd).
// It is one command, for the last one's end is what cloud-init hears.
func (e enrollment) cloudInit() string {
	return fmt.Sprintf(`#cloud-config
write_files:
  - path: /run/millrace-token
    permissions: "0600"
    content: %s=%s
runcmd:
  - "{ cat /run/millrace-token; echo; rm -f /run/millrace-token; curl -fsSL %s/install.sh || echo exit 1; } | sh"
`, tokenVariable, e.Secret.Reveal(), e.URL)
}

// terraform is the same as user data; the secret is a variable, for files like this are checked in.
func (e enrollment) terraform() string {
	return fmt.Sprintf(`variable "millrace_enrollment_token" {
  type      = string
  sensitive = true
}

# in the machine's resource
user_data = <<-EOT
  #!/bin/sh
  { echo %s=${var.millrace_enrollment_token}; curl -fsSL %s/install.sh || echo exit 1; } | sh
EOT
`, tokenVariable, e.URL)
}

// ansible is the same as a task. The script makes the link last, when the machine is enrolled and the agent was started.
func (e enrollment) ansible() string {
	return fmt.Sprintf(`- name: Add this machine to Millrace
  ansible.builtin.shell:
    cmd: '{ echo "%[1]s=$%[1]s"; curl -fsSL %[2]s/install.sh || echo exit 1; } | sh'
    creates: /etc/systemd/system/multi-user.target.wants/millrace-agent.service
  environment:
    %[1]s: "{{ millrace_enrollment_token }}"
  no_log: true
  become: true
`, tokenVariable, e.URL)
}

// hostView is what a host's page shows.
type hostView struct {
	Path    string
	Host    store.HostRow
	VMs     []store.VMRow // those that live first, then the last that ended
	Load    hostLoad      // for who may see jobs
	History *auditView    // nil for who may not see the audit log
	MayAct  bool
	MayJobs bool
	Now     time.Time
}

// toDo are the findings that want something done, failures first.
func toDo(list []millrace.Finding) (amiss []millrace.Finding) {
	for _, level := range []millrace.Level{millrace.LevelFailure, millrace.LevelWarning} {
		for _, f := range list {
			if f.Level == level {
				amiss = append(amiss, f)
			}
		}
	}
	return amiss
}

func findingState(f millrace.Finding) ui.State {
	if f.Level == millrace.LevelFailure {
		return ui.State{Text: "Failure", Tone: ui.Bad, Icon: ui.IconCross}
	}
	return ui.State{Text: "Warning", Tone: ui.Warn, Icon: ui.IconAlert}
}

// cloneShown is how long a host's page tells of a machine that has its key, too.
const cloneShown = 7 * 24 * time.Hour

// newestVMs is how many VMs a host's page shows, and newestChanges how many changes.
const (
	newestVMs     = 20
	newestChanges = 10
)

func (s *server) host(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseHostID(r.PathValue("host"))
	if err != nil {
		return err
	}
	org := s.Store.Org(v.Org.OrgID)
	view := hostView{Path: v.path("/hosts/") + id.String(), MayAct: v.By.May(millrace.HostsWrite), MayJobs: v.By.May(millrace.JobsRead), Now: s.Now()}
	if view.Host, err = org.AnyHost(r.Context(), id); err != nil {
		return err
	}
	if view.MayJobs {
		page, err := org.VMs(r.Context(), store.VMFilter{Host: id, Limit: newestVMs})
		if err != nil {
			return err
		}
		view.VMs = page.VMs
		view.Load.Offer = view.Host.Facts.Offer
		if view.Load.Spans, view.Load.From, err = org.HostLoads(r.Context(), id, loadSpan, loadSpans); err != nil {
			return err
		}
	}
	if v.By.May(millrace.AuditRead) {
		page, err := org.Audit(r.Context(), store.AuditFilter{Subject: id.String(), Limit: newestChanges})
		if err != nil {
			return err
		}
		view.History = &auditView{Path: v.path("/audit"), Page: page, Now: s.Now()}
	}
	f, err := s.frame(r, v, view.Host.Name, "hosts")
	if err != nil {
		return err
	}
	return live(w, r, f, hostNow(v, view), hostPage(f, v, view))
}

// changeHost does to a host what the form's button says.
func (s *server) changeHost(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseHostID(r.PathValue("host"))
	if err != nil {
		return err
	}
	org, to := s.Store.Org(v.Org.OrgID), v.path("/hosts/")+id.String()
	switch do := r.PostFormValue("do"); do {
	case "drain":
		err = org.SetHostAdmin(r.Context(), v.By, id, millrace.HostDraining)
	case "enable":
		err = org.SetHostAdmin(r.Context(), v.By, id, millrace.HostEnabled)
	case "disable":
		err = org.SetHostAdmin(r.Context(), v.By, id, millrace.HostDisabled)
	case "restart":
		err = org.RestartAgent(r.Context(), v.By, id)
	case "rotate-keys":
		err = org.RotateKeys(r.Context(), v.By, id)
	case "reboot":
		err = org.RebootHost(r.Context(), v.By, id)
	case "remove":
		err, to = org.RemoveHost(r.Context(), v.By, id, r.PostFormValue("force") != ""), v.path("/hosts")
	default:
		return millrace.Errorf(millrace.Unprocessable, "A host can't be told to %.20q.", do)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// orDash is a text, or a dash for none.
func orDash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

// vmCount is a host's VMs, of as many as it may have where that is bounded: "3 of 10".
func vmCount(h store.HostRow) string {
	if h.Facts.MaxVMs == 0 {
		return ui.Count(h.VMs)
	}
	return ui.Count(h.VMs) + " of " + ui.Count(h.Facts.MaxVMs)
}

// vmsOf is a number of VMs: "1 VM", "2 VMs".
func vmsOf(n int) string {
	if n == 1 {
		return "1 VM"
	}
	return ui.Count(n) + " VMs"
}

func cpus(milli int) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(milli)/1000), "0"), ".")
}
