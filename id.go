package millrace

import (
	"crypto/rand"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Kind is the kind of row an [ID] names: its prefix is what people see before the underscore.
type Kind interface{ prefix() string }

type (
	userKind            struct{}
	hostKind            struct{}
	jobKind             struct{}
	vmKind              struct{}
	apiTokenKind        struct{}
	enrollmentTokenKind struct{}
	incidentKind        struct{}
	sessionKind         struct{}
	auditKind           struct{}
)

func (userKind) prefix() string            { return "user" }
func (hostKind) prefix() string            { return "host" }
func (jobKind) prefix() string             { return "job" }
func (vmKind) prefix() string              { return "vm" }
func (apiTokenKind) prefix() string        { return "tok" }
func (enrollmentTokenKind) prefix() string { return "enr" }
func (incidentKind) prefix() string        { return "inc" }
func (sessionKind) prefix() string         { return "ses" }
func (auditKind) prefix() string           { return "aud" }

// Each kind of ID is a type of its own, so that a host's cannot be passed for a job's.
type (
	// UserID is a user's ID.
	UserID = ID[userKind]
	// HostID is a host's ID.
	HostID = ID[hostKind]
	// JobID is a job's ID.
	JobID = ID[jobKind]
	// VMID is a VM's ID.
	VMID = ID[vmKind]
	// APITokenID is an API token's ID.
	APITokenID = ID[apiTokenKind]
	// EnrollmentTokenID is an enrollment token's ID.
	EnrollmentTokenID = ID[enrollmentTokenKind]
	// IncidentID is an incident's ID.
	IncidentID = ID[incidentKind]
	// SessionID is a session's ID; it is no secret.
	SessionID = ID[sessionKind]
	// AuditID is an audit entry's ID.
	AuditID = ID[auditKind]
)

// OrgID is an org's key; it leads every primary key. People see the org's slug instead.
type OrgID int64

// ID is a UUIDv7 (RFC 9562 §5.7) of one kind of row: 48 bits of Unix milliseconds, then a fraction of the millisecond
// and randomness, so that IDs sort by the time they were made. It is shown as its kind's prefix, an underscore and 26
// digits of Crockford's base32, and stored as uuid.
type ID[K Kind] [16]byte

// Source makes IDs. Its zero value reads crypto/rand; a simulator gives it a seeded reader.
type Source struct {
	Rand io.Reader

	mu sync.Mutex
}

// NewUserID makes an ID at time now; so do its siblings.
func NewUserID(src *Source, now time.Time) UserID { return newID[userKind](src, now) }

// NewHostID makes a host's ID.
func NewHostID(src *Source, now time.Time) HostID { return newID[hostKind](src, now) }

// NewJobID makes a job's ID.
func NewJobID(src *Source, now time.Time) JobID { return newID[jobKind](src, now) }

// NewVMID makes a VM's ID.
func NewVMID(src *Source, now time.Time) VMID { return newID[vmKind](src, now) }

// NewAPITokenID makes an API token's ID.
func NewAPITokenID(src *Source, now time.Time) APITokenID { return newID[apiTokenKind](src, now) }

// NewEnrollmentTokenID makes an enrollment token's ID.
func NewEnrollmentTokenID(src *Source, now time.Time) EnrollmentTokenID {
	return newID[enrollmentTokenKind](src, now)
}

// NewIncidentID makes an incident's ID.
func NewIncidentID(src *Source, now time.Time) IncidentID { return newID[incidentKind](src, now) }

// NewSessionID makes a session's ID.
func NewSessionID(src *Source, now time.Time) SessionID { return newID[sessionKind](src, now) }

// NewAuditID makes an audit entry's ID.
func NewAuditID(src *Source, now time.Time) AuditID { return newID[auditKind](src, now) }

func newID[K Kind](src *Source, now time.Time) ID[K] {
	var id ID[K]
	src.mu.Lock()
	r := src.Rand
	if r == nil {
		r = rand.Reader
	}
	_, err := io.ReadFull(r, id[8:])
	src.mu.Unlock()
	if err != nil {
		panic("millrace: reading randomness: " + err.Error()) // crypto/rand never fails; a test's reader must not
	}
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint64(id[:8], ms<<16)
	sub := uint16(now.UnixMicro()%1000*4096/1000) & 0x0fff // RFC 9562 §6.2, method 3
	binary.BigEndian.PutUint16(id[6:8], 0x7000|sub)
	id[8] = id[8]&0x3f | 0x80
	return id
}

// crockford is the base32 alphabet without I, L, O and U (https://www.crockford.com/base32.html).
const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// Time is when the ID was made, in whole milliseconds (RFC 9562, section 5.7).
func (id ID[K]) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16))
}

