package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func TestExamine(t *testing.T) {
	t.Parallel()
	status, skew := http.StatusOK, time.Duration(0)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
	}))
	defer srv.Close()
	root := t.TempDir()
	m := Machine{
		Root: root, Dir: filepath.Join(root, "state"), GuestDir: filepath.Join(root, "guest"), HTTP: client.NewHTTP(), Now: time.Now,
		LookPath: func(string) (string, error) { return "", errors.New("not found") },
		Networks: func() error { return errors.New("not root") },
		Rivals:   func() ([]string, error) { return nil, nil },
	}
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, want map[string]Health) {
		t.Helper()
		got := map[string]Health{}
		for _, f := range Examine(context.Background(), m) {
			got[f.Check] = f.Health
			if f.Found == "" || (f.Do == "") != (f.Health == Good) {
				t.Errorf("%s: %+v", when, f)
			}
		}
		for check, health := range want {
			if got[check] != health {
				t.Errorf("%s: %s is %q, want %q", when, check, got[check], health)
			}
		}
	}

	expect("on a bare machine", map[string]Health{"kvm": Poor, "qemu": Bad, "guest kernel": Bad, "vm networks": Poor, "memory": Bad, "identity": Bad})

	write("dev/kvm", "")
	write("proc/meminfo", "MemTotal:       524288 kB\n")
	write("guest/vmlinuz", "")
	m.Networks = func() error { return nil }
	m.LookPath = func(name string) (string, error) { return "/usr/bin/" + name, nil }
	id := Identity{URL: srv.URL, Org: "calm", HostID: millrace.HostID{15: 1}, SignSeed: make([]byte, 32), SealSeed: make([]byte, 32)}
	if err := id.write(m.Dir); err != nil {
		t.Fatal(err)
	}
	expect("on a small machine", map[string]Health{
		"qemu": Good, "guest kernel": Good, "vm networks": Good, "memory": Poor, "identity": Good, "control plane": Good, "clock": Good,
	})

	write("sys/module/kvm_intel", "")
	write("proc/meminfo", "MemTotal:       16777216 kB\n")
	m.Rivals = func() ([]string, error) { return []string{"FORWARD in table filter"}, nil }
	skew, status = time.Hour, http.StatusServiceUnavailable
	expect("with a sick server", map[string]Health{"kvm": Good, "vm networks": Poor, "memory": Good, "control plane": Bad, "clock": Poor})

	srv.Close()
	expect("without a server", map[string]Health{"control plane": Bad})
}
