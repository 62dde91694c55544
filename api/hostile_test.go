package api_test

import (
	"bytes"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// A host that was removed while it waits for orders is told so at once, its VM's registration is taken back, and none of its
// routes answers anything else any more.
func TestRemovedWhileItWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	if _, err := h.JIT(t.Context(), vm.ID, 1); err != nil {
		t.Fatal(err)
	}
	first, err := h.Sync(t.Context(), client.SyncRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ended := h.open(t, client.SyncRequest{Have: first.Version, VMs: []client.VMReport{{ID: vm.ID, Epoch: 1, State: millrace.VMBooting}}})
	if err := w.st.Org(w.calm.ID).RemoveHost(t.Context(), w.calm.Caller(), h.Host, true); err != nil {
		t.Fatal(err)
	}
	if r := <-ended; millrace.CodeOf(r.err) != millrace.HostRemoved {
		t.Errorf("the open sync: %v", r.err)
	}
	if n := scalar[int](w, `SELECT count(*) FROM outbox WHERE kind = $1`, millrace.RetireVM{}.Kind()); n != 1 {
		t.Errorf("%d registrations are to be taken back at GitHub", n)
	}
	calls := map[string]func() error{
		"start": func() error {
			_, err := h.Start(t.Context(), client.StartRequest{Facts: storetest.Facts()})
			return err
		},
		"sync":    func() error { _, err := h.Sync(t.Context(), client.SyncRequest{}); return err },
		"jit":     func() error { _, err := h.JIT(t.Context(), vm.ID, 1); return err },
		"console": func() error { return h.AppendConsole(t.Context(), vm.ID, 0, []byte("x")) },
		"samples": func() error { return h.AppendSamples(t.Context(), vm.ID, client.SamplesRequest{Epoch: 1}) },
		"log":     func() error { return h.AppendLog(t.Context(), 0, []byte("x")) },
	}
	for name, call := range calls {
		if err := call(); millrace.CodeOf(err) != millrace.HostRemoved {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A host may say anything. What it says of others' VMs is answered like one that there isn't and changes nothing; what it says of
// its own is bounded.
func TestHostileHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, sibling, stranger := w.enroll(w.calm, "rack-1"), w.enroll(w.calm, "rack-2"), w.enroll(w.rival, "rack-1")
	own, siblings, strangers := w.place(w.calm, h, 1), w.place(w.calm, sibling, 2), w.place(w.rival, stranger, 3)
	zero, huge := 0, math.MaxInt
	ctx, attacks, won := t.Context(), 0, 0
	others := func() string {
		return scalar[string](w, `SELECT string_agg(v::text, ' ' ORDER BY vm_id) || (SELECT string_agg(j::text, ' ' ORDER BY job_id) FROM jobs j) FROM vms v WHERE vm_id <> $1`, own.ID.UUID())
	}
	before := others()
	attack := func(name string, ok bool, err error) {
		t.Helper()
		attacks++
		if !ok || millrace.CodeOf(err) == millrace.Internal && err != nil {
			won++
			t.Errorf("%s: %v", name, err)
		}
		if now := others(); now != before {
			won++
			t.Errorf("%s changed what is another's:\n%s\nbefore\n%s", name, now, before)
			before = now
		}
	}
	sync := func(reports ...client.VMReport) error {
		_, err := h.Sync(ctx, client.SyncRequest{VMs: reports})
		return err
	}
	for whose, vm := range map[string]millrace.VM{"a sibling's": siblings, "another org's": strangers} {
		for _, state := range []millrace.VMState{millrace.VMBooting, millrace.VMOnline, millrace.VMBusy, millrace.VMGone} {
			err := sync(client.VMReport{ID: vm.ID, Epoch: 1, State: state, ExitCode: &zero, Reason: "success", Steps: []client.StepReport{{State: state}}})
			attack("it says that "+whose+" VM is "+string(state), err == nil, err)
		}
		_, err := h.JIT(ctx, vm.ID, 1)
		attack("registration of "+whose, millrace.CodeOf(err) == millrace.NotFound, err)
		err = h.AppendConsole(ctx, vm.ID, 0, []byte("evil"))
		attack("console of "+whose, millrace.CodeOf(err) == millrace.NotFound, err)
		err = h.AppendSamples(ctx, vm.ID, client.SamplesRequest{Epoch: 1, Samples: millrace.Series{{UptimeMS: 1000}}})
		attack("samples of "+whose, millrace.CodeOf(err) == millrace.NotFound, err)
	}
	for name, epoch := range map[string]int64{"0": 0, "-1": -1, "to come": 2, "the last": math.MaxInt64} {
		err := sync(client.VMReport{ID: own.ID, Epoch: epoch, State: millrace.VMGone})
		attack("an end in epoch "+name, err == nil, err)
		_, err = h.JIT(ctx, own.ID, epoch)
		attack("a registration in epoch "+name, millrace.CodeOf(err) == millrace.Gone, err)
	}
	for _, state := range []millrace.VMState{millrace.VMStopping, millrace.VMLost, "", "completed", "busy\x00", millrace.VMState(strings.Repeat("x", 1<<20))} {
		err := sync(client.VMReport{ID: own.ID, Epoch: 1, State: state})
		attack("a state that it can't say", millrace.CodeOf(err) == millrace.Unprocessable, err)
	}
	for name, u := range map[string]int64{"negative": math.MinInt64, "endless": math.MaxInt64} {
		usage := millrace.Metering{PeakMemory: u, CPUMillis: u, DiskRead: u, DiskWrite: u, NetRx: u, NetTx: u}
		err := sync(client.VMReport{ID: own.ID, Epoch: 1, State: millrace.VMBooting, Usage: usage, ExitCode: &huge})
		most := scalar[int64](w, `SELECT greatest(peak_memory, cpu_ms, disk_read, disk_write, net_rx, net_tx) FROM vms WHERE vm_id = $1`, own.ID.UUID())
		attack(name+" usage", err == nil && most >= 0 && most <= 1<<50, err)
		err = h.AppendSamples(ctx, own.ID, client.SamplesRequest{Epoch: 1, Samples: millrace.Series{{UptimeMS: u, Memory: u, CPUMillis: u}}})
		attack(name+" samples", err == nil, err)
	}
	for name, offset := range map[string]int64{"before the first byte": -1, "at the end of numbers": math.MaxInt64, "beyond the bound": store.MaxConsole} {
		err := h.AppendConsole(ctx, own.ID, offset, []byte("x"))
		attack("a console "+name, err == nil || millrace.CodeOf(err) == millrace.Invalid, err)
	}
	for name, change := range map[string]func(*millrace.HostFacts){
		"10^5 labels":        func(f *millrace.HostFacts) { f.Labels = strings.Split(strings.Repeat("a,", 100_000), ",") },
		"a label of 1 MB":    func(f *millrace.HostFacts) { f.Labels = []string{strings.Repeat("a", 1<<20)} },
		"a label with ESC":   func(f *millrace.HostFacts) { f.Labels = []string{"\x1b[2J"} },
		"a driver of 1 MB":   func(f *millrace.HostFacts) { f.Driver = strings.Repeat("a", 1<<20) },
		"a kernel with NUL":  func(f *millrace.HostFacts) { f.Kernel = "\x00" },
		"endless memory":     func(f *millrace.HostFacts) { f.MemoryMB = math.MaxInt },
		"negative vCPUs":     func(f *millrace.HostFacts) { f.VCPUs = -1 },
		"an endless offer":   func(f *millrace.HostFacts) { f.Offer.MilliCPU = math.MaxInt },
		"an unknown machine": func(f *millrace.HostFacts) { f.Arch = "<script>" },
	} {
		facts := storetest.Facts()
		change(&facts)
		_, err := h.Start(ctx, client.StartRequest{Facts: facts})
		attack(name, millrace.CodeOf(err) == millrace.Unprocessable, err)
	}
	for name, c := range map[string]struct {
		path string
		body []byte
		want int
	}{
		"5 MB":            {"/agent/v1/sync", make([]byte, 5<<20), http.StatusRequestEntityTooLarge},
		"10^5 deep":       {"/agent/v1/sync", []byte(strings.Repeat("[", 100_000)), http.StatusBadRequest},
		"10,001 VMs":      {"/agent/v1/sync", []byte(`{"vms":[{}` + strings.Repeat(`,{}`, 10_000) + `]}`), http.StatusUnprocessableEntity},
		"no VM's console": {"/agent/v1/vms/..%2f..%2fetc/console?offset=0", []byte("x"), http.StatusNotFound},
	} {
		r := w.request(http.MethodPost, c.path, c.body)
		client.Sign(r, c.body, h.Key, client.Claims{Host: h.Host, Epoch: 2, Sequence: 5000 + int64(attacks), Time: time.Now()})
		a := w.send(r)
		attack(name, a.status == c.want, nil)
		if a.status != c.want {
			t.Errorf("%s: %d %.200s", name, a.status, a.body)
		}
	}
	t.Logf("hostile host: %d of %d attacks changed what they may not", won, attacks)
	if attacks < 40 {
		t.Errorf("only %d attacks", attacks)
	}
}

// The pieces of a console may overlap, as an agent that comes after another repeats some; but not without end.
func TestConsoleOfOverlaps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.enroll(w.calm, "rack-1")
	vm := w.place(w.calm, h, 1)
	piece := bytes.Repeat([]byte("x"), 256<<10)
	var err error
	sent := int64(0)
	for offset := int64(0); err == nil && sent < 8*store.MaxConsole; offset++ {
		err = w.st.Org(w.calm.ID).AppendConsole(t.Context(), h.Host, vm.ID, offset, piece)
		sent += int64(len(piece))
	}
	if millrace.CodeOf(err) != millrace.TooLarge {
		t.Errorf("%d bytes of a console of %d: %v", sent, store.MaxConsole, err)
	}
}
