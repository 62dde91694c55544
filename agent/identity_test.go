package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func TestEnroll(t *testing.T) {
	t.Parallel()
	var asked []client.EnrollRequest
	next := byte(1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in client.EnrollRequest
		_ = json.NewDecoder(r.Body).Decode(&in)
		asked = append(asked, in)
		if len(asked) == 1 {
			w.WriteHeader(http.StatusBadGateway) // the answer got lost
			return
		}
		_ = json.NewEncoder(w).Encode(client.EnrollResponse{HostID: millrace.HostID{15: next}, Org: "calm"})
	}))
	defer srv.Close()
	dir := filepath.Join(t.TempDir(), "state")
	c := EnrollConfig{URL: srv.URL, Token: millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil), Name: "h1", Dir: dir}

	if _, err := LoadIdentity(dir); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("before: %v", err)
	}
	if _, err := Enroll(t.Context(), c); err == nil {
		t.Fatal("enrolled without an answer")
	}
	if _, err := LoadIdentity(dir); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("after a lost answer: %v", err)
	}
	id, err := Enroll(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(asked[0], asked[1]); d != "" {
		t.Errorf("the repeat differs: %s", d)
	}
	if len(asked[0].SignKey) != 32 || len(asked[0].SealKey) != 32 || asked[0].Token != c.Token.Reveal() {
		t.Errorf("asked %+v", asked[0])
	}
	loaded, err := LoadIdentity(dir)
	if d := cmp.Diff(id, loaded); err != nil || d != "" {
		t.Errorf("loaded %v: %s", err, d)
	}
	if _, err := Enroll(t.Context(), c); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("a second enrollment: %v", err)
	}

	// Removed, it becomes another host, with other keys; what is told to a former agent then is no word on that.
	for range 2 {
		if err := Retire(dir, id.HostID); err != nil {
			t.Errorf("retired: %v", err)
		}
	}
	next = 2
	again, err := Enroll(t.Context(), c)
	if err != nil || again.HostID == id.HostID || bytes.Equal(again.SignSeed, id.SignSeed) {
		t.Errorf("enrolled again: %s, %v", again.HostID, err)
	}
	if err := Retire(dir, id.HostID); err != nil {
		t.Error(err)
	}
	if loaded, err := LoadIdentity(dir); err != nil || loaded.HostID != again.HostID {
		t.Errorf("the former host was removed: %s, %v", loaded.HostID, err)
	}
	if info, err := os.Stat(filepath.Join(dir, removedFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("what is put aside: %v, %v", info, err)
	}

	name := filepath.Join(dir, identityFile)
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); millrace.CodeOf(err) != millrace.Forbidden {
		t.Errorf("a readable file: %v", err)
	}
	if err := os.WriteFile(name, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); millrace.CodeOf(err) != millrace.Invalid {
		t.Errorf("a damaged file: %v", err)
	}
}

// keeper is a control plane that knows one host's key, and may die before or after it takes a new one.
type keeper struct {
	t      *testing.T
	host   millrace.HostID
	sign   ed25519.PublicKey
	before bool // it dies before
	after  bool // it dies after
	taken  int
	mu     sync.Mutex
}

// at changes it: what it is at.
func (k *keeper) at(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

func (k *keeper) keys() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taken
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		k.t.Error(err)
	}
	if _, err := client.Verify(r, body, func(millrace.HostID) (ed25519.PublicKey, error) { return k.sign, nil }, time.Now()); err != nil {
		w.Header().Set("Content-Type", client.ProblemType)
		w.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(w).Encode(client.NewProblem(err, ""))
		return
	}
	var in client.KeysRequest
	if err := json.Unmarshal(body, &in); err != nil || !ed25519.Verify(in.SignKey, in.Text(k.host), in.Proof) {
		k.t.Errorf("%s: %v", body, err)
	}
	if k.before {
		panic(http.ErrAbortHandler)
	}
	if !bytes.Equal(k.sign, in.SignKey) {
		k.sign, k.taken = in.SignKey, k.taken+1
	}
	if k.after {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
}

