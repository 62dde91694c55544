package githubtest

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ci/millrace"
)

// install installs the App at an account, as somebody who may. One that is installed again has another id.
func (g *GitHub) install(login string, kind millrace.OwnerType, by *person) (*owner, error) {
	o, known := g.owners[strings.ToLower(login)]
	switch {
	case !known:
		o = g.own(login, kind)
	case slices.Contains(g.faults.Uninstalled, "*"):
		return nil, refuse(http.StatusConflict, "A fault keeps the App from being installed anywhere")
	default:
		g.faults.Uninstalled = slices.DeleteFunc(slices.Clone(g.faults.Uninstalled), func(l string) bool { return strings.EqualFold(l, login) })
		for text, t := range g.tokens {
			if t.installation == o.Installation {
				delete(g.tokens, text)
			}
		}
		g.number(o, g.nextID())
		o.uninstalled, o.paused = false, false
	}
	o.Sender, o.byPerson = by.ID, true
	g.touch()
	g.sendInstallation(o, "created", g.user(by.Login))
	return o, nil
}

// Uninstall plays somebody who uninstalls the App at an owner. Installed again, it has another id.
func (g *GitHub) Uninstall(login string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.installed(login)
	if !ok {
		return refuse(http.StatusNotFound, "there is no owner %q with the App installed", login)
	}
	g.uninstall(o)
	return nil
}

func (g *GitHub) uninstall(o *owner) {
	o.uninstalled, o.byPerson = true, true
	g.touch()
	g.sendInstallation(o, "deleted", g.senderOf(o))
}

// Suspend plays an admin who suspends the App at an owner, or undoes it. What is so already sends nothing.
func (g *GitHub) Suspend(login string, suspended bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, ok := g.installed(login)
	if !ok {
		return refuse(http.StatusNotFound, "there is no owner %q with the App installed", login)
	}
	before := g.isSuspended(o)
	o.paused, o.byPerson = suspended, true
	g.touch()
	switch after := g.isSuspended(o); {
	case after && !before:
		o.suspended = g.now()
		g.sendInstallation(o, "suspend", g.senderOf(o))
	case before && !after:
		g.sendInstallation(o, "unsuspend", g.senderOf(o))
	}
	return nil
}

// number gives an owner's installation another id.
func (g *GitHub) number(o *owner, installation int64) {
	delete(g.installations, o.Installation)
	o.Installation, o.quota = installation, newQuota(installation, perHour)
	g.installations[installation] = o
}

// Install installs the App at an account as somebody who may: an admin of the organisation, or the account's own person.
func (g *GitHub) Install(account, login string) (Owner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.logins[strings.ToLower(login)]
	if !ok {
		return Owner{}, errors.New("there is no such person")
	}
	for _, t := range g.targets(p) {
		switch {
		case !strings.EqualFold(t.login, account):
		case t.role != roleAdmin:
			return Owner{}, errors.New("an owner of the organisation must approve it")
		case t.owner != nil:
			return t.owner.public(), nil
		default:
			o, err := g.install(t.login, t.kind, p)
			if err != nil {
				return Owner{}, err
			}
			return o.public(), nil
		}
	}
	return Owner{}, errors.New("they have nothing to do with this account")
}

// target is an account that somebody may want the App at.
type target struct {
	id    int64
	login string
	kind  millrace.OwnerType
	role  string
	owner *owner // nil: the App is not installed there
}

// targets are the person's own account and their organisations.
func (g *GitHub) targets(p *person) []target {
	list := []target{{id: p.ID, login: p.Login, kind: millrace.Personal, role: roleAdmin}}
	for _, org := range g.memberships(p) {
		list = append(list, target{id: org.ID, login: org.Login, kind: millrace.Organization, role: org.Roles[p.ID]})
	}
	for i := range list {
		if o, ok := g.installed(list[i].login); ok {
			list[i].owner = o
		}
	}
	return list
}

