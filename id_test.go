package millrace_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace-ci/millrace"
)

func TestIDRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "seed")
		at := time.UnixMilli(rapid.Int64Range(0, 1<<47).Draw(t, "ms"))
		id := millrace.NewJobID(&millrace.Source{Rand: bytes.NewReader(seed)}, at)
		parsed, err := millrace.ParseJobID(id.String())
		if err != nil || parsed != id {
			t.Fatalf("%s parsed as %s, %v", id, parsed, err)
		}
		var scanned millrace.JobID
		if v, _ := id.Value(); scanned.Scan(v) != nil || scanned != id {
			t.Fatalf("%s stored and read as %s", id, scanned)
		}
		if !id.Time().Equal(at) {
			t.Fatalf("%s was made at %s, not at %s", id, at, id.Time())
		}
		if uuid := id.UUID(); uuid[14] != '7' || !strings.ContainsAny(uuid[19:20], "89ab") {
			t.Fatalf("%s is not a UUIDv7", uuid)
		}
	})
}

func TestIDsSortByTime(t *testing.T) {
	t.Parallel()
	var src millrace.Source
	at := time.UnixMilli(1_800_000_000_000)
	earlier, later := millrace.NewVMID(&src, at), millrace.NewVMID(&src, at.Add(time.Millisecond))
	if earlier.String() >= later.String() || earlier.UUID() >= later.UUID() {
		t.Errorf("%s is not before %s", earlier, later)
	}
}

func TestParseIDRefuses(t *testing.T) {
	t.Parallel()
	var src millrace.Source
	job := millrace.NewJobID(&src, time.UnixMilli(0)).String()
	for _, s := range []string{"", "job_", "vm_" + job[4:], strings.ToUpper(job), job + "0", job[:len(job)-1] + "u", "job_8" + job[5:], "../../etc/passwd"} {
		if id, err := millrace.ParseJobID(s); millrace.CodeOf(err) != millrace.NotFound {
			t.Errorf("%q parsed as %s, %v", s, id, err)
		}
	}
}
