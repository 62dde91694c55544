package agent

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func TestEnroll(t *testing.T) {
	t.Parallel()
	var asked []client.EnrollRequest
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in client.EnrollRequest
		_ = json.NewDecoder(r.Body).Decode(&in)
		asked = append(asked, in)
		if len(asked) == 1 {
			w.WriteHeader(http.StatusBadGateway) // the answer got lost
			return
		}
		_ = json.NewEncoder(w).Encode(client.EnrollResponse{HostID: millrace.HostID{15: 1}, Org: "calm"})
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
	f, err := Facts(t.TempDir(), Offer{CPUOvercommit: 2, Labels: []string{"gpu"}})
	if err != nil {
		t.Fatal(err)
	}
	if f.VCPUs < 1 || f.MemoryMB < 128 || f.DiskMB < 1 || f.Kernel == "" || f.Version == "" {
		t.Errorf("got %+v", f)
	}
	if want := (millrace.Size{MilliCPU: f.VCPUs * 2000, MemoryMB: f.MemoryMB - defaultReserveMB}); f.Offer != want {
		t.Errorf("offers %v, want %v", f.Offer, want)
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
