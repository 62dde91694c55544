package millrace

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Arch is a processor architecture by Go's and Debian's name.
type Arch string

// The architectures; ArchAny lets placement choose.
const (
	AMD64   Arch = "amd64"
	ARM64   Arch = "arm64"
	ArchAny Arch = "any"
)

// Size is what a VM gets: thousandths of a vCPU and MiB of memory.
type Size struct {
	MilliCPU int `json:"milli_cpu"`
	MemoryMB int `json:"memory_mb"`
}

// String is the size in words, e.g. "4 vCPU, 16 GB"; memory is rounded to a tenth of a GB.
func (s Size) String() string {
	mem := fmt.Sprintf("%d MB", s.MemoryMB)
	if s.MemoryMB >= 1024 {
		mem = strconv.FormatFloat(math.Round(float64(s.MemoryMB)/102.4)/10, 'f', -1, 64) + " GB"
	}
	return strconv.FormatFloat(float64(s.MilliCPU)/1000, 'f', -1, 64) + " vCPU, " + mem
}

// VCPUs is the number of virtual processors a guest sees: MilliCPU rounded up.
func (s Size) VCPUs() int { return max(1, (s.MilliCPU+999)/1000) }

// Room is a number of VMs and their size in all: what a host has for VMs, what is left of that, or what some take.
type Room struct {
	Size
	VMs int
}

// Room is what one VM of the size takes.
func (s Size) Room() Room { return Room{s, 1} }

// Plus is r and o together.
func (r Room) Plus(o Room) Room {
	return Room{Size{MilliCPU: r.MilliCPU + o.MilliCPU, MemoryMB: r.MemoryMB + o.MemoryMB}, r.VMs + o.VMs}
}

// Minus is r without o.
func (r Room) Minus(o Room) Room { return r.Plus(o.Times(-1)) }

// Times is n times r.
func (r Room) Times(n int) Room {
	return Room{Size{MilliCPU: n * r.MilliCPU, MemoryMB: n * r.MemoryMB}, n * r.VMs}
}

// Positive is r with nothing below zero.
func (r Room) Positive() Room {
	return Room{Size{MilliCPU: max(0, r.MilliCPU), MemoryMB: max(0, r.MemoryMB)}, max(0, r.VMs)}
}

// Holds reports whether o is within r.
func (r Room) Holds(o Room) bool {
	return o.MilliCPU <= r.MilliCPU && o.MemoryMB <= r.MemoryMB && o.VMs <= r.VMs
}

// Demand is what a job asks of a host: by its labels, and by its zone's rule.
type Demand struct {
	Arch      Arch
	Size      Size
	Burstable bool     // may use idle CPU of its host beyond its size
	Extra     []string // labels that the host must have, lower case, sorted
	Closed    bool     // its VM's network must be closed: no label asks for it, rules do
}

// Bounds of what a label may say. They keep arithmetic safe; whether a host is large enough is the placer's to say.
const (
	maxMilliCPU = 1024 * 1000
	maxMemoryMB = 64 << 20
	maxLabels   = 100 // GitHub's limit for one runner: REST API, generate-jitconfig
)

// MinMemoryMB is the least memory of a VM. A monitor takes tens of MB for itself, so that a host's bounds would mean little for
// thousands of VMs of a megabyte.
const MinMemoryMB = 64

// implied are the labels that GitHub gives every self-hosted Linux runner; they ask nothing of a host but its arch.
var implied = map[string]Arch{"self-hosted": "", "linux": "", "x64": AMD64, "arm64": ARM64}

// ParseLabels reads the labels of a job:
//
//	PREFIX[-amd64|-x86_64|-arm64|-aarch64|-any][-<N>cpu-<M>gb][-burstable]
//
// case-insensitively. N is whole, decimal (0.5cpu) or milli (250mcpu); M is in gb or mb. Without a size the job gets
// std, without an arch amd64. ours is false when no label has one of our prefixes: such a job is someone else's and is
// ignored. An error (Unprocessable) says what is wrong with a label that is ours.
func ParseLabels(labels, prefixes []string, std Size) (d Demand, ours bool, err error) {
	d = Demand{Size: std}
	var impliedArch Arch
	var mine string
	for _, raw := range labels {
		label := strings.ToLower(strings.TrimSpace(raw))
		rest, ok := cutPrefix(label, prefixes)
		arch, isImplied := implied[label]
		switch {
		case ok && mine == "":
			mine, ours = label, true
			err = parseOwn(&d, raw, rest)
		case ok && mine != label:
			err = cmp.Or(err, Errorf(Unprocessable, "The job has two of our labels, %.40q and %.40q; keep one.", mine, label))
		case ok:
		case isImplied && arch != "":
			impliedArch = arch
		case isImplied:
		case label != "":
			d.Extra = append(d.Extra, label)
		}
	}
	switch {
	case !ours:
		return Demand{}, false, nil
	case err != nil:
		return Demand{}, true, err
	case len(labels) > maxLabels:
		return Demand{}, true, Errorf(Unprocessable, "The job has %d labels; GitHub registers runners with at most %d.", len(labels), maxLabels)
	}
	if d.Arch == "" {
		d.Arch = cmp.Or(impliedArch, AMD64)
	}
	if impliedArch != "" && d.Arch != ArchAny && d.Arch != impliedArch {
		return Demand{}, true, Errorf(Unprocessable, "Label %.40q asks for %s, but another label says %s; keep one.", mine, d.Arch, impliedArch)
	}
	if d.Arch == ArchAny && impliedArch != "" {
		d.Arch = impliedArch
	}
	slices.Sort(d.Extra)
	d.Extra = slices.Compact(d.Extra)
	return d, true, nil
}

