package store_test

import (
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// Whoever leaves the organisation at GitHub leaves the org, and their tokens with them, without signing in again; nobody joins
// who has not signed in.
func TestMembersAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := millrace.User{GitHubID: 4711, Login: "mona"}
	at := []millrace.PersonInstallation{{Installation: w.Installation, Member: true}}
	secret, err := w.st.SignInPerson(t.Context(), millrace.GitHubPerson{User: user, Installations: at}, millrace.Device{})
	if err != nil {
		t.Fatal(err)
	}
	session, err := w.st.SessionUser(t.Context(), secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	by := millrace.Caller{UserID: session.User.ID, Role: millrace.RoleMember, Actor: millrace.Actor{Kind: millrace.ActorUser, ID: session.User.ID.String()}}
	_, token, err := w.org.CreateAPIToken(t.Context(), by, millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{millrace.JobsRead}, Days: 90})
	if err != nil {
		t.Fatal(err)
	}
	due := func(want int) {
		t.Helper()
		list, err := w.st.MembersDue(t.Context())
		if err != nil || len(list) != want || want == 1 && (list[0].ID != w.Installation.ID || list[0].OwnerLogin != w.Slug) {
			t.Fatalf("%+v, %v, want %d", list, err, want)
		}
	}
	role := func() millrace.Role {
		t.Helper()
		list, err := w.st.Memberships(t.Context(), session.User.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return ""
		}
		return list[0].Role
	}
	save := func(members ...millrace.GitHubMember) {
		t.Helper()
		if err := w.st.SaveMembers(t.Context(), w.Installation.ID, members); err != nil {
			t.Fatal(err)
		}
	}
	due(1)
	due(0)
	hint := func(id int64) store.IntakeResult {
		t.Helper()
		r, err := w.st.Intake(t.Context(), millrace.Delivery{Event: "organization", Installation: &millrace.InstallationEvent{InstallationID: id, Changed: millrace.InstallationPeople}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if hint(w.Installation.ID) != store.IntakeStored || hint(987654) != store.IntakeUnknownInstallation {
		t.Error("a hint was taken for another")
	}
	due(1) // the hint says so
	if tasks := w.tasks(); len(tasks) != 1 || tasks[0] != "members.read" {
		t.Errorf("tasks %v", tasks)
	}
	save(millrace.GitHubMember{GitHubID: 4711, Login: "mona", Admin: true}, millrace.GitHubMember{GitHubID: 4712, Login: "lisa"})
	if role() != millrace.RoleAdmin {
		t.Errorf("an owner at GitHub is %q", role())
	}
	if members, err := w.org.Members(t.Context()); err != nil || len(members) != 2 {
		t.Errorf("lisa, who never signed in, is one of %+v, %v", members, err)
	}
	w.advance(12*time.Hour + time.Second) // the session is idle by now; her token is not
	due(1)
	if _, err := w.st.TokenAuth(t.Context(), token.Reveal(), millrace.Device{}); err != nil {
		t.Fatal(err)
	}
	save(millrace.GitHubMember{GitHubID: 4712, Login: "lisa"})
	if role() != "" {
		t.Errorf("after she left she is %q", role())
	}
	_, err = w.st.TokenAuth(t.Context(), token.Reveal(), millrace.Device{})
	code(t, err, millrace.Unauthenticated)
	if list, err := w.st.Memberships(t.Context(), w.Owner.ID); err != nil || len(list) != 1 {
		t.Errorf("the owner, of whom GitHub says nothing: %+v, %v", list, err)
	}
	w.advance(time.Hour)
	due(0) // nobody is left who could do anything by GitHub's word
}