// New keys hold once the control plane has them, whenever it or the agent dies, and what was sealed to the former can be read.
func TestRotate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := &keeper{t: t, host: millrace.HostID{15: 1}}
	srv := httptest.NewServer(k)
	defer srv.Close()
	first := Identity{URL: srv.URL, Org: "calm", HostID: k.host, Seeds: newSeeds()}
	if err := first.write(dir); err != nil {
		t.Fatal(err)
	}
	k.sign = first.SignKey().Public().(ed25519.PublicKey)
	rotate := func() (Identity, error) {
		t.Helper()
		id, err := LoadIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		return id.Rotate(t.Context(), dir)
	}
	if id, err := rotate(); err != nil || k.keys() != 0 || !bytes.Equal(id.SignSeed, first.SignSeed) {
		t.Errorf("unasked: %d, %v", k.keys(), err)
	}
	if err := MakeKeys(dir); err != nil {
		t.Fatal(err)
	}
	k.at(func() { k.before = true })
	if id, err := rotate(); err == nil || !bytes.Equal(id.SignSeed, first.SignSeed) || k.keys() != 0 {
		t.Errorf("died before: %d, %v", k.keys(), err)
	}
	k.at(func() { k.before, k.after = false, true })
	if id, err := rotate(); err == nil || !bytes.Equal(id.SignSeed, first.SignSeed) || k.keys() != 1 {
		t.Errorf("died after: %d, %v", k.keys(), err)
	}
	k.at(func() { k.after = false })
	id, err := rotate()
	if err != nil || k.keys() != 1 || bytes.Equal(id.SignSeed, first.SignSeed) {
		t.Fatalf("at last: %d, %v", k.keys(), err)
	}
	keys, err := id.SealKeys()
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[1].Bytes(), first.SealSeed) {
		t.Errorf("%d keys to open with, %v", len(keys), err)
	}
	if again, err := rotate(); err != nil || k.keys() != 1 || !bytes.Equal(again.SignSeed, id.SignSeed) {
		t.Errorf("soon again: %d, %v", k.keys(), err)
	}

	// It is asked for: they are made at the end of one agent, and sent at the start of the next.
	for range 2 {
		if err := MakeKeys(dir); err != nil {
			t.Fatal(err)
		}
	}
	if asked, err := rotate(); err != nil || k.keys() != 2 || bytes.Equal(asked.SignSeed, id.SignSeed) {
		t.Errorf("asked for: %d, %v", k.keys(), err)
	}
	k.at(func() { k.sign = make([]byte, 32) }) // another's
	if err := MakeKeys(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := rotate(); millrace.CodeOf(err) != millrace.Unauthenticated {
		t.Errorf("a stranger: %v", err)
	}
}

func TestEnrollRefusesWhatIsNoToken(t *testing.T) {
	t.Parallel()
	for _, token := range []millrace.Secret{"", "mret_", millrace.NewSecret(millrace.APITokenPrefix, nil)} {
		dir := t.TempDir()
		if _, err := Enroll(t.Context(), EnrollConfig{Token: token, Dir: dir}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%q: %v", token.Reveal(), err)
		}
	}
}

func TestFacts(t *testing.T) {
	t.Parallel()
	f, err := Facts(t.TempDir(), Offer{CPUOvercommit: 2, MaxVMs: 3, Labels: []string{"gpu"}})
	if err != nil {
		t.Fatal(err)
	}
	if f.VCPUs < 1 || f.MemoryMB < 128 || f.DiskMB < 1 || f.Kernel == "" || f.Version == "" {
		t.Errorf("got %+v", f)
	}
	if want := f.VCPUs * 2000; f.Offer.MilliCPU != want {
		t.Errorf("offers %v, want %d thousandths of a vCPU", f.Offer, want)
	}
	if f.MaxVMs != 3 || f.Bounds() != f.Offer.String()+", 3 VMs" {
		t.Errorf("bounds are %s", f.Bounds())
	}
	for _, n := range []int{-1, millrace.MaxHostVMs + 1} {
		if _, err := Facts(t.TempDir(), Offer{MaxVMs: n}); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("at most %d VMs: %v", n, err)
		}
	}
	other := millrace.ARM64
	if f.Arch == other {
		other = millrace.AMD64
	}
	if f, err := Facts(t.TempDir(), Offer{Emulates: []millrace.Arch{other, other}}); err != nil || len(f.Emulates) != 1 || !f.Runs(other) {
		t.Errorf("%+v, %v", f, err)
	}
	for _, o := range []Offer{
		{CPUOvercommit: -1},
		{CPUOvercommit: 1e9},
		{MemoryReserveMB: 1 << 40},
		{Emulates: []millrace.Arch{f.Arch}},
		{Emulates: []millrace.Arch{millrace.ArchAny}},
	} {
		if _, err := Facts(t.TempDir(), o); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// What a machine keeps is enough for the monitors of the VMs that fill it.
func TestReserve(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		vcpus, memory int
		offer         Offer
		keeps         int
	}{
		{"a rack's server", 128, 512 << 10, Offer{}, 512 + 128*64 + 2048},
		{"a few large VMs", 128, 512 << 10, Offer{MaxVMs: 4}, 512 + 4*64 + 2048},
		{"more VMs than have a vCPU each", 4, 16 << 10, Offer{MaxVMs: 100}, 512 + 4*64 + 64},
		{"over-commit", 4, 64 << 10, Offer{CPUOvercommit: 4}, 512 + 16*64 + 256},
		{"little memory", 16, 4 << 10, Offer{}, 512 + 4*64 + 16},
		{"hardly any", 1, 768, Offer{}, 512 + 3},
		{"its owner knows better", 128, 512 << 10, Offer{MemoryReserveMB: 1}, 1},
	} {
		size, err := test.offer.of(millrace.HostFacts{VCPUs: test.vcpus, MemoryMB: test.memory})
		if keeps := test.memory - size.MemoryMB; err != nil || keeps != test.keeps {
			t.Errorf("%s: %d MB are kept, %v; want %d", test.name, keeps, err, test.keeps)
		}
	}
}

func TestNegativeReserve(t *testing.T) {
	t.Parallel()
	_, err := Facts(t.TempDir(), Offer{MemoryReserveMB: -5})
	if want := "The memory to keep for the host is 0 or more MB, not -5."; millrace.CodeOf(err) != millrace.Invalid || millrace.MessageOf(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	if unlock, err = Lock(dir); err != nil {
		t.Fatal(err)
	}
	unlock()
}
