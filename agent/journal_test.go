package agent

import (
	"log/slog"
	"os"
	"path/filepath"
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
