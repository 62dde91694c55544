//go:build linux

package pid1

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace/guest"
)

// The runner's user, as the image's /etc/passwd has it.
const (
	uid  = 1000
	home = "/home/runner"
)

// personalise makes the machine the one that the host wants.
func personalise(c guest.Config) error {
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if now := c.Now; !now.IsZero() {
		tv := unix.NsecToTimeval(now.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			return fmt.Errorf("setting the clock: %w", err)
		}
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + c.Hostname + "\n"
	if err := errors.Join(os.WriteFile("/etc/hosts", []byte(hosts), 0o644), os.MkdirAll(home, 0o755), os.Chmod("/tmp", 0o1777)); err != nil {
		return err
	}
	return os.Chown(home, uid, uid)
}

// runRunner starts the runner that the image carries (GitHub's, else the test runner), and waits for its end while it
// passes on what it prints and what the machine uses.
func runRunner(g *guest.Guest, c guest.Config) (guest.Exit, error) {
	program := home + "/run.sh"
	if _, err := os.Stat(program); err != nil {
		program = "/usr/local/bin/testrunner"
	}
	out, in, err := os.Pipe()
	if err != nil {
		return guest.Exit{}, err
	}
	cmd := exec.Command(program)
	cmd.Dir = home
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "USER=runner", "LOGNAME=runner", "SHELL=/bin/sh", "LANG=C.UTF-8",
		"ACTIONS_RUNNER_INPUT_JITCONFIG=" + c.JIT,
	}
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := cmd.Start(); err != nil {
		return guest.Exit{}, fmt.Errorf("starting the runner: %w", err)
	}
	in.Close()
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		_, _ = io.Copy(guest.NewConsole(g), out) // ends when every process that holds the pipe has ended, or at the deadline
	}()
	go func() {
		g.Stopped()
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
	}()
	meter := startMeter(g)
	status := reap(cmd.Process.Pid)
	// What runs on in the background dies with the machine; its output isn't waited for.
	_ = out.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	<-printed
	meter.stop()
	exit := guest.Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		exit = guest.Exit{Code: 128 + int(status.Signal()), Reason: "The runner was ended by " + cmp.Or(unix.SignalName(status.Signal()), "a signal") + "."}
	}
	return exit, nil
}

// reap waits for the runner, and meanwhile for every orphan, as PID 1 must.
func reap(pid int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if got == pid && err == nil && (status.Exited() || status.Signaled()) {
			return status
		}
		if errors.Is(err, unix.ECHILD) {
			return 0
		}
	}
}
