package github

import (
	"strings"
	"sync"
	"testing"
)

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	key := func(url string) answerKey { return answerKey{1, url} }
	put := func(s *answers, url string, size int) {
		s.put(key(url), remembered{`"` + url + `"`, []byte(strings.Repeat("x", size))})
	}
	holds := func(s *answers, urls string) {
		t.Helper()
		var order strings.Builder
		for e := s.order.Front(); e != nil; e = e.Next() {
			order.WriteString(e.Value.(*kept).key.url)
		}
		size := 0
		for _, e := range s.by {
			size += len(e.Value.(*kept).body)
		}
		if got := order.String(); got != urls || len(s.by) != len(urls) || s.held != size {
			t.Errorf("holds %q (%d, %d bytes, said to be %d), want %q", got, len(s.by), size, s.held, urls)
		}
	}
	s := newAnswers(3, 100)
	for _, url := range []string{"a", "b", "c", "d"} {
		put(s, url, 1)
	}
	holds(s, "dcb")
	s.get(key("b"))
	put(s, "e", 1)
	holds(s, "ebd")
	put(s, "b", 99)
	holds(s, "be")
	put(s, "f", 50)
	holds(s, "f")
	put(s, "g", 101) // alone too much
	holds(s, "f")
	put(s, "h", 1)
	s.put(key("h"), remembered{"", nil}) // an answer that can't be asked for by its ETag is none
	holds(s, "f")
	if got := s.get(answerKey{2, "h"}); got.etag != "" {
		t.Errorf("another installation's: %+v", got)
	}

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for _, url := range strings.Split("abcdefgh", "") {
				put(s, url, 40)
				s.get(key(url))
			}
		})
	}
	all.Wait()
	if s.held > 100 || s.order.Len() > 2 {
		t.Errorf("holds %d bytes of %d", s.held, s.order.Len())
	}
}
