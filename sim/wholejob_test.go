package sim_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
)

// where prints what proves where a step ran.
const where = `echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
echo "kernel=$(uname -r)"
echo "host=$(hostname)"
echo "uid=$(id -u) user=$(id -un)"`

// TestWholeJob is the product in one test: `millraced dev`, five jobs at once, each in its own VM, seen by the API and in
// the browser, and nothing left afterwards. It knows only the outside contract.
//
//nolint:paralleltest // its parts share one system and follow on each other
func TestWholeJob(t *testing.T) {
	t.Parallel()
	binary := build(t)
	data := shortTempDir(t)
	s := startDev(t, binary, data, "--no-demo")
	t.Logf("first start took %.1f s", s.took.Seconds())

	t.Run("five jobs, five kernels", func(t *testing.T) { fiveJobs(t, s) })
	t.Run("a job too big for any host says why it waits", func(t *testing.T) { tooBig(t, s) })
	t.Run("labels that aren't ours are ignored", func(t *testing.T) {
		id := s.queue(t, "hosted", "ubuntu-latest", step{"hi", "echo hi"})
		ours := s.queue(t, "marker", "millrace-64cpu-4096gb", step{"hi", "echo hi"}) // its row shows that intake is past the first
		within(t, 10*time.Second, "the later job is listed", func() bool { return s.rows(t)[ours].ID != "" })
		if r, listed := s.rows(t)[id]; listed {
			t.Errorf("a job for ubuntu-latest became %+v", r)
		}
	})
	t.Run("tenants are apart", func(t *testing.T) { apart(t, s) })

	s.stop(t)

	t.Run("a second start is quick and remembers", func(t *testing.T) {
		again := startDev(t, binary, data)
		t.Logf("later start took %.1f s", again.took.Seconds())
		if len(again.rows(t)) < 5 {
			t.Error("the jobs of the first run are gone")
		}
		t.Run("browser", func(t *testing.T) { browse(t, again) })
		again.stop(t)
	})
}

func fiveJobs(t *testing.T, s *system) {
	var ids []int64
	for _, name := range []string{"one", "two", "three", "four", "five"} {
		ids = append(ids, s.queue(t, name, "millrace", step{"where", where}, step{"work", "dd if=/dev/zero of=work bs=64k count=32 2>/dev/null; sync; wc -c < work"}))
	}
	hostBoot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	kernels := map[string]bool{strings.TrimSpace(string(hostBoot)): true}
	for _, id := range ids {
		var job standinJob
		within(t, 3*time.Minute, "the job completes", func() bool {
			job = s.job(t, id)
			return job.Status == "completed"
		})
		if job.Conclusion != "success" {
			t.Fatalf("job ended %s:\n%s", job.Conclusion, job.Log)
		}
		boot := find(t, job.Log, `boot=([0-9a-f-]{36})`)
		if kernels[boot] {
			t.Errorf("boot id %s is the host's or another job's", boot)
		}
		kernels[boot] = true
		if uid := find(t, job.Log, `uid=(\d+) user=runner`); uid == "0" {
			t.Error("the job ran as root")
		}
		if host := find(t, job.Log, `host=(\S+)`); host != job.RunnerName {
			t.Errorf("the job ran on %s, its runner is %s", host, job.RunnerName)
		}
	}
	rows := s.rows(t)
	for _, id := range ids {
		within(t, 20*time.Second, "the job's row is completed and its VM gone", func() bool {
			rows = s.rows(t)
			return rows[id].Status == "completed" && rows[id].VM != nil && rows[id].VM.State == "gone"
		})
		r := rows[id]
		if r.Conclusion != "success" {
			t.Errorf("row %+v", r)
		}
		if u := r.VM.Usage; u.PeakMemory == 0 || u.CPUMillis == 0 || u.DiskWrite == 0 || u.NetRx == 0 {
			t.Errorf("the VM's metering is empty: %+v", u)
		}
		var samples struct{ Data []millrace.Sample }
		within(t, 10*time.Second, "the VM's last samples are kept", func() bool {
			call(t, http.MethodGet, s.URL+"/api/v1/orgs/"+s.Org+"/vms/"+r.VM.ID+"/samples", s.APIToken, nil, &samples)
			n := len(samples.Data)
			return n > 0 && samples.Data[n-1].CPUMillis == r.VM.Usage.CPUMillis
		})
		seconds := r.VM.GoneAt.Sub(r.VM.BusyAt).Seconds()
		if n := float64(len(samples.Data)); n < seconds*0.8-2 || millrace.Series(samples.Data).Peak().Memory == 0 {
			t.Errorf("a job of %.1f s has the samples %+v", seconds, samples.Data)
		}
	}
}

func tooBig(t *testing.T, s *system) {
	id := s.queue(t, "huge", "millrace-64cpu-4096gb", step{"hi", "echo hi"})
	within(t, 10*time.Second, "the job says why it waits", func() bool {
		r := s.rows(t)[id]
		return r.Wait != nil && r.Wait.Code == "too_big_for_any_host" && strings.Contains(r.Wait.Text, "4096 GB")
	})
	if r := s.rows(t)[id]; r.Status != "queued" || r.VM != nil {
		t.Errorf("row %+v", r)
	}
}

func apart(t *testing.T, s *system) {
	get := func(path, token string) int { return call(t, http.MethodGet, s.URL+path, token, nil, nil) }
	var id string
	for _, r := range s.rows(t) {
		id = r.ID
	}
	for name, tc := range map[string]struct {
		path, token string
		want        int
	}{
		"own list":           {"/api/v1/orgs/" + s.OtherOrg + "/jobs", s.OtherAPIToken, 200},
		"another org's list": {"/api/v1/orgs/" + s.Org + "/jobs", s.OtherAPIToken, 404},
		"another org's job":  {"/api/v1/orgs/" + s.Org + "/jobs/" + id, s.OtherAPIToken, 404},
		"job under own org":  {"/api/v1/orgs/" + s.OtherOrg + "/jobs/" + id, s.OtherAPIToken, 404},
		"an org that isn't":  {"/api/v1/orgs/nobody/jobs", s.OtherAPIToken, 404},
		"no token":           {"/api/v1/orgs/" + s.Org + "/jobs", "", 401},
		"a token never made": {"/api/v1/orgs/" + s.Org + "/jobs", "mrat_" + strings.Repeat("a", 38), 401},
	} {
		if got := get(tc.path, tc.token); got != tc.want {
			t.Errorf("%s answered %d, want %d", name, got, tc.want)
		}
	}
	var list struct{ Data []row }
	call(t, http.MethodGet, s.URL+"/api/v1/orgs/"+s.OtherOrg+"/jobs", s.OtherAPIToken, nil, &list)
	if len(list.Data) != 0 {
		t.Errorf("the other org sees %d jobs", len(list.Data))
	}
}

func find(t *testing.T, text, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing matches %s in:\n%s", pattern, text)
	}
	return m[1]
}

// shortTempDir is a temporary directory whose path leaves room for socket names, which may have 107 bytes.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "mr") //nolint:usetesting // t.TempDir's paths are too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
