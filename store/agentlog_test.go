package store_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// Of an agent that says without end the newest is kept; what nobody adds to any more expires.
func TestAgentLogIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	org := w.st.Org(w.ID)
	piece := bytes.Repeat([]byte("0123456\n"), 8<<10) // 64 KiB
	for n := range 100 {
		copy(piece, fmt.Sprintf("%07d\n", n))
		if err := org.AppendAgentLog(t.Context(), w.host.ID, millrace.LogPosition{Epoch: int64(1 + n/50), Offset: int64(n%50) * int64(len(piece))}, piece); err != nil {
			t.Fatal(err)
		}
	}
	text, end, err := org.AgentLog(t.Context(), w.host.ID, millrace.LogPosition{}, 1<<30)
	if most := store.MaxAgentLog + store.MaxAgentLog/4; err != nil || len(text) < store.MaxAgentLog/2 || len(text) > most || end != (millrace.LogPosition{Epoch: 2, Offset: 50 * 64 << 10}) {
		t.Errorf("%d bytes of at most %d to %v, %v", len(text), most, end, err)
	}
	if tail := text[len(text)-len(piece):]; !bytes.HasPrefix(tail, []byte("0000099\n")) {
		t.Errorf("the last piece is %.8q", tail)
	}
	if n, err := w.st.ExpireBlobs(t.Context(), time.Now().Add(millrace.LogRetention-time.Hour)); err != nil || n != 0 {
		t.Errorf("expired within retention: %d, %v", n, err)
	}
	if n, err := w.st.ExpireBlobs(t.Context(), time.Now().Add(millrace.LogRetention+time.Hour)); err != nil || n < 30 {
		t.Errorf("expired: %d, %v", n, err)
	}
	if text, _, err := org.AgentLog(t.Context(), w.host.ID, millrace.LogPosition{}, 1<<30); err != nil || len(text) != 0 {
		t.Errorf("left: %d bytes, %v", len(text), err)
	}
}

func TestLogPosition(t *testing.T) {
	t.Parallel()
	for _, p := range []millrace.LogPosition{{}, {Epoch: 1}, {Epoch: 3, Offset: 517}, {Epoch: 1 << 33, Offset: 1 << 33}} {
		if got, err := millrace.ParseLogPosition(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	for _, text := range []string{"", "1", "1.1", "0000000001.0000000002x", "-000000001.0000000002", "0000000001/0000000002", "../../../../../../etc"} {
		if p, err := millrace.ParseLogPosition(text); err == nil {
			t.Errorf("%q is %v", text, p)
		}
	}
}
