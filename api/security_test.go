package api_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// filled fills in the parameters of paths with IDs that nothing has.
func filled() *strings.Replacer {
	ids, now := new(millrace.Source), time.Now()
	return strings.NewReplacer("{org}", "calm", "{job}", millrace.NewJobID(ids, now).String(), "{vm}", millrace.NewVMID(ids, now).String(),
		"{host}", millrace.NewHostID(ids, now).String(), "{user}", millrace.NewUserID(ids, now).String(),
		"/tokens/{token}", "/tokens/"+millrace.NewAPITokenID(ids, now).String(),
		"/enrollment-tokens/{token}", "/enrollment-tokens/"+millrace.NewEnrollmentTokenID(ids, now).String())
}

// A path that is written in another way leads nowhere.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := storetest.MustCreateToken(t, w.st, w.calm)
	for _, path := range []string{
		"calm/../rival/jobs", "calm/%2e%2e/rival/jobs", "calm/..%2frival/jobs", "CALM/jobs", "calm./jobs", "calm%00/jobs", "calm%20/jobs", "calm%2fjobs",
		"calm;x/jobs", "/calm/jobs", "calm//jobs", "calm/jobs/", "calm/jobs.", "calm/jobs%2f..%2fhosts", "calm/Jobs", "calm%0d%0a/jobs",
	} {
		a := w.get("/api/v1/orgs/"+path, token)
		if a.status != http.StatusNotFound && a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %.200s", path, a.status, a.body)
			continue
		}
		problem(t, path, a, a.status)
	}
}

