package agent

import (
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// What was noted last is read, however often, and whatever could not be written whole since; the file stays small.
func TestJournal(t *testing.T) {
	t.Parallel()
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	v := VM{Order: client.VMOrder{ID: vmID(1), Epoch: 3}, State: millrace.VMBusy, Steps: []Stamp{{State: millrace.VMBooting, At: time.Unix(1, 0).UTC()}}}
	if j.has(v.ref()) {
		t.Error("it has what was never written")
	}
	for range 1000 {
		v.Console++
		if err := j.write(v); err != nil {
			t.Fatal(err)
		}
		if list, err := j.read(slog.New(slog.DiscardHandler)); err != nil || cmp.Diff([]VM{v}, list) != "" {
			t.Fatalf("read %+v, %v", list, err)
		}
	}
	files, err := os.ReadDir(string(j))
	if err != nil || len(files) != 1 {
		t.Fatalf("the folder has %v, %v", files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Size() > entryAtMost+1000 {
		t.Errorf("after 1000 lines the file is %+v, %v", info, err)
	}
	if !j.has(v.ref()) {
		t.Error("it hasn't what was written")
	}
	half, err := os.OpenFile(filepath.Join(string(j), files[0].Name()), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := half.WriteString("\n{\"order\":"); err != nil {
		t.Fatal(err)
	}
	v.Console++
	for _, want := range []int64{v.Console - 1, v.Console} {
		if list, err := j.read(slog.New(slog.DiscardHandler)); err != nil || len(list) != 1 || list[0].Console != want {
			t.Errorf("read %+v, %v; want %d bytes of the console", list, err, want)
		}
		if err := j.write(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.remove(v.ref()); err != nil || j.has(v.ref()) {
		t.Errorf("it was removed, %v", err)
	}
}

// What a full disk takes no more leaves what was noted as it was, and a VM of which nothing could be noted is not noted. A limit
// stands for the disk, in a process of its own, as it is of the whole process.
func TestJournalOnAFullDisk(t *testing.T) {
	t.Parallel()
	const child = "MILLRACE_TEST_FULL_DISK"
	if os.Getenv(child) == "" {
		test := exec.Command(os.Args[0], "-test.run=^TestJournalOnAFullDisk$", "-test.count=1")
		test.Env = append(os.Environ(), child+"=1")
		if out, err := test.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	v := VM{Order: client.VMOrder{ID: vmID(1), Epoch: 3}, State: millrace.VMBusy, Steps: []Stamp{{State: millrace.VMBooting, At: time.Unix(1, 0).UTC()}}}
	if err := j.write(v); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(j.file(v.ref()))
	if err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	var rlimit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &rlimit); err != nil {
		t.Fatal(err)
	}
	fits := func(bytes int64) {
		rlimit.Cur = uint64(bytes)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &rlimit); err != nil {
			t.Fatal(err)
		}
	}
	more, other := v, v
	more.Console, other.Order.ID = 1, vmID(2)
	for n := range info.Size() {
		fits(info.Size() + n)
		if err := j.write(more); err == nil {
			t.Fatalf("%d bytes were enough for one more line", n)
		}
		if now, err := os.Stat(j.file(v.ref())); err != nil || now.Size() != info.Size() {
			t.Fatalf("the file is %+v, %v", now, err)
		}
		fits(n)
		if err := j.write(other); err == nil || j.has(other.ref()) {
			t.Fatalf("%d bytes were enough for another VM", n)
		}
	}
	if list, err := j.read(slog.New(slog.DiscardHandler)); err != nil || cmp.Diff([]VM{v}, list) != "" {
		t.Errorf("read %+v, %v", list, err)
	}
}