// cutPrefix removes one of prefixes, which must be the whole label or be followed by a hyphen.
func cutPrefix(label string, prefixes []string) (rest string, ok bool) {
	for _, p := range prefixes {
		rest, ok := strings.CutPrefix(label, strings.ToLower(p))
		if ok && (rest == "" || rest[0] == '-') {
			return rest, true
		}
	}
	return "", false
}

var arches = map[string]Arch{"amd64": AMD64, "x86_64": AMD64, "arm64": ARM64, "aarch64": ARM64, "any": ArchAny}

// parseOwn reads what follows the prefix of one of our labels: rest is "" or begins with a hyphen.
func parseOwn(d *Demand, label, rest string) error {
	var parts []string
	if rest != "" {
		parts = strings.Split(rest[1:], "-")
	}
	if len(parts) > 0 {
		if arch, ok := arches[parts[0]]; ok {
			d.Arch, parts = arch, parts[1:]
		}
	}
	if len(parts) > 0 && strings.HasSuffix(parts[0], "cpu") {
		if len(parts) < 2 {
			return Errorf(Unprocessable, "Label %.40q gives vCPUs without memory; write it behind them, for example -4gb.", label)
		}
		cpu, ok := parseCPU(parts[0])
		if !ok {
			return Errorf(Unprocessable, "Label %.40q: %.40q is not a number of vCPUs; write for example 4cpu, 0.5cpu or 250mcpu.", label, parts[0])
		}
		mem, ok := ParseMemory(parts[1])
		if !ok {
			return Errorf(Unprocessable, "Label %.40q: %.40q is not an amount of memory; write for example 16gb or 512mb.", label, parts[1])
		}
		if mem < MinMemoryMB {
			return Errorf(Unprocessable, "Label %.40q: a VM has at least %d MB of memory, and %.40q is less.", label, MinMemoryMB, parts[1])
		}
		d.Size, parts = Size{MilliCPU: cpu, MemoryMB: mem}, parts[2:]
	}
	if len(parts) > 0 && parts[0] == "burstable" {
		d.Burstable, parts = true, parts[1:]
	}
	if len(parts) > 0 {
		return Errorf(Unprocessable, "Label %.40q: %.40q is not understood; a label is PREFIX[-amd64|-arm64|-any][-<N>cpu-<M>gb][-burstable].", label, parts[0])
	}
	return nil
}

// parseCPU reads 4cpu, 0.5cpu or 250mcpu as thousandths of a vCPU, 1 to maxMilliCPU.
func parseCPU(s string) (milli int, ok bool) {
	s = strings.TrimSuffix(s, "cpu")
	if m, isMilli := strings.CutSuffix(s, "m"); isMilli {
		return parseBounded(m, 1, maxMilliCPU, false)
	}
	return parseBounded(s, 1000, maxMilliCPU, true)
}

// ParseMemory reads 16gb, 0.5gb or 512mb, as labels have it, as MiB, 1 to 64 TiB of them.
func ParseMemory(s string) (mb int, ok bool) {
	if g, isGB := strings.CutSuffix(s, "gb"); isGB {
		return parseBounded(g, 1024, maxMemoryMB, true)
	}
	m, isMB := strings.CutSuffix(s, "mb")
	if !isMB {
		return 0, false
	}
	return parseBounded(m, 1, maxMemoryMB, false)
}

// parseBounded reads plain digits, with one decimal point where decimal is true, times unit, within 1 and limit.
func parseBounded(s string, unit, limit int, decimal bool) (int, bool) {
	if s == "" || len(s) > 12 || s[0] == '.' || s[len(s)-1] == '.' {
		return 0, false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c != '.' || !decimal) {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, false
	}
	v := math.Round(f * float64(unit))
	if v < 1 || v > float64(limit) {
		return 0, false
	}
	return int(v), true
}
