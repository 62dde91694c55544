package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// signIn is a token that the CLI keeps for one org of one server.
type signIn struct {
	URL       string
	Org       string
	Login     string
	Token     millrace.Secret
	Scopes    []millrace.Permission
	ExpiresAt time.Time
}

// signIns are all that are kept; the last one is what a command takes that names none.
type signIns struct {
	path string
	list []signIn
}

// savedSignIn is a sign-in in the file, in which alone its token is readable.
type savedSignIn struct {
	URL       string                `json:"url"`
	Org       string                `json:"org"`
	Login     string                `json:"login"`
	Token     string                `json:"token"`
	Scopes    []millrace.Permission `json:"scopes"`
	ExpiresAt time.Time             `json:"expires_at"`
}

// signInsPath is where they are kept (XDG Base Directory Specification).
func (c *cli) signInsPath() (string, error) {
	dir := c.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // "" too: the specification has relative ones ignored
		home := c.Getenv("HOME")
		if home == "" {
			home = c.Getenv("USERPROFILE")
		}
		if home == "" {
			return "", errors.New("no place to keep the sign-in: HOME is not set")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "millrace", "sign-ins.json"), nil
}

// readSignIns reads what is kept. A file that others may read is refused: its tokens aren't secrets any more.
func (c *cli) readSignIns() (*signIns, error) {
	if c.saved != nil {
		return c.saved, nil
	}
	path, err := c.signInsPath()
	if err != nil {
		return &signIns{}, nil //nolint:nilerr // without a home there is nothing kept, and the environment may say all
	}
	s := &signIns{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		c.saved = s
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): revoke its tokens if somebody may have, then run: chmod 600 %s", path, mode, path)
	}
	var saved []savedSignIn
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, fmt.Errorf("%s can't be read as what millrace keeps there: %w. Move it away and sign in again", path, err)
	}
	for _, in := range saved {
		s.list = append(s.list, signIn{in.URL, in.Org, in.Login, millrace.Secret(in.Token), in.Scopes, in.ExpiresAt})
	}
	c.saved = s
	return s, nil
}

// find is the newest for a server and an org; "" is any.
func (s *signIns) find(url, org string) (signIn, bool) {
	for _, in := range slices.Backward(s.list) {
		if (url == "" || in.URL == trimmed(url)) && (org == "" || in.Org == org) {
			return in, true
		}
	}
	return signIn{}, false
}

// put keeps a sign-in as the newest, instead of what was kept for its org.
func (s *signIns) put(in signIn) error {
	s.list = append(slices.DeleteFunc(s.list, in.sameOrg), in)
	return s.write()
}

// drop forgets a sign-in.
func (s *signIns) drop(in signIn) error {
	s.list = slices.DeleteFunc(s.list, in.sameOrg)
	return s.write()
}

func (in signIn) sameOrg(other signIn) bool { return in.URL == other.URL && in.Org == other.Org }

// write replaces the file as a whole, so that one that is interrupted loses nothing.
func (s *signIns) write() error {
	saved := make([]savedSignIn, len(s.list))
	for i, in := range s.list {
		saved[i] = savedSignIn{in.URL, in.Org, in.Login, in.Token.Reveal(), in.Scopes, in.ExpiresAt}
	}
	data, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), ".sign-ins-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(append(data, '\n')); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.path)
}

func trimmed(url string) string { return strings.TrimRight(url, "/") }
