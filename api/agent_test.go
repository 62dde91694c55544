package api_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestEnrollRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mint := func(uses int, life time.Duration) string {
		_, secret, err := w.st.Org(w.calm.ID).CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{Uses: uses, Life: life})
		if err != nil {
			t.Fatal(err)
		}
		return secret.Reveal()
	}
	spoiled := func(how string) string {
		secret := mint(1, time.Hour)
		hash, _ := millrace.HashSecret(millrace.EnrollmentTokenPrefix, secret)
		if _, err := w.root.Exec(t.Context(), `UPDATE enrollment_tokens SET `+how+` WHERE hash = $1`, hash); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	good := mint(1, time.Hour)
	request := func(change func(*client.EnrollRequest)) []byte {
		in := client.EnrollRequest{
			Token: good, Name: "rack-1", SignKey: bytes.Repeat([]byte{1}, 32), SealKey: bytes.Repeat([]byte{2}, 32), Facts: storetest.Facts(),
		}
		change(&in)
		return marshal(t, in)
	}
	const path = "/agent/v1/enroll"
	for name, c := range map[string]struct {
		body []byte
		want int
	}{
		"no token": {request(func(in *client.EnrollRequest) { in.Token = "" }), 401},
		"unknown token": {request(func(in *client.EnrollRequest) {
			in.Token = millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal()
		}), 401},
		"expired token":  {request(func(in *client.EnrollRequest) { in.Token = spoiled("expires_at = created_at") }), 401},
		"used-up token":  {request(func(in *client.EnrollRequest) { in.Token = spoiled("uses_left = 0") }), 409},
		"revoked token":  {request(func(in *client.EnrollRequest) { in.Token = spoiled("revoked_at = created_at") }), 401},
		"mistyped token": {request(func(in *client.EnrollRequest) { in.Token = good[:len(good)-1] + "!" }), 400},
		"labels not given": {request(func(in *client.EnrollRequest) {
			in.Token, in.Facts.Labels = spoiled("labels = '{a}'"), []string{"trusted"}
		}), 403},
		"another network":  {request(func(in *client.EnrollRequest) { in.Token = spoiled("cidr = '192.0.2.0/24'") }), 403},
		"API token":        {request(func(in *client.EnrollRequest) { in.Token = storetest.MustCreateToken(t, w.st, w.calm) }), 401},
		"short sign key":   {request(func(in *client.EnrollRequest) { in.SignKey = in.SignKey[:31] }), 422},
		"no seal key":      {request(func(in *client.EnrollRequest) { in.SealKey = nil }), 422},
		"no name":          {request(func(in *client.EnrollRequest) { in.Name = "" }), 422},
		"spaces in name":   {request(func(in *client.EnrollRequest) { in.Name = "rack 1" }), 422},
		"control in name":  {request(func(in *client.EnrollRequest) { in.Name = "rack\x00" }), 422},
		"long name":        {request(func(in *client.EnrollRequest) { in.Name = strings.Repeat("x", 64) }), 422},
		"unknown arch":     {request(func(in *client.EnrollRequest) { in.Facts.Arch = "riscv64" }), 422},
		"any arch":         {request(func(in *client.EnrollRequest) { in.Facts.Arch = millrace.ArchAny }), 422},
		"emulates itself":  {request(func(in *client.EnrollRequest) { in.Facts.Emulates = []millrace.Arch{millrace.AMD64} }), 422},
		"emulates any":     {request(func(in *client.EnrollRequest) { in.Facts.Emulates = []millrace.Arch{millrace.ArchAny} }), 422},
		"unknown network":  {request(func(in *client.EnrollRequest) { in.Facts.Network = "bridge" }), 422},
		"emulates twice":   {request(func(in *client.EnrollRequest) { in.Facts.Emulates = []millrace.Arch{millrace.ARM64, millrace.ARM64} }), 422},
		"no vCPUs":         {request(func(in *client.EnrollRequest) { in.Facts.VCPUs = 0 }), 422},
		"negative offer":   {request(func(in *client.EnrollRequest) { in.Facts.Offer.MemoryMB = -1 }), 422},
		"fewer VMs than 0": {request(func(in *client.EnrollRequest) { in.Facts.MaxVMs = -1 }), 422},
		"too many VMs":     {request(func(in *client.EnrollRequest) { in.Facts.MaxVMs = millrace.MaxHostVMs + 1 }), 422},
		"implausible disk": {request(func(in *client.EnrollRequest) { in.Facts.DiskMB = 1 << 40 }), 422},
		"NUL in a fact":    {request(func(in *client.EnrollRequest) { in.Facts.Kernel = "6\x00" }), 422},
		"many labels":      {request(func(in *client.EnrollRequest) { in.Facts.Labels = make([]string, 101) }), 422},
		"no JSON":          {[]byte("token"), 400},
		"too large":        {bytes.Repeat([]byte(" "), 5<<20), 413},
	} {
		problem(t, name, w.send(w.request(http.MethodPost, path, c.body)), c.want)
	}
	problem(t, "token in the URL", w.send(w.request(http.MethodPost, path+"?token="+good, request(func(*client.EnrollRequest) {}))), 400)
	if n := scalar[int](w, `SELECT count(*) FROM hosts`); n != 0 {
		t.Errorf("%d hosts were enrolled", n)
	}
	problem(t, "a token that was in an address", w.send(w.request(http.MethodPost, path, request(func(*client.EnrollRequest) {}))), 401)
	good = mint(1, time.Hour)
	enrolled := func() client.EnrollResponse {
		t.Helper()
		a := w.send(w.request(http.MethodPost, path, request(func(*client.EnrollRequest) {})))
		var out client.EnrollResponse
		if err := json.Unmarshal(a.body, &out); err != nil || a.status != http.StatusCreated {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return out
	}
	if first, again := enrolled(), enrolled(); first.HostID != again.HostID {
		t.Errorf("the same machine is %s and %s", first.HostID, again.HostID)
	}
	problem(t, "another machine", w.send(w.request(http.MethodPost, path, request(func(in *client.EnrollRequest) { in.SignKey = bytes.Repeat([]byte{9}, 32) }))), 409)
	guess := func() answer {
		return w.send(w.request(http.MethodPost, path, request(func(in *client.EnrollRequest) {
			in.Token = millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal()
		})))
	}
	for range millrace.EnrollmentGuesses - 1 { // one was among the cases
		problem(t, "a guess", guess(), 401)
	}
	problem(t, "a guess too many", guess(), 429)
}

func TestAgentSignature(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, other := w.enroll(w.calm, "rack-1"), w.enroll(w.rival, "rack-1")
	_, strange, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const path = "/agent/v1/sync"
	body := marshal(t, client.SyncRequest{})
	claims := client.Claims{Host: h.Host, Epoch: 2, Sequence: 1000, Time: time.Now()}
	send := func(c client.Claims, key ed25519.PrivateKey, change func(*http.Request) *http.Request) answer {
		t.Helper()
		r := w.request(http.MethodPost, path, body)
		client.Sign(r, body, key, c)
		if change != nil {
			r = change(r)
		}
		return w.send(r)
	}
	with := func(change func(*client.Claims)) client.Claims {
		c := claims
		change(&c)
		return c
	}
	moved := func(to string, content []byte) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request {
			n := w.request(http.MethodPost, to, content)
			n.Header = r.Header
			return n
		}
	}
	for name, a := range map[string]answer{
		"unsigned":          send(claims, h.Key, func(r *http.Request) *http.Request { r.Header.Del(client.SignatureHeader); return r }),
		"malformed":         send(claims, h.Key, func(r *http.Request) *http.Request { r.Header.Set(client.SignatureHeader, "v1 x"); return r }),
		"signed twice":      send(claims, h.Key, func(r *http.Request) *http.Request { r.Header.Add(client.SignatureHeader, "v1 x"); return r }),
		"another key":       send(claims, strange, nil),
		"another host's ID": send(with(func(c *client.Claims) { c.Host = other.Host }), h.Key, nil),
		"unknown host":      send(with(func(c *client.Claims) { c.Host[15]++ }), h.Key, nil),
		"changed body":      send(claims, h.Key, moved(path, []byte(`{"have":1}`))),
		"changed query":     send(claims, h.Key, moved(path+"?x=1", body)),
		"another path":      send(claims, h.Key, moved("/agent/v1/start", body)),
		"old":               send(with(func(c *client.Claims) { c.Time = c.Time.Add(-2 * client.MaxSkew) }), h.Key, nil),
		"of the future":     send(with(func(c *client.Claims) { c.Time = c.Time.Add(2 * client.MaxSkew) }), h.Key, nil),
		"epoch before":      send(with(func(c *client.Claims) { c.Epoch = 1 }), h.Key, nil),
		"epoch to come":     send(with(func(c *client.Claims) { c.Epoch = 3 }), h.Key, nil),
		"epoch of a start":  send(with(func(c *client.Claims) { c.Epoch = 0 }), h.Key, nil),
	} {
		problem(t, name, a, http.StatusUnauthorized)
	}
	if a := send(claims, h.Key, nil); a.status != http.StatusOK {
		t.Fatalf("none of these used up the number: %d %s", a.status, a.body)
	}
	problem(t, "replay", send(claims, h.Key, nil), http.StatusUnauthorized)
	problem(t, "too old to tell", send(with(func(c *client.Claims) { c.Sequence = 900 }), h.Key, nil), http.StatusUnauthorized)
	if a := send(with(func(c *client.Claims) { c.Sequence = 999 }), h.Key, nil); a.status != http.StatusOK {
		t.Errorf("a request that was overtaken: %d %s", a.status, a.body)
	}

	// A replayed start would end the running process's epoch.
	start := marshal(t, client.StartRequest{Facts: storetest.Facts()})
	r := w.request(http.MethodPost, "/agent/v1/start", start)
	at := time.Now().Add(time.Second)
	client.Sign(r, start, h.Key, client.Claims{Host: h.Host, Sequence: at.UnixMilli(), Time: at})
	header := r.Header.Clone()
	if a := w.send(r); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r = w.request(http.MethodPost, "/agent/v1/start", start)
	r.Header = header
	problem(t, "replayed start", w.send(r), http.StatusUnauthorized)
	// One whose number is ahead of the time would have all that come after it refused.
	r = w.request(http.MethodPost, "/agent/v1/start", start)
	client.Sign(r, start, h.Key, client.Claims{Host: h.Host, Sequence: at.Add(2 * client.MaxSkew).UnixMilli(), Time: at})
	problem(t, "a start that is ahead", w.send(r), http.StatusUnauthorized)
	problem(t, "after a start", send(with(func(c *client.Claims) { c.Sequence = 2000 }), h.Key, nil), http.StatusUnauthorized)
	if epoch := scalar[int64](w, `SELECT epoch FROM hosts WHERE host_id = $1`, h.Host.UUID()); epoch != 3 {
		t.Errorf("epoch %d, want 3", epoch)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	first, err := h.Sync(t.Context(), client.SyncRequest{})
	if err != nil || first.Version == 0 || len(first.VMs) != 0 {
		t.Fatalf("%+v, %v", first, err)
	}

	// It is woken by a placement.
	results := h.open(t, client.SyncRequest{Have: first.Version})
	vm := w.place(w.calm, h, 1)
	r := <-results
	if r.err != nil || r.out.Version == first.Version || len(r.out.VMs) != 1 {
		t.Fatalf("%+v", r)
	}
	want := client.VMOrder{ID: vm.ID, Epoch: 1, Arch: millrace.AMD64, MilliCPU: 1000, MemoryMB: 512, Zone: millrace.ZonePrivate, Egress: millrace.EgressInternet, State: millrace.VMPending}
	if r.out.VMs[0] != want {
		t.Errorf("order %+v, want %+v", r.out.VMs[0], want)
	}

	// It is told that somebody reads what its VM prints, which it says back.
	online := client.VMReport{ID: vm.ID, Epoch: 1, State: millrace.VMPending}
	results = h.open(t, client.SyncRequest{Have: r.out.Version, VMs: []client.VMReport{online}})
	console := "/api/v1/orgs/calm/vms/" + vm.ID.String() + "/console"
	if a := w.get(console, storetest.MustCreateToken(t, w.st, w.rival)); a.status != http.StatusNotFound {
		t.Errorf("another org's console: %d", a.status)
	}
	select {
	case r := <-results:
		t.Errorf("who may not read it has it watched: %+v", r)
	case <-time.After(100 * time.Millisecond):
	}
	if a := w.get(console, storetest.MustCreateToken(t, w.st, w.calm)); a.status != http.StatusOK {
		t.Errorf("its console: %d %s", a.status, a.body)
	}
	if r := <-results; r.err != nil || len(r.out.VMs) != 1 || !r.out.VMs[0].Watched {
		t.Errorf("of a VM that is watched: %+v", r)
	}
	online.Watched = true
	results = h.open(t, client.SyncRequest{Have: r.out.Version, VMs: []client.VMReport{online}})
	select {
	case r := <-results:
		t.Errorf("an agent that knows it is told again: %+v", r)
	case <-time.After(100 * time.Millisecond):
	}

	// What it reports is joined; what makes no sense is the host's mistake, not ours.
	report := client.VMReport{ID: vm.ID, Epoch: 1, State: millrace.VMOnline, Steps: []client.StepReport{{State: millrace.VMBooting, AgeMS: 50}}}
	ctx, cancel := context.WithTimeout(t.Context(), millrace.Heartbeat/2)
	defer cancel()
	out, err := h.Sync(ctx, client.SyncRequest{VMs: []client.VMReport{report}})
	if err != nil || len(out.VMs) != 1 || out.VMs[0].State != millrace.VMOnline {
		t.Errorf("%+v, %v", out, err)
	}
	huge := 1 << 40
	for name, change := range map[string]func(*client.VMReport){
		"a step that isn't reached": func(r *client.VMReport) { r.Steps = []client.StepReport{{State: millrace.VMGone, AgeMS: 1}} },
		"a step of the future":      func(r *client.VMReport) { r.Steps[0].AgeMS = -1 },
		"a step before time":        func(r *client.VMReport) { r.Steps[0].AgeMS = 1 << 62 },
		"many steps":                func(r *client.VMReport) { r.Steps = make([]client.StepReport, 1000) },
		"no text":                   func(r *client.VMReport) { r.Reason = "a\x00b" + strings.Repeat("x", 10_000) },
		"an older epoch":            func(r *client.VMReport) { r.Epoch, r.State = 0, millrace.VMGone },
		"another VM":                func(r *client.VMReport) { r.ID[15]++ },
		"an exit code of 41 bits":   func(r *client.VMReport) { r.State, r.ExitCode = millrace.VMOnline, &huge },
	} {
		odd := report
		odd.Steps = []client.StepReport{{State: millrace.VMBooting, AgeMS: 50}}
		change(&odd)
		if _, err := h.Sync(ctx, client.SyncRequest{VMs: []client.VMReport{odd}}); millrace.CodeOf(err) == millrace.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, state := range []millrace.VMState{millrace.VMStopping, millrace.VMLost, "dancing", ""} {
		odd := report
		odd.State = state
		_, err := h.Sync(ctx, client.SyncRequest{VMs: []client.VMReport{odd}})
		if millrace.CodeOf(err) != millrace.Unprocessable {
			t.Errorf("state %q: %v", state, err)
		}
	}
	row, err := w.st.Org(w.calm.ID).VM(t.Context(), vm.ID)
	if err != nil || !row.State.Live() || !row.Stamps.Gone.IsZero() {
		t.Errorf("%+v, %v", row, err)
	}
}

// A host's keys are replaced by those that it proves to have; from then on the former ones are worth nothing.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, other := w.enroll(w.calm, "rack-1"), w.enroll(w.rival, "rack-1")
	keys := func(host millrace.HostID) (client.KeysRequest, ed25519.PrivateKey) {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		in := client.KeysRequest{SignKey: pub, SealKey: bytes.Repeat([]byte{7}, 32)}
		in.Proof = ed25519.Sign(key, in.Text(host))
		return in, key
	}
	good, key := keys(h.Host)
	if err := h.SetKeys(t.Context(), good); millrace.CodeOf(err) != millrace.Forbidden {
		t.Errorf("unasked: %v", err)
	}
	if err := w.st.Org(w.calm.ID).RotateKeys(t.Context(), w.calm.Caller(), h.Host); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*client.KeysRequest)
		want   millrace.Code
	}{
		"no proof":             {func(in *client.KeysRequest) { in.Proof = nil }, millrace.Unprocessable},
		"another key's proof":  {func(in *client.KeysRequest) { in.Proof = ed25519.Sign(h.Key, in.Text(h.Host)) }, millrace.Unprocessable},
		"another host's proof": {func(in *client.KeysRequest) { in.Proof = ed25519.Sign(key, in.Text(other.Host)) }, millrace.Unprocessable},
		"another seal key":     {func(in *client.KeysRequest) { in.SealKey = bytes.Repeat([]byte{8}, 32) }, millrace.Unprocessable},
		"a short key":          {func(in *client.KeysRequest) { in.SignKey = in.SignKey[1:] }, millrace.Unprocessable},
		"no seal key":          {func(in *client.KeysRequest) { in.SealKey = nil }, millrace.Unprocessable},
		"a key that is another's": {func(in *client.KeysRequest) {
			in.SignKey = other.Key.Public().(ed25519.PublicKey)
			in.Proof = ed25519.Sign(other.Key, in.Text(h.Host))
		}, millrace.Conflict},
	} {
		in := good
		c.change(&in)
		if err := h.SetKeys(t.Context(), in); millrace.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := client.Agent{URL: h.URL, Host: h.Host, Key: key, HTTP: h.HTTP}
	if err := stranger.SetKeys(t.Context(), good); millrace.CodeOf(err) != millrace.Unauthenticated {
		t.Errorf("signed by the new key alone: %v", err)
	}
	if n := scalar[int](w, `SELECT count(*) FROM hosts WHERE keys_at IS NOT NULL`); n != 0 {
		t.Fatalf("%d hosts have other keys", n)
	}

	if resp, err := h.Sync(t.Context(), client.SyncRequest{}); err != nil || !resp.Rotate {
		t.Errorf("the agent isn't asked: %+v, %v", resp, err)
	}
	if err := h.SetKeys(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Sync(t.Context(), client.SyncRequest{}); millrace.CodeOf(err) != millrace.Unauthenticated {
		t.Errorf("with the former key: %v", err)
	}
	h.Key = key
	if err := h.SetKeys(t.Context(), good); err != nil {
		t.Errorf("once more: %v", err)
	}
	if _, err := h.Start(t.Context(), client.StartRequest{Facts: storetest.Facts()}); err != nil {
		t.Error(err)
	}
	if resp, err := h.Sync(t.Context(), client.SyncRequest{}); err != nil || resp.Rotate {
		t.Errorf("it is asked again: %+v, %v", resp, err)
	}
	if n := scalar[int](w, `SELECT count(*) FROM audit WHERE action = 'host.keys_rotated' AND actor_kind = 'host' AND actor_name <> '' AND address = '127.0.0.1' AND request_id LIKE 'req%'`); n != 1 {
		t.Errorf("%d entries in the audit log", n)
	}
	row, err := w.st.Org(w.calm.ID).Host(t.Context(), h.Host)
	if err != nil || !bytes.Equal(row.SealKey, good.SealKey) || !row.KeysAt.After(row.CreatedAt) {
		t.Errorf("%v, %v: %v", row.KeysAt, row.CreatedAt, err)
	}
}

// While the database is away nothing is broken: agents and programs are told to come again, and are served once it is back.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	rest := client.REST{URL: w.url, Org: "calm", Token: millrace.Secret(storetest.MustCreateToken(t, w.st, w.calm)), HTTP: http.DefaultClient}
	restore := w.db.CutOff(t)
	calls := map[string]func() error{
		"an agent": func() error { _, err := h.Sync(t.Context(), client.SyncRequest{}); return err },
		"REST":     func() error { _, err := rest.Hosts(t.Context()); return err },
	}
	for name, call := range calls {
		for range 3 { // a connection that is cut, and none to be had
			if err := call(); millrace.CodeOf(err) != millrace.Unavailable || !strings.Contains(err.Error(), "database") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	restore()
	for name, call := range calls {
		if err := call(); err != nil {
			t.Errorf("%s, once it is back: %v", name, err)
		}
	}
}

// What a host's agent says is read by who may see the host: all of it, or what came since.
func TestAgentLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, other := w.enroll(w.calm, "rack-1"), w.enroll(w.rival, "rack-1")
	for range 2 {
		if err := h.AppendLog(t.Context(), 0, []byte("level=INFO msg=hello\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.AppendLog(t.Context(), 0, []byte("evil\n")); err != nil {
		t.Fatal(err)
	}
	for offset, size := range map[int64]int{-1: 1, 1 << 40: 1, 21: 300 << 10} {
		if err := h.AppendLog(t.Context(), offset, make([]byte, size)); millrace.CodeOf(err) != millrace.Invalid && millrace.CodeOf(err) != millrace.TooLarge {
			t.Errorf("%d bytes at %d: %v", size, offset, err)
		}
	}
	rest := client.REST{URL: w.url, Org: "calm", Token: millrace.Secret(storetest.MustCreateToken(t, w.st, w.calm)), HTTP: http.DefaultClient}
	text, at, err := rest.HostLog(t.Context(), h.Host, millrace.LogPosition{})
	if err != nil || string(text) != "level=INFO msg=hello\n" {
		t.Errorf("%q, %v", text, err)
	}
	if err := h.AppendLog(t.Context(), 21, []byte("more\n")); err != nil {
		t.Fatal(err)
	}
	if text, at, err = rest.HostLog(t.Context(), h.Host, at); err != nil || string(text) != "more\n" {
		t.Errorf("since then: %q, %v", text, err)
	}
	if _, err := h.Start(t.Context(), client.StartRequest{Facts: storetest.Facts()}); err != nil {
		t.Fatal(err)
	}
	if err := h.AppendLog(t.Context(), 0, []byte("anew\n")); err != nil {
		t.Fatal(err)
	}
	if text, at, err = rest.HostLog(t.Context(), h.Host, at); err != nil || string(text) != "anew\n" {
		t.Errorf("of the next process: %q, %v", text, err)
	}
	if text, _, err = rest.HostLog(t.Context(), h.Host, at); err != nil || len(text) != 0 {
		t.Errorf("nothing new: %q, %v", text, err)
	}
	if text, _, err = rest.HostLog(t.Context(), h.Host, millrace.LogPosition{}); err != nil || string(text) != "level=INFO msg=hello\nmore\nanew\n" {
		t.Errorf("all: %q, %v", text, err)
	}
	if _, _, err := rest.HostLog(t.Context(), other.Host, millrace.LogPosition{}); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("another org's host: %v", err)
	}
	if _, _, err := rest.HostLog(t.Context(), h.Host, millrace.LogPosition{Epoch: -1}); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("no position: %v", err)
	}
	for _, err := range []error{
		w.st.Org(w.calm.ID).RemoveHost(t.Context(), w.calm.Caller(), h.Host, false), w.st.Org(w.rival.ID).RemoveHost(t.Context(), w.rival.Caller(), other.Host, false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rest.Host(t.Context(), h.Host); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("a host that was removed: %v", err)
	}
	if text, _, err = rest.HostLog(t.Context(), h.Host, millrace.LogPosition{}); err != nil || string(text) != "level=INFO msg=hello\nmore\nanew\n" {
		t.Errorf("its log: %q, %v", text, err)
	}
	if _, _, err := rest.HostLog(t.Context(), other.Host, millrace.LogPosition{}); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("another org's host that was removed: %v", err)
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, other := w.enroll(w.calm, "rack-1"), w.enroll(w.rival, "rack-1")
	vm := w.place(w.calm, h, 1)
	for range 2 {
		if err := h.AppendConsole(t.Context(), vm.ID, 0, []byte("hello\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.AppendConsole(t.Context(), vm.ID, 6, []byte("evil")); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("another's host: %v", err)
	}
	if err := h.AppendConsole(t.Context(), vm.ID, -1, []byte("x")); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("a negative offset: %v", err)
	}
	if err := h.AppendConsole(t.Context(), vm.ID, 6, make([]byte, 300<<10)); millrace.CodeOf(err) != millrace.TooLarge {
		t.Errorf("300 KiB at once: %v", err)
	}
	data, total, err := w.st.Org(w.calm.ID).Console(t.Context(), vm.ID, 0, 100)
	if err != nil || string(data) != "hello\n" || total != 6 {
		t.Errorf("%q of %d, %v", data, total, err)
	}
	rest := client.REST{URL: w.url, Org: "calm", Token: millrace.Secret(storetest.MustCreateToken(t, w.st, w.calm)), HTTP: http.DefaultClient}
	text, at, err := rest.Console(t.Context(), vm.ID, 0)
	if err != nil || string(text) != "hello\n" || at != 6 {
		t.Errorf("over REST: %q to %d, %v", text, at, err)
	}
	if err := h.AppendConsole(t.Context(), vm.ID, 6, []byte("more")); err != nil {
		t.Fatal(err)
	}
	if text, at, err = rest.Console(t.Context(), vm.ID, at); err != nil || string(text) != "more" || at != 10 {
		t.Errorf("since then: %q to %d, %v", text, at, err)
	}
	if text, at, err = rest.Console(t.Context(), vm.ID, at); err != nil || len(text) != 0 || at != 10 {
		t.Errorf("nothing new: %q to %d, %v", text, at, err)
	}
	theirs := w.place(w.rival, other, 2)
	if err := other.AppendConsole(t.Context(), theirs.ID, 0, []byte("evil")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rest.Console(t.Context(), theirs.ID, 0); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("another org's: %v", err)
	}
	list, err := rest.VMs(t.Context(), client.VMQuery{Job: vm.ForJob})
	if err != nil || len(list.Data) != 1 || list.Data[0].ID != vm.ID {
		t.Errorf("the job's VMs: %+v, %v", list, err)
	}
	if list, err := rest.VMs(t.Context(), client.VMQuery{Job: theirs.ForJob}); err != nil || len(list.Data) != 0 {
		t.Errorf("those of another org's job: %+v, %v", list, err)
	}
	if one, err := rest.VM(t.Context(), vm.ID); err != nil || one.ID != vm.ID {
		t.Errorf("the VM: %+v, %v", one, err)
	}
	if err := w.st.Org(w.calm.ID).RemoveHost(t.Context(), w.calm.Caller(), h.Host, true); err != nil {
		t.Fatal(err)
	}
	if text, _, err = rest.Console(t.Context(), vm.ID, 0); err != nil || string(text) != "hello\nmore" {
		t.Errorf("of a host that was removed: %q, %v", text, err)
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, other := w.enroll(w.calm, "rack-1"), w.enroll(w.rival, "rack-1")
	vm := w.place(w.calm, h, 1)
	send := func(h host, n int) error {
		in := client.SamplesRequest{Epoch: 1}
		for i := range n {
			in.Samples = append(in.Samples, millrace.Sample{UptimeMS: int64(i+1) * 1000, CPUMillis: int64(i) * 500, PeakCPU: 500, Memory: 1 << 20})
		}
		return h.AppendSamples(t.Context(), vm.ID, in)
	}
	for range 2 {
		if err := send(h, 20); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(other, 20); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("another's host: %v", err)
	}
	if err := send(h, millrace.MaxSamples+1); millrace.CodeOf(err) != millrace.TooLarge {
		t.Errorf("too many at once: %v", err)
	}
	var list client.List[millrace.Sample]
	a := w.get("/api/v1/orgs/calm/vms/"+vm.ID.String()+"/samples", storetest.MustCreateToken(t, w.st, w.calm))
	if err := json.Unmarshal(a.body, &list); err != nil || len(list.Data) != 20 || list.Data[19] != (millrace.Sample{UptimeMS: 20_000, CPUMillis: 9500, PeakCPU: 500, Memory: 1 << 20}) {
		t.Errorf("%v: %s", err, a.body)
	}
}

func TestJIT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	out, err := h.JIT(t.Context(), vm.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := client.Open(h.seal, client.SealedFor{Host: h.Host, VM: vm.ID, Epoch: 1}, out.Sealed)
	if err != nil || string(plain) != "config of "+vm.RunnerName {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := client.Open(h.seal, client.SealedFor{Host: h.Host, VM: vm.ID, Epoch: 2}, out.Sealed); err == nil {
		t.Error("it opens for another epoch")
	}
	again, err := h.JIT(t.Context(), vm.ID, 1)
	if err != nil || !bytes.Equal(again.Sealed, out.Sealed) {
		t.Errorf("a repeat gets something else, %v", err)
	}
	if _, creates := w.runners.named(vm.RunnerName); creates != 1 {
		t.Errorf("GitHub was asked %d times", creates)
	}
	if _, err := h.JIT(t.Context(), vm.ID, 2); millrace.CodeOf(err) != millrace.Gone {
		t.Errorf("another epoch: %v", err)
	}
	report := client.VMReport{ID: vm.ID, Epoch: 1, State: millrace.VMOnline}
	if _, err := h.Sync(t.Context(), client.SyncRequest{VMs: []client.VMReport{report}}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.JIT(t.Context(), vm.ID, 1); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("once the runner is online: %v", err)
	}
}

// The name is taken when an earlier try's answer was lost: that registration is replaced, unless a runner uses it.
func TestJITNameIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	stale := w.runners.register(vm.RunnerName, false)
	if _, err := h.JIT(t.Context(), vm.ID, 1); err != nil {
		t.Fatal(err)
	}
	run, _ := w.runners.named(vm.RunnerName)
	if saved := scalar[int64](w, `SELECT runner_id FROM vms`); run.ID == stale || saved != run.ID {
		t.Errorf("runner %d at GitHub, %d here, %d before", run.ID, saved, stale)
	}

	vm = w.place(w.calm, h, 2)
	used := w.runners.register(vm.RunnerName, true)
	if _, err := h.JIT(t.Context(), vm.ID, 1); millrace.CodeOf(err) != millrace.Unavailable {
		t.Errorf("a connected runner's name: %v", err)
	}
	if run, _ := w.runners.named(vm.RunnerName); run.ID != used {
		t.Error("a connected runner was removed")
	}
}

// The name is taken when another server has registered the VM since this one looked: its registration is answered, and stays.
func TestJITOfAnotherServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	var kept int64
	w.runners.creating = func() {
		kept = w.runners.register(vm.RunnerName, false)
		if err := w.st.Org(w.calm.ID).SaveJIT(t.Context(), store.JITGrant{VM: vm}, kept, []byte("sealed elsewhere")); err != nil {
			t.Error(err)
		}
	}
	out, err := h.JIT(t.Context(), vm.ID, 1)
	if err != nil || string(out.Sealed) != "sealed elsewhere" {
		t.Errorf("%q, %v", out.Sealed, err)
	}
	if run, _ := w.runners.named(vm.RunnerName); run.ID != kept {
		t.Errorf("runner %d is in the place of %d", run.ID, kept)
	}
}

func TestJITOfARetiredVM(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	w.runners.creating = func() { // GitHub takes its time, and meanwhile nobody needs the VM
		_, err := w.st.Place(t.Context(), w.calm.ID, store.Unknown, func(millrace.Pass) millrace.Decision {
			return millrace.Decision{Retire: []millrace.Retirement{{VMID: vm.ID, Reason: "surplus"}}}
		})
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := h.JIT(t.Context(), vm.ID, 1); millrace.CodeOf(err) != millrace.Gone {
		t.Errorf("%v", err)
	}
	if run, creates := w.runners.named(vm.RunnerName); run.ID != 0 || creates != 1 {
		t.Errorf("runner %d stays at GitHub after %d registrations", run.ID, creates)
	}
	if _, err := h.JIT(t.Context(), vm.ID, 1); millrace.CodeOf(err) != millrace.Gone {
		t.Errorf("later: %v", err)
	}
	if _, creates := w.runners.named(vm.RunnerName); creates != 1 {
		t.Error("GitHub was asked again")
	}
}

// A host that asks for another's VM while that one's registration is being made doesn't share its answer.
func TestJITOfAnothersVM(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, other := w.enroll(w.calm, "rack-1"), w.enroll(w.rival, "rack-1")
	vm := w.place(w.calm, h, 1)
	w.runners.creating = func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := other.JIT(ctx, vm.ID, 1); millrace.CodeOf(err) != millrace.NotFound {
			t.Errorf("another's VM: %v", err)
		}
	}
	if _, err := h.JIT(t.Context(), vm.ID, 1); err != nil {
		t.Fatal(err)
	}
}

// A machine whose clock was two hours ahead when its agent started is heard when the clock is right again.
func TestStartAfterAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	for _, ahead := range []time.Duration{2 * time.Hour, 0} {
		time.Sleep(time.Second) // the server's clock, as its answers have it, is of a second
		process := &client.Agent{URL: w.url, Host: h.Host, Key: h.Key, HTTP: http.DefaultClient, Now: func() time.Time { return time.Now().Add(ahead) }}
		if _, err := process.Start(t.Context(), client.StartRequest{Facts: storetest.Facts()}); err != nil {
			t.Errorf("%v ahead: %v", ahead, err)
		}
		if _, err := process.Sync(t.Context(), client.SyncRequest{}); err != nil {
			t.Errorf("%v ahead: %v", ahead, err)
		}
	}
}

// A host that was removed is told so, whatever it asks, and nothing that it says counts; one that is asked to restart or reboot
// hears it at once, and until it has.
func TestRemovedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, kept := w.enroll(w.calm, "rack-1"), w.enroll(w.calm, "rack-2")
	org, by := w.st.Org(w.calm.ID), w.calm.Caller()
	first, err := kept.Sync(t.Context(), client.SyncRequest{})
	if err != nil {
		t.Fatal(err)
	}
	results := kept.open(t, client.SyncRequest{Have: first.Version})
	if err := org.RestartAgent(t.Context(), by, kept.Host); err != nil {
		t.Fatal(err)
	}
	if r := <-results; r.err != nil || !r.out.Restart || r.out.Reboot {
		t.Errorf("a sync that was open: %+v", r)
	}
	if err := org.RebootHost(t.Context(), by, kept.Host); err != nil {
		t.Fatal(err)
	}
	if out, err := kept.Sync(t.Context(), client.SyncRequest{}); err != nil || !out.Restart || !out.Reboot {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := kept.Start(t.Context(), client.StartRequest{Facts: storetest.Facts()}); err != nil {
		t.Fatal(err)
	}
	if out, err := kept.Sync(t.Context(), client.SyncRequest{}); err != nil || out.Restart || out.Reboot {
		t.Errorf("after a start: %+v, %v", out, err)
	}
	if err := org.RemoveHost(t.Context(), by, h.Host, false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Sync(t.Context(), client.SyncRequest{}); millrace.CodeOf(err) != millrace.HostRemoved {
		t.Errorf("sync: %v", err)
	}
	if _, err := h.Start(t.Context(), client.StartRequest{Facts: storetest.Facts()}); millrace.CodeOf(err) != millrace.HostRemoved {
		t.Errorf("start: %v", err)
	}
}

// A host can say of itself what it likes, and as much: what is kept is bounded, and can be stored.
func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	kept := func(findings ...millrace.Finding) []millrace.Finding {
		t.Helper()
		facts := storetest.Facts()
		facts.Findings = findings
		if _, err := h.Start(t.Context(), client.StartRequest{Facts: facts}); err != nil {
			t.Fatal(err)
		}
		row, err := w.st.Org(w.calm.ID).Host(t.Context(), h.Host)
		if err != nil {
			t.Fatal(err)
		}
		return row.Facts.Findings
	}
	smt := millrace.Finding{Check: "smt", Level: millrace.LevelOK, Found: "off"}
	ksm := millrace.Finding{Check: "ksm", Level: millrace.LevelWarning, Found: "It is on.", Do: "Switch it off.", Command: "echo 2 >/sys/kernel/mm/ksm/run"}
	if got := kept(smt, millrace.Finding{Check: "new", Level: "catastrophe"}, ksm); !slices.Equal(got, []millrace.Finding{smt, ksm}) {
		t.Errorf("%+v", got)
	}
	worst := strings.Repeat("\x01", 2*millrace.MaxFindingText)
	got := kept(slices.Repeat([]millrace.Finding{{Check: worst, Level: millrace.LevelFailure, Found: worst, Do: worst, Command: worst}}, 2*millrace.MaxFindings)...)
	if len(got) != millrace.MaxFindings || len(got[0].Check) != millrace.MaxFindingText || len(got[0].Command) != millrace.MaxFindingText {
		t.Errorf("%d findings of %d bytes", len(got), len(got[0].Check))
	}
	if got := kept(millrace.Finding{Check: "a\x00b", Level: millrace.LevelOK, Found: strings.Repeat("ü", millrace.MaxFindingText)}); got[0].Check != "ab" || !utf8.ValidString(got[0].Found) {
		t.Errorf("%+v", got)
	}
	if got := kept(); len(got) != 0 {
		t.Errorf("none were found, and these are left: %+v", got)
	}
}
