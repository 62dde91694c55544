package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// applets are the commands of the small userland: links to busybox.
var applets = strings.Fields(`[ awk base64 basename cat chmod chown cp cut date dd df dirname dmesg du echo env expr false find free grep
	gunzip gzip head hostname id ip kill ln ls md5sum mkdir mktemp mount mv nc nproc nslookup ping printenv printf ps pwd readlink rm
	rmdir route sed seq sh sha256sum sleep sort stat sync tail tar tee test time timeout top touch tr true umount uname uniq unzip
	uptime vi wc wget which whoami xargs yes`)

// rootSize is how large the root disk is; it takes no more of the host than what is written.
const rootSize = "4G"

// build makes the initrd and the root disk unless those that are there were made of the same parts.
func (d *Driver) build(ctx context.Context) error {
	sum := sha256.New()
	fmt.Fprintln(sum, "2", rootSize, applets) // raised when the code below makes something else of the same parts
	for _, name := range []string{"millrace-init", "testrunner"} {
		if err := add(sum, d.cfg.Programs, name); err != nil {
			return err
		}
	}
	for _, part := range []string{"version", "busybox"} {
		if err := add(sum, os.DirFS(d.cfg.Guest), part); err != nil {
			return fmt.Errorf("the guest's parts are incomplete, run make deps: %w", err)
		}
	}
	images := filepath.Join(d.cfg.Dir, "images")
	made := filepath.Join(images, hex.EncodeToString(sum.Sum(nil)[:12]))
	d.initrd, d.disk = filepath.Join(made, "initrd"), filepath.Join(made, "root.ext4")
	if isFile(d.disk) {
		return nil
	}
	if err := os.RemoveAll(images); err != nil {
		return err
	}
	tmp := made + ".tmp"
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if err := d.buildInitrd(filepath.Join(tmp, "initrd")); err != nil {
		return fmt.Errorf("making the initrd: %w", err)
	}
	if err := d.buildDisk(ctx, tmp); err != nil {
		return fmt.Errorf("making the root disk: %w", err)
	}
	return os.Rename(tmp, made)
}

// add writes a file to sum, piece by piece: an agent looks after its images as long as it runs.
func add(sum io.Writer, from fs.FS, name string) error {
	file, err := from.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(sum, file)
	return err
}

func (d *Driver) buildInitrd(path string, more ...cpio.Record) error {
	init, err := fs.ReadFile(d.cfg.Programs, "millrace-init")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	records := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.Directory("proc", 0o755), cpio.Directory("sys", 0o755), cpio.Directory("modules", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1), cpio.StaticFile("init", string(init), 0o755),
	}
	for _, stage := range []string{"early", "late"} {
		records = append(records, cpio.Directory("modules/"+stage, 0o755))
		modules, err := filepath.Glob(filepath.Join(d.cfg.Guest, "modules", stage, "*.ko"))
		if err != nil {
			return err
		}
		slices.Sort(modules)
		for _, name := range modules {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			records = append(records, cpio.StaticFile("modules/"+stage+"/"+filepath.Base(name), string(unsigned(content)), 0o644))
		}
	}
	if err := cpio.WriteRecords(w, append(records, more...)); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// unsigned is a kernel module without the signature that distributions append to it (kernel documentation, "Kernel module
// signing facility"). The kernel takes it, and an emulated one saves the check, a tenth of a second over all modules; the
// initrd is ours, so that the signature proves nothing.
func unsigned(module []byte) []byte {
	const magic = "~Module signature appended~\n"
	const descriptor = 12 // struct module_signature; its last four bytes are the signature's length
	body, signed := bytes.CutSuffix(module, []byte(magic))
	if !signed || len(body) < descriptor {
		return module
	}
	n := int(binary.BigEndian.Uint32(body[len(body)-4:]))
	if n > len(body)-descriptor {
		return module
	}
	return body[:len(body)-descriptor-n]
}

// buildDisk fills an ext4 image from a folder; no mount, no privileges.
func (d *Driver) buildDisk(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	defer os.RemoveAll(root)
	for _, sub := range []string{"bin", "dev", "etc", "home/runner", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/local/bin", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile(filepath.Join(d.cfg.Guest, "busybox"))
	if err != nil {
		return err
	}
	runner, err := fs.ReadFile(d.cfg.Programs, "testrunner")
	if err != nil {
		return err
	}
	for path, file := range map[string]struct {
		content []byte
		mode    os.FileMode
	}{
		"bin/busybox":              {busybox, 0o755},
		"usr/local/bin/testrunner": {runner, 0o755},
		"etc/passwd":               {[]byte("root:x:0:0:root:/root:/bin/sh\nrunner:x:1000:1000:runner:/home/runner:/bin/sh\n"), 0o644},
		"etc/group":                {[]byte("root:x:0:\nrunner:x:1000:\n"), 0o644},
		"etc/os-release":           {[]byte("NAME=\"Millrace test image\"\nID=millrace\n"), 0o644},
	} {
		if err := os.WriteFile(filepath.Join(root, path), file.content, file.mode); err != nil {
			return err
		}
	}
	for _, name := range applets {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return err
		}
	}
	tool, err := lookTool("mke2fs")
	if err != nil {
		return err
	}
	image := filepath.Join(dir, "root.ext4")
	out, err := exec.CommandContext(ctx, tool, "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0,lazy_itable_init=1", "-m", "0", "-d", root, image, rootSize).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w\n%s", err, out)
	}
	return os.Chmod(image, 0o600)
}
