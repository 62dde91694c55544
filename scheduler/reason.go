package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// noRoom is why no host holds d.
func noRoom(hosts []*free, d millrace.Demand) millrace.WaitReason {
	list, reason := suitable(hosts, d)
	if reason.Code != "" {
		return reason
	}
	return noCapacity(list, d)
}

// suitable are the online hosts that d fits on when they are empty; a reason when there are none.
func suitable(hosts []*free, d millrace.Demand) (list []*free, reason millrace.WaitReason) {
	var matching, large []*free
	for _, f := range hosts {
		if !f.host.HasLabels(d) {
			continue
		}
		matching = append(matching, f)
		if f.host.Suits(d) {
			large = append(large, f)
		}
	}
	for _, f := range large {
		if f.online {
			list = append(list, f)
		}
	}
	switch {
	case len(matching) == 0:
		return nil, millrace.WaitReason{Code: millrace.WaitNoHost, Text: fmt.Sprintf("No host has %s. Add such a host, or change runs-on.", wanted(d))}
	case len(large) == 0:
		biggest := slices.MaxFunc(matching, func(a, b *free) int {
			x, y := a.host.Facts.Offer, b.host.Facts.Offer
			return cmp.Or(cmp.Compare(x.MemoryMB, y.MemoryMB), cmp.Compare(x.MilliCPU, y.MilliCPU))
		})
		return nil, millrace.WaitReason{Code: millrace.WaitTooBig, Text: fmt.Sprintf(
			"Needs %s; the largest host with %s offers %s (%s). Ask for a smaller size in runs-on, or add a larger host.",
			d.Size, wanted(d), biggest.host.Facts.Offer, biggest.host.Name)}
	case len(list) == 0:
		names := make([]string, 0, 3)
		for _, f := range large[:min(3, len(large))] {
			names = append(names, f.host.Name)
		}
		return nil, millrace.WaitReason{Code: millrace.WaitHostUnavailable, Text: fmt.Sprintf(
			"The hosts that could run it are offline, draining or disabled: %s. Bring one back on the hosts page.", strings.Join(names, ", "))}
	}
	return list, reason
}

// wanted says what of a host a demand asks for beside its size.
func wanted(d millrace.Demand) string {
	arch := string(d.Arch)
	if d.Arch == millrace.ArchAny {
		arch = "any"
	}
	if len(d.Extra) == 0 {
		return "architecture " + arch
	}
	return "architecture " + arch + " and the labels " + strings.Join(d.Extra, ", ")
}

func noCapacity(list []*free, d millrace.Demand) millrace.WaitReason {
	roomiest := slices.MaxFunc(list, func(a, b *free) int {
		return cmp.Or(cmp.Compare(a.left.MemoryMB, b.left.MemoryMB), cmp.Compare(a.left.MilliCPU, b.left.MilliCPU))
	})
	left := millrace.Size{MilliCPU: max(0, roomiest.left.MilliCPU), MemoryMB: max(0, roomiest.left.MemoryMB)}
	return millrace.WaitReason{Code: millrace.WaitNoCapacity, Text: fmt.Sprintf(
		"Needs %s; the most that is free on a host with %s is %s, on %s. It starts when a job there ends.", d.Size, wanted(d), left, roomiest.host.Name)}
}

func failure(j *millrace.Job) string {
	if j.Failure == "" {
		return "Its VM ended before it was online."
	}
	return "Its VM ended before it was online: " + strings.TrimSuffix(j.Failure, ".") + "."
}

// in says how soon: "in 5 s".
func in(d time.Duration) string {
	if d < time.Second {
		return "at once"
	}
	return "in " + d.Round(time.Second).String()
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
