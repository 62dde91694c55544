package agent

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
)

// Lock keeps other agents away from dir until unlock is called or the process ends: an agent's first act is to take over
// the machines that an earlier one left there. Conflict: an agent runs.
func Lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, millrace.Errorf(millrace.Conflict, "An agent runs in %s already.", dir)
	}
	return func() { f.Close() }, nil
}
