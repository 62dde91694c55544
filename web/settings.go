package web

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/ui"
)

// settingsView is what the settings page shows.
type settingsView struct {
	Path     string
	Org      millrace.Org
	Linked   []millrace.LinkedInstallation
	MayWrite bool
	Problem  string
	Name     string // in the form
	GitHub   string
	Now      time.Time
}

// settingsTab is a page of the settings, and the permission that it takes.
type settingsTab struct {
	Name, Page string
	Needs      millrace.Permission
}

var settingsTabs = []settingsTab{
	{"General", "/settings", millrace.OrgRead},
	{"Placement", "/placement", millrace.OrgRead},
	{"Members", "/members", millrace.MembersRead},
	{"API tokens", "/tokens", millrace.TokensWrite},
	{"Audit log", "/audit", millrace.AuditRead},
}

// settingsFrame is the frame of a page of the settings.
func (s *server) settingsFrame(r *http.Request, v visit, title string) (ui.Frame, error) {
	return s.frame(r, v, title, "settings")
}

func (s *server) settings(w http.ResponseWriter, r *http.Request, v visit) error {
	return s.showSettings(w, r, v, http.StatusOK, "", v.Org.Name)
}

func (s *server) showSettings(w http.ResponseWriter, r *http.Request, v visit, status int, problem, name string) error {
	org, err := s.Store.OrgBySlug(r.Context(), v.Org.Slug)
	if err != nil {
		return err
	}
	linked, err := s.Store.Org(v.Org.OrgID).LinkedInstallations(r.Context())
	if err != nil {
		return err
	}
	f, err := s.settingsFrame(r, v, "Settings")
	if err != nil {
		return err
	}
	view := settingsView{Path: v.path("/settings"), Org: org, Linked: linked, MayWrite: v.By.May(millrace.OrgWrite), Problem: problem, Name: name, GitHub: s.GitHub, Now: s.Now()}
	return render(w, r, status, settingsPage(f, v, view))
}

func (s *server) rename(w http.ResponseWriter, r *http.Request, v visit) error {
	name := r.PostFormValue("name")
	err := s.Store.Org(v.Org.OrgID).Rename(r.Context(), v.By, name)
	if millrace.CodeOf(err) == millrace.Unprocessable {
		return s.showSettings(w, r, v, http.StatusUnprocessableEntity, millrace.MessageOf(err), name)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, v.path("/settings"), http.StatusSeeOther)
	return nil
}

// atGitHub is where an owner of an account changes what the installation may see (docs.github.com, "Reviewing and modifying
// installed GitHub Apps").
func (v settingsView) atGitHub(i millrace.LinkedInstallation) string {
	at := v.GitHub
	if i.OwnerType == millrace.Organization {
		at += "/organizations/" + url.PathEscape(i.OwnerLogin)
	}
	return at + "/settings/installations/" + strconv.FormatInt(i.ID, 10)
}

// installationState is how an installation is, and what can be done when it isn't well.
func installationState(i millrace.LinkedInstallation) (state ui.State, remedy string) {
	switch {
	case !i.DeletedAt.IsZero():
		return ui.State{Text: "Removed", Tone: ui.Quiet, Icon: ui.IconSlash}, "The App was removed from the account. What it ran stays in the reports; installed again, it goes on."
	case !i.SuspendedAt.IsZero():
		return ui.State{Text: "Suspended", Tone: ui.Bad, Icon: ui.IconPause}, "Its jobs wait. Whoever owns the account ends the suspension at GitHub."
	}
	return ui.State{Text: "Works", Tone: ui.Good, Icon: ui.IconCheck}, ""
}

// export sends all of the org's data as it is read. What fails on the way cuts the connection: half an archive must not look
// like a whole one.
func (s *server) export(w http.ResponseWriter, r *http.Request, v visit) error {
	name := fmt.Sprintf("%s-%s.zip", v.Org.Slug, s.Now().UTC().Format("20060102-150405"))
	out := &attachment{w: w, name: name}
	err := s.Store.Org(v.Org.OrgID).Export(r.Context(), v.By.Actor, out)
	if err != nil && out.begun {
		s.Log.ErrorContext(r.Context(), "an export ended early", "request", requestID(r), "error", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

// attachment is a file to download, whose headers are sent with its first byte: until then an error is a page.
type attachment struct {
	w     http.ResponseWriter
	name  string
	begun bool
}

var _ io.Writer = (*attachment)(nil)

// Write sends a part of the file.
func (a *attachment) Write(p []byte) (int, error) {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", "application/zip")
		a.w.Header().Set("Content-Disposition", `attachment; filename="`+a.name+`"`)
	}
	return a.w.Write(p)
}

// deleteView is what is shown before an org is deleted.
type deleteView struct {
	Path    string
	Org     millrace.Membership
	Goes    millrace.OrgDeletion
	Problem string
	Typed   string
}

// eraseMinutes is how long the rest of a deleted org stays, at most.
const eraseMinutes = int(millrace.LeaveAtMost / time.Minute)

func (s *server) askToDelete(w http.ResponseWriter, r *http.Request, v visit) error {
	return s.showDelete(w, r, v, http.StatusOK, "", "")
}

func (s *server) showDelete(w http.ResponseWriter, r *http.Request, v visit, status int, problem, typed string) error {
	goes, err := s.Store.Org(v.Org.OrgID).Deletion(r.Context())
	if err != nil {
		return err
	}
	f, err := s.settingsFrame(r, v, "Delete "+v.Org.Name)
	if err != nil {
		return err
	}
	return render(w, r, status, deletePage(f, deleteView{Path: v.path("/settings"), Org: v.Org, Goes: goes, Problem: problem, Typed: typed}))
}

func (s *server) deleteOrg(w http.ResponseWriter, r *http.Request, v visit) error {
	typed := r.PostFormValue("slug")
	err := s.Store.DeleteOrg(r.Context(), v.By.Actor, v.Org.OrgID, typed)
	if millrace.CodeOf(err) == millrace.Unprocessable {
		return s.showDelete(w, r, v, http.StatusUnprocessableEntity, millrace.MessageOf(err), typed)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
