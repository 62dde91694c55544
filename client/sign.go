package client

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// SignatureHeader carries the signature of an agent's request:
//
//	Millrace-Signature: v1 host=host_01jd…,epoch=3,seq=17,time=1764000000000,sig=…
//
// in exactly this form: these fields once each, in this order, numbers without leading zeros, time in Unix
// milliseconds, sig in unpadded base64url. There is one algorithm, Ed25519 (RFC 8032); a request cannot choose. The
// signed text is these lines joined by "\n", with nothing after the last:
//
//	millrace-agent-v1
//	<method>
//	<path and query, as sent>
//	<SHA-256 of the body, lower-case hex>
//	<host>
//	<epoch>
//	<seq>
//	<time>
//
// A sequence number is never used twice within an epoch, and the numbers grow; requests in flight may overtake each
// other, see [Window]. A start, and new keys, are signed in epoch 0, as their process has none yet, with the Unix time in
// milliseconds as their sequence number, which grows, too.
const SignatureHeader = "Millrace-Signature"

// MaxSkew is how far a request's time may be from the server's. The server's answers tell an agent its error.
const MaxSkew = 60 * time.Second

const maxSignature = 256 // bytes of the header; the longest legal one has 218

// Claims are what a signature says of its request.
type Claims struct {
	Host     millrace.HostID
	Epoch    int64
	Sequence int64
	Time     time.Time // whole milliseconds
}

// Sign adds the signature of r with this body to r.
func Sign(r *http.Request, body []byte, key ed25519.PrivateKey, c Claims) {
	sig := ed25519.Sign(key, c.text(r, body))
	r.Header.Set(SignatureHeader, c.header(sig))
}

// Verify returns the claims of r, whose whole body is body, once they are proven: a well-formed signature by the key
// of the host it names, made within MaxSkew of now. keyOf finds that key; its NotFound is a wrong signature like any
// other. Every refusal is Unauthenticated and says nothing of which host exists. That the epoch is the host's present
// one and the sequence number new is the caller's to check, for it is the caller who remembers.
func Verify(r *http.Request, body []byte, keyOf func(millrace.HostID) (ed25519.PublicKey, error), now time.Time) (Claims, error) {
	values := r.Header.Values(SignatureHeader)
	if len(values) != 1 {
		return Claims{}, millrace.Errorf(millrace.Unauthenticated, "The request needs one %s header.", SignatureHeader)
	}
	c, sig, ok := parseSignature(values[0])
	if !ok {
		return Claims{}, millrace.Errorf(millrace.Unauthenticated, "The %s header is malformed.", SignatureHeader)
	}
	key, err := keyOf(c.Host)
	if err != nil && millrace.CodeOf(err) != millrace.NotFound {
		return Claims{}, err
	}
	if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, c.text(r, body), sig) {
		return Claims{}, millrace.Errorf(millrace.Unauthenticated, "The request's signature is wrong.")
	}
	if skew := now.Sub(c.Time).Abs(); skew > MaxSkew {
		return Claims{}, millrace.Errorf(millrace.Unauthenticated,
			"The request was signed at %s and it is %s; set the host's clock.",
			c.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// text is what is signed.
func (c Claims) text(r *http.Request, body []byte) []byte {
	target := r.RequestURI // what the server read, before any router touched r.URL
	if target == "" {
		target = r.URL.RequestURI()
	}
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "millrace-agent-v1\n%s\n%s\n%s\n%s\n%d\n%d\n%d",
		r.Method, target, hex.EncodeToString(sum[:]), c.Host, c.Epoch, c.Sequence, c.Time.UnixMilli())
}

// header is the header's one legal form.
func (c Claims) header(sig []byte) string {
	return fmt.Sprintf("v1 host=%s,epoch=%d,seq=%d,time=%d,sig=%s",
		c.Host, c.Epoch, c.Sequence, c.Time.UnixMilli(), base64.RawURLEncoding.EncodeToString(sig))
}

// parseSignature reads a header. Whatever it read must give the same header again: that refuses every other spelling.
func parseSignature(h string) (c Claims, sig []byte, ok bool) {
	rest, ok := strings.CutPrefix(h, "v1 ")
	fields := strings.SplitN(rest, ",", 6)
	if !ok || len(h) > maxSignature || len(fields) != 5 {
		return Claims{}, nil, false
	}
	value := func(i int, name string) string {
		v, found := strings.CutPrefix(fields[i], name+"=")
		ok = ok && found
		return v
	}
	number := func(i int, name string) int64 {
		n, err := strconv.ParseInt(value(i, name), 10, 64)
		ok = ok && err == nil && n >= 0
		return n
	}
	err := c.Host.UnmarshalText([]byte(value(0, "host")))
	c.Epoch, c.Sequence, c.Time = number(1, "epoch"), number(2, "seq"), time.UnixMilli(number(3, "time"))
	sig, sigErr := base64.RawURLEncoding.DecodeString(value(4, "sig"))
	ok = ok && err == nil && sigErr == nil && !c.Host.IsZero() && len(sig) == ed25519.SignatureSize && c.header(sig) == h
	return c, sig, ok
}
