//go:build linux

package pid1

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
)

// meter tells the host what the machine uses as each second of its uptime begins. At memory, which may come and go, it
// looks twice as often.
type meter struct {
	guest  *guest.Guest
	quit   chan struct{}
	ended  chan struct{}
	peak   int64
	recent int64 // the most memory since the host was told
}

func startMeter(g *guest.Guest) *meter {
	m := &meter{guest: g, quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		for said := time.Duration(-1); ; {
			m.look()
			if second := uptime().Truncate(time.Second); second != said {
				m.say()
				said = second
			}
			select {
			case <-time.After(untilNext(time.Second / 2)):
			case <-m.quit:
				m.say()
				return
			}
		}
	}()
	return m
}

func (m *meter) stop() {
	close(m.quit)
	<-m.ended
}

// untilNext is how long it is until the machine will have run for a whole number of d.
func untilNext(d time.Duration) time.Duration { return d - uptime()%d }

// uptime is how long ago the kernel started.
func uptime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // fails for no clock that there is
	return time.Duration(t.Nano())
}

// say tells the host. Figures ride along: a lost word is followed by the next.
func (m *meter) say() {
	usage := m.read()
	m.recent = 0
	_ = m.guest.Say(guest.Event{Usage: &usage})
}

// look notes how much memory is in use.
func (m *meter) look() {
	total, available := memory()
	m.recent = max(m.recent, total-available)
	m.peak = max(m.peak, m.recent)
}

func (m *meter) read() guest.Usage {
	m.look()
	u := guest.Usage{Metering: millrace.Metering{PeakMemory: m.peak, CPUMillis: cpuMillis()}, UptimeMS: uptime().Milliseconds(), Memory: m.recent}
	// /sys/block/…/stat: sectors of 512 bytes (kernel documentation, block/stat).
	if f := fields("/sys/block/vda/stat"); len(f) > 6 {
		u.DiskRead, u.DiskWrite = number(f[2])*512, number(f[6])*512
	}
	u.NetRx = number(strings.TrimSpace(read("/sys/class/net/" + nic + "/statistics/rx_bytes")))
	u.NetTx = number(strings.TrimSpace(read("/sys/class/net/" + nic + "/statistics/tx_bytes")))
	return u
}

// memory is in bytes.
func memory() (total, available int64) {
	lines := bufio.NewScanner(strings.NewReader(read("/proc/meminfo")))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			total = number(f[1]) << 10
		case "MemAvailable:":
			available = number(f[1]) << 10
			return total, available
		}
	}
	return total, available
}

// cpuMillis is all that the processors have worked: the first line of /proc/stat in ticks of 10 ms, without idle and
// iowait.
func cpuMillis() (ms int64) {
	f := fields("/proc/stat")
	for i := 1; i < len(f) && i <= 8; i++ {
		if i != 4 && i != 5 {
			ms += number(f[i]) * 10
		}
	}
	return ms
}

func read(name string) string {
	content, _ := os.ReadFile(name)
	return string(content)
}

// fields are those of a file's first line.
func fields(name string) []string {
	line, _, _ := bytes.Cut([]byte(read(name)), []byte{'\n'})
	return strings.Fields(string(line))
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
