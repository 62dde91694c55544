package github_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-ci/millrace"
)

const tokenRoute = "POST /app/installations/{id}/access_tokens"

// TestConditions are GitHub's refusals by what they stop. The texts are as GitHub or field reports have them, see the table.
func TestConditions(t *testing.T) {
	t.Parallel()
	now := newFar(t, nil).clock()
	epoch := func(d time.Duration) string { return "X-RateLimit-Reset: " + strconv.FormatInt(now.Add(d).Unix(), 10) }
	const spent = "X-RateLimit-Remaining: 0"
	for name, tc := range map[string]struct {
		ofToken bool
		answer  http.HandlerFunc
		code    millrace.Code
		want    millrace.WaitCode
		until   time.Duration // from now; 0: none
	}{
		"primary limit":            {false, says(403, `{"message":"API rate limit exceeded for installation ID 5."}`, spent, epoch(20*time.Minute)), millrace.LimitReached, millrace.WaitRateLimited, 20 * time.Minute},
		"primary limit by 429":     {false, says(429, `{"message":"API rate limit exceeded"}`, spent, epoch(20*time.Minute)), millrace.LimitReached, millrace.WaitRateLimited, 20 * time.Minute},
		"a clock that lags":        {false, says(403, `{}`, spent, epoch(30*time.Hour)), millrace.LimitReached, millrace.WaitRateLimited, time.Hour},
		"no reset":                 {false, says(403, `{}`, spent, "X-RateLimit-Reset: soon"), millrace.LimitReached, millrace.WaitRateLimited, time.Minute},
		"secondary limit":          {false, says(403, `{"message":"You have exceeded a secondary rate limit."}`, "Retry-After: 90", "X-RateLimit-Remaining: 4000", epoch(20*time.Minute)), millrace.LimitReached, millrace.WaitRateLimited, 90 * time.Second},
		"secondary limit by 429":   {false, says(429, `{}`, "Retry-After: 90"), millrace.LimitReached, millrace.WaitRateLimited, 90 * time.Second},
		"secondary without a time": {false, says(403, `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}`), millrace.LimitReached, millrace.WaitRateLimited, time.Minute},
		"a date for a time":        {false, says(429, `{}`, "Retry-After: Fri, 31 Dec 2027 23:59:59 GMT"), millrace.LimitReached, millrace.WaitRateLimited, time.Minute},
		"both limits":              {false, says(403, `{}`, "Retry-After: 60", spent, epoch(20*time.Minute)), millrace.LimitReached, millrace.WaitRateLimited, 20 * time.Minute},
		"years":                    {false, says(429, `{}`, "Retry-After: 99999999999"), millrace.LimitReached, millrace.WaitRateLimited, 24 * time.Hour},
		"limit of tokens":          {true, says(403, `{"message":"API rate limit exceeded"}`, spent, epoch(time.Minute)), millrace.LimitReached, millrace.WaitRateLimited, time.Minute},
		"suspended":                {true, says(403, `{"message":"This installation has been suspended"}`), millrace.Forbidden, millrace.WaitSuspended, 0},
		"suspended in a call":      {false, says(403, `{"message":"This installation has been suspended"}`), millrace.Forbidden, millrace.WaitSuspended, 0},
		"uninstalled":              {true, says(404, `{"message":"Not Found"}`), millrace.Forbidden, millrace.WaitSuspended, 0},
		"no such App":              {true, says(404, `{"message":"Integration not found"}`), millrace.Forbidden, "", 0},
		"a key that isn't GitHub's": {
			true, says(401, `{"message":"A JSON web token could not be decoded"}`), millrace.Forbidden, "", 0,
		},
		"permission":             {false, says(403, `{"message":"Resource not accessible by integration"}`), millrace.Forbidden, millrace.WaitPermission, 0},
		"IP allow list":          {false, says(403, "{\"message\":\"Although you appear to have the correct authorization credentials, the `calm` organization has an IP allow list enabled, and your IP address is not permitted to access this resource.\"}"), millrace.Forbidden, millrace.WaitIPAllowList, 0},
		"IP allow list of token": {true, says(403, `{"message":"... an IP allow list enabled, and 192.0.2.1 is not permitted to access this resource."}`), millrace.Forbidden, millrace.WaitIPAllowList, 0},
		"disabled, as errors":    {false, says(403, `{"message":"Forbidden","errors":"Repository level self-hosted runners are disabled on this repository"}`), millrace.Forbidden, millrace.WaitSelfHostedDisabled, 0},
		"disabled, in a list":    {false, says(422, `{"message":"Validation Failed","errors":["Self-hosted runners are disabled"]}`), millrace.Unprocessable, millrace.WaitSelfHostedDisabled, 0},
		"disabled, as an object": {false, says(404, `{"message":"Not Found","errors":[{"code":"custom","message":"Self-hosted runners were disabled by your organization admin."}]}`), millrace.NotFound, millrace.WaitSelfHostedDisabled, 0},
		"group":                  {false, says(403, `{"message":"Runner group 1 does not allow public repositories"}`), millrace.Forbidden, millrace.WaitRunnerGroup, 0},
		"group excludes":         {false, says(422, `{"message":"The runner group is not accessible to this repository"}`), millrace.Unprocessable, millrace.WaitRunnerGroup, 0},
		"group full":             {false, says(422, `{"message":"Invalid Argument - Runner group 1 has reached max limit of 10000 runners.","documentation_url":"https://docs.github.com/rest/actions/self-hosted-runners#create-configuration-for-a-just-in-time-runner-for-a-repository"}`), millrace.Unprocessable, millrace.WaitRunnerGroupFull, 0},
		"500":                    {false, says(500, ``), millrace.Unavailable, millrace.WaitGitHubDown, 0},
		"502":                    {false, says(502, `<html>Unicorn!</html>`), millrace.Unavailable, millrace.WaitGitHubDown, 0},
		"503":                    {false, says(503, `{"message":"Server Error"}`, "Retry-After: 5"), millrace.Unavailable, millrace.WaitGitHubDown, 0},
		"503 of token":           {true, says(503, ``), millrace.Unavailable, millrace.WaitGitHubDown, 0},
		"taken":                  {false, says(409, `{"message":"Already exists"}`), millrace.Conflict, "", 0},
		"not acceptable":         {false, says(422, `{"message":"Validation Failed","errors":[{"resource":"runner","field":"name"}],"documentation_url":"https://docs.github.com/a/runner-group/of/a-repository"}`), millrace.Unprocessable, "", 0},
		"not found":              {false, says(404, `{"message":"Not Found"}`), millrace.NotFound, "", 0},
		"no JSON":                {false, says(403, `Request forbidden by administrative rules.`), millrace.Forbidden, "", 0},
		"another shape":          {false, says(403, `["self-hosted runners are disabled"]`), millrace.Forbidden, "", 0},
		"403 of token":           {true, says(403, `{"message":"Forbidden"}`), millrace.Forbidden, "", 0},
		"no answer to read":      {false, says(201, `<html>`), millrace.Unavailable, "", 0},
		"no token":               {true, says(201, `{}`), millrace.Unavailable, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			routes := map[string]http.HandlerFunc{"POST /orgs/calm/actions/runners/generate-jitconfig": tc.answer}
			if tc.ofToken {
				routes = map[string]http.HandlerFunc{tokenRoute: tc.answer}
			}
			f := newFar(t, routes)
			_, err := f.App.CreateJIT(t.Context(), f.org(), "vm", []string{"millrace"})
			wantCode(t, err, tc.code)
			var want time.Time
			if tc.until != 0 {
				want = now.Add(tc.until)
			}
			c := millrace.ConditionOf(err)
			switch {
			case tc.want == "" && c != nil:
				t.Errorf("a condition: %v", c)
			case tc.want != "" && (c == nil || c.Code != tc.want || !c.Until.Equal(want) || c.Detail == "" || len(c.Detail) > 1024):
				t.Errorf("condition %+v, want %s until %v", c, tc.want, want)
			}
			if strings.Contains(fmt.Sprintf("%v %+v", err, err), "ghs_") {
				t.Errorf("the error shows a token: %v", err)
			}
			if tc.ofToken {
				wantCode(t, f.App.DeleteRunner(t.Context(), f.org(), 7), tc.code) // and never that it is gone
			}
		})
	}
}

