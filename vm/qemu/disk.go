package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// disk is a machine's own disk.
type disk struct{ path, format string }

// cloneDisk makes a copy-on-write clone of base: a reflink where the file system has them (XFS, btrfs), else a qcow2
// overlay.
func cloneDisk(ctx context.Context, base, path string) (disk, error) {
	if reflink(base, path+".raw") == nil {
		return disk{path + ".raw", "raw"}, nil
	}
	out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path+".qcow2").CombinedOutput()
	if err != nil {
		return disk{}, fmt.Errorf("cloning the root disk: %w\n%s", err, out)
	}
	return disk{path + ".qcow2", "qcow2"}, nil
}

func reflink(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		os.Remove(to)
		return err
	}
	return nil
}
