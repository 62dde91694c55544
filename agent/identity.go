package agent

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/natefinch/atomic"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

const (
	identityFile = "identity.json"
	removedFile  = identityFile + ".removed" // of the host that the machine was last
)

// Identity is who this host is. Its two seeds never leave the machine.
type Identity struct {
	URL    string          `json:"url"`
	Org    string          `json:"org"`
	HostID millrace.HostID `json:"host_id"`
	Seeds
	// Next are keys of which the control plane may not know yet: they are kept before they are sent, so that neither a lost answer
	// nor a death in between leaves the host without keys.
	Next *Seeds `json:"next,omitempty"`
	// FormerSeal is what registrations were sealed to before the present keys came: some may still be on their way.
	FormerSeal []byte `json:"former_seal,omitempty"`
}

// Seeds are those of a host's two keys. Their JSON names are Identity's own.
type Seeds struct {
	SignSeed []byte `json:"sign_seed"` // Ed25519
	SealSeed []byte `json:"seal_seed"` // X25519
}

func newSeeds() Seeds {
	s := Seeds{SignSeed: make([]byte, ed25519.SeedSize), SealSeed: make([]byte, 32)}
	_, _ = rand.Read(s.SignSeed) // never fails
	_, _ = rand.Read(s.SealSeed)
	return s
}

func (s Seeds) valid() bool { return len(s.SignSeed) == ed25519.SeedSize && len(s.SealSeed) == 32 }

// SignKey is the key that says who speaks.
func (s Seeds) SignKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(s.SignSeed) }

// SealKey is the key that reads JIT configs.
func (s Seeds) SealKey() (*ecdh.PrivateKey, error) {
	return ecdh.X25519().NewPrivateKey(s.SealSeed)
}

// SealKeys are those that JIT configs may be sealed to, the present one first.
func (id Identity) SealKeys() ([]*ecdh.PrivateKey, error) {
	present, err := id.SealKey()
	if err != nil || id.FormerSeal == nil {
		return []*ecdh.PrivateKey{present}, err
	}
	former, err := ecdh.X25519().NewPrivateKey(id.FormerSeal)
	return []*ecdh.PrivateKey{present, former}, err
}

// Client speaks to the control plane for this host.
func (id Identity) Client() *client.Agent {
	return &client.Agent{URL: id.URL, Host: id.HostID, Key: id.SignKey(), HTTP: client.NewHTTP()}
}

// LoadIdentity reads the identity that [Enroll] wrote into dir. NotFound: this machine isn't enrolled.
func LoadIdentity(dir string) (Identity, error) {
	id, err := readIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && id.HostID.IsZero() {
		return Identity{}, millrace.Errorf(millrace.NotFound, "This machine is not enrolled (%s has no %s); run millrace-agent enroll.", dir, identityFile)
	}
	return id, err
}