// What another org has is reached by no filter, no cursor, no body and no host's signature.
func TestNoWayToAnotherOrg(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	theirs, ours := w.enroll(w.calm, "calm-canary"), w.enroll(w.rival, "rack-1")
	vm := w.place(w.calm, theirs, 1)
	for i := range int64(3) {
		storetest.MustIntake(t, w.st, storetest.Delivery(w.calm, 10+i, millrace.JobCompleted, func(j *millrace.Job) { j.Actor = "calm-canary" }))
		w.place(w.calm, theirs, 20+i)
		if err := w.st.OpenIncident(t.Context(), w.calm.Installation.ID, i+1, "calm/app", millrace.Condition{Code: millrace.WaitRunnerGroup}); err != nil {
			t.Fatal(err)
		}
	}
	token, foreign := storetest.MustCreateToken(t, w.st, w.rival), storetest.MustCreateToken(t, w.st, w.calm)
	const base, empty = "/api/v1/orgs/rival", `{"data":[],"next_cursor":null}`
	for _, path := range []string{
		"/jobs?repository=calm/app", "/jobs?status=queued,in_progress,completed", "/vms?host=" + theirs.Host.String(), "/vms?live=true", "/vms?job=" + vm.ForJob.String(), "/incidents?open=true",
		"/usage?by=repository", "/usage?by=user", "/usage?by=day", "/audit?actor=" + w.calm.Owner.ID.String(), "/audit?actor=calm-admin",
		"/audit?subject=" + theirs.Host.String(), "/audit?action=host.enrolled&subject=" + theirs.Host.String(),
	} {
		if a := w.get(base+path, token); a.status != http.StatusOK || strings.TrimSpace(string(a.body)) != empty {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	for _, path := range []string{"/hosts", "/members", "/tokens", "/enrollment-tokens", "/audit"} {
		if a := w.get(base+path, token); a.status != http.StatusOK || strings.Contains(string(a.body), "calm") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}

	// A cursor is good for the org that gave it out.
	for _, list := range []string{"/jobs", "/vms", "/incidents", "/audit"} {
		var page client.List[json.RawMessage]
		a := w.get("/api/v1/orgs/calm"+list+"?limit=1", foreign)
		if err := json.Unmarshal(a.body, &page); err != nil || page.NextCursor == nil {
			t.Fatalf("%s: %s, %v", list, a.body, err)
		}
		problem(t, list+" with another org's cursor", w.get(base+list+"?cursor="+*page.NextCursor, token), http.StatusBadRequest)
		if a := w.get("/api/v1/orgs/calm"+list+"?cursor="+*page.NextCursor, foreign); a.status != http.StatusOK {
			t.Errorf("%s with its own cursor: %d %s", list, a.status, a.body)
		}
	}

	// A host acts for its own org's VMs.
	none := vm.ID
	none[15]++
	for _, id := range []millrace.VMID{vm.ID, none} {
		if _, err := ours.JIT(t.Context(), id, 1); millrace.CodeOf(err) != millrace.NotFound {
			t.Errorf("the runner of VM %s: %v", id, err)
		}
		if err := ours.AppendConsole(t.Context(), id, 0, []byte("evil")); millrace.CodeOf(err) != millrace.NotFound {
			t.Errorf("the console of VM %s: %v", id, err)
		}
		out, err := ours.Sync(t.Context(), client.SyncRequest{VMs: []client.VMReport{{ID: id, Epoch: 1, State: millrace.VMGone}}})
		if err != nil || len(out.VMs) != 0 {
			t.Errorf("a report of VM %s: %+v, %v", id, out, err)
		}
	}
	if row, err := w.st.Org(w.calm.ID).VM(t.Context(), vm.ID); err != nil || row.State != millrace.VMPending || row.RunnerID != 0 {
		t.Errorf("after all that the VM is %+v, %v", row.VM, err)
	}
}

// A parameter that is given twice could be read either way, so it is read in none.
func TestParametersGivenTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := storetest.MustCreateToken(t, w.st, w.calm)
	for query, says := range map[string]string{
		"jobs?limit=1&limit=1000":                 `The parameter \"limit\" is given 2 times. Give it once.`,
		"jobs?status=queued&status=completed":     `The parameter \"status\" is given 2 times. Give it once.`,
		"jobs?repository=&repository=calm/app":    `The parameter \"repository\" is given 2 times.`,
		"vms?cursor=x&%63ursor=y&cursor=z":        `The parameter \"cursor\" is given 3 times.`,
		"usage?by=day&by=day":                     `The parameter \"by\" is given 2 times.`,
		"audit?actor=a&actor=b":                   `The parameter \"actor\" is given 2 times.`,
		"jobs?unknown=1&unknown=2":                `The parameter \"unknown\" is given 2 times.`,
		"jobs?limit=1;limit=1000":                 "The query can't be read",
		"jobs?status=%zz":                         "The query can't be read",
		"incidents?open=true&limit=5&open=false&": `The parameter \"open\" is given 2 times.`,
	} {
		a := w.get("/api/v1/orgs/calm/"+query, token)
		problem(t, query, a, http.StatusUnprocessableEntity)
		if !strings.Contains(string(a.body), says) {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	if a := w.get("/api/v1/orgs/calm/jobs?status=queued,completed&limit=1", token); a.status != http.StatusOK {
		t.Errorf("each once: %d %s", a.status, a.body)
	}
}

// Why a token is none is told to nobody: all that don't work look the same.
func TestBadTokensLookAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spoiled := func(how string) string {
		secret := storetest.MustCreateToken(t, w.st, w.calm)
		hash, _ := millrace.HashSecret(millrace.APITokenPrefix, secret)
		if _, err := w.root.Exec(t.Context(), `UPDATE api_tokens SET `+how+` WHERE hash = $1`, hash); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	leaver := w.person(w.calm, millrace.RoleAdmin, 1)
	left := w.token(w.calm, leaver)
	const path = "/api/v1/orgs/calm/jobs"
	if a := w.get(path, left); a.status != http.StatusOK {
		t.Fatalf("before they left: %d %s", a.status, a.body)
	}
	gone := millrace.GitHubPerson{User: millrace.User{GitHubID: 700_001, Login: "admin-1"}} // GitHub shows them nothing any more
	if _, err := w.root.Exec(t.Context(), `UPDATE memberships SET chosen = false WHERE user_id = $1`, leaver.UserID.UUID()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.st.SignInPerson(t.Context(), gone, millrace.Device{}); err != nil {
		t.Fatal(err)
	}
	good := storetest.MustCreateToken(t, w.st, w.calm)
	want := anonymous(t, w.get(path, ""))
	for name, token := range map[string]string{
		"malformed": "mrat_x", "mistyped": good[:len(good)-1] + "!", "longer": good + "x", "unknown": millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal(),
		"of another kind": millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal(), "expired": spoiled("expires_at = created_at"),
		"revoked": spoiled("revoked_at = created_at"), "of somebody who left": left, "hostile": "' OR true --",
	} {
		a := w.get(path, token)
		problem(t, name, a, http.StatusUnauthorized)
		if got := anonymous(t, a); got != want || a.header.Get("WWW-Authenticate") != `Bearer realm="millrace"` {
			t.Errorf("a token that is %s: %s, want %s", name, got, want)
		}
	}
	r := w.request(http.MethodGet, path, nil)
	r.Header.Set("Cookie", "millrace="+good)
	problem(t, "a token in a cookie", w.send(r), http.StatusUnauthorized)
	problem(t, "a token in the URL", w.get(path+"?token="+good, ""), http.StatusUnauthorized)
}

// An owner's token does what its scopes say: with every scope but the one that an operation takes it is told which it
// lacks, and one that reads writes nothing.
func TestEveryOperationTakesItsScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := func(scopes []millrace.Permission) string {
		_, secret, err := w.st.Org(w.calm.ID).CreateAPIToken(t.Context(), w.calm.Caller(), millrace.NewAPIToken{Name: "x", Scopes: scopes})
		if err != nil {
			t.Fatal(err)
		}
		return secret.Reveal()
	}
	reads := func(p millrace.Permission) bool { return strings.HasSuffix(string(p), ":read") }
	reader := token(slices.DeleteFunc(millrace.Scopes(), func(p millrace.Permission) bool { return !reads(p) }))
	without := map[millrace.Permission]string{}
	for _, needs := range millrace.Scopes() {
		without[needs] = token(slices.DeleteFunc(millrace.Scopes(), func(p millrace.Permission) bool { return p == needs }))
	}
	count := func() int64 {
		return scalar[int64](w, `SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM api_tokens) + (SELECT count(*) FROM enrollment_tokens)`)
	}
	before, writes := count(), 0
	for _, op := range w.operations(filled()) {
		if op.needs == "" {
			continue // every token may
		}
		says := "lacks the scope " + string(op.needs)
		a := w.ask(op.method, op.path, without[op.needs], `{}`)
		problem(t, op.key+" without its scope", a, http.StatusForbidden)
		if !strings.Contains(string(a.body), says) {
			t.Errorf("%s without its scope: %s", op.key, a.body)
		}
		if op.method == http.MethodGet {
			continue
		}
		writes++
		if reads(op.needs) {
			t.Errorf("%s changes something and takes %s", op.key, op.needs)
		}
		problem(t, op.key+" with a token that reads", w.ask(op.method, op.path, reader, `{}`), http.StatusForbidden)
	}
	if after := count(); writes < 5 || after != before {
		t.Errorf("%d operations that write; %d rows became %d", writes, before, after)
	}
}

// Reading changes nothing but when the token was last used, which is noted once a minute.
func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	token := storetest.MustCreateToken(t, w.st, w.calm)
	w.get("/api/v1/orgs/calm/jobs", token)
	before, read := w.db.Rows(t), 0
	for _, op := range w.operations(strings.NewReplacer("{org}", "calm", "{job}", vm.ForJob.String(), "{vm}", vm.ID.String(), "{host}", h.Host.String())) {
		if op.method == http.MethodGet {
			read++
			if a := w.get(op.path, token); a.status != http.StatusOK {
				t.Errorf("%s: %d", op.key, a.status)
			}
		}
	}
	if diff := cmp.Diff(before, w.db.Rows(t)); diff != "" || read < 10 {
		t.Errorf("%d reads changed:\n%s", read, diff)
	}
}

// What a body says beyond what it may is refused, by name, and the rest of it is not done.
func TestMassAssignment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := storetest.MustCreateToken(t, w.st, w.calm)
	member := w.person(w.calm, millrace.RoleViewer, 1)
	bodies := map[string]string{
		"POST /tokens":            `{"name":"x","scopes":["jobs:read"]`,
		"POST /enrollment-tokens": `{"uses":1`,
		"PATCH /members/{user}":   `{"role":"admin"`,
		"PATCH /hosts/{host}":     `{"admin":"draining"`,
		"PATCH /placement":        `{"strategy":"spread"`,
	}
	bodiless := []string{"POST /hosts/{host}/restart", "POST /hosts/{host}/reboot", "POST /hosts/{host}/rotate-keys"}
	fill := strings.NewReplacer("{org}", "calm", "{user}", member.UserID.String())
	count := func() int64 { return scalar[int64](w, `SELECT count(*) FROM audit`) }
	before := count()
	for _, op := range w.operations(fill) {
		body, takes := bodies[op.key]
		if !takes {
			if op.method != http.MethodGet && op.method != http.MethodDelete && !slices.Contains(bodiless, op.key) {
				t.Errorf("%s has no row: say what its body is", op.key)
			}
			continue
		}
		for _, field := range []string{"org_id", "org", "id", "user_id", "plan", "verified", "github_id", "created_at", "secret", "hash", "Role "} {
			a := w.ask(op.method, op.path, token, fmt.Sprintf(`%s,%q:"owner"}`, body, field))
			problem(t, op.key+" with "+field, a, http.StatusUnprocessableEntity)
			if !strings.Contains(string(a.body), "body."+field+": unexpected property") {
				t.Errorf("%s with %s: %s", op.key, field, a.body)
			}
		}
	}
	if after := count(); after != before {
		t.Errorf("%d entries in the audit log became %d", before, after)
	}
}

// secretNames are fields that no answer may have.
var secretNames = regexp.MustCompile(`(?i)hash|key|secret|sealed|jit|password|email|mail|cookie|session`)

// No answer has a field for what is secret, nor any bytes of it.
func TestAnswersHaveNoSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any `json:"properties"`
			} `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(w.get("/openapi.json", "").body, &doc); err != nil {
		t.Fatal(err)
	}
	var found []string
	for name, schema := range doc.Components.Schemas {
		for property := range schema.Properties {
			if secretNames.MatchString(property) {
				found = append(found, name+"."+property)
			}
		}
	}
	slices.Sort(found)
	// A token's secret is in the answer to making it alone; a key of usage is what is summed up; of a
	// host's keys there is when they were made.
	if want := []string{"APIToken.secret", "EnrollmentToken.secret", "Host.keys_at", "Host.rotate_keys_pending", "Usage.key"}; !slices.Equal(found, want) {
		t.Errorf("fields for what is secret: %v, want %v", found, want)
	}

	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	if _, err := h.JIT(t.Context(), vm.ID, 1); err != nil {
		t.Fatal(err)
	}
	_, secret, err := w.st.Org(w.calm.ID).CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{})
	if err != nil {
		t.Fatal(err)
	}
	token := storetest.MustCreateToken(t, w.st, w.calm)
	secrets := []string{secret.Reveal(), token}
	for _, sql := range []string{
		`SELECT hash FROM api_tokens ORDER BY created_at DESC LIMIT 1`, `SELECT hash FROM enrollment_tokens ORDER BY created_at DESC LIMIT 1`,
		`SELECT sign_key FROM hosts`, `SELECT seal_key FROM hosts`, `SELECT jit_sealed FROM vms`,
	} {
		b := scalar[[]byte](w, sql)
		if len(b) < 32 {
			t.Fatalf("%s: %d bytes", sql, len(b))
		}
		secrets = append(secrets, hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b)[:40], base64.URLEncoding.EncodeToString(b)[:40])
	}
	fill := strings.NewReplacer("{org}", "calm", "{job}", vm.ForJob.String(), "{vm}", vm.ID.String(), "{host}", h.Host.String())
	asked := 0
	for _, op := range w.operations(fill) {
		if op.method != http.MethodGet {
			continue
		}
		a := w.get(op.path, token)
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", op.key, a.status, a.body)
		}
		asked++
		for _, secret := range secrets {
			if strings.Contains(string(a.body), secret) {
				t.Errorf("%s tells a secret: %s", op.key, a.body)
			}
		}
	}
	if asked < 10 {
		t.Errorf("only %d answers were read", asked)
	}
}

// Another site's page reads nothing, whatever its browser sends along; and nobody says who they are by a header.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := storetest.MustCreateToken(t, w.st, w.calm)
	for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodHead} {
		r := w.request(method, "/api/v1/orgs/calm/jobs", nil)
		for name, value := range map[string]string{
			"Origin": "https://evil.example", "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization", "Authorization": "Bearer " + token,
		} {
			r.Header.Set(name, value)
		}
		a := w.send(r)
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: another site is told %s", method, name)
			}
		}
		if want := map[string]int{http.MethodGet: 200, http.MethodHead: 405, http.MethodOptions: 405}[method]; a.status != want {
			t.Errorf("%s: %d, want %d", method, a.status, want)
		}
	}
	r := w.request(http.MethodPost, "/api/v1/orgs/calm/tokens", []byte(`{"name":"forwarded","scopes":["jobs:read"],"days":1}`))
	for name, value := range map[string]string{
		"Authorization": "Bearer " + token, "Content-Type": "application/json", "X-Forwarded-For": "203.0.113.66", "X-Real-IP": "203.0.113.66", "Forwarded": "for=203.0.113.66",
		"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher",
	} {
		r.Header.Set(name, value)
	}
	if a := w.send(r); a.status != http.StatusCreated || strings.Contains(string(a.body), "evil.example") {
		t.Errorf("forwarded: %d %s", a.status, a.body)
	}
	a := w.get("/api/v1/orgs/calm/audit?action=api_token.created&limit=1", token)
	if !strings.Contains(string(a.body), `"address":"127.0.0.1"`) || strings.Contains(string(a.body), "203.0.113.66") {
		t.Errorf("who made it: %s", a.body)
	}
}

// crashing is a far side whose every answer is a panic with a secret in hand.
type crashing struct{ millrace.WebhookSource }

func (crashing) Parse(millrace.Header, []byte) (millrace.Delivery, error) {
	panic("a canary: " + millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal())
}

// A handler that breaks says which request it was, and nothing else.
func TestPanicsTellNothing(t *testing.T) {
	t.Parallel()
	log := storetest.NewLog(t)
	server := httptest.NewServer(api.New(api.Config{Webhooks: crashing{}, Log: log.Logger()}))
	t.Cleanup(server.Close)
	w := &world{t: t, url: server.URL}
	a := w.send(w.request(http.MethodPost, "/webhooks/github", []byte(`{}`)))
	p := problem(t, "a panic", a, http.StatusInternalServerError)
	for _, told := range []string{"canary", "mrat_", ".go", "goroutine", "panic"} {
		if strings.Contains(string(a.body), told) {
			t.Errorf("the answer has %q: %s", told, a.body)
		}
	}
	if text := log.String(); !strings.Contains(text, "a canary: mrat_[redacted]") || !strings.Contains(text, p.Instance) {
		t.Errorf("the log lacks the panic, or which request it was: %s", text)
	}
}

// Who was refused, where and why is in the log; no secret that they came with is.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	viewer := w.token(w.calm, w.person(w.calm, millrace.RoleViewer, 1))
	h := w.enroll(w.calm, "rack-1")
	h.Key[3]++
	for name, c := range map[string]struct {
		ask  func() answer
		want int
	}{
		"a right that is missing": {func() answer { return w.get("/api/v1/orgs/calm/audit", viewer) }, 403},
		"another org":             {func() answer { return w.get("/api/v1/orgs/rival/jobs", viewer) }, 404},
		"no such token": {func() answer {
			return w.get("/api/v1/orgs/calm/jobs", millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal())
		}, 401},
		"no such enrollment": {func() answer {
			return w.send(w.request(http.MethodPost, "/agent/v1/enroll", marshal(t, client.EnrollRequest{
				Token: millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal(), Name: "x", SignKey: make([]byte, 32), SealKey: make([]byte, 32), Facts: storetest.Facts(),
			})))
		}, 401},
		"a forged signature": {func() answer {
			body := marshal(t, client.SyncRequest{})
			r := w.request(http.MethodPost, "/agent/v1/sync", body)
			client.Sign(r, body, h.Key, client.Claims{Host: h.Host, Epoch: 2, Sequence: 1, Time: time.Now()})
			return w.send(r)
		}, 401},
		"an unsigned webhook": {func() answer { return w.send(w.request(http.MethodPost, "/webhooks/github", []byte(`{}`))) }, 401},
	} {
		p := problem(t, name, c.ask(), c.want)
		logged := false
		for line := range strings.Lines(w.log.String()) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatal(err)
			}
			if fields["msg"] == "refused" && fields["request_id"] == p.Instance {
				logged = fields["level"] == slog.LevelWarn.String() && fields["address"] == "127.0.0.1" && fields["why"] == p.Detail && fields["path"] != ""
			}
		}
		if !logged {
			t.Errorf("%s: it was not logged who was refused", name)
		}
	}
}
