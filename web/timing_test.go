package web_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

// likeness is how far the medians of two answers' times may be apart, and how many of each are taken.
const (
	likeness = time.Millisecond
	samples  = 1000
)

// apart is how far the medians of the times that a and b take are apart. They take turns, so that what slows the machine down
// slows down both.
func apart(a, b func()) time.Duration {
	took := [2][]time.Duration{}
	for range samples {
		for i, do := range []func(){a, b} {
			began := time.Now()
			do()
			took[i] = append(took[i], time.Since(began))
		}
	}
	for _, list := range took {
		slices.Sort(list)
	}
	return (took[0][samples/2] - took[1][samples/2]).Abs()
}

// Nobody learns from how long an answer takes whether what they asked for is another's or nowhere, or how much of a token is
// right.
//
//nolint:paralleltest // it measures time: no other test of the package may run meanwhile
func TestAnswersTakeTheSameTime(t *testing.T) {
	w := newWorld(t)
	host := w.host("rack-1", 10)
	vm := w.run(host, w.queue(), millrace.StageRunning, 0, "")
	job := w.newest().ID.String()
	rival := storetest.MustCreateOrg(t, w.Store, "rival")
	b, _ := w.person(rival, millrace.RoleOwner)
	rest := w.rest()
	token, foreign := rest.Token.Reveal(), storetest.MustCreateToken(t, w.Store, rival)
	ids, now := new(millrace.Source), w.now()

	plain := browser(t)
	page := func(path string) func() { return func() { w.get(b, path) } }
	as := func(token, path string) func() {
		return func() { w.get(plain, rest.URL+"/api/v1/orgs/"+path, "Authorization", "Bearer "+token) }
	}
	for name, pair := range map[string][2]func(){
		"a page of another's org":      {page("/o/calm/jobs"), page("/o/nowhere/jobs")},
		"a page of another's job":      {page("/o/rival/jobs/" + job), page("/o/rival/jobs/" + millrace.NewJobID(ids, now).String())},
		"another's org":                {as(foreign, "calm/jobs"), as(foreign, "nowhere/jobs")},
		"another's job":                {as(foreign, "rival/jobs/"+job), as(foreign, "rival/jobs/"+millrace.NewJobID(ids, now).String())},
		"another's VM":                 {as(foreign, "rival/vms/"+vm.ID.String()), as(foreign, "rival/vms/"+millrace.NewVMID(ids, now).String())},
		"another's host":               {as(foreign, "rival/hosts/"+host.ID.String()), as(foreign, "rival/hosts/"+millrace.NewHostID(ids, now).String())},
		"a token that begins like one": {as(beginsLike(token), "calm/jobs"), as(millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal(), "calm/jobs")},
	} {
		var difference time.Duration
		for range 3 { // a machine that is busy with something else may be so for a second
			if difference = apart(pair[0], pair[1]); difference < likeness {
				break
			}
		}
		t.Logf("%s: the medians are %s apart", name, difference)
		if difference >= likeness {
			t.Errorf("%s is told by the time it takes: the medians are %s apart", name, difference)
		}
	}
}

// beginsLike is a token that no one has, well made, and like another but for its last digit and its checksum.
func beginsLike(token string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var random []byte
	for _, digit := range token[len(millrace.APITokenPrefix):][:32] {
		random = append(random, byte(strings.IndexRune(digits, digit)))
	}
	random[31] = (random[31] + 1) % byte(len(digits))
	return millrace.NewSecret(millrace.APITokenPrefix, bytes.NewReader(random)).Reveal()
}
