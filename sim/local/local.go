// Package local is what the commands below sim ask of the machine that they run on: of its processes, and for ports.
package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// FreeAddresses are n addresses on loopback, outside the range from which the kernel takes ports of outgoing connections: a
// server that was killed must find its port free.
func FreeAddresses(n int) ([]string, error) {
	var found []string
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000)))
		if err != nil {
			continue
		}
		defer l.Close()
		if found = append(found, l.Addr().String()); len(found) == n {
			return found, nil
		}
	}
	return nil, errors.New("no free ports on loopback")
}

// stat is a process's line of proc_pid_stat(5) from its state on: what comes first may hold anything.
func stat(pid int) ([]string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields, nil
}

// Children lists a process's children.
func Children(parent int) (children []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		pid, _ := strconv.Atoi(filepath.Base(proc))
		if fields, err := stat(pid); err == nil && fields[1] == strconv.Itoa(parent) {
			children = append(children, pid)
		}
	}
	return children
}

// Gone reports whether a process is no more.
func Gone(pid int) bool {
	fields, err := stat(pid)
	return err != nil || fields[0] == "Z" || fields[0] == "X"
}

// tick is the unit of times in /proc, for all architectures: USER_HZ.
const tick = time.Second / 100

// CPU is how long a process has had a processor, with those of its children that ended and were waited for.
func CPU(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// Idle is how long this machine's processors have had nothing to do, all of them together: proc(5), /proc/stat, which counts waiting
// for a disk apart.
func Idle() (time.Duration, error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var idle, waits int64
	if _, err := fmt.Sscanf(string(content), "cpu %d %d %d %d %d", new(int64), new(int64), new(int64), &idle, &waits); err != nil {
		return 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return time.Duration(idle+waits) * tick, nil
}

// FamilyCPU is that of a process and of the children that it has.
func FamilyCPU(pid int) (time.Duration, error) {
	sum, err := CPU(pid)
	for _, child := range Children(pid) {
		if took, err := CPU(child); err == nil { // one that ended meanwhile is in its parent's
			sum += took
		}
	}
	return sum, err
}
