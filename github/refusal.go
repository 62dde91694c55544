package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// refusal is an answer that isn't 2xx.
type refusal struct {
	call    string // method and path
	status  int
	header  http.Header
	message string // GitHub's own, with its list of errors; "" when it is no JSON
	ofToken bool   // an installation's token was refused, not the call
}

// Error says what was asked and answered.
func (r *refusal) Error() string { return fmt.Sprintf("%s: %d %s", r.call, r.status, r.message) }

// unreachable is a call that got no answer, or not the whole of it.
type unreachable struct{ cause error }

// Error is the cause.
func (u *unreachable) Error() string { return u.cause.Error() }

// Unwrap is the cause.
func (u *unreachable) Unwrap() error { return u.cause }

// messageOf is what an answer's body says: {"message": …, "errors": …}, where the errors are a text, or a list of texts or of
// objects with a message. The reason is sometimes in the errors alone.
func messageOf(body []byte) string {
	var said struct {
		Message string `json:"message"`
		Errors  any    `json:"errors"`
	}
	if json.Unmarshal(body, &said) != nil {
		return ""
	}
	texts := []string{said.Message}
	list, ok := said.Errors.([]any)
	if !ok {
		list = []any{said.Errors}
	}
	for _, e := range list {
		if object, ok := e.(map[string]any); ok {
			e = object["message"]
		}
		if text, ok := e.(string); ok {
			texts = append(texts, text)
		}
	}
	return clean(strings.Trim(strings.Join(texts, ": "), ": "))
}

// translate maps what GitHub answers to our codes, and names the condition that stops jobs when it is one; the chain is kept
// for the log. ctx is the caller's.
func (a *App) translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	condition := a.condition(ctx, err)
	code, sentence := millrace.Unavailable, "GitHub could not be reached."
	if condition != nil && condition.Code == millrace.WaitRateLimited {
		code, sentence = millrace.LimitReached, "GitHub's rate limit is used up."
	}
	var refused *refusal
	if errors.As(err, &refused) {
		known, ok := refusals[refused.status]
		switch {
		case code == millrace.LimitReached:
		case refused.ofToken && refused.status >= 400 && refused.status < 500: // 404 says nothing of a runner: the App may not ask
			code, sentence = millrace.Forbidden, "The GitHub App may not act for this owner: it was uninstalled or suspended there, or its key is not GitHub's."
		case ok:
			code, sentence = known, "GitHub refused: "+refused.message
		}
	}
	coded := millrace.Errorf(code, "%s", sentence)
	if condition == nil {
		return fmt.Errorf("%w: %w", coded, err)
	}
	return fmt.Errorf("%w: %w: %w", coded, condition, err)
}

// refusals are the statuses that say something of the request; any other is GitHub's own trouble.
var refusals = map[int]millrace.Code{
	http.StatusUnauthorized:        millrace.Forbidden,
	http.StatusForbidden:           millrace.Forbidden,
	http.StatusNotFound:            millrace.NotFound,
	http.StatusConflict:            millrace.Conflict,
	http.StatusUnprocessableEntity: millrace.Unprocessable,
}

// conditions are the refusals that stop jobs, by status and by what GitHub says, in lower case; all texts of a row must be
// there. GitHub documents none of them.
var conditions = []struct {
	code     millrace.WaitCode
	statuses []int
	texts    []string
}{
	// "This installation has been suspended", of a token (octokit.rb, InstallationSuspended).
	{millrace.WaitSuspended, []int{403}, []string{"installation", "suspended"}},
	// "Resource not accessible by integration": a permission or a repository that the App was not given
	// (actions/create-github-app-token issue 258).
	{millrace.WaitPermission, []int{403}, []string{"resource not accessible by integration"}},
	// "Although you appear to have the correct authorization credentials, the `x` organization has an IP allow list enabled,
	// and your IP address is not permitted to access this resource.", as field reports quote it.
	{millrace.WaitIPAllowList, []int{403}, []string{"ip allow list"}},
	{millrace.WaitIPAllowList, []int{403}, []string{"ip address is not permitted"}},
	// {"message": "Forbidden", "errors": "Repository level self-hosted runners are disabled on this repository"}: ubicloud,
	// prog/github/github_runner_nexus.rb. The other statuses and the organisation's case are guesses.
	{millrace.WaitSelfHostedDisabled, []int{403, 404, 422}, []string{"self-hosted runners", "disabled"}},
	// "Invalid Argument - Runner group 1 has reached max limit of 10000 runners.": ggml-org/llama.cpp issue 7893.
	{millrace.WaitRunnerGroupFull, []int{403, 422}, []string{"runner group", "max limit"}},
	// A guess: GitHub more often says nothing and leaves the runner without a job.
	{millrace.WaitRunnerGroup, []int{403, 404, 422}, []string{"runner group", "repositor"}},
}