// IsZero reports whether id names nothing.
func (id ID[K]) IsZero() bool { return id == ID[K]{} }

// String is the form that people and APIs see, e.g. job_01jd2w8k5p7m9q3r5t7v9x1z3b; "" for the zero ID.
func (id ID[K]) String() string {
	if id.IsZero() {
		return ""
	}
	var k K
	var out [26]byte
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	for i := 25; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return k.prefix() + "_" + string(out[:])
}

// ParseHostID reads what [ID.String] wrote; so do its siblings. Another kind's prefix or a malformed text is a NotFound
// error: whoever asks for such an ID asks for a row that doesn't exist.
func ParseHostID(s string) (HostID, error) { return parseID[hostKind](s) }

// ParseJobID reads a job's ID.
func ParseJobID(s string) (JobID, error) { return parseID[jobKind](s) }

// ParseVMID reads a VM's ID.
func ParseVMID(s string) (VMID, error) { return parseID[vmKind](s) }

// ParseUserID reads the form that people see.
func ParseUserID(s string) (UserID, error) { return parseID[userKind](s) }

// ParseAPITokenID reads the form that people see.
func ParseAPITokenID(s string) (APITokenID, error) { return parseID[apiTokenKind](s) }

// ParseEnrollmentTokenID reads the form that people see.
func ParseEnrollmentTokenID(s string) (EnrollmentTokenID, error) {
	return parseID[enrollmentTokenKind](s)
}

// ParseSessionID reads the form that people see.
func ParseSessionID(s string) (SessionID, error) { return parseID[sessionKind](s) }

func parseID[K Kind](s string) (ID[K], error) {
	var id ID[K]
	var k K
	digits, ok := strings.CutPrefix(s, k.prefix()+"_")
	if !ok || len(digits) != 26 || digits[0] > '7' {
		return id, Errorf(NotFound, "There is no %s with this ID.", k.prefix())
	}
	var hi, lo uint64
	for i := range len(digits) {
		d := strings.IndexByte(crockford, digits[i])
		if d < 0 {
			return id, Errorf(NotFound, "There is no %s with this ID.", k.prefix())
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(d)
	}
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	return id, nil
}

// MarshalText is [ID.String].
func (id ID[K]) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote, or the bare uuid, which is what SQL writes; an empty text is the zero ID.
func (id *ID[K]) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID[K]{}
		return nil
	}
	if len(text) == 36 {
		return id.Scan(string(text))
	}
	parsed, err := parseID[K](string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Bytes are those of the UUID.
func (id ID[K]) Bytes() [16]byte { return id }

// UUID is the canonical 36-character form that databases print.
func (id ID[K]) UUID() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// Value stores id as a uuid; the zero ID as NULL.
func (id ID[K]) Value() (driver.Value, error) {
	if id.IsZero() {
		return nil, nil
	}
	return id.UUID(), nil
}

// Scan reads a uuid; NULL is the zero ID.
func (id *ID[K]) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*id = ID[K]{}
		return nil
	case []byte:
		return id.Scan(string(v))
	case [16]byte:
		*id = v
		return nil
	case string:
		b, err := hex.DecodeString(strings.ReplaceAll(v, "-", ""))
		if err != nil || len(b) != 16 {
			return fmt.Errorf("millrace: %q is not a uuid", v)
		}
		copy(id[:], b)
		return nil
	default:
		return fmt.Errorf("millrace: cannot scan %T into an ID", src)
	}
}
