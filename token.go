package millrace

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"io"
	"strings"
	"time"
)

// Prefixes of secrets, so that people and scanners know what they found.
const (
	APITokenPrefix        = "mrat_"
	EnrollmentTokenPrefix = "mret_"
	SessionPrefix         = "mrss_"
	SignInLinkPrefix      = "mrsl_"
)

const (
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secretDigits = 32 // 190 bits
	crcDigits    = 6
)

// APIToken lets a program use the REST API as a user of one org.
type APIToken struct {
	OrgID      OrgID
	ID         APITokenID
	UserID     UserID
	Name       string
	Role       Role
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time
}

// EnrollmentToken turns a machine into a host of one org.
type EnrollmentToken struct {
	OrgID     OrgID
	ID        EnrollmentTokenID
	UsesLeft  int
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Secret is the text of a token. It prints as [redacted] everywhere but through [Secret.Reveal].
type Secret string

// String hides the secret.
func (Secret) String() string { return "[redacted]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[redacted]" }

// MarshalText hides the secret from JSON and logs.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Reveal is the secret itself, for the one place that shows or sends it.
func (s Secret) Reveal() string { return string(s) }

// NewSecret makes a secret: prefix, 32 random base62 digits, and 6 of their CRC-32, which lets a typo or a scanner's
// false find be told without asking the database (github.blog, "Behind GitHub's new authentication token formats").
// A nil random reads crypto/rand.
func NewSecret(prefix string, random io.Reader) Secret {
	if random == nil {
		random = rand.Reader
	}
	var b strings.Builder
	b.WriteString(prefix)
	var buf [1]byte
	for b.Len() < len(prefix)+secretDigits {
		if _, err := io.ReadFull(random, buf[:]); err != nil {
			panic("millrace: reading randomness: " + err.Error())
		}
		if buf[0] < 248 { // 4×62: no digit is likelier than another
			b.WriteByte(base62[buf[0]%62])
		}
	}
	return Secret(b.String() + checksum(b.String()))
}

func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var out [crcDigits]byte
	for i := crcDigits - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// HashSecret is what is stored of a secret, its SHA-256; ok is false when s is not a secret with this prefix or its
// checksum is wrong. A plain hash suffices for 190 random bits (OWASP ASVS 5.0, 6.5.2).
func HashSecret(prefix, s string) (hash []byte, ok bool) {
	if len(s) != len(prefix)+secretDigits+crcDigits || !strings.HasPrefix(s, prefix) {
		return nil, false
	}
	body := s[:len(s)-crcDigits]
	if checksum(body) != s[len(body):] {
		return nil, false
	}
	sum := sha256.Sum256([]byte(s))
	return sum[:], true
}
