package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// raw is an order as JSON, with fields replaced or added: name, value, name, value…
func raw(fields ...string) string {
	names := []string{"id", "epoch", "arch", "milli_cpu", "memory_mb", "zone", "egress", "state"}
	values := map[string]string{
		"id": strconv.Quote(vmID(1).String()), "epoch": "1", "arch": `"amd64"`, "milli_cpu": "1000", "memory_mb": "512", "zone": `"private"`,
		"egress": `"internet"`, "state": `"pending"`,
	}
	for i := 0; i < len(fields); i += 2 {
		if _, known := values[fields[i]]; !known {
			names = append(names, fields[i])
		}
		values[fields[i]] = fields[i+1]
	}
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, strconv.Quote(name)+":"+values[name])
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// says is an attack that answers each sync after a while with orders, and whatever else the answer is to have.
func says(name string, starts int, orders []string, more ...string) attack {
	return attack{name: name, call: "sync", starts: starts, serve: func(h *hostile, w http.ResponseWriter, _ *http.Request) {
		wait := 5 * time.Second
		if len(orders) > 100 || len(orders) == 1 && len(orders[0]) > 64<<10 {
			wait = 10 * time.Second // the test's time, too
		}
		time.Sleep(wait)
		answers(h, w, orders, more...)
	}}
}

