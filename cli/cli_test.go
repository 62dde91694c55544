package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// evil is what a hostile repository would have a terminal do: clear the screen (C0 and C1), ring, reverse and hide text.
const evil = "\x1b[2J\u009b2J\a\u202e\u200b\U000e0041\x7f"

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func job() client.Job {
	return client.Job{
		ID: millrace.JobID{15: 1}, Repository: "calm/app", Workflow: "CI" + evil, Name: "build\tall\n", Status: millrace.JobQueued,
		Labels: []string{"millrace"}, QueuedAt: client.Time(at),
		Wait:     &millrace.WaitReason{Code: millrace.WaitNoHost, Text: "No host has the label gpu.", Remedy: "Add one." + evil},
		Timeline: []client.TimelineStep{{State: "queued", At: at}, {State: "placed", At: at.Add(time.Second), MS: 1000}},
	}
}

// ran is a job that has had a VM.
func ran() client.Job {
	j := job()
	j.ID, j.Wait, j.Status, j.Conclusion, j.Timeline = millrace.JobID{15: 2}, nil, millrace.JobCompleted, "success", nil
	j.VM = &client.VM{ID: millrace.VMID{15: 2}, Host: "h1", State: millrace.VMGone, Size: millrace.Size{MilliCPU: 4000, MemoryMB: 16384}}
	return j
}

// full is a host that takes no VM.
func full() client.Host {
	return client.Host{
		ID: millrace.HostID{15: 2}, Name: "h2", Status: millrace.StatusOnline, Refuses: "its disk is nearly full" + evil, CreatedAt: at,
		Facts: millrace.HostFacts{Arch: millrace.ARM64, Offer: millrace.Size{MilliCPU: 4000, MemoryMB: 8192}}, SeenAt: client.Time(at),
	}
}