func TestWhatGitHubSaidIsTheDetail(t *testing.T) {
	t.Parallel()
	for want, answer := range map[string]http.HandlerFunc{
		"Forbidden: Repository level self-hosted runners are disabled on this repository": says(403, `{"message":"Forbidden","errors":"Repository level self-hosted runners are disabled on this repository"}`),
		"GitHub answered 502 Bad Gateway":                                                 says(502, `<html>`),
		"GitHub answered 520":                                                             says(520, ``),
		"Server Error":                                                                    says(500, `{"message":"Server \u0000Error"}`),
	} {
		f := newFar(t, map[string]http.HandlerFunc{"GET /orgs/calm/actions/runners": answer})
		_, err := f.App.ListRunners(t.Context(), f.org())
		if c := millrace.ConditionOf(err); c == nil || c.Detail != want {
			t.Errorf("%v, want %q", c, want)
		}
	}
}

// TestNoAnswer: GitHub is down when it can't be reached or lets a call hang, and not when the caller gave up.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	hang := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	for name, tc := range map[string]struct {
		transport roundTripper
		give      time.Duration // the caller's time; 0: no end
		want      millrace.WaitCode
	}{
		"connection refused":     {func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }, 0, millrace.WaitGitHubDown},
		"a call that hangs":      {hang, 0, millrace.WaitGitHubDown},
		"a caller with a minute": {hang, time.Minute, millrace.WaitGitHubDown},
		"a caller with a second": {hang, time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFar(t, noRunners)
				for part, app := range map[string]roundTripper{"token": tc.transport, "call": func(r *http.Request) (*http.Response, error) {
					if strings.HasSuffix(r.URL.Path, "/access_tokens") {
						return f.roundTrip(r)
					}
					return tc.transport(r)
				}} {
					ctx, cancel := context.WithCancel(t.Context())
					if tc.give != 0 {
						ctx, cancel = context.WithTimeout(t.Context(), tc.give)
					}
					_, err := f.newApp(t, app).ListRunners(ctx, f.org())
					cancel()
					wantCode(t, err, millrace.Unavailable)
					c := millrace.ConditionOf(err)
					if (tc.want == "") != (c == nil) || c != nil && (c.Code != tc.want || !c.Until.IsZero()) {
						t.Errorf("%s: condition %v, want %q", part, c, tc.want)
					}
				}
			})
		})
	}
	f := newFar(t, noRunners)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.App.ListRunners(ctx, f.org())
	wantCode(t, err, millrace.Unavailable)
	if c := millrace.ConditionOf(err); c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", c, err)
	}
}