// answers answers a sync with orders, and is always news.
func answers(h *hostile, w http.ResponseWriter, orders []string, more ...string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"version":%d,"server_time":%q,"vms":[%s]%s}`, atomic.AddInt64(&h.served, 1), time.Now().Format(time.RFC3339), strings.Join(orders, ","), strings.Join(append([]string{""}, more...), ","))
}

// one is an attack with one order that has these fields.
func one(name string, starts int, fields ...string) attack {
	return says(name, starts, []string{raw(fields...)})
}

// id is an attack whose VM is called so.
func id(name, value string) attack {
	quoted, _ := json.Marshal(value)
	return one("H19 VM "+name, 0, "id", string(quoted))
}

// body is an attack that answers a call with a text.
func body(name, call, contentType, text string) attack {
	return attack{name: name, call: call, serve: func(_ *hostile, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		io.WriteString(w, text)
	}}
}

// wire is an attack that writes what it likes to the connection, for as long as the agent reads it.
func wire(name, call string, write func(w io.Writer) error) attack {
	return attack{name: name, call: call, serve: func(h *hostile, w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		counted := &counter{to: conn}
		_ = write(counted)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.answered = max(h.answered, counted.n)
	}}
}

type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}

// endlessly writes p again and again.
func endlessly(head, p string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, head)
		for err == nil {
			_, err = io.WriteString(w, p)
		}
		return err
	}
}

// statusOf is an attack that answers with a status and a problem.
func statusOf(name, call string, status int, header http.Header, text string) attack {
	return attack{name: name, call: call, serve: func(_ *hostile, w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
		io.WriteString(w, text)
	}}
}

// sealedAs is an attack that gives a VM a registration that was sealed for another, or holds something odd.
func sealedAs(name string, change func(*client.SealedFor), config string, after func([]byte) []byte) attack {
	a := attack{name: name, starts: 1}
	a.serve = func(h *hostile, w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/jit"):
			to := client.SealedFor{Host: h.host, VM: vmID(1), Epoch: 1}
			if change != nil {
				change(&to)
			}
			sealed, err := client.Seal(h.control.key.PublicKey().Bytes(), to, []byte(config))
			if err != nil {
				h.t.Error(err)
			}
			if after != nil {
				sealed = after(sealed)
			}
			answerJSON(w, client.JITResponse{Sealed: sealed})
		case strings.HasSuffix(r.URL.Path, "/sync"):
			says("", 0, []string{raw()}).serve(h, w, r)
		case strings.HasSuffix(r.URL.Path, "/start"):
			answerJSON(w, client.StartResponse{Epoch: 1, ServerTime: time.Now()})
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}
	return a
}

// withVM is an attack on a call that an agent makes of a VM.
func withVM(a attack, starts int) attack {
	attacks, call := a.serve, a.call
	a.call, a.starts = "", starts
	a.serve = func(h *hostile, w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/"+call):
			attacks(h, w, r)
		case strings.HasSuffix(r.URL.Path, "/sync"):
			says("", 0, []string{raw()}).serve(h, w, r)
		case strings.HasSuffix(r.URL.Path, "/start"):
			answerJSON(w, client.StartResponse{Epoch: 1, ServerTime: time.Now()})
		case strings.HasSuffix(r.URL.Path, "/jit"):
			sealedAs("", nil, "config", nil).serve(h, w, r)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}
	return a
}

// inTurn is an attack that answers syncs with one list of orders after the other, a few seconds each, and stays at the last.
func inTurn(name string, starts int, lists ...[]string) attack {
	var began time.Time
	return attack{name: name, call: "sync", starts: starts, serve: func(h *hostile, w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		if began.IsZero() {
			began = time.Now()
		}
		at := min(int(time.Since(began)/(20*time.Second)), len(lists)-1)
		h.mu.Unlock()
		says("", 0, lists[at]).serve(h, w, r)
	}}
}

// many are n orders for different VMs.
func many(n int, fields ...string) (orders []string) {
	for i := range n {
		var id millrace.VMID
		id[15], id[14], id[13] = byte(i+1), byte((i+1)>>8), 1
		orders = append(orders, raw(append([]string{"id", strconv.Quote(id.String())}, fields...)...))
	}
	return orders
}

func hostileAttacks(t *testing.T) []attack {
	t.Helper()
	const good = "vm_00000000000000000000000001"
	long := strings.Repeat("<", 900<<10)
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	ok := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = io.WriteString(z, strings.Repeat(" ", 1<<20))
	}
	_ = z.Close()
	return []attack{
		id("../../etc", "../../etc"),
		id("with a path behind it", good+"/../../../../etc/shadow"),
		id("of 65 characters", "vm_"+strings.Repeat("0", 62)),
		id("of shell's characters", "vm_$(reboot);`id`|cat<&>'00"),
		id("as an option", "-append init=/bin/sh"),
		id("with NUL", good[:28]+"\x00"),
		id("with a line's end", good+"\n"),
		id("with a comma", good[:26]+",,,"),
		id("empty", ""),
		id("that is the nil UUID", "00000000-0000-0000-0000-000000000000"),
		id("of dashes", strings.Repeat("-", 36)),
		id("that is no UUID of 36 bytes", "../../../../../../../../etc/shadow.."),
		id("that is a host", "host_00000000000000000000000001"),
		id("in capitals", "VM_0000000000000000000000000A"),
		id("beyond 128 bits", "vm_zzzzzzzzzzzzzzzzzzzzzzzzzz"),
		id("of 900 KB", long),
		id("in wide letters", "vm_０００００００００"),
		id("/dev/kvm", "/dev/kvm"),
		one("H19 VM that is a number", 0, "id", "1"),
		one("H19 VM that is null", 0, "id", "null"),
		one("H19 VM that is an object", 0, "id", `{"$ref":"file:///etc/shadow"}`),
		says("H19 VM twice", 1, []string{raw(), raw()}),
		says("H19 VM twice, of two sizes", 1, []string{raw(), raw("memory_mb", "1024")}),
		says("H19 VM as uuid and as ID", 1, []string{raw(), raw("id", strconv.Quote(vmID(1).UUID()))}),

		one("H20 a kernel and an initrd", 1, "kernel", `"http://evil.test/vmlinuz"`, "initrd", `"/etc/shadow"`),
		one("H20 a root disk", 1, "rootfs", `"/etc/shadow"`, "rootfs_signature", `""`),
		says("H20 an older agent", 0, nil, `"upgrade":{"url":"http://evil.test/agent","version":"0.0.1"},"agent":"http://evil.test/agent"`),
		one("H21 an image of another registry", 1, "image", `"evil.test/root@sha256:00"`, "registry", `"evil.test"`),

		one("H22 a million vCPUs", 0, "milli_cpu", "1000000000"),
		one("H22 vCPUs that overflow when rounded", 0, "milli_cpu", "9223372036854775807"),
		one("H22 vCPUs of 2^63", 0, "milli_cpu", "9223372036854775808"),
		one("H22 vCPUs of -1", 0, "milli_cpu", "-1"),
		one("H22 the least vCPUs", 0, "milli_cpu", "-9223372036854775808"),
		one("H22 no vCPUs", 0, "milli_cpu", "0"),
		one("H22 vCPUs as a text", 0, "milli_cpu", `"1000,maxcpus=99"`),
		one("H22 vCPUs as a fraction", 0, "milli_cpu", "1e3"),
		one("H22 a little more than the offer", 0, "milli_cpu", "2001"),
		one("H22 memory of 2^63", 0, "memory_mb", "9223372036854775808"),
		one("H22 memory of 2^62", 0, "memory_mb", "4611686018427387904"),
		one("H22 memory of -1", 0, "memory_mb", "-1"),
		one("H22 no memory", 0, "memory_mb", "0"),
		one("H22 memory as a text", 0, "memory_mb", `"512,mem-path=/etc"`),
		one("H22 memory of a megabyte", 0, "memory_mb", "1"),
		one("H22 disk of -1", 1, "disk_mb", "-1"),
		says("H22 more VMs than the offer", 2, many(100)),
		says("H22 a thousand tiny VMs", 0, many(1000, "milli_cpu", "1", "memory_mb", "1")),
		says("H22 as many VMs as an answer holds", 0, many(6000)),
		one("H22 another architecture", 0, "arch", `"arm64"`),
		one("H22 an unknown architecture", 0, "arch", `"../../riscv64"`),
		one("H22 any architecture", 0, "arch", `"any"`),
		one("H22 no architecture", 0, "arch", `""`),
		one("H22 an architecture of 900 KB", 0, "arch", strconv.Quote(long)),

		one("H23 kernel arguments", 1, "kernel_args", `"init=/bin/sh"`, "append", `"init=/bin/sh\n"`, "KernelArgs", `"init=/bin/sh"`, "cmdline", `"rw"`),
		one("H23 a host name with kernel arguments", 1, "hostname", `"a init=/bin/sh\nb"`),
		sealedAs("H23 a registration with kernel arguments", nil, "x init=/bin/sh\n-append init=/bin/sh\n\x00", nil),
		one("H24 a host's path as a drive", 1, "drives", `[{"file":"/etc/shadow","format":"raw"}]`, "disk", `"/dev/sda"`),
		one("H24 a host's device", 1, "devices", `["vfio-pci,host=01:00.0"]`, "mounts", `{"/":"/host"}`),
		one("H25 an unknown egress", 0, "egress", `"host"`),
		one("H25 an egress of two", 0, "egress", `"none,internet"`),
		one("H25 an egress of 900 KB", 0, "egress", strconv.Quote(long)),
		func() attack {
			a := one("H25 no egress", 1, "egress", `"none"`, "network", `"host"`, "allow", `["10.0.0.0/8"]`)
			a.none = true
			return a
		}(),

		says("H26 an unknown command", 0, nil, `"commands":[{"exec":["/bin/sh","-c","id"]}],"exec":"id","shell":true`),
		says("H26 a deep value in a field nobody knows", 0, nil, `"x":`+deep),
		body("H26 nothing but depth", "sync", "application/json", deep),
		body("H26 depth for a start", "start", "application/json", `{"x":`+deep+`}`),
		body("H26 an answer of 2 MB", "sync", "application/json", `{"version":1,"vms":[`+strings.Join(many(15_000), ",")+`]}`),
		body("H26 a text of 8 MB", "sync", "application/json", `{"x":"`+strings.Repeat("x", 8<<20)+`"}`),
		wire("H26 an endless body", "sync", endlessly(ok+"\r\n", strings.Repeat(" ", 64<<10))),
		wire("H26 an endless body for a start", "start", endlessly(ok+"\r\n", strings.Repeat(" ", 64<<10))),
		wire("H26 endless chunks", "sync", endlessly(ok+"Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n \r\n", 10_000))),
		wire("H26 an endless chunk extension", "sync", endlessly(ok+"Transfer-Encoding: chunked\r\n\r\n1;", strings.Repeat("x", 4096))),
		wire("H26 an endless header", "sync", endlessly(ok, "X-A: "+strings.Repeat("a", 4000)+"\r\n")),
		wire("H26 an endless status", "sync", endlessly("HTTP/1.1 200 ", strings.Repeat("O", 4096))),
		wire("H26 endless 103s", "sync", endlessly("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")),
		wire("H26 endless trailers", "sync", endlessly(ok+"Trailer: A\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "A: "+strings.Repeat("a", 4000)+"\r\n")),
		wire("H26 a slow drip", "", func(w io.Writer) error {
			_, err := io.WriteString(w, ok+"\r\n")
			for err == nil {
				time.Sleep(time.Second)
				_, err = io.WriteString(w, " ")
			}
			return err
		}),
		wire("H26 a slow header", "", func(w io.Writer) error {
			_, err := io.WriteString(w, ok)
			for i := 0; err == nil; i++ {
				time.Sleep(time.Second)
				_, err = fmt.Fprintf(w, "X-%d: a\r\n", i)
			}
			return err
		}),
		wire("H26 silence", "sync", func(io.Writer) error { time.Sleep(time.Minute); return nil }),
		wire("H26 no HTTP", "sync", func(w io.Writer) error { _, err := io.WriteString(w, "SSH-2.0-x\r\n"); return err }),
		wire("H26 a length of 2^63", "sync", func(w io.Writer) error {
			_, err := io.WriteString(w, ok+"Content-Length: 9223372036854775807\r\n\r\n{}")
			return err
		}),
		wire("H26 two answers to one call", "sync", func(w io.Writer) error {
			one := ok + "Content-Length: 2\r\n\r\n{}"
			_, err := io.WriteString(w, one+one)
			return err
		}),
		wire("H26 another protocol", "sync", func(w io.Writer) error {
			_, err := io.WriteString(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: sh\r\nConnection: Upgrade\r\n\r\nid\n")
			return err
		}),
		{name: "H26 a gzip bomb", call: "sync", serve: func(_ *hostile, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		}},
		body("H26 HTML", "sync", "text/html", "<script>alert(1)</script>"),
		func() attack {
			a := body("H26 orders as HTML", "sync", "text/html", `{"version":9,"vms":[`+raw()+`]}`)
			a.starts = 1
			return a
		}(),
		body("H26 null", "sync", "application/json", "null"),
		body("H26 an empty object", "sync", "application/json", "{}"),
		body("H26 a list", "sync", "application/json", "["+raw()+"]"),
		body("H26 two values", "sync", "application/json", `{"version":9,"vms":[]} {"version":9,"vms":[`+raw()+`]}`),
		body("H26 no UTF-8", "sync", "application/json", "{\"version\":9,\"vms\":[{\"id\":\"\xff\xfe\"}]}"),
		body("H26 a version of 1e400", "sync", "application/json", `{"version":1e400,"vms":[]}`),
		body("H26 a version before all", "sync", "application/json", `{"version":-9223372036854775808,"vms":[]}`),
		body("H26 an epoch before all", "start", "application/json", `{"epoch":-9223372036854775808,"server_time":"2000-01-01T00:00:00Z"}`),
		body("H26 a start in the year 9999", "start", "application/json", `{"epoch":1,"server_time":"9999-12-31T23:59:59Z"}`),
		body("H26 a start in the year 0", "start", "application/json", `{"epoch":1,"server_time":"0000-01-01T00:00:00Z"}`),
		says("H26 a time that is none", 0, nil, `"server_time":"yesterday"`),
		statusOf("H26 no content", "sync", 204, nil, ""),
		statusOf("H26 nothing but 500s", "", 500, nil, "{}"),
		statusOf("H26 nothing but 401s, of another time", "", 401, http.Header{"Date": {"Fri, 31 Dec 9999 23:59:59 GMT"}}, "{}"),
		statusOf("H26 nothing but 409s", "sync", 409, nil, "{}"),
		statusOf("H26 a proxy's 410", "sync", 410, http.Header{"Content-Type": {"text/html"}}, "gone"),
		statusOf("H26 a redirect to a file", "", 302, http.Header{"Location": {"file:///etc/shadow"}}, ""),
		statusOf("H26 a redirect elsewhere", "", 307, http.Header{"Location": {"http://evil.test/agent/v1/sync"}}, ""),
		statusOf("H26 a redirect within", "", 308, http.Header{"Location": {"/agent/v1/start"}}, ""),
		statusOf("H26 a refresh and an alternative", "sync", 200, http.Header{"Refresh": {"0; url=http://evil.test/"}, "Alt-Svc": {`h2="evil.test:443"`}, "Content-Type": {"application/json"}}, `{"version":2,"vms":[]}`),
		withVM(statusOf("H26 a problem of 900 KB for a registration", "jit", 500, http.Header{"Content-Type": {client.ProblemType}}, `{"type":"/docs/problems/internal","status":500,"detail":"`+long+`"}`), 1),
		withVM(statusOf("H26 a final problem of 900 KB for a registration", "jit", 404, http.Header{"Content-Type": {client.ProblemType}}, `{"type":"/docs/problems/not_found","status":404,"detail":"`+long+`"}`), 1),
		withVM(body("H26 an answer to a console", "console", "application/json", strings.Repeat("x", 8<<20)), 1),
		withVM(statusOf("H26 a console that is never taken", "console", 500, nil, ""), 1),
		withVM(statusOf("H26 a console that is sent elsewhere", "console", 307, http.Header{"Location": {"http://evil.test/"}}, ""), 1),
		withVM(statusOf("H26 samples that are never taken", "samples", 500, nil, ""), 1),
		{name: "H26 news in each answer, at once", call: "sync", serve: func(h *hostile, w http.ResponseWriter, _ *http.Request) { answers(h, w, nil) }},
		says("H26 a restart in each answer", 0, nil, `"restart":true`),
		says("H26 a restart in each answer, and a VM", 1, []string{raw()}, `"restart":true`),
		says("H26 a reboot that the owner doesn't allow", 0, nil, `"reboot":true`),

		inTurn("H27 a lower epoch", 1, []string{raw("epoch", "5")}, []string{raw("epoch", "4")}, []string{raw("epoch", "1")}),
		inTurn("H27 a launch that is replayed", 1, []string{raw()}, nil, []string{raw()}),
		inTurn("H27 a lower epoch after the end", 1, []string{raw("epoch", "5")}, nil, []string{raw("epoch", "4")}),
		one("H27 epoch 0", 0, "epoch", "0"),
		one("H27 epoch -1", 0, "epoch", "-1"),
		one("H27 an epoch beyond 64 bits", 0, "epoch", "9223372036854775808"),
		one("H27 a VM that is said to be busy", 0, "state", `"busy"`),
		one("H27 a VM in a state that there isn't", 0, "state", `"root"`),
		sealedAs("H27 a registration of another VM", func(s *client.SealedFor) { s.VM[0]++ }, "config", nil),
		sealedAs("H27 a registration of another host", func(s *client.SealedFor) { s.Host[0]++ }, "config", nil),
		sealedAs("H27 a registration of another epoch", func(s *client.SealedFor) { s.Epoch++ }, "config", nil),
		sealedAs("H27 a registration that was changed", nil, "config", func(b []byte) []byte { b[40] ^= 1; return b }),
		sealedAs("H27 a registration that was cut", nil, "config", func(b []byte) []byte { return b[:20] }),
		sealedAs("H27 no registration", nil, "config", func([]byte) []byte { return nil }),
		sealedAs("H27 a registration that isn't sealed", nil, "config", func([]byte) []byte { return []byte("config") }),

		says("H28 read a file", 0, nil, `"read":"/etc/shadow","files":["/etc/shadow"],"get":{"path":"/etc/shadow"}`),
		says("H28 run a program", 0, nil, `"exec":["/bin/sh"],"run":"id","hooks":{"pre_start":"id"},"env":{"LD_PRELOAD":"/tmp/x.so"}`),
		says("H28 a log's path", 0, nil, `"logs":"../../../etc/shadow","console":{"upload":"/etc/shadow"},"agent_log":"/etc/shadow"`),
		one("H28 a console's path", 1, "console", `"/etc/shadow"`, "console_path", `"../../etc/shadow"`, "log", `"/etc/shadow"`),
		says("H28 other bounds and another address", 0, nil, `"offer":{"milli_cpu":1000000},"url":"http://evil.test","sign_key":"AA==","seal_key":"AA=="`),
	}
}
