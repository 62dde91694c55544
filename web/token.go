package web

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// tokensView is what the tokens page shows.
type tokensView struct {
	Path   string
	Tokens []millrace.APIToken
	All    bool // everybody's are listed
	Made   *millrace.APIToken
	Secret millrace.Secret // of Made; shown once
	URL    string
	Now    time.Time
}

func (s *server) tokens(w http.ResponseWriter, r *http.Request, v visit) error {
	return s.showTokens(w, r, v, nil, "")
}

func (s *server) showTokens(w http.ResponseWriter, r *http.Request, v visit, made *millrace.APIToken, secret millrace.Secret) error {
	list, err := s.Store.Org(v.Org.OrgID).APITokens(r.Context(), v.By)
	if err != nil {
		return err
	}
	f, err := s.settingsFrame(r, v, "API tokens")
	if err != nil {
		return err
	}
	return render(w, r, http.StatusOK, tokensPage(f, v, tokensView{
		Path: v.path("/tokens"), Tokens: list, All: v.By.May(millrace.OrgTokensWrite), Made: made, Secret: secret, URL: s.URL, Now: s.Now(),
	}))
}

// newTokenView is the form of a token.
type newTokenView struct {
	Path     string
	Token    millrace.NewAPIToken
	Scopes   []millrace.Permission // that the visitor could give
	MayOfOrg bool
	Problem  string
}

// tokenDays are the lives that the form offers.
var tokenDays = []int{7, millrace.DefaultTokenDays, 90, millrace.MaxTokenDays}

func (v newTokenView) has(p millrace.Permission) bool { return slices.Contains(v.Token.Scopes, p) }

func (s *server) newToken(w http.ResponseWriter, r *http.Request, v visit) error {
	n := millrace.NewAPIToken{Days: millrace.DefaultTokenDays}
	for _, p := range millrace.Scopes() {
		if strings.HasSuffix(string(p), ":read") && v.By.May(p) {
			n.Scopes = append(n.Scopes, p)
		}
	}
	return s.showNewToken(w, r, v, http.StatusOK, n, "")
}

func (s *server) showNewToken(w http.ResponseWriter, r *http.Request, v visit, status int, n millrace.NewAPIToken, problem string) error {
	f, err := s.settingsFrame(r, v, "Make an API token")
	if err != nil {
		return err
	}
	view := newTokenView{Path: v.path("/tokens"), Token: n, MayOfOrg: v.By.May(millrace.OrgTokensWrite), Problem: problem}
	for _, p := range millrace.Scopes() {
		if v.By.May(p) {
			view.Scopes = append(view.Scopes, p)
		}
	}
	return render(w, r, status, newTokenPage(f, view))
}

// makeToken makes a token and shows its secret, in this answer only.
func (s *server) makeToken(w http.ResponseWriter, r *http.Request, v visit) error {
	if err := r.ParseForm(); err != nil {
		return millrace.Errorf(millrace.Invalid, "The form can't be read.")
	}
	n := millrace.NewAPIToken{Name: strings.TrimSpace(r.PostForm.Get("name")), OfOrg: r.PostForm.Get("of_org") != ""}
	for _, p := range r.PostForm["scope"] {
		n.Scopes = append(n.Scopes, millrace.Permission(p))
	}
	var err error
	if n.Days, err = strconv.Atoi(r.PostForm.Get("days")); err != nil || n.Days == 0 {
		n.Days = -1 // which is refused
	}
	token, secret, err := s.Store.Org(v.Org.OrgID).CreateAPIToken(r.Context(), v.By, n)
	if code := millrace.CodeOf(err); code == millrace.Unprocessable || code == millrace.Forbidden {
		return s.showNewToken(w, r, v, code.Status(), n, millrace.MessageOf(err))
	}
	if err != nil {
		return err
	}
	return s.showTokens(w, r, v, &token, secret)
}

func (s *server) revokeToken(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseAPITokenID(r.PathValue("token"))
	if err != nil {
		return err
	}
	if err := s.Store.Org(v.Org.OrgID).RevokeAPIToken(r.Context(), v.By, id); err != nil {
		return err
	}
	http.Redirect(w, r, v.path("/tokens"), http.StatusSeeOther)
	return nil
}

// over reports whether a token can't be used any more, and why.
func over(t millrace.APIToken, now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "Revoked"
	case !t.ExpiresAt.After(now):
		return "Expired"
	}
	return ""
}

// texts are scopes in words.
func texts(scopes []millrace.Permission) []string {
	list := make([]string, len(scopes))
	for i, p := range scopes {
		list[i] = string(p)
	}
	return list
}
