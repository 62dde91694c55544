//go:build linux

package pid1

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/guest"
)

// meter reads what the machine uses, every half second, and tells the host.
type meter struct {
	guest *guest.Guest
	quit  chan struct{}
	ended chan struct{}
	peak  int64
}

func startMeter(g *guest.Guest) *meter {
	m := &meter{guest: g, quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			usage := m.read()
			if n%2 == 0 {
				_ = m.guest.Say(guest.Event{Usage: &usage}) // figures ride along; a lost one is followed by the next
			}
			select {
			case <-tick.C:
			case <-m.quit:
				usage := m.read()
				_ = m.guest.Say(guest.Event{Usage: &usage})
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

func (m *meter) read() millrace.Metering {
	total, available := memory()
	m.peak = max(m.peak, total-available)
	u := millrace.Metering{PeakMemory: m.peak, CPUMillis: cpuMillis()}
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
