package githubtest

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GitHub's login as an App's sign-in uses it
// (https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-user-access-token-for-a-github-app).
// Nobody has a password: whoever comes says who they are.

// clientID is the App's, which is another than its id.
const clientID = "Iv1.standin"

// ClientID is what the App's sign-in calls itself.
func (g *GitHub) ClientID() string { return clientID }

// ClientSecret proves that it is the App that trades a code for a token. It is made of the webhooks' secret, so that it
// draws nothing.
func (g *GitHub) ClientSecret() string { return challengeOf("client secret " + g.secret)[:40] }

// codeLife is how long the code of a sign-in works.
const codeLife = 10 * time.Minute

// code is what the browser carries back to the App.
type code struct {
	person              *person
	redirect, challenge string
	expires             time.Time
}

// authorization is what the App asks for.
type authorization struct{ redirect, state, challenge string }

func (g *GitHub) authorization(q url.Values) (authorization, error) {
	a := authorization{q.Get("redirect_uri"), q.Get("state"), q.Get("code_challenge")}
	if a.redirect == "" && len(g.cfg.CallbackURLs) > 0 {
		a.redirect = g.cfg.CallbackURLs[0]
	}
	switch {
	case q.Get("client_id") != clientID:
		return a, refuse(http.StatusNotFound, "There is no App with this client_id")
	case !slices.Contains(g.cfg.CallbackURLs, a.redirect):
		return a, refuse(http.StatusBadRequest, "The redirect_uri is not associated with this application")
	case a.challenge != "" && (q.Get("code_challenge_method") != "S256" || len(a.challenge) != 43):
		return a, refuse(http.StatusBadRequest, "The code_challenge must have 43 characters and code_challenge_method=S256")
	}
	return a, nil
}

// back is where the browser is sent with the answer.
func (a authorization) back(answer url.Values) string {
	if a.state != "" {
		answer.Set("state", a.state)
	}
	return withQuery(a.redirect, answer)
}

// withQuery adds to a URL's query; the URL is one of the configuration.
func withQuery(to string, add url.Values) string {
	u, err := url.Parse(to)
	if err != nil {
		panic("githubtest: " + err.Error())
	}
	q := u.Query()
	maps.Copy(q, add)
	u.RawQuery = q.Encode()
	return u.String()
}

// grant lets the App know who p is, and makes the code that says so.
func (g *GitHub) grant(a authorization, p *person) (to string) {
	now := g.cfg.Now()
	maps.DeleteFunc(g.codes, func(_ string, c *code) bool { return !c.expires.After(now) })
	p.authorized = true
	g.touch()
	text := g.randomHex(10)
	g.codes[text] = &code{p, a.redirect, a.challenge, now.Add(codeLife)}
	return a.back(url.Values{"code": {text}})
}

// Approve plays a person who follows a link to the App's sign-in and agrees to everything: it returns where their browser is
// sent. The error is what GitHub would show them instead.
func (g *GitHub) Approve(authorizeURL, login string) (callback string, err error) {
	u, err := url.Parse(authorizeURL)
	if err != nil {
		return "", err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.logins[strings.ToLower(login)]
	if !ok {
		return "", fmt.Errorf("there is no person %q", login)
	}
	a, err := g.authorization(u.Query())
	if err != nil {
		return "", err
	}
	return g.grant(a, p), nil
}

// screen is what a browser is answered: a page, or where to go.
type screen struct {
	status int
	page   pageData
	to     string // a redirect, when set
	cookie *http.Cookie
}

// ask is a page of forms.
type ask struct {
	Text  string
	Forms []askForm
	Links []askLink
}

type (
	askForm struct {
		Title, Text string
		Action      string
		Fields      []field // hidden
		Input       string  // the name of a text field, if there is one
		Button      string  // "": nothing can be done
	}
	field   struct{ Name, Value string }
	askLink struct{ To, Text string }
)

// wrong is a page that says what is wrong.
func wrong(err error) screen {
	status := http.StatusBadRequest
	if r, ok := err.(refusal); ok { //nolint:errorlint // it is ours, and bare
		status = r.status
	}
	return screen{status: status, page: pageData{Title: err.Error(), Ask: &ask{}}}
}

// personCookie holds the id of who is signed in at the stand-in. It is no secret: anybody may be anybody here.
const personCookie = "standin-person"

// screen serves a page of GitHub's login. The lock is held while show runs, and not while its answer goes to a slow reader.
func (g *GitHub) screen(pattern string, show func(r *http.Request, who *person) screen) {
	g.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		if err := r.ParseForm(); err != nil {
			render(w, http.StatusBadRequest, pageData{Title: "The form can't be read", Ask: &ask{}})
			return
		}
		g.mu.Lock()
		s := show(r, g.whoIs(r))
		g.mu.Unlock()
		if s.cookie != nil {
			http.SetCookie(w, s.cookie)
		}
		w.Header().Set("Cache-Control", "no-store")
		if s.to != "" {
			w.Header().Set("Location", s.to)
			w.WriteHeader(http.StatusFound)
			return
		}
		s.page.leadsTo = append(g.origins(), s.page.leadsTo...)
		render(w, s.status, s.page)
	})
}

