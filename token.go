package millrace

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Prefixes of secrets, so that people and scanners know what they found.
const (
	APITokenPrefix        = "mrat_"
	EnrollmentTokenPrefix = "mret_"
	SessionPrefix         = "mrss_"
	SignInLinkPrefix      = "mrsl_"
	DeviceCodePrefix      = "mrdc_"
)

const (
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secretDigits = 32 // 190 bits
	crcDigits    = 6
)

// APIToken lets a program use the REST API: as a user of one org, or as the org itself.
type APIToken struct {
	OrgID      OrgID
	ID         APITokenID
	UserID     UserID // zero: the org's own
	Login      string // the user's; display only
	Name       string
	Hint       string // how the secret begins
	Scopes     []Permission
	Role       Role // the user's as it is now; an admin's when it is the org's own
	CreatedAt  time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero: it wasn't
	LastUsedAt time.Time // zero: never; to the minute
	LastUsedBy Device
}

// Caller is the token as somebody who asks for something.
func (t APIToken) Caller(address, requestID string) Caller {
	return Caller{
		Actor:  Actor{Kind: ActorToken, ID: t.ID.String(), Name: t.Name, Address: address, RequestID: requestID},
		UserID: t.UserID, Role: t.Role, Token: &t,
	}
}

// Lives of API tokens, in days.
const (
	DefaultTokenDays = 30
	MaxTokenDays     = 366
)

// NewAPIToken is a token to make.
type NewAPIToken struct {
	Name   string
	Scopes []Permission
	Days   int  // until it expires; 0: 30
	OfOrg  bool // the org's own: it outlives its maker's membership
}

// MaxName bounds the names that people give to things, in characters.
const MaxName = 100

// Check says what of the token its maker may not have. Unprocessable: a value is wrong. Forbidden: it would have more than
// its maker has; a token makes none that outlives it.
func (n NewAPIToken) Check(by Caller, now time.Time) error {
	if err := by.Require(TokensWrite); err != nil {
		return err
	}
	if n.OfOrg {
		if err := by.Require(OrgTokensWrite); err != nil {
			return err
		}
	}
	if err := CheckName(n.Name); err != nil {
		return err
	}
	if err := CheckScopes(n.Scopes); err != nil {
		return err
	}
	switch {
	case n.Days < 1 || n.Days > MaxTokenDays:
		return Errorf(Unprocessable, "A token lives for 1 to %d days, not %d.", MaxTokenDays, n.Days)
	case !n.OfOrg && by.UserID.IsZero():
		return Errorf(Unprocessable, "A token of the org's own makes only such tokens: there is no person whose it could be.")
	case by.Token != nil && now.AddDate(0, 0, n.Days).After(by.Token.ExpiresAt):
		return Errorf(Forbidden, "A token can't make one that outlives it: this one expires at %s.", by.Token.ExpiresAt.UTC().Format(time.RFC3339))
	}
	for _, p := range n.Scopes {
		if !by.May(p) {
			return Errorf(Forbidden, "You can't give a token the scope %s: you don't have it.", p)
		}
	}
	return nil
}

// CheckScopes is Unprocessable unless a token may have these scopes.
func CheckScopes(scopes []Permission) error {
	if len(scopes) == 0 {
		return Errorf(Unprocessable, "A token without scopes could do nothing. Give it at least one.")
	}
	for _, p := range scopes {
		if !slices.Contains(Scopes(), p) {
			return Errorf(Unprocessable, "%q is no scope; the scopes are %s.", p, JoinScopes(Scopes(), ", "))
		}
	}
	return nil
}

// CheckName is Unprocessable unless a person may give this name to something.
func CheckName(name string) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > MaxName || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return Errorf(Unprocessable, "A name has 1 to %d printable characters and neither begins nor ends with a space.", MaxName)
	}
	return nil
}

// JoinScopes are scopes as one text, with separator between; OAuth's is a space (RFC 6749 §3.3).
func JoinScopes(scopes []Permission, separator string) string {
	words := make([]string, len(scopes))
	for i, p := range scopes {
		words[i] = string(p)
	}
	return strings.Join(words, separator)
}

// ParseScopes are the words of a text with spaces between; [CheckScopes] says whether they are scopes.
func ParseScopes(text string) (scopes []Permission) {
	for _, word := range strings.Fields(text) {
		scopes = append(scopes, Permission(word))
	}
	return scopes
}

// EnrollmentToken turns a machine into a host of one org.
type EnrollmentToken struct {
	OrgID     OrgID
	ID        EnrollmentTokenID
	UsesLeft  int
	Labels    []string     // of the hosts that it makes, and no others; nil: those that the host's owner gave it
	CIDR      netip.Prefix // where it may be used; zero: anywhere
	Ephemeral bool         // its hosts are removed [VanishedAfter] they were last heard
	CreatedAt time.Time
	ExpiresAt time.Time
	RevokedAt time.Time // zero: it wasn't
}

// Lives and uses of enrollment tokens: one that is made at the dashboard is for one machine, soon.
const (
	DefaultEnrollmentLife = time.Hour
	MaxEnrollmentLife     = 30 * 24 * time.Hour
	MaxEnrollmentUses     = 1000
	EnrollmentGuesses     = 20 // unknown tokens from one address within ten minutes
)

// VanishedAfter is how long an ephemeral host may be silent before it is removed: a spot machine that is taken away says
// nothing.
const VanishedAfter = 15 * time.Minute

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

var secretText = regexp.MustCompile(`(mr[a-z]{2}_)[0-9A-Za-z]{38}`)

// Redact hides the secrets in a text that is about to be logged and that others have a hand in: a path, or a panic's.
func Redact(text string) string { return secretText.ReplaceAllString(text, "$1[redacted]") }

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
