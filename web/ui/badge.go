package ui

import "github.com/millrace-ci/millrace"

// Tone is what a badge's colour says; its icon and its text say the same.
type Tone string

// The tones.
const (
	Good  Tone = "text-good"
	Bad   Tone = "text-bad"
	Warn  Tone = "text-warn"
	Busy  Tone = "text-accent"
	Quiet Tone = "text-muted"
)

// State is a state as people see it.
type State struct {
	Text string
	Tone Tone
	Icon Icon
}

var conclusions = map[string]State{
	"success":         {"Success", Good, IconCheck},
	"failure":         {"Failed", Bad, IconCross},
	"timed_out":       {"Timed out", Bad, IconClock},
	"startup_failure": {"Failed to start", Bad, IconCross},
	"cancelled":       {"Cancelled", Quiet, IconSlash},
	"skipped":         {"Skipped", Quiet, IconSlash},
	"action_required": {"Action required", Warn, IconPause},
}

// JobState is a job's status, or its conclusion once it has one.
func JobState(j millrace.Job) State {
	switch j.Status {
	case millrace.JobWaiting:
		return State{"Waiting", Warn, IconPause}
	case millrace.JobQueued:
		return State{"Queued", Warn, IconClock}
	case millrace.JobInProgress:
		return State{"Running", Busy, IconSpinner}
	case millrace.JobCompleted:
		if s, ok := conclusions[j.Conclusion]; ok {
			return s
		}
		return State{"Completed", Quiet, IconCheck}
	}
	return State{string(j.Status), Quiet, IconClock}
}

var hostStates = map[millrace.HostStatus]State{
	millrace.StatusOnline:   {"Online", Good, IconCheck},
	millrace.StatusOffline:  {"Offline", Bad, IconCross},
	millrace.StatusDraining: {"Draining", Warn, IconPause},
	millrace.StatusDisabled: {"Disabled", Quiet, IconSlash},
}

// HostState is a host's status.
func HostState(s millrace.HostStatus) State { return hostStates[s] }

// VMState is a VM's state as people see it.
func VMState(s millrace.VMState) State {
	switch s {
	case millrace.VMPending, millrace.VMBooting:
		return State{"Booting", Busy, IconSpinner}
	case millrace.VMOnline:
		return State{"Waits for its job", Busy, IconClock}
	case millrace.VMBusy:
		return State{"Runs a job", Busy, IconSpinner}
	case millrace.VMStopping:
		return State{"Ends", Quiet, IconPause}
	case millrace.VMLost:
		return State{"Lost", Bad, IconAlert}
	case millrace.VMGone:
	}
	return State{"Gone", Quiet, IconCheck}
}

// Icon is the path of a 16 × 16 drawing.
type Icon string

// The icons.
const (
	IconCheck   Icon = "M3.5 8.5 6.5 11.5 12.5 4.8"
	IconCross   Icon = "M4.5 4.5 11.5 11.5M11.5 4.5 4.5 11.5"
	IconClock   Icon = "M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 1 0 8 2.2M8 5v3.2l2.2 1.4"
	IconSlash   Icon = "M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 1 0 8 2.2M4 12 12 4"
	IconPause   Icon = "M5.8 4v8M10.2 4v8"
	IconSpinner Icon = "M8 2.2a5.8 5.8 0 1 1-5.5 4"
	IconAlert   Icon = "M8 2.6 1.9 13.4h12.2L8 2.6M8 6.6v3.2M8 11.6v.1"
	IconOut     Icon = "M6 3.5H3.5v9h9V10M9 3h4v4M13 3 7.5 8.5"
)

func title(f Frame) string {
	t := f.Title
	if f.Org.Name != "" {
		t += " · " + f.Org.Name
	}
	if t == "" {
		return "Millrace"
	}
	return t + " · Millrace"
}
