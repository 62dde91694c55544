package store_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func (w *world) link() string {
	w.t.Helper()
	secret, err := w.st.CreateSignInLink(w.t.Context(), w.Owner.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal()
}

func (w *world) signIn() string {
	w.t.Helper()
	session, err := w.st.SignIn(w.t.Context(), w.link(), millrace.Device{})
	if err != nil {
		w.t.Fatal(err)
	}
	return session.Reveal()
}

func TestSignInLinkWorksOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.link()
	var tries sync.WaitGroup
	var in atomic.Int64
	for range 50 {
		tries.Go(func() {
			switch _, err := w.st.SignIn(t.Context(), link, millrace.Device{}); {
			case err == nil:
				in.Add(1)
			case millrace.CodeOf(err) != millrace.Unauthenticated:
				t.Error(err)
			}
		})
	}
	tries.Wait()
	if in.Load() != 1 {
		t.Errorf("a link signed in %d times", in.Load())
	}
	expired := w.link()
	w.advance(millrace.SignInLinkLength)
	_, err := w.st.SignIn(t.Context(), expired, millrace.Device{})
	code(t, err, millrace.Unauthenticated)
	for _, other := range []string{"", "mrsl_", storetest.MustCreateToken(t, w.st, w.Tenant), millrace.NewSecret(millrace.SignInLinkPrefix, nil).Reveal()} {
		_, err := w.st.SignIn(t.Context(), other, millrace.Device{})
		code(t, err, millrace.Unauthenticated)
	}
	w.link() // makes room
	if n := scalar[int](t, w.root, `SELECT count(*) FROM sign_in_links`); n != 1 {
		t.Errorf("%d links are kept", n)
	}
}

// A session lives for a week, if it is used every half day; signing out ends it at once.
func TestSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	session, other := w.signIn(), w.signIn()
	begun := w.now()
	alive := func(secret string) bool {
		t.Helper()
		got, err := w.st.SessionUser(t.Context(), secret)
		if err == nil && (got.User != w.Owner || !got.CreatedAt.Equal(begun) || !got.ExpiresAt.Equal(begun.Add(millrace.SessionLength))) {
			t.Errorf("session %+v", got)
		}
		if err != nil {
			code(t, err, millrace.Unauthenticated)
		}
		return err == nil
	}
	for w.now().Sub(begun) < millrace.SessionLength-millrace.SessionIdle {
		w.advance(millrace.SessionIdle - time.Second)
		if !alive(session) {
			t.Fatalf("a session in use ended after %s", w.now().Sub(begun))
		}
	}
	if alive(other) {
		t.Error("a session that isn't used lives on")
	}
	w.advance(begun.Add(millrace.SessionLength).Sub(w.now()))
	if alive(session) {
		t.Error("a session outlives its week")
	}
	begun = w.now()
	third, fourth := w.signIn(), w.signIn()
	if err := w.st.SignOut(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	if alive(third) || !alive(fourth) {
		t.Error("signing out ended another session, or not its own")
	}
	for _, unknown := range []string{third, "", "mrss_?"} {
		if err := w.st.SignOut(t.Context(), unknown); err != nil {
			t.Errorf("signing out of no session: %v", err)
		}
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM sessions WHERE length(hash) <> 32`); n != 0 {
		t.Errorf("%d sessions are kept with something else than a hash", n)
	}
}

func TestMemberships(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other, _, err := w.st.CreateOrg(t.Context(), store.NewOrg{Slug: "brisk", Name: "Brisk", DefaultSize: millrace.Size{MilliCPU: 1, MemoryMB: 1}, Owner: w.Owner})
	if err != nil {
		t.Fatal(err)
	}
	if other.Concurrency == 0 || other.Plan != millrace.PlanTrial {
		t.Errorf("org %+v", other)
	}
	storetest.MustCreateOrg(t, w.st, "aloof")
	got, err := w.st.Memberships(t.Context(), w.Owner.ID)
	want := []millrace.Membership{
		{OrgID: other.ID, Slug: "brisk", Name: "Brisk", Role: millrace.RoleOwner},
		{OrgID: w.ID, Slug: "calm", Name: "calm", Role: millrace.RoleOwner},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = w.st.Memberships(t.Context(), millrace.NewUserID(new(millrace.Source), w.now()))
	if err != nil || len(got) != 0 {
		t.Errorf("nobody's memberships: %v, %v", got, err)
	}
	same, err := w.st.OrgBySlug(t.Context(), "brisk")
	if diff := cmp.Diff(other, same); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	_, err = w.st.OrgBySlug(t.Context(), "nobody")
	code(t, err, millrace.NotFound)
	for _, slug := range []string{"", "-", "Calm", "a b", "x'--", "ä"} {
		_, _, err := w.st.CreateOrg(t.Context(), store.NewOrg{Slug: slug, Owner: w.Owner, DefaultSize: w.DefaultSize})
		code(t, err, millrace.Invalid)
	}
}

// A token is its user's, for as long as the user is a member.
func TestTokenAuth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := storetest.MustCreateToken(t, w.st, w.Tenant)
	got, err := w.st.TokenAuth(t.Context(), secret, millrace.Device{})
	want := millrace.APIToken{
		OrgID: w.ID, ID: got.ID, UserID: w.Owner.ID, Name: "test", Hint: secret[:9], Scopes: millrace.Scopes(), Role: millrace.RoleOwner,
		CreatedAt: got.CreatedAt, ExpiresAt: w.now().AddDate(0, 0, millrace.DefaultTokenDays),
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || !got.CreatedAt.Equal(w.now()) {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, other := range []string{"", w.link(), secret + "x", secret[:len(secret)-1] + "?", millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal()} {
		_, err := w.st.TokenAuth(t.Context(), other, millrace.Device{})
		code(t, err, millrace.Unauthenticated)
	}
	ended := func(sql string) {
		t.Helper()
		if _, err := w.root.Exec(t.Context(), sql, w.now()); err != nil {
			t.Fatal(err)
		}
		_, err := w.st.TokenAuth(t.Context(), secret, millrace.Device{})
		code(t, err, millrace.Unauthenticated)
	}
	ended(`UPDATE api_tokens SET expires_at = $1`)
	ended(`UPDATE api_tokens SET expires_at = $1::timestamptz + interval '1 hour', revoked_at = $1`)
	if _, err := w.root.Exec(t.Context(), `UPDATE api_tokens SET revoked_at = NULL`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.st.TokenAuth(t.Context(), secret, millrace.Device{}); err != nil {
		t.Error(err)
	}
	ended(`DELETE FROM memberships WHERE created_at <= $1`)
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'api_token.created'`); n != 1 {
		t.Errorf("%d audit entries", n)
	}
}

