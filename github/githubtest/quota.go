package githubtest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GitHub's limits (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api and
// https://docs.github.com/en/actions/reference/limits).
const (
	perHour              = 5_000  // calls of an installation, and as the App
	registrationsPerHour = 10_000 // of an installation's own bucket, actions_runner_registration
	pointsPerMinute      = 900    // of an installation at one endpoint
	pointsRead           = 1
	pointsWrite          = 5
	registrationsAtOnce  = 1_500 // of an organisation or repository, within registrationsWithin
	registrationsWithin  = 5 * time.Minute
	groupHolds           = 10_000 // runners
)

// window counts what happens until it ends; the next begins with what happens next.
type window struct {
	used int
	ends time.Time
}

// spend adds n if no more than most is used then.
func (w *window) spend(now time.Time, lasts time.Duration, n, most int) bool {
	w.renew(now, lasts)
	if w.used+n > most {
		return false
	}
	w.used += n
	return true
}

func (w *window) renew(now time.Time, lasts time.Duration) {
	if !now.Before(w.ends) {
		*w = window{0, now.Add(lasts)}
	}
}

// quota is what one installation, the App, or everybody without credentials may call.
type quota struct {
	installation       int64
	limit              int
	core, registration window
	points             map[string]*window // by endpoint
	scopes             map[string]*window // registrations, by organisation or repository
	wait               time.Time          // the end of the Retry-After that was announced
}

func newQuota(installation int64, limit int) *quota {
	return &quota{installation: installation, limit: limit, points: map[string]*window{}, scopes: map[string]*window{}}
}

// resource is the bucket that a call counts in.
func (q *quota) resource(c *call) (w *window, name string, limit int) {
	if c.registers {
		return &q.registration, "actions_runner_registration", registrationsPerHour
	}
	return &q.core, "core", q.limit
}

// Violation is a call that a well-behaved App does not make.
type Violation struct {
	At           time.Time `json:"at"`
	Installation int64     `json:"installation"` // 0: as the App
	Method       string    `json:"method"`
	Path         string    `json:"path"`
	Reason       string    `json:"reason"` // "retry-after": within a wait that was announced; "exhausted": after remaining was 0
	Until        time.Time `json:"until"`
}

// Violations are the calls that came within a Retry-After that had been announced to their installation, or after
// x-ratelimit-remaining had been 0; the first 10,000.
func (g *GitHub) Violations() []Violation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.violations)
}

func (g *GitHub) violated(c *call, reason string, until time.Time) {
	if len(g.violations) < 10_000 {
		g.violations = append(g.violations, Violation{g.cfg.Now().UTC(), c.quota.installation, c.r.Method, c.path(), reason, until.UTC()})
	}
}

// admit counts a call against the limits other than the hourly one, which a 304 does not count against. The error is
// GitHub's refusal.
func (g *GitHub) admit(c *call) error {
	now, q := g.cfg.Now(), c.quota
	hour, _, limit := q.resource(c)
	hour.renew(now, time.Hour)
	switch {
	case now.Before(q.wait):
		g.violated(c, "retry-after", q.wait)
		return refuse(http.StatusForbidden, saysSecondary)
	case hour.used >= limit:
		g.violated(c, "exhausted", hour.ends)
		return refuse(http.StatusForbidden, saysExceeded, q.installation)
	}
	if g.roll(g.faults.SecondaryLimit) {
		q.wait = now.Add(time.Duration(g.retryAfter()) * time.Second)
		return refuse(http.StatusForbidden, saysSecondary)
	}
	points := pointsRead
	if c.r.Method != http.MethodGet {
		points = pointsWrite
	}
	endpoint := q.window(q.points, c.pattern)
	if !endpoint.spend(now, time.Minute, points, pointsPerMinute) {
		q.wait = endpoint.ends
		return refuse(http.StatusForbidden, saysSecondary)
	}
	if c.registers {
		scope := q.window(q.scopes, strings.ToLower(c.r.PathValue("owner")+"/"+c.r.PathValue("repo")))
		if !scope.spend(now, registrationsWithin, 1, registrationsAtOnce) {
			q.wait = scope.ends
			return refuse(http.StatusForbidden, saysSecondary)
		}
	}
	return nil
}

func (g *GitHub) retryAfter() int {
	if g.faults.RetryAfterS > 0 {
		return g.faults.RetryAfterS
	}
	return 60
}

func (q *quota) window(of map[string]*window, key string) *window {
	w, ok := of[key]
	if !ok {
		w = &window{}
		of[key] = w
	}
	return w
}

// headers tells what is left, and for how long not to call.
func (q *quota) headers(h http.Header, c *call, now time.Time, status int) {
	hour, name, limit := q.resource(c)
	hour.renew(now, time.Hour)
	h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	h.Set("X-RateLimit-Used", strconv.Itoa(hour.used))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, limit-hour.used)))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(hour.ends.Unix(), 10))
	h.Set("X-RateLimit-Resource", name)
	if status == http.StatusForbidden && now.Before(q.wait) {
		h.Set("Retry-After", strconv.Itoa(int((q.wait.Sub(now)+time.Second-1)/time.Second)))
	}
}

// rateLimit is GET /rate_limit, which counts nowhere.
func (g *GitHub) rateLimit(c *call) (int, any, error) {
	now, q := g.cfg.Now(), c.quota
	q.core.renew(now, time.Hour)
	q.registration.renew(now, time.Hour)
	of := func(w window, limit int) map[string]any {
		return map[string]any{"limit": limit, "used": w.used, "remaining": max(0, limit-w.used), "reset": w.ends.Unix()}
	}
	core := of(q.core, q.limit)
	return http.StatusOK, map[string]any{
		"resources": map[string]any{"core": core, "actions_runner_registration": of(q.registration, registrationsPerHour)}, "rate": core,
	}, nil
}