// server is an API with one of each.
func server(t *testing.T) string {
	t.Helper()
	const org = "/api/v1/orgs/calm/"
	answers := map[string]any{
		org + "jobs": client.NewList([]client.Job{job()}, "opaque"),
		org + "jobs/job_00000000000000000000000001":       job(),
		org + "jobs/job_00000000000000000000000002":       ran(),
		org + "vms/vm_00000000000000000000000002/samples": client.NewList([]millrace.Sample{{UptimeMS: 1000, PeakCPU: 1340}, {UptimeMS: 2000, PeakCPU: 900}}, ""),
		org + "hosts": client.NewList([]client.Host{{
			ID: millrace.HostID{15: 1}, Name: "h1", Status: millrace.StatusOnline,
			Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: millrace.Size{MilliCPU: 4000, MemoryMB: 8192}}, SeenAt: client.Time(at),
		}, full()}, ""),
		org + "hosts/" + full().ID.String():               full(),
		org + "vms":                                       client.NewList([]client.VM{failed()}, "opaque"),
		org + "vms/vm_00000000000000000000000003":         failed(),
		org + "vms/vm_00000000000000000000000003/samples": client.NewList([]millrace.Sample{}, ""),
		org + "vms/vm_00000000000000000000000003/console": printed("\x1b[31mbooting\x1b[0m\n1 %\r99 %\npanic" + evil),
		org + "hosts/host_00000000000000000000000009/log": printed("level=ERROR msg=full\n"), // removed: not in the list
		org + "incidents": client.NewList([]client.Incident{{
			ID: millrace.IncidentID{15: 1}, Code: millrace.WaitIPAllowList, Title: "Refused", Remedy: "Allow it.", Owner: "calm", Detail: "no" + evil, OpenedAt: at,
		}}, ""),
		org + "usage": client.NewList([]client.Usage{{Key: "calm/app", Jobs: 3, Failed: 1, BuildMS: 90_000, VCPUMS: 180_000, WaitP50MS: 800, WaitP95MS: 2500}}, ""),
	}
	user := millrace.UserID{15: 1}
	member := client.Member{ID: user, Login: "mona" + evil, Role: millrace.RoleAdmin, FollowsGitHub: true, JoinedAt: at}
	answers[org+"members"] = client.NewList([]client.Member{member}, "")
	answers["PATCH "+org+"members/"+user.String()] = client.Member{ID: user, Login: "mona", Role: millrace.RoleViewer, JoinedAt: at}
	token := client.APIToken{ID: millrace.APITokenID{15: 1}, Name: "ci" + evil, Hint: "mrat_abcd", UserID: &user, Scopes: []millrace.Permission{millrace.JobsRead, millrace.UsageRead}, CreatedAt: at, ExpiresAt: at}
	answers[org+"tokens"] = client.NewList([]client.APIToken{token}, "")
	token.Secret = "mrat_secret"
	answers["POST "+org+"tokens"] = token
	answers["DELETE "+org+"tokens/"+token.ID.String()] = struct{}{}
	enrollment := client.EnrollmentToken{ID: millrace.EnrollmentTokenID{15: 1}, UsesLeft: 2, CreatedAt: at, ExpiresAt: at}
	answers[org+"enrollment-tokens"] = client.NewList([]client.EnrollmentToken{enrollment}, "")
	enrollment.Secret = "mret_secret"
	answers["POST "+org+"enrollment-tokens"] = enrollment
	answers["DELETE "+org+"enrollment-tokens/"+enrollment.ID.String()] = struct{}{}
	answers[org+"audit"] = client.NewList([]client.AuditEntry{{
		At: at, Actor: client.AuditActor{Kind: millrace.ActorUser, ID: user.String(), Name: "mona"}, Action: "member.role_changed", Subject: user.String(),
		Address: "192.0.2.1", RequestID: "req_1", Changes: []millrace.Change{{Field: "role", Before: "admin", After: "viewer" + evil}},
	}}, "opaque")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.URL.Path
		if r.Method != http.MethodGet {
			key = r.Method + " " + key
		}
		answer, ok := answers[key]
		var err error
		switch {
		case r.Header.Get("Authorization") != "Bearer mrat_good":
			err = millrace.Errorf(millrace.Unauthenticated, "The token is unknown.%s", evil)
		case !ok:
			err = millrace.Errorf(millrace.NotFound, "There is no such job.")
		}
		if err != nil {
			w.Header().Set("Content-Type", client.ProblemType)
			w.WriteHeader(millrace.CodeOf(err).Status())
			answer = client.NewProblem(err, "")
		}
		if text, ok := answer.(printed); ok {
			position := strconv.Itoa(len(text))
			if strings.HasSuffix(key, "/log") {
				position = millrace.LogPosition{Epoch: 1}.Plus(int64(len(text))).String()
			}
			w.Header().Set(client.LogPositionHeader, position)
			_, _ = io.WriteString(w, string(text))
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// printed is an answer that is a log.
type printed string

// failed is a VM that came to nothing.
func failed() client.VM {
	return client.VM{
		ID: millrace.VMID{15: 3}, Host: "h1" + evil, HostID: millrace.HostID{15: 9}, ForJob: millrace.JobID{15: 1}, State: millrace.VMGone, Zone: millrace.ZonePrivate, Arch: millrace.AMD64,
		Size: millrace.Size{MilliCPU: 4000, MemoryMB: 16384}, Reason: "Its kernel didn't come up." + evil, ExitCode: new(int), PlacedAt: client.Time(at), GoneAt: client.Time(at.Add(time.Minute)),
	}
}

// run runs one command line against url.
func run(t *testing.T, url, token string, terminal bool, line ...string) (code int, out, errs string) {
	t.Helper()
	env := map[string]string{"MILLRACE_URL": url, "MILLRACE_ORG": "calm", "MILLRACE_TOKEN": token}
	var stdout, stderr bytes.Buffer
	code = Run(t.Context(), Env{
		Args: line, Getenv: func(k string) string { return env[k] }, Stdout: &stdout, Stderr: &stderr, Terminal: terminal, Version: "v1",
	})
	return code, stdout.String(), stderr.String()
}

func TestOutput(t *testing.T) {
	t.Parallel()
	url := server(t)
	for _, tt := range []struct {
		line     string
		terminal bool
		want     string
	}{
		{"version", false, "v1\n"},
		{"version --json", false, "{\n  \"version\": \"v1\"\n}\n"},
		{"jobs list", false, "job\tstatus\trepository\tname\thost\tqueued\twaits for\n" +
			"job_00000000000000000000000001\tqueued\tcalm/app\tCI[2J2J / build all \t-\t2026-11-24 12:00:00Z\tno_host_matching_labels\n"},
		{"jobs list", true, "JOB                             STATUS  REPOSITORY  NAME                  HOST  QUEUED                WAITS FOR\n" +
			"job_00000000000000000000000001  queued  calm/app    CI[2J2J / build all   -     2026-11-24 12:00:00Z  no_host_matching_labels\n"},
		{"jobs show job_00000000000000000000000001", false, "field\tvalue\n" +
			"job\tjob_00000000000000000000000001\nstatus\tqueued\nrepository\tcalm/app\nname\tCI[2J2J / build all \n" +
			"branch\t-\ncommit\t-\nactor\t-\nlabels\tmillrace\nurl\t\nwaits\tno_host_matching_labels: No host has the label gpu.\nremedy\tAdd one.[2J2J\n" +
			"queued\t2026-11-24 12:00:00Z  +0s\nplaced\t2026-11-24 12:00:01Z  +1s\n"},
		{"jobs show job_00000000000000000000000002", false, "field\tvalue\n" +
			"job\tjob_00000000000000000000000002\nstatus\tsuccess\nrepository\tcalm/app\nname\tCI[2J2J / build all \n" +
			"branch\t-\ncommit\t-\nactor\t-\nlabels\tmillrace\nurl\t\nvm\tvm_00000000000000000000000002 (gone) on h1\n" +
			"size\t4 vCPU, 16 GB\npeak memory\t0 MiB\ncpu time\t0s\npeak cpu\t1.3 of 4 vCPU\n"},
		{"hosts list", false, "host\tname\tstatus\tarch\tvms\tcommitted\toffer\tseen\trefuses\n" +
			"host_00000000000000000000000001\th1\tonline\tamd64\t0\t0 vCPU, 0 MB\t4 vCPU, 8 GB\t2026-11-24 12:00:00Z\t-\n" +
			"host_00000000000000000000000002\th2\tonline\tarm64\t0\t0 vCPU, 0 MB\t4 vCPU, 8 GB\t2026-11-24 12:00:00Z\tits disk is nearly full[2J2J\n"},
		{"hosts show h2", false, "field\tvalue\nhost\thost_00000000000000000000000002\nname\th2\nstatus\tonline\nrefuses\tits disk is nearly full[2J2J\n" +
			"pending\t-\nvms\t0\ncommitted\t0 vCPU, 0 MB\noffer\t4 vCPU, 8 GB\nlabels\t-\narch\tarm64\ncpu\t-\nkernel\t-\ndriver\t-\nnetwork\t-\ntrial boot\t-\n" +
			"agent\t-\nseen\t2026-11-24 12:00:00Z\nsince\t2026-11-24 12:00:00Z\n"},
		{"vms list --host h1 --job job_00000000000000000000000001", false, "vm\tstate\thost\tjob\tsize\tplaced\tended because\n" +
			"vm_00000000000000000000000003\tgone\th1[2J2J\tjob_00000000000000000000000001\t4 vCPU, 16 GB\t2026-11-24 12:00:00Z\tIts kernel didn't come up.[2J2J\n"},
		{"vms show vm_00000000000000000000000003", false, "field\tvalue\nvm\tvm_00000000000000000000000003\nstate\tgone\nhost\th1[2J2J (host_00000000000000000000000009)\n" +
			"meant for\tjob_00000000000000000000000001\nran\t-\nrunner\t-\nzone\tprivate\narch\tamd64\nsize\t4 vCPU, 16 GB\nplaced\t2026-11-24 12:00:00Z\nbooting\t-\n" +
			"online\t-\nbusy\t-\nstopping\t-\ngone\t2026-11-24 12:01:00Z\nended because\tIts kernel didn't come up.[2J2J\nexit code\t0\npeak memory\t0 MiB\ncpu time\t0s\n"},
		{"vms console vm_00000000000000000000000003", false, "booting\n99 %\npanic2J\n"},
		{"hosts log host_00000000000000000000000009", false, "level=ERROR msg=full\n"},
		{"incident list --open", false, "incident\tcode\tconcerns\tsince\tuntil\twhat to do\tgithub said\n" +
			"inc_00000000000000000000000001\tip_allow_list\tcalm\t2026-11-24 12:00:00Z\t-\tRefused. Allow it.\tno[2J2J\n"},
		{"usage --by repository", false, "repository\tjobs\tfailed\tbuild\tvcpu\twait p50\twait p95\ncalm/app\t3\t1\t1m30s\t3m0s\t800ms\t2.5s\n"},
		{"members list", false, "user\tlogin\tname\trole\trole from\tjoined\tseen\nuser_00000000000000000000000001\tmona[2J2J\t-\tadmin\tGitHub\t2026-11-24 12:00:00Z\t-\n"},
		{"members set-role user_00000000000000000000000001 viewer", false, "user\tlogin\tname\trole\trole from\tjoined\tseen\nuser_00000000000000000000000001\tmona\t-\tviewer\there\t2026-11-24 12:00:00Z\t-\n"},
		{"tokens list", false, "token\tname\tsecret\tof\tscopes\tlast used\texpires\trevoked\n" +
			"tok_00000000000000000000000001\tci[2J2J\tmrat_abcd…\tuser_00000000000000000000000001\tjobs:read usage:read\t-\t2026-11-24 12:00:00Z\t-\n"},
		{"tokens create --name ci --scopes jobs:read,usage:read", false, "mrat_secret\n"},
		{"tokens revoke tok_00000000000000000000000001", false, ""},
		{"enrollment-tokens list", false, "token\tuses left\tlabels\tfrom\tephemeral\tmade\texpires\nenr_00000000000000000000000001\t2\tthe host's own\tanywhere\tno\t2026-11-24 12:00:00Z\t2026-11-24 12:00:00Z\n"},
		{"enrollment-tokens create --uses 2 --life 30m", false, "mret_secret\n"},
		{"enrollment-tokens revoke enr_00000000000000000000000001", false, ""},
		{"audit list --action member.", false, "at\twho\taction\tsubject\tchanges\taddress\trequest\n" +
			"2026-11-24 12:00:00Z\tuser mona\tmember.role_changed\tuser_00000000000000000000000001\trole: admin → viewer[2J2J\t192.0.2.1\treq_1\n"},
	} {
		code, out, errs := run(t, url, "mrat_good", tt.terminal, strings.Fields(tt.line)...)
		if d := cmp.Diff(tt.want, out); code != exitOK || d != "" {
			t.Errorf("%s: exit %d, %s, %s", tt.line, code, errs, d)
		}
	}
}

func TestJSONIsTheAPIs(t *testing.T) {
	t.Parallel()
	code, out, _ := run(t, server(t), "mrat_good", true, "jobs", "show", job().ID.String(), "--json")
	var got client.Job
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitOK {
		t.Fatalf("exit %d, %v", code, err)
	}
	if d := cmp.Diff(job(), got); d != "" {
		t.Error(d)
	}
	for _, r := range out {
		if r != '\n' && hostile(r) {
			t.Errorf("%U reaches the terminal", r)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	url := server(t)
	for _, tt := range []struct {
		line, token string
		want        int
		says        string
	}{
		{"", "", exitOK, ""},
		{"--help", "", exitOK, ""},
		{"jobs", "", exitOK, ""},
		{"bogus", "", exitUsage, "bogus"},
		{"jobs bogus", "", exitUsage, "bogus"},
		{"jobs list extra", "", exitUsage, "extra"},
		{"jobs list --bogus", "", exitUsage, "bogus"},
		{"jobs show", "", exitUsage, "accepts 1 arg"},
		{"usage --by moon", "mrat_good", exitUsage, "--by"},
		{"--url= hosts list", "mrat_good", exitUsage, "MILLRACE_URL"},
		{"--org= hosts list", "mrat_good", exitUsage, "MILLRACE_ORG"},
		{"hosts list", "", exitAuth, "MILLRACE_TOKEN"},
		{"hosts list", "mrat_bad", exitAuth, "The token is unknown."},
		{"jobs show job_00000000000000000000000009", "mrat_good", exitNone, "There is no such job."},
		{"jobs show vm_00000000000000000000000001", "mrat_good", exitNone, "no job"},
		{"vms show vm_00000000000000000000000009", "mrat_good", exitNone, ""},
		{"vms console vm_00000000000000000000000009", "mrat_good", exitNone, ""},
		{"vms console job_00000000000000000000000001", "mrat_good", exitNone, "no vm"},
		{"vms list --host gone", "mrat_good", exitNone, "no host gone"},
		{"vms list --job x", "mrat_good", exitNone, "no job"},
		{"vms console", "", exitUsage, "accepts 1 arg"},
		{"hosts log gone", "mrat_good", exitNone, "audit list --action host.removed"},
		{"members set-role nobody viewer", "mrat_good", exitNone, "no member nobody"},
		{"members set-role mona", "mrat_good", exitUsage, "accepts 2 arg"},
		{"tokens revoke tok_00000000000000000000000009", "mrat_good", exitNone, ""},
		{"tokens revoke x", "mrat_good", exitNone, "no tok"},
		{"--url http://127.0.0.1:1 hosts list", "mrat_good", exitError, "refused"},
		{"--url :// hosts list", "mrat_good", exitError, "missing protocol"},
	} {
		code, _, errs := run(t, url, tt.token, false, strings.Fields(tt.line)...)
		if code != tt.want || !strings.Contains(errs, tt.says) || strings.ContainsAny(errs, "\x1b\a\u009b\u202e") {
			t.Errorf("%q: exit %d, want %d: %q", tt.line, code, tt.want, errs)
		}
	}
	_, out, _ := run(t, url, "", false, "--help")
	if !strings.Contains(out, "Exit codes:") || !strings.Contains(out, "MILLRACE_TOKEN") {
		t.Errorf("the help lacks the contract: %s", out)
	}
}

func FuzzPlain(f *testing.F) {
	f.Add(evil)
	f.Add("\xff\xfe\x9b")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range plain(s) {
			if hostile(r) {
				t.Errorf("%q keeps %U", s, r)
			}
		}
	})
}

// A job that waits says when it is likely to start, and from what that is known.
func TestEstimate(t *testing.T) {
	t.Parallel()
	j := job()
	j.Wait.Estimate = &millrace.Estimate{From: at.Add(2 * time.Minute), To: at.Add(5 * time.Minute), Basis: "it is next; past runs of the 8 jobs that run now"}
	if got := waits(j, at); got != "no_host_matching_labels, starts in 2–5 min" {
		t.Error(got)
	}
	want := []string{"starts", "in 2–5 min (2026-11-24 12:02:00Z to 2026-11-24 12:05:00Z), from: it is next; past runs of the 8 jobs that run now"}
	if !slices.ContainsFunc(jobRows(j, at), func(row []string) bool { return slices.Equal(row, want) }) {
		t.Errorf("%q", jobRows(j, at))
	}
}
