package store_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// What a VM printed is what its host sent, whatever was sent twice, late or in other pieces.
func TestConsole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	text := strings.Repeat("0123456789", 20)
	send := func(from, to int) {
		t.Helper()
		if err := w.org.AppendConsole(t.Context(), w.host.ID, vm, int64(from), []byte(text[from:to])); err != nil {
			t.Fatal(err)
		}
	}
	show := func(limit int64) (string, int64) {
		t.Helper()
		data, total, err := w.org.Console(t.Context(), vm, 0, limit)
		if err != nil {
			t.Fatal(err)
		}
		return string(data), total
	}
	if got, total := show(100); got != "" || total != 0 {
		t.Errorf("before anything: %q of %d", got, total)
	}
	send(0, 50)
	send(50, 90)
	send(50, 90)   // a repeat
	send(120, 200) // before what precedes it
	send(90, 120)
	send(60, 100) // in other pieces
	send(200, 200)
	if got, total := show(1 << 20); got != text || total != 200 {
		t.Errorf("all: %d bytes of %d\n%s", len(got), total, got)
	}
	for _, limit := range []int64{1, 79, 80, 81, 150, 200} {
		if got, total := show(limit); got != text[200-limit:] || total != 200 {
			t.Errorf("the last %d: %q of %d", limit, got, total)
		}
	}
	for _, after := range []int64{0, 49, 50, 51, 119, 120, 199, 200, 201, 1 << 60} {
		want := text[min(after, 200):]
		if data, total, err := w.org.Console(t.Context(), vm, after, 1<<20); err != nil || string(data) != want || total != 200 {
			t.Errorf("after %d: %q of %d, %v", after, data, total, err)
		}
		if data, _, err := w.org.Console(t.Context(), vm, after, 30); err != nil || string(data) != want[max(0, len(want)-30):] {
			t.Errorf("the last 30 after %d: %q, %v", after, data, err)
		}
	}
	code(t, w.org.AppendConsole(t.Context(), w.host.ID, vm, -1, []byte("x")), millrace.Invalid)
	code(t, w.org.AppendConsole(t.Context(), millrace.NewHostID(new(millrace.Source), w.now()), vm, 0, []byte("x")), millrace.NotFound)
}

func TestConsoleIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	vm := w.place(w.queue(1))
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for i := range int64(10) {
		if err := w.org.AppendConsole(t.Context(), w.host.ID, vm, i*(1<<20)-min(i, 1), chunk); err != nil {
			t.Fatal(err)
		}
	}
	if _, total, err := w.org.Console(t.Context(), vm, 0, 10); err != nil || total != store.MaxConsole {
		t.Errorf("%d bytes are kept, %v", total, err)
	}
}

// The temporary directory is often another file system, from which no file can be renamed, and a container may have none.
func TestBlobsNeedNoTemporaryDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made when missing")
	t.Setenv("TMPDIR", "/nonexistent")
	blobs, _, err := store.OpenBlobs(t.Context(), "file://"+filepath.ToSlash(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	if err := blobs.WriteAll(t.Context(), "org/vm", []byte("hello"), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := blobs.ReadAll(t.Context(), "org/vm"); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// Of consoles what is old is deleted, with its folder; what is younger isn't even listed.
func TestConsolesExpire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Config{AppURL: w.db.App, SystemURL: w.db.System, Now: w.now, BlobURL: "file://" + filepath.ToSlash(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	began := w.now()
	var vms []millrace.VMID
	for job := range int64(2) {
		vm := w.place(w.queue(job + 1))
		for offset := range int64(3) {
			if err := st.Org(w.ID).AppendConsole(t.Context(), w.host.ID, vm, offset, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		vms = append(vms, vm)
		w.advance(48 * time.Hour)
	}
	for day, want := range map[time.Duration]int{-1: 0, 1: 3} {
		if n, err := st.ExpireBlobs(t.Context(), began.Add(millrace.LogRetention+day*24*time.Hour)); err != nil || n != want {
			t.Errorf("day %d: %d pieces expired, want %d; %v", day, n, want, err)
		}
	}
	for i, vm := range vms {
		if left, err := filepath.Glob(filepath.Join(dir, "consoles", "*", vm.String())); err != nil || len(left) != i {
			t.Errorf("VM %d has the folders %v, %v", i+1, left, err)
		}
	}
}