// condition is why GitHub refuses, when that stops jobs and not only this call; nil when it doesn't or isn't known. That a
// caller gave up, or gave less time than a call has, says nothing of GitHub.
func (a *App) condition(ctx context.Context, err error) *millrace.Condition {
	var lost *unreachable
	if errors.As(err, &lost) {
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			return &millrace.Condition{Code: millrace.WaitGitHubDown, Detail: fmt.Sprintf("GitHub did not answer within %v.", callTimeout)}
		default:
			return &millrace.Condition{Code: millrace.WaitGitHubDown, Detail: "GitHub could not be reached."}
		}
	}
	var p *pause
	if errors.As(err, &p) {
		return &millrace.Condition{Code: millrace.WaitRateLimited, Detail: p.Error(), Until: p.until}
	}
	var r *refusal
	if !errors.As(err, &r) {
		return nil
	}
	said := strings.ToLower(r.message)
	if until, limited := r.rateLimit(said, a.cfg.Now()); limited {
		return &millrace.Condition{Code: millrace.WaitRateLimited, Detail: r.detail(), Until: until}
	}
	if r.status >= 500 {
		return &millrace.Condition{Code: millrace.WaitGitHubDown, Detail: r.detail()}
	}
	if r.ofToken && r.status == http.StatusNotFound && !r.noSuchApp() { // no token for want of an installation
		return &millrace.Condition{Code: millrace.WaitSuspended, Detail: r.detail()}
	}
	for _, c := range conditions {
		if slices.Contains(c.statuses, r.status) && !slices.ContainsFunc(c.texts, func(text string) bool { return !strings.Contains(said, text) }) {
			return &millrace.Condition{Code: c.code, Detail: r.detail()}
		}
	}
	return nil
}

// noSuchApp reports whether GitHub says that it knows no App of our id: our mistake (actions/create-github-app-token issue 76).
func (r *refusal) noSuchApp() bool {
	return strings.Contains(strings.ToLower(r.message), "integration not found")
}

// detail is what GitHub said, for people.
func (r *refusal) detail() string {
	if r.message == "" {
		return strings.TrimSpace(fmt.Sprintf("GitHub answered %d %s", r.status, http.StatusText(r.status)))
	}
	return r.message
}

// rateLimit reports whether a refusal is about a rate limit, and until when GitHub asks to wait: Retry-After, the reset of a
// used-up quota, or else a minute (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api, "Exceeding
// the rate limit"). The reset is by GitHub's clock and a quota lasts an hour: by a clock that lags, it would be later than that.
func (r *refusal) rateLimit(said string, now time.Time) (until time.Time, limited bool) {
	if r.status != http.StatusForbidden && r.status != http.StatusTooManyRequests {
		return time.Time{}, false
	}
	after, err := strconv.Atoi(r.header.Get("Retry-After"))
	asked := err == nil && after >= 0
	spent := r.header.Get("X-RateLimit-Remaining") == "0"
	if !asked && !spent && r.status != http.StatusTooManyRequests && !strings.Contains(said, "rate limit") {
		return time.Time{}, false
	}
	const day = 24 * 60 * 60
	if asked {
		until = now.Add(time.Duration(min(after, day)) * time.Second)
	}
	if reset := unix(r.header.Get("X-RateLimit-Reset")); spent && !reset.IsZero() {
		if hour := now.Add(time.Hour); reset.After(hour) {
			reset = hour
		}
		if reset.After(until) {
			until = reset
		}
	}
	if until.IsZero() {
		until = now.Add(time.Minute)
	}
	return until.UTC(), true
}

// unix is a time that a header gives in seconds; zero when it doesn't.
func unix(text string) time.Time {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}
