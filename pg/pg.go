// Package pg starts a Postgres from binaries that are already on the machine, for `millraced dev` and for tests. It
// listens on a Unix socket only and trusts whoever may open the directory. It is no way to run a production database.
package pg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say where the database lives.
type Options struct {
	Dir   string // made when missing; a database in it is used again
	Fsync bool   // false trades durability for speed; for tests
	// Settings are further server settings, e.g. "timezone": "Canada/Newfoundland".
	Settings map[string]string
}

// Server is a running Postgres.
type Server struct {
	bin, data, sockets string
	log, options       string
	run                func(name string, args ...string) *exec.Cmd
	lives              *os.File // a pipe whose other end the server's processes hold
}

// Start starts the database in o.Dir, making it first when there is none. A server that an earlier process left running
// there is taken over. As root it drops to the user postgres or nobody, for Postgres refuses to run as root. The error
// says what to install when there are no binaries.
func Start(ctx context.Context, o Options) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	// A socket's path has at most 107 bytes, so it lives apart from a directory that may be deep.
	parent := os.TempDir()
	if len(parent) > 60 { // and so may the temporary one
		parent = "/tmp"
	}
	sockets, err := os.MkdirTemp(parent, "mrpg")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, data: filepath.Join(dir, "data"), sockets: sockets}
	if err := s.start(ctx, dir, o); err != nil {
		os.RemoveAll(sockets)
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, dir string, o Options) error {
	credential, err := unprivileged()
	if err != nil {
		return err
	}
	s.run = func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(s.bin, name), args...)
		cmd.Dir = "/" // the dropped user may not read ours
		// Its own process group: a Ctrl-C in the terminal must not end the database before its clients.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Setpgid: true}
		return cmd
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if credential != nil {
		for _, d := range []string{dir, s.sockets} {
			if err := makeWay(d); err != nil {
				return err
			}
			if err := os.Chown(d, int(credential.Uid), int(credential.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := os.Stat(filepath.Join(s.data, "PG_VERSION")); err != nil {
		out, err := s.run("initdb", "-D", s.data, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync").CombinedOutput()
		if err != nil {
			return fmt.Errorf("initdb: %w\n%s", err, out)
		}
	}
	if s.running() { // a process before us was killed; its settings and socket are not ours
		if err := s.stop(); err != nil {
			return err
		}
	}
	settings := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": s.sockets,
		"max_connections":         "200",
		"shared_buffers":          "128MB",
		"fsync":                   onOff(o.Fsync),
		"synchronous_commit":      onOff(o.Fsync),
		"full_page_writes":        onOff(o.Fsync),
		"log_min_messages":        "warning",
		"timezone":                "UTC",
	}
	for k, v := range o.Settings {
		settings[k] = v
	}
	var options strings.Builder
	for k, v := range settings {
		fmt.Fprintf(&options, " -c %s=%s", k, v)
	}
	s.log, s.options = filepath.Join(dir, "postgres.log"), options.String()
	return s.Restart(ctx)
}

// Restart starts a server that died, as it was and where it was: its URLs stay the same. It fails while processes of the
// dead one are left.
func (s *Server) Restart(ctx context.Context) error {
	start := s.run("pg_ctl", "start", "-w", "-t", "60", "-D", s.data, "-l", s.log, "-o", s.options)
	lives, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	start.ExtraFiles = []*os.File{theirs}
	// The server would hold a pipe for its output open for ever: none is taken, the log has it.
	err = start.Run()
	theirs.Close()
	if err != nil {
		lives.Close()
		content, _ := os.ReadFile(s.log)
		return fmt.Errorf("starting Postgres in %s: %w\n%s", s.data, err, tail(content, 2000))
	}
	s.lives.Close()
	s.lives = lives
	return ctx.Err()
}

// PID is the postmaster's process, whose children are all others.
func (s *Server) PID() (int, error) {
	content, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	return strconv.Atoi(first)
}

// URL is the database's URL as the given role.
func (s *Server) URL(role, database string) string {
	q := url.Values{"host": {s.sockets}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: q.Encode()}).String()
}

// Stop ends the server, politely, then at once, and waits until no process of it is left.
func (s *Server) Stop() error {
	err := s.stop()
	if err == nil { // pg_ctl's wait ends when the postmaster removes its pid file, a moment before it exits
		err = s.lives.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, e := io.Copy(io.Discard, s.lives)
		err = errors.Join(err, e)
	}
	return errors.Join(err, s.lives.Close(), os.RemoveAll(s.sockets))
}

func (s *Server) stop() error {
	if err := s.run("pg_ctl", "stop", "-w", "-t", "20", "-m", "fast", "-D", s.data).Run(); err == nil || !s.running() {
		return nil
	}
	if err := s.run("pg_ctl", "stop", "-w", "-t", "20", "-m", "immediate", "-D", s.data).Run(); err != nil && s.running() {
		return fmt.Errorf("stopping Postgres in %s: %w", s.data, err)
	}
	return nil
}

// running reports whether a postmaster works in the data directory.
func (s *Server) running() bool { return s.run("pg_ctl", "status", "-D", s.data).Run() == nil }

// find returns the folder of Postgres's server binaries: the PATH's, else the newest of Debian's.
func find() (string, error) {
	var candidates []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(path))
		}
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(debian, func(a, b string) int { return version(b) - version(a) })
	candidates = append(candidates, debian...)
	candidates = append(candidates, "/opt/homebrew/opt/postgresql/bin", "/usr/local/opt/postgresql/bin")
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, "pg_ctl")); err == nil {
			if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
				return dir, nil
			}
		}
	}
	return "", errors.New("no PostgreSQL found; install it (apt-get install postgresql, brew install postgresql) or run make deps")
}

// version is the major version in a path like /usr/lib/postgresql/15/bin.
func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
	return n
}

// unprivileged is whom to run as when we are root, nil otherwise.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("there is no user postgres or nobody to run Postgres as, which refuses to run as root")
}

// makeWay lets the dropped user pass through our own directories above dir: x for others, no more, and only below the
// first directory that lacks it and is ours.
func makeWay(dir string) error {
	for p := filepath.Dir(dir); p != "/" && p != "."; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(p, info.Mode().Perm()|0o001); err != nil {
				return err
			}
		}
	}
	return nil
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func tail(b []byte, n int) []byte {
	return bytes.TrimSpace(b[max(0, len(b)-n):])
}