// Somebody who signs in at GitHub is a member where GitHub says so, and no longer when it no longer does.
func TestSignInPerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := storetest.MustCreateOrg(t, w.st, "brisk")
	mona := millrace.User{GitHubID: 4077, Login: "mona", Name: "Mona"}
	var session millrace.Session
	signIn := func(user millrace.User, at ...millrace.PersonInstallation) string {
		t.Helper()
		w.advance(time.Second)
		secret, err := w.st.SignInPerson(t.Context(), millrace.GitHubPerson{User: user, Installations: at}, millrace.Device{})
		if err != nil {
			t.Fatal(err)
		}
		if session, err = w.st.SessionUser(t.Context(), secret.Reveal()); err != nil {
			t.Fatal(err)
		}
		orgs, err := w.st.Memberships(t.Context(), session.User.ID)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, m := range orgs {
			list = append(list, m.Slug+" "+string(m.Role))
		}
		return strings.Join(list, ", ")
	}
	at := func(tenant storetest.Tenant, admin bool) millrace.PersonInstallation {
		return millrace.PersonInstallation{Installation: tenant.Installation, Member: true, Admin: admin}
	}
	elsewhere := millrace.PersonInstallation{Installation: millrace.Installation{ID: 987654321, OwnerID: 5, OwnerLogin: "stranger"}, Member: true, Admin: true}

	for _, step := range []struct {
		what string
		at   []millrace.PersonInstallation
		want string
	}{
		{"an installation that is no org's", []millrace.PersonInstallation{elsewhere}, ""},
		{"a member there, an admin here", []millrace.PersonInstallation{at(w.Tenant, true), at(second, false), elsewhere}, "brisk member, calm admin"},
		{"GitHub gave other roles", []millrace.PersonInstallation{at(w.Tenant, false), at(second, true)}, "brisk admin, calm member"},
		{"GitHub ended one", []millrace.PersonInstallation{at(second, true)}, "brisk admin"},
		{"GitHub ended all", nil, ""},
		{"they are back", []millrace.PersonInstallation{at(w.Tenant, false)}, "calm member"},
	} {
		if got := signIn(mona, step.at...); got != step.want {
			t.Errorf("%s: %q, want %q", step.what, got, step.want)
		}
	}
	before := session.User.ID
	if signIn(millrace.User{GitHubID: mona.GitHubID, Login: "lisa"}, at(w.Tenant, false)); session.User.ID != before || session.User.Login != "lisa" {
		t.Errorf("after they were renamed they are %+v", session.User)
	}
	if got := signIn(millrace.User{GitHubID: 4078, Login: "mona"}); got != "" || session.User.ID == before {
		t.Errorf("whoever took their old name is %+v of %q", session.User, got)
	}
	// What somebody here decided stays, whatever GitHub says.
	if got := signIn(w.Owner, at(w.Tenant, false)); got != "calm owner" {
		t.Errorf("the owner is a member at GitHub: %q", got)
	}
	if got := signIn(w.Owner); got != "calm owner" {
		t.Errorf("the owner is nobody at GitHub: %q", got)
	}
	actions := column[string](t, w.root, `SELECT action FROM audit WHERE org_id = $1 AND subject = $2 ORDER BY at, audit_id`, w.ID, before.String())
	if want := []string{"member.joined", "member.role_changed", "member.left", "member.joined"}; !cmp.Equal(actions, want) {
		t.Errorf("audit %v, want %v", actions, want)
	}
}
