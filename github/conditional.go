package github

import (
	"bytes"
	"container/list"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// conditional asks for runs, jobs and members conditionally: a 304 costs nothing of the quota
// (https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api). It always asks, and gives the
// answer that it remembers with the new answer's headers only when GitHub says that it still holds. An ETag is good for the
// token that it was given to (github/docs issue 34689): the first answers after a renewal, once an hour, count.
type conditional struct {
	next         http.RoundTripper
	installation int64
	answers      *answers
}

// polled are parts of the paths that are asked for again and again.
var polled = []string{"/actions/runs", "/actions/jobs", "/members"}

// RoundTrip implements [http.RoundTripper].
func (c conditional) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || !slices.ContainsFunc(polled, func(part string) bool { return strings.Contains(req.URL.Path, part) }) {
		return c.next.RoundTrip(req)
	}
	key := answerKey{c.installation, req.URL.String()}
	old := c.answers.get(key)
	if old.etag != "" {
		req = req.Clone(req.Context())
		req.Header.Set("If-None-Match", old.etag)
	}
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusNotModified && old.etag != "":
		resp.Body.Close()
		resp.Status, resp.StatusCode = "200 OK", http.StatusOK
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(old.body)), int64(len(old.body))
	case resp.StatusCode == http.StatusOK:
		body, err := readAnswer(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		c.answers.put(key, remembered{resp.Header.Get("ETag"), body})
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	return resp, nil
}

// answers remembers what was last answered, and forgets what was not asked for the longest time when it is too much.
type answers struct {
	number, bytes int // the most of each

	mu    sync.Mutex
	by    map[answerKey]*list.Element
	order *list.List // of *kept, the last asked for first
	held  int        // bytes
}

type (
	answerKey struct {
		installation int64
		url          string
	}
	remembered struct {
		etag string
		body []byte // not written to
	}
	kept struct {
		key answerKey
		remembered
	}
)

func newAnswers(number, bytes int) *answers {
	return &answers{number: number, bytes: bytes, by: map[answerKey]*list.Element{}, order: list.New()}
}

func (s *answers) get(key answerKey) remembered {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.by[key]
	if !ok {
		return remembered{}
	}
	s.order.MoveToFront(e)
	return e.Value.(*kept).remembered
}

// put remembers r, or nothing of key when r has no ETag to ask with or is more than all there may be.
func (s *answers) put(key answerKey, r remembered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.by[key]; ok {
		s.remove(e)
	}
	if r.etag == "" || len(r.body) > s.bytes {
		return
	}
	s.by[key] = s.order.PushFront(&kept{key, r})
	s.held += len(r.body)
	for s.order.Len() > s.number || s.held > s.bytes {
		s.remove(s.order.Back())
	}
}

func (s *answers) remove(e *list.Element) {
	k := s.order.Remove(e).(*kept)
	delete(s.by, k.key)
	s.held -= len(k.body)
}
