package workers_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
)

// Whoever GitHub takes out of an organisation is out of its org when GitHub says so, and within five minutes when it says
// nothing.
func TestMembersFollowGitHub(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	people := map[string]millrace.UserID{}
	for _, login := range []string{"lisa", "hubot"} {
		p := h.AddPerson(login)
		h.must(h.SetMember("calm", login, "member"))
		secret, err := h.st.SignInPerson(t.Context(), millrace.GitHubPerson{
			User: millrace.User{GitHubID: p.ID, Login: login}, Installations: []millrace.PersonInstallation{{Installation: h.owner.Installation, Member: true}},
		}, millrace.Device{})
		h.must(err)
		session, err := h.st.SessionUser(t.Context(), secret.Reveal())
		h.must(err)
		people[login] = session.User.ID
	}
	orgs := func(login string) int {
		t.Helper()
		list, err := h.st.Memberships(t.Context(), people[login])
		h.must(err)
		return len(list)
	}
	h.answer(http.StatusOK) // they were added
	h.do(millrace.ReadMembers{})
	if orgs("lisa") != 1 || orgs("hubot") != 1 {
		t.Fatal("members are none")
	}

	h.must(h.RemoveMember("calm", "lisa"))
	h.answer(http.StatusOK)
	h.relay() // does what the event asked for
	if orgs("lisa") != 0 || orgs("hubot") != 1 {
		t.Errorf("after GitHub said that lisa left: lisa %d, hubot %d", orgs("lisa"), orgs("hubot"))
	}

	h.must(h.RemoveMember("calm", "hubot"))
	h.sent = nil // nobody hears of it
	for range 5 {
		h.silence(time.Minute)
		h.do(millrace.ReadMembers{})
	}
	if orgs("hubot") != 0 {
		t.Error("five minutes after hubot left, with no word of it, they are a member")
	}

	// An organisation that can't be read loses nobody.
	h.must(h.SetMember("calm", "hubot", "member"))
	h.sent = nil
	_, err := h.st.SignInPerson(t.Context(), millrace.GitHubPerson{
		User: millrace.User{GitHubID: h.AddPerson("hubot").ID, Login: "hubot"}, Installations: []millrace.PersonInstallation{{Installation: h.owner.Installation, Member: true}},
	}, millrace.Device{})
	h.must(err)
	h.cut = true
	h.silence(10 * time.Minute)
	h.do(millrace.ReadMembers{})
	if orgs("hubot") != 1 {
		t.Error("while GitHub was away somebody left")
	}
}
