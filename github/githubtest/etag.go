package githubtest

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

// etag is what the last answer to a GET was, and of which version of what it shows.
type etag struct {
	version uint64
	sum     [8]byte
}

// maxEtags bounds how many are kept: they are only there so that a GET of something that did not change costs nothing.
const maxEtags = 20_000

// fresh is the ETag that a conditional GET has, if nothing has changed since the last answer; "" means that the answer
// must be made to know.
func (c *call) fresh(g *GitHub) string {
	if c.version == nil || g.faults.StaleS > 0 || c.r.Header.Get("If-None-Match") == "" {
		return ""
	}
	last, ok := g.etags[c.r.URL.RequestURI()]
	if !ok || last.version != c.version(c.r) {
		return ""
	}
	if tag := c.format(last.sum); matches(c.r, tag) {
		return tag
	}
	return ""
}

// tag is the ETag of an answer.
func (c *call) tag(g *GitHub, content []byte) string {
	sum := sha256.Sum256(content)
	short := [8]byte(sum[:])
	if c.version != nil && g.faults.StaleS == 0 {
		if len(g.etags) >= maxEtags {
			clear(g.etags)
		}
		g.etags[c.r.URL.RequestURI()] = etag{c.version(c.r), short}
	}
	return c.format(short)
}

// format makes an ETag that depends, as GitHub's does, on the credential too: one of an earlier token never matches
// (https://www.bored-engineer.com/posts/github-etag-algorithm/).
func (c *call) format(sum [8]byte) string {
	content := make([]byte, 0, 128)
	content = append(content, sum[:]...)
	whole := sha256.Sum256(append(content, c.salt...))
	return `W/"` + hex.EncodeToString(whole[:]) + `"`
}

// matches reports whether a conditional GET names this ETag; comparison is weak (RFC 9110, 13.1.2).
func matches(r *http.Request, tag string) bool {
	for one := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if one = strings.TrimSpace(one); one != "" && strings.TrimPrefix(one, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}
