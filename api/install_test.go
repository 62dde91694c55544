package api_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/api"
)

// installer is a server with a bundle, and a machine that has nothing but what stubs say.
type installer struct {
	t      *testing.T
	url    string
	bundle []byte
	root   string // of the machine's file system
	script string // with paths below root
}

const enrollSecret = "mret_dsXeb4krqr6sq4b3tBHqv1uZ4stAkcw02xTSdd"

// newInstaller is a machine on which every program writes down its arguments. Its agent is a stub, too, that writes down what it
// reads.
func newInstaller(t *testing.T) *installer {
	t.Helper()
	i := &installer{t: t, root: t.TempDir()}
	i.bundle = archive(t, map[string]string{
		"millrace-agent":         "#!/bin/sh\necho agent \"$@\" >>" + i.root + "/calls\n[ \"$1\" != enroll ] || { cat >" + i.root + "/secret; [ ! -e " + i.root + "/refused ]; }\n",
		"millrace-agent.service": "[Service]\n", "millrace-launcher.service": "[Service]\n", "guest/amd64/version": "1\n",
	})
	server := httptest.NewUnstartedServer(nil)
	i.url = "http://" + server.Listener.Addr().String()
	bundles := map[millrace.Arch][]byte{millrace.AMD64: i.bundle}
	server.Config.Handler = api.New(api.Config{URL: i.url + "/", Bundles: bundles, Log: slog.New(slog.DiscardHandler)})
	server.Start()
	t.Cleanup(server.Close)
	res, err := http.Get(i.url + "/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var script bytes.Buffer
	if _, err := script.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res.Status, err)
	}
	paths := strings.NewReplacer("/usr/local", i.root+"/usr/local", "/etc/systemd", i.root+"/etc/systemd", "/var/lib/", i.root+"/var/lib/")
	i.script = paths.Replace(script.String())
	i.stub("id", `[ "$1" = millrace ] && exit 1; echo 0`)
	i.stub("uname", `[ "$1" = -m ] && echo x86_64 || echo Linux`)
	i.stub("systemctl", `[ "$1" != is-failed ]`)
	for _, name := range []string{"useradd", "chown", "apt-get", "qemu-system-x86_64", "qemu-img", "mke2fs"} {
		i.stub(name, "")
	}
	for _, name := range []string{"sh", "cat", "cp", "mv", "rm", "mkdir", "mktemp", "chmod", "tar", "gzip", "sha256sum", "tail", "curl"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		i.stub(name, "exec "+real+` "$@"`)
	}
	return i
}

// stub is a program of the machine.
func (i *installer) stub(name, does string) {
	i.t.Helper()
	bin := filepath.Join(i.root, "bin")
	text := "#!/bin/sh\necho " + name + " \"$@\" >>" + i.root + "/calls\n" + does + "\n"
	if err := os.MkdirAll(bin, 0o755); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
		i.t.Fatal(err)
	}
}

// run gives a shell a script, after the line that has the token.
func (i *installer) run(script string) (output string, err error) {
	i.t.Helper()
	cmd := exec.CommandContext(i.t.Context(), "/bin/sh")
	cmd.Env = []string{"PATH=" + i.root + "/bin:" + i.root + "/usr/local/bin", "TMPDIR=" + i.t.TempDir()}
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (i *installer) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(i.root, name)) // "" when it isn't there
	return string(data)
}

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The pasted line installs, enrolls and starts the agent; the token is in nobody's arguments. Run again it brings the agent up
// to date.
func TestInstall(t *testing.T) {
	t.Parallel()
	i := newInstaller(t)
	out, err := i.run("MILLRACE_ENROLL_TOKEN=" + enrollSecret + "\n" + i.script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	calls := i.read("calls")
	for _, want := range []string{
		"agent enroll --if-needed --url " + i.url + "\n", "systemctl daemon-reload\n", "systemctl enable -q millrace-launcher millrace-agent\n",
		"systemctl restart millrace-launcher millrace-agent\n", "agent doctor\n", "useradd --system --user-group ", "chown -R millrace: " + i.root + "/var/lib/millrace-agent\n",
	} {
		if !strings.Contains(calls, want) {
			t.Errorf("not done: %s", want)
		}
	}
	if strings.Contains(calls, "mret_") || strings.Contains(out, "mret_") || strings.Contains(calls, "apt-get") {
		t.Errorf("the token is in arguments, or packages were installed that are there:\n%s\n%s", calls, out)
	}
	if got := i.read("secret"); got != enrollSecret+"\n" {
		t.Errorf("the agent read %q", got)
	}
	for _, path := range []string{"usr/local/bin/millrace-agent", "usr/local/lib/millrace/guest/amd64/version", "etc/systemd/system/millrace-agent.service", "etc/systemd/system/millrace-launcher.service"} {
		if i.read(path) == "" {
			t.Errorf("there is no %s", path)
		}
	}
	if err := os.MkdirAll(filepath.Join(i.root, "var/lib/millrace-agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(i.root, "var/lib/millrace-agent/identity.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(i.root, "calls")); err != nil {
		t.Fatal(err)
	}
	if out, err := i.run(i.script); err != nil || strings.Contains(i.read("calls"), "agent enroll") || !strings.Contains(i.read("calls"), "systemctl restart millrace-launcher millrace-agent") {
		t.Errorf("again: %v\n%s\n%s", err, out, i.read("calls"))
	}
}

// What goes wrong after that is told, too; and what says that all is done, the unit's link, is made when it is.
func TestInstallFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change  func(*installer)
		says    string
		enabled bool
	}{
		"not enrolled": {func(i *installer) { _ = os.WriteFile(filepath.Join(i.root, "refused"), nil, 0o600) }, "could not be enrolled", false},
		"not started":  {func(i *installer) { i.stub("systemctl", `[ "$1" != restart ]`) }, "", false},
		"ended":        {func(i *installer) { i.stub("systemctl", "") }, "The agent has ended", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstaller(t)
			tt.change(i)
			out, err := i.run("MILLRACE_ENROLL_TOKEN=" + enrollSecret + "\n" + i.script)
			if err == nil || !strings.Contains(out, tt.says) || strings.Contains(i.read("calls"), "systemctl enable") != tt.enabled {
				t.Errorf("%v: %s\n%s", err, out, i.read("calls"))
			}
		})
	}
}

