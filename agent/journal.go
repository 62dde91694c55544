package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/millrace-ci/millrace"
)

// journal is a folder with a file for each VM, by which a later process finds what this one left. A file's last line is what is
// noted, and those before it what was: to add a line takes less than to put another file in its place, which ext4, too, would write
// to the disk with its next commit (its mount option auto_da_alloc). Nothing here is synced to the disk, for whatever takes away what
// the kernel has yet to write takes the machines, too.
type journal string

// entryAtMost is the size from which on a file is replaced by one with its last line.
const entryAtMost = 64 << 10

// openJournal makes the folder below dir.
func openJournal(dir string) (journal, error) {
	j := filepath.Join(dir, "journal")
	return journal(j), os.MkdirAll(j, 0o700)
}

func (j journal) file(ref Ref) string { return filepath.Join(string(j), ref.machine()+".json") }

// write notes v. What was noted stays when it fails.
func (j journal) write(v VM) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line := slices.Concat(newline, content) // first, so that what could not be written whole is a line of its own
	f, err := os.OpenFile(j.file(v.ref()), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	switch {
	case err != nil:
		return err
	case size >= entryAtMost:
		return j.replace(v.ref(), line)
	}
	if _, err := f.Write(line); err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	return nil
}

var newline = []byte("\n")

// replace makes content all that is noted of a VM.
func (j journal) replace(ref Ref, content []byte) error {
	file := j.file(ref)
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// has reports whether a VM is noted.
func (j journal) has(ref Ref) bool {
	info, err := os.Stat(j.file(ref))
	return err == nil && info.Size() > 0
}

// remove forgets a VM.
func (j journal) remove(ref Ref) error {
	if err := os.Remove(j.file(ref)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// read is all that is noted, of each VM the latest epoch. What can't be understood is removed: its machine is nobody's, then.
func (j journal) read(log *slog.Logger) (list []VM, err error) {
	files, err := filepath.Glob(filepath.Join(string(j), "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		v, err := j.entry(name)
		if err == nil {
			list = append(list, v)
			continue
		}
		log.Error("An entry of the journal can't be read; it is removed.", "file", name, "error", err)
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b VM) int {
		return cmp.Or(bytes.Compare(a.Order.ID[:], b.Order.ID[:]), cmp.Compare(b.Order.Epoch, a.Order.Epoch))
	})
	return slices.CompactFunc(list, func(a, b VM) bool { return a.Order.ID == b.Order.ID }), nil
}

// entry is what one file notes: its last line, but for one that could not be written whole.
func (j journal) entry(name string) (v VM, err error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return v, err
	}
	for _, line := range slices.Backward(bytes.Split(content, newline)) {
		v = VM{}
		if err = json.Unmarshal(line, &v); err == nil {
			break
		}
	}
	if err != nil {
		return v, err
	}
	switch v.State {
	case millrace.VMBooting, millrace.VMOnline, millrace.VMBusy, millrace.VMGone:
	default:
		return v, fmt.Errorf("a VM can't be %q", v.State)
	}
	if len(v.Steps) == 0 || name != j.file(v.ref()) {
		return v, fmt.Errorf("it is no entry of %s", v.ref().machine())
	}
	return v, nil
}
