package githubtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// listing is one page of a list of total.
type listing struct {
	total int
	body  any
	sso   string // its X-GitHub-SSO header: what it says nothing of
	next  string // its Link header, where pages have cursors and not numbers
}

// page is what ?page and ?per_page say.
func page(r *http.Request) (n, size int) {
	size, err := strconv.Atoi(r.FormValue("per_page"))
	if err != nil || size < 1 {
		size = 30
	}
	n, err = strconv.Atoi(r.FormValue("page"))
	if err != nil || n < 1 || n > 1_000_000 {
		n = 1
	}
	return n, min(size, 100)
}

// paged cuts that page out of a list.
func paged[T any](r *http.Request, list []T) []T {
	n, size := page(r)
	from := min((n-1)*size, len(list))
	return list[from:min(from+size, len(list))]
}

// link says where a list's other pages are
// (https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api).
func (g *GitHub) link(h http.Header, r *http.Request, total int) {
	n, size := page(r)
	last := (total + size - 1) / size
	var links []string
	to := func(n int, rel string) {
		q := r.URL.Query()
		q.Set("page", strconv.Itoa(n))
		links = append(links, fmt.Sprintf("<%s%s?%s>; rel=%q", g.cfg.URL, r.URL.EscapedPath(), q.Encode(), rel))
	}
	if n > 1 {
		to(n-1, "prev")
	}
	if n < last {
		to(n+1, "next")
		to(last, "last")
	}
	if n > 1 {
		to(1, "first")
	}
	if len(links) > 0 {
		h.Set("Link", strings.Join(links, ", "))
	}
}
