package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

const restTimeout = 30 * time.Second

// REST reads and changes one org through the REST API.
type REST struct {
	URL   string
	Org   string // slug
	Token millrace.Secret
	HTTP  *http.Client // [NewHTTP], or a test's; not nil
}

// JobQuery narrows a list of jobs; its zero value is all of them, newest first.
type JobQuery struct {
	Status     []millrace.JobStatus
	Repository string
	Cursor     string
	Limit      int // 0: the server's choice
}

// Jobs is one page of jobs.
func (c REST) Jobs(ctx context.Context, q JobQuery) (List[Job], error) {
	v := url.Values{}
	status := make([]string, 0, len(q.Status))
	for _, s := range q.Status {
		status = append(status, string(s))
	}
	set(v, "status", strings.Join(status, ","))
	set(v, "repository", q.Repository)
	set(v, "cursor", q.Cursor)
	setLimit(v, q.Limit)
	return get[List[Job]](ctx, c, "jobs", v)
}

// Job is one job.
func (c REST) Job(ctx context.Context, id millrace.JobID) (Job, error) {
	return get[Job](ctx, c, "jobs/"+id.String(), nil)
}

// UsageQuery is a grouping and a window; zero times are the server's choice.
type UsageQuery struct {
	By       millrace.UsageBy
	From, To time.Time
}

// Usage is the use of the org's completed jobs by group.
func (c REST) Usage(ctx context.Context, q UsageQuery) (List[Usage], error) {
	v := url.Values{}
	set(v, "by", string(q.By))
	for name, t := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !t.IsZero() {
			v.Set(name, t.UTC().Format(time.RFC3339))
		}
	}
	return get[List[Usage]](ctx, c, "usage", v)
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

func setLimit(v url.Values, n int) {
	if n != 0 {
		v.Set("limit", strconv.Itoa(n))
	}
}

// get reads /api/v1/orgs/{org}/<path>?<query>.
func get[T any](ctx context.Context, c REST, path string, query url.Values) (T, error) {
	return send[T](ctx, c, http.MethodGet, path, query, nil)
}

// post has something made at /api/v1/orgs/{org}/<path>.
func post[T any](ctx context.Context, c REST, path string, body any) (T, error) {
	return send[T](ctx, c, http.MethodPost, path, nil, body)
}

// remove deletes /api/v1/orgs/{org}/<path>.
func remove(ctx context.Context, c REST, path string) error {
	_, err := send[struct{}](ctx, c, http.MethodDelete, path, nil, nil)
	return err
}

// send asks for /api/v1/orgs/{org}/<path>?<query>, with a body as JSON unless it is nil.
func send[T any](ctx context.Context, c REST, method, path string, query url.Values, body any) (T, error) {
	var out T
	_, err := c.send(ctx, method, path, query, body, &out)
	return out, err
}

// send is [send] with a place for the answer; see [do].
func (c REST) send(ctx context.Context, method, path string, query url.Values, body, out any) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	u := strings.TrimSuffix(c.URL, "/") + "/api/v1/orgs/" + url.PathEscape(c.Org) + "/" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+c.Token.Reveal())
	return do(c.HTTP, r, maxRESTBody, out)
}