func readIdentity(dir string) (Identity, error) {
	var id Identity
	name := filepath.Join(dir, identityFile)
	info, err := os.Stat(name)
	if err != nil {
		return id, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return id, millrace.Errorf(millrace.Forbidden, "Others may read %s; run chmod 600 on it, and enroll anew if they may have.", name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(data, &id); err != nil || !id.valid() || id.Next != nil && !id.Next.valid() || id.FormerSeal != nil && len(id.FormerSeal) != 32 {
		return id, millrace.Errorf(millrace.Invalid, "%s is damaged; remove it and enroll anew.", name)
	}
	return id, nil
}

func (id Identity) write(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dir, identityFile)
	if err := atomic.WriteFile(name, bytes.NewReader(data)); err != nil { // makes new files 0600
		return err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return err
	}
	folder, err := os.Open(dir) // a power cut leaves the new name, too: the control plane may know the keys in it
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// MakeKeys makes new keys for the host whose identity is in dir, and keeps them. [Identity.Rotate] puts them in the place of
// the present ones.
func MakeKeys(dir string) error {
	id, err := LoadIdentity(dir)
	if err != nil || id.Next != nil {
		return err
	}
	next := newSeeds()
	id.Next = &next
	return id.write(dir)
}

// Rotate tells the control plane of keys that wait for it, if there are. It returns the identity that holds from then on, also with an error: then nothing has changed here, and an
// agent can start with it; unless the control plane answered, it may know the new keys, see [Config.KeysUnsure]. VMs' registrations that are sealed to the former key can still be read.
func (id Identity) Rotate(ctx context.Context, dir string) (Identity, error) {
	if id.Next == nil {
		return id, nil
	}
	seal, err := id.Next.SealKey()
	if err != nil {
		return id, err
	}
	in := client.KeysRequest{SignKey: id.Next.SignKey().Public().(ed25519.PublicKey), SealKey: seal.PublicKey().Bytes(), BootID: bootID()}
	in.Proof = ed25519.Sign(id.Next.SignKey(), in.Text(id.HostID))
	c := id.Client()
	if err = c.SetKeys(ctx, in); millrace.CodeOf(err) == millrace.Unauthenticated {
		c.Key = id.Next.SignKey() // it was done, and the answer got lost
		err = c.SetKeys(ctx, in)
	}
	if err != nil {
		return id, fmt.Errorf("the host's new keys: %w", err)
	}
	after := id
	after.Seeds, after.Next, after.FormerSeal = *id.Next, nil, id.SealSeed
	return after, after.write(dir)
}

// Retire puts the identity in dir aside, if it is that of host, which was removed: the machine can be enrolled anew.
func Retire(dir string, host millrace.HostID) error {
	switch id, err := LoadIdentity(dir); {
	case millrace.CodeOf(err) == millrace.NotFound, err == nil && id.HostID != host: // somebody did, and may have enrolled it since
		return nil
	case err != nil:
		return err
	}
	return os.Rename(filepath.Join(dir, identityFile), filepath.Join(dir, removedFile))
}

// EnrollConfig says who becomes a host of whom.
type EnrollConfig struct {
	URL   string // of the control plane
	Token millrace.Secret
	Name  string
	Dir   string // where the identity is kept
	Facts millrace.HostFacts
	HTTP  *http.Client // nil: [client.NewHTTP]
}

// Enroll makes this machine a host and writes its identity. The keys are written before they are sent: a try whose
// answer got lost is repeated with the same ones. Conflict: the machine is a host already.
func Enroll(ctx context.Context, c EnrollConfig) (Identity, error) {
	if _, ok := millrace.HashSecret(millrace.EnrollmentTokenPrefix, c.Token.Reveal()); !ok {
		return Identity{}, millrace.Errorf(millrace.Invalid, "That is not an enrollment token; one begins with %s and has 43 characters.", millrace.EnrollmentTokenPrefix)
	}
	id, err := readIdentity(c.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		id = Identity{Seeds: newSeeds()}
	case err != nil:
		return Identity{}, err
	case !id.HostID.IsZero():
		return Identity{}, millrace.Errorf(millrace.Conflict, "This machine is %s of org %s at %s already; remove that host there, or remove %s here, to enroll it anew.", id.HostID, id.Org, id.URL, filepath.Join(c.Dir, identityFile))
	}
	id.URL = c.URL
	if err := id.write(c.Dir); err != nil {
		return Identity{}, err
	}
	seal, err := id.SealKey()
	if err != nil {
		return Identity{}, err
	}
	if c.HTTP == nil {
		c.HTTP = client.NewHTTP()
	}
	answer, err := client.Enroll(ctx, c.HTTP, c.URL, client.EnrollRequest{
		Token:   c.Token.Reveal(),
		Name:    c.Name,
		SignKey: id.SignKey().Public().(ed25519.PublicKey),
		SealKey: seal.PublicKey().Bytes(),
		Facts:   c.Facts,
	})
	if err != nil {
		return Identity{}, fmt.Errorf("enrolling at %s: %w", c.URL, err)
	}
	id.HostID, id.Org = answer.HostID, answer.Org
	return id, id.write(c.Dir)
}