// origins are those of the App: browsers hold a form's redirects, too, against the page's form-action.
func (g *GitHub) origins() (list []string) {
	for _, to := range append(slices.Clone(g.cfg.CallbackURLs), g.cfg.SetupURL) {
		if u, err := url.Parse(to); err == nil && u.Host != "" {
			list = append(list, u.Scheme+"://"+u.Host)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// whoIs is who is signed in; nil: nobody.
func (g *GitHub) whoIs(r *http.Request) *person {
	c, err := r.Cookie(personCookie)
	if err != nil {
		return nil
	}
	return g.personAt(c.Value)
}

// personAt is the person of that id; nil when there is none.
func (g *GitHub) personAt(text string) *person {
	id, _ := strconv.ParseInt(text, 10, 64)
	at, ok := find(g.people, id)
	if !ok {
		return nil
	}
	return g.people[at]
}

func (g *GitHub) loginRoutes() {
	g.screen("GET /login", func(r *http.Request, _ *person) screen {
		return g.askWho(local(r.FormValue("return_to")), r.FormValue("login"))
	})
	g.screen("POST /session", func(r *http.Request, _ *person) screen {
		p := g.personAt(r.PostFormValue("person"))
		if p == nil {
			return wrong(refuse(http.StatusUnprocessableEntity, "There is no such person"))
		}
		return screen{to: local(r.PostFormValue("return_to")), cookie: signedIn(p.id())}
	})
	g.screen("POST /logout", func(*http.Request, *person) screen { return screen{to: "/people", cookie: signedIn("")} })
	g.screen("GET /login/oauth/authorize", g.askForApp)
	g.screen("POST /login/oauth/authorize", func(r *http.Request, who *person) screen {
		a, err := g.authorization(r.PostForm)
		switch {
		case err != nil:
			return wrong(err)
		case who == nil:
			return g.askWho("/login/oauth/authorize?"+query(r.PostForm, "authorize"), "")
		case r.PostFormValue("authorize") != "1":
			return screen{to: a.back(url.Values{
				"error": {"access_denied"}, "error_description": {"The user has denied your application access."},
				"error_uri": {docs + "authorization-request-errors/#access-denied"},
			})}
		}
		return screen{to: g.grant(a, who)}
	})
}

// signedIn is the cookie of a person; "" ends it.
func signedIn(id string) *http.Cookie {
	c := &http.Cookie{Name: personCookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if id == "" {
		c.MaxAge = -1
	}
	return c
}

// signIn is the button by which one says that one is p.
func (p *person) signIn(then string) askForm {
	return askForm{Title: p.Login, Text: p.Name, Action: "/session", Button: "Sign in as " + p.Login, Fields: []field{{"person", p.id()}, {"return_to", then}}}
}

// local is a path of the stand-in, so that its sign-in leads nowhere else.
func local(path string) string {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.Contains(path, `\`) {
		return "/people"
	}
	return path
}

// query is a form as a query, without what is left out.
func query(q url.Values, without string) string {
	q = maps.Clone(q)
	q.Del(without)
	return q.Encode()
}

// askWho is the page where one says who one is; the login that is suggested comes first.
func (g *GitHub) askWho(then, suggested string) screen {
	a := &ask{Text: "Nobody has a password here. Who are you?"}
	for _, p := range g.people {
		f := p.signIn(then)
		if strings.EqualFold(p.Login, suggested) {
			a.Forms = slices.Insert(a.Forms, 0, f)
			continue
		}
		a.Forms = append(a.Forms, f)
	}
	if len(a.Forms) == 0 {
		a.Text = "Nobody has an account yet. POST /_standin/people adds somebody."
	}
	return screen{status: http.StatusOK, page: pageData{Title: "Sign in to the stand-in GitHub", Ask: a}}
}

// askForApp is where the App sends a browser. Who has authorised it before sees nothing of this, as at GitHub.
func (g *GitHub) askForApp(r *http.Request, who *person) screen {
	q := r.URL.Query()
	a, err := g.authorization(q)
	again := "/login/oauth/authorize?" + query(q, "prompt")
	switch {
	case err != nil:
		return wrong(err)
	case who == nil || q.Get("prompt") == "select_account":
		return g.askWho(again, q.Get("login"))
	case who.authorized:
		return screen{to: g.grant(a, who)}
	}
	fields := []field{}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		fields = append(fields, field{name, q.Get(name)})
	}
	return screen{status: http.StatusOK, page: pageData{Title: "Authorize Millrace", Ask: &ask{
		Text: "Millrace would like to know who you are, and where you may see its installations. You are signed in as " + who.Login + ".",
		Forms: []askForm{
			{Title: "Go on", Text: "You are sent to " + a.redirect, Action: "/login/oauth/authorize", Fields: append(slices.Clone(fields), field{"authorize", "1"}), Button: "Authorize Millrace"},
			{Title: "Or not", Text: "Millrace is told that you refused.", Action: "/login/oauth/authorize", Fields: append(slices.Clone(fields), field{"authorize", "0"}), Button: "Cancel"},
		},
		Links: []askLink{{again + "&prompt=select_account", "Use another account"}},
	}}}
}