// What doesn't fit is said, and nothing is installed.
func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*installer)
		token  string
		says   string
	}{
		"no root":           {func(i *installer) { i.stub("id", "echo 1000") }, enrollSecret, "Run this as root"},
		"no Linux":          {func(i *installer) { i.stub("uname", "echo Darwin") }, enrollSecret, "this is Darwin"},
		"another processor": {func(i *installer) { i.stub("uname", `[ "$1" = -m ] && echo riscv64 || echo Linux`) }, enrollSecret, "this is riscv64"},
		"no agent for it":   {func(i *installer) { i.stub("uname", `[ "$1" = -m ] && echo aarch64 || echo Linux`) }, enrollSecret, "no agent for arm64"},
		"no token":          {func(*installer) {}, "", "no enrollment token"},
		"no systemd":        {func(i *installer) { _ = os.Remove(filepath.Join(i.root, "bin/systemctl")) }, enrollSecret, "There is no systemctl"},
		"no user for it":    {func(i *installer) { i.stub("useradd", "exit 1") }, enrollSecret, "Could not make the user"},
		"another bundle":    {func(i *installer) { i.stub("sha256sum", "exit 1") }, enrollSecret, "Nothing was installed"},
		"no server":         {func(i *installer) { i.stub("curl", "exit 7") }, enrollSecret, "Could not fetch"},
		"no qemu to be had": {func(i *installer) {
			_ = os.Remove(filepath.Join(i.root, "bin/qemu-img"))
			i.stub("apt-get", "echo E: no such package; exit 100")
		}, enrollSecret, "Could not install qemu-utils"},
		"no qemu in the packages": {func(i *installer) {
			for _, name := range []string{"qemu-system-x86_64", "apt-get"} {
				_ = os.Remove(filepath.Join(i.root, "bin", name))
			}
			i.stub("dnf", "")
		}, enrollSecret, "There is no qemu-system-x86_64 here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstaller(t)
			tt.change(i)
			out, err := i.run("MILLRACE_ENROLL_TOKEN=" + tt.token + "\n" + i.script)
			if err == nil || !strings.Contains(out, tt.says) || strings.Contains(out, "mret_") {
				t.Errorf("%v: %s", err, out)
			}
			if _, err := os.Stat(filepath.Join(i.root, "usr")); err == nil {
				t.Error("something was installed")
			}
		})
	}
}

// Cut off at any byte the script does all or nothing. Where it is known to be cut off, "exit 1" follows, and then it fails.
func TestInstallTruncated(t *testing.T) {
	t.Parallel()
	i := newInstaller(t)
	whole := len(strings.TrimRight(i.script, "\n")) - len(` "$@"`) // from here on main is called
	run := func(n int, then string) (out string, err error) {
		t.Helper()
		out, err = i.run("MILLRACE_ENROLL_TOKEN=" + enrollSecret + "\n" + i.script[:n] + then)
		if calls := i.read("calls"); calls != "" {
			t.Fatalf("cut off after %q it did %s\n%s", i.script[max(0, n-40):n], calls, out)
		}
		return out, err
	}
	for n := range whole {
		_, _ = run(n, "")
	}
	within := regexp.MustCompile(`^#|\(\) ?\{?$`) // the first line, which is a comment, or where "exit 1" becomes a function's body
	for n := range whole {
		if n > strings.Index(i.script, "fail()") && n < strings.LastIndex(i.script, "}") {
			continue // in the midst of functions: all are alike
		}
		cut := i.script[:n]
		if out, err := run(n, "exit 1\n"); err == nil && !within.MatchString(cut[strings.LastIndex(cut, "\n")+1:]) {
			t.Fatalf("cut off after %q it says that all is well\n%s", cut[max(0, n-40):], out)
		}
	}
}

func TestInstallQuotes(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(api.New(api.Config{URL: `https://x'; touch /tmp/evil; '`, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(server.Close)
	res, err := http.Get(server.URL + "/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil || !strings.Contains(b.String(), `url='https://x'\''; touch /tmp/evil; '\'''`+"\n") {
		t.Errorf("%v, %.600s", err, b.String())
	}
}
