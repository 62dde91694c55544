package millrace

import (
	"crypto/rand"
	"io"
	"strings"
	"time"
)

// The sign-in of a program that has no browser, RFC 8628: it shows a short code, which a person types here and says in which
// org the program may do what. What it gets is an API token of theirs.

// DevicePath is the page where a person types the code.
const DevicePath = "/device"

const (
	// DeviceLength is how long a code works: at most 10 minutes (OWASP ASVS 5.0, 6.5.5).
	DeviceLength = 10 * time.Minute
	// DeviceInterval is how long a program waits before it asks again, at first (RFC 8628 §3.2).
	DeviceInterval = 5 * time.Second
	// DeviceGuesses is how many wrong codes a person may type within [DeviceLength].
	DeviceGuesses = 10
	// DevicesWaiting is how many sign-ins may wait from one address.
	DevicesWaiting = 20
)

// DeviceAuthorization is the sign-in of a program that waits for a person.
type DeviceAuthorization struct {
	UserCode  string
	Client    string // what the program calls itself; nobody vouches for it
	Scopes    []Permission
	Device    Device // where the program asked from
	CreatedAt time.Time
	ExpiresAt time.Time
}

// userCodeLetters can't be taken for each other and spell no words; eight of them are 34 bits (RFC 8628 §6.1).
const (
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLength  = 8
)

// NewUserCode makes a code for a person to type, as BCDF-GHJK. A nil random reads crypto/rand.
func NewUserCode(random io.Reader) string {
	if random == nil {
		random = rand.Reader
	}
	var b strings.Builder
	var buf [1]byte
	for n := 0; n < userCodeLength; {
		if _, err := io.ReadFull(random, buf[:]); err != nil {
			panic("millrace: reading randomness: " + err.Error())
		}
		if buf[0] >= 240 { // 12×20: no letter is likelier than another
			continue
		}
		if n == userCodeLength/2 {
			b.WriteByte('-')
		}
		b.WriteByte(userCodeLetters[buf[0]%20])
		n++
	}
	return b.String()
}

// ParseUserCode is the code that a person typed, whatever their case, spaces and hyphens; ok is false when it can be none.
func ParseUserCode(s string) (code string, ok bool) {
	if len(s) > 64 {
		return "", false
	}
	letters := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToUpper(s))
	if len(letters) != userCodeLength || strings.Trim(letters, userCodeLetters) != "" {
		return "", false
	}
	return letters[:userCodeLength/2] + "-" + letters[userCodeLength/2:], true
}