func (g *GitHub) installRoutes() {
	g.mux.HandleFunc("POST /_standin/installations", control(func(in struct{ Owner, Action, Person string }) (int, any, error) {
		var err error
		switch in.Action {
		case "install":
			_, err = g.Install(in.Owner, in.Person)
		case "uninstall":
			err = g.Uninstall(in.Owner)
		case "suspend", "unsuspend":
			err = g.Suspend(in.Owner, in.Action == "suspend")
		default:
			err = errors.New("action is install, uninstall, suspend or unsuspend")
		}
		var refused refusal
		switch {
		case errors.As(err, &refused):
			return 0, nil, refused
		case err != nil:
			return 0, nil, refuse(http.StatusUnprocessableEntity, "%v", err)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		o := g.owners[strings.ToLower(in.Owner)]
		return http.StatusOK, map[string]any{"id": o.Installation, "owner": o.Login}, nil
	}))
	g.mux.HandleFunc("POST /_standin/owners", control(func(in struct{ Login, Rename string }) (int, any, error) {
		if err := g.RenameOwner(in.Rename, in.Login); err != nil {
			return 0, nil, err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		o := g.owners[strings.ToLower(in.Login)]
		return http.StatusOK, map[string]any{"id": o.ID, "login": o.Login}, nil
	}))
	const path = "/apps/millrace/installations/new"
	g.screen("GET /apps/millrace", func(*http.Request, *person) screen {
		return screen{status: http.StatusOK, page: pageData{Title: "Millrace", Ask: &ask{
			Text: "Runs the jobs of GitHub Actions in microVMs on your own hosts.", Links: []askLink{{path, "Install"}},
		}}}
	})
	g.screen("GET "+path, func(r *http.Request, who *person) screen {
		if who == nil {
			return g.askWho(r.URL.RequestURI(), "")
		}
		a := &ask{Text: "Where is Millrace to be installed? You are signed in as " + who.Login + "."}
		for _, t := range g.targets(who) {
			f := askForm{Title: t.login, Text: "All repositories.", Action: path, Fields: []field{{"target_id", strconv.FormatInt(t.id, 10)}, {"state", r.FormValue("state")}}, Button: "Install"}
			switch {
			case t.owner != nil:
				f.Text, f.Button = "Millrace is installed.", "Configure"
			case t.role != roleAdmin:
				f.Text, f.Button = "This needs an owner's approval.", "Request"
			}
			a.Forms = append(a.Forms, f)
		}
		a.Links = []askLink{{"/login?return_to=" + url.QueryEscape(r.URL.RequestURI()), "Use another account"}}
		return screen{status: http.StatusOK, page: pageData{Title: "Install Millrace", Ask: a}}
	})
	g.screen("POST "+path, func(r *http.Request, who *person) screen {
		state := r.PostFormValue("state")
		if who == nil {
			return g.askWho(path+"?"+url.Values{"state": {state}}.Encode(), "")
		}
		for _, t := range g.targets(who) {
			if strconv.FormatInt(t.id, 10) != r.PostFormValue("target_id") {
				continue
			}
			if t.owner != nil {
				return g.setUp(t.owner.Installation, "update", state)
			}
			if t.role != roleAdmin { // the owners get a mail, the App hears nothing
				return g.setUp(0, "request", state)
			}
			o, err := g.install(t.login, t.kind, who)
			if err != nil {
				return wrong(err)
			}
			return g.setUp(o.Installation, "install", state)
		}
		return wrong(refuse(http.StatusNotFound, "There is no such account of yours"))
	})
}

// setUp is where a browser goes on after an installation, or after one was asked for, which has no id yet: 0.
func (g *GitHub) setUp(installation int64, action, state string) screen {
	if g.cfg.SetupURL == "" {
		return screen{to: "/apps/millrace"}
	}
	q := url.Values{"setup_action": {action}}
	if installation != 0 {
		q.Set("installation_id", strconv.FormatInt(installation, 10))
	}
	if state != "" {
		q.Set("state", state)
	}
	return screen{to: withQuery(g.cfg.SetupURL, q)}
}
