package githubtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Faults are what goes wrong, as PUT /_standin/faults takes it; docs/standin.md says what each does. The zero value is a
// GitHub where nothing does. Probabilities are 0 to 1 and are drawn anew each time.
type Faults struct {
	Seed uint64 `json:"seed,omitempty"` // of all draws below; 0: Config.Rand's

	// Deliveries.
	Drop      float64 `json:"drop,omitempty"`        // never sent, listed nowhere
	Fail      float64 `json:"fail,omitempty"`        // listed as failed; never reached us
	Duplicate float64 `json:"duplicate,omitempty"`   // sent twice, with one GUID
	Reorder   float64 `json:"reorder,omitempty"`     // sent late: by 0 to DelayMaxS
	DelayMaxS float64 `json:"delay_max_s,omitempty"` // 0: 30
	Truncate  float64 `json:"truncate,omitempty"`    // the body is cut, its signature is the whole one's
	HooksOff  bool    `json:"hooks_off,omitempty"`   // no deliveries at all

	// The REST API.
	API5xx         float64 `json:"api_5xx,omitempty"`
	APILatencyMS   int     `json:"api_latency_ms,omitempty"`
	StaleS         float64 `json:"stale_s,omitempty"`         // reads of runs, jobs and runners show what was so long ago
	SecondaryLimit float64 `json:"secondary_limit,omitempty"` // 403 with Retry-After; all calls until then, too
	RetryAfterS    int     `json:"retry_after_s,omitempty"`   // 0: 60
	TokenExpired   float64 `json:"token_expired,omitempty"`   // 401 for a valid installation token, once for each
	Conflict       float64 `json:"conflict,omitempty"`        // 409 for a registration
	Unprocessable  float64 `json:"unprocessable,omitempty"`   // 422 for the removal of an idle runner
	JITReplyLost   float64 `json:"jit_reply_lost,omitempty"`  // the runner is registered, and the answer is 502

	// Runners.
	NeverAssign      float64 `json:"never_assign,omitempty"`       // one that connects is online and idle, and never gets a job
	CrashAfterAssign float64 `json:"crash_after_assign,omitempty"` // one that takes its job is never heard again

	// Conditions of an owner.
	Suspended           Owners   `json:"suspended,omitempty"`
	Uninstalled         Owners   `json:"uninstalled,omitempty"`
	SelfHostedDisabled  Owners   `json:"self_hosted_disabled,omitempty"`
	PermissionMissing   Owners   `json:"permission_missing,omitempty"` // the one for runners
	IPAllowList         Owners   `json:"ip_allow_list,omitempty"`
	GroupFull           Owners   `json:"group_full,omitempty"`
	RunnerVersionTooOld Owners   `json:"runner_version_too_old,omitempty"`
	SAML                Owners   `json:"saml,omitempty"`                  // a person's token sees nothing of it
	RunnerGroupExcludes []string `json:"runner_group_excludes,omitempty"` // owner/repo: no runner of the organisation gets its jobs
}

// Owners are the logins for which a condition holds; "*" is every owner. In JSON, true is every owner, too.
type Owners []string

// UnmarshalJSON reads a list of logins, or true for all.
func (o *Owners) UnmarshalJSON(content []byte) error {
	var all bool
	if json.Unmarshal(content, &all) == nil {
		if *o = nil; all {
			*o = Owners{"*"}
		}
		return nil
	}
	return json.Unmarshal(content, (*[]string)(o))
}

func (o Owners) has(login string) bool {
	return len(o) > 0 && slices.ContainsFunc(o, func(l string) bool { return l == "*" || strings.EqualFold(l, login) })
}

// check says what is wrong with f.
func (f *Faults) check() error {
	for name, p := range map[string]float64{
		"drop": f.Drop, "fail": f.Fail, "duplicate": f.Duplicate, "reorder": f.Reorder, "truncate": f.Truncate, "api_5xx": f.API5xx,
		"secondary_limit": f.SecondaryLimit, "token_expired": f.TokenExpired, "conflict": f.Conflict, "unprocessable": f.Unprocessable,
		"jit_reply_lost": f.JITReplyLost, "never_assign": f.NeverAssign, "crash_after_assign": f.CrashAfterAssign,
	} {
		if !(p >= 0 && p <= 1) {
			return fmt.Errorf("%s is a probability, 0 to 1; got %v", name, p)
		}
	}
	if !(f.DelayMaxS >= 0) || !(f.StaleS >= 0) || f.APILatencyMS < 0 || f.RetryAfterS < 0 {
		return errors.New("delay_max_s, stale_s, api_latency_ms and retry_after_s are no less than 0")
	}
	for _, name := range f.RunnerGroupExcludes {
		if owner, repo, ok := strings.Cut(name, "/"); !ok || owner == "" || repo == "" {
			return fmt.Errorf("runner_group_excludes holds owner/repo; got %q", name)
		}
	}
	return nil
}

// String is the faults in one line.
func (f Faults) String() string {
	line := strings.NewReplacer(`"`, "", "{", "", "}", "", "[", "", "]", "", ":", " ", ",", ", ").Replace(string(mustJSON(f)))
	if line == "" {
		return "none"
	}
	return line
}

// SetFaults says what goes wrong from now on; the zero value ends all. Owners that become suspended or uninstalled, or
// stop being so, send GitHub's installation event. The error says which value can't be.
func (g *GitHub) SetFaults(f Faults) error {
	if err := f.check(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.faults
	g.faults, g.chance = f, g.cfg.Rand
	if f.Seed != 0 {
		g.chance = mathrand.New(mathrand.NewPCG(f.Seed, 0))
	}
	clear(g.etags)
	for _, login := range slices.Sorted(maps.Keys(g.owners)) {
		o := g.owners[login]
		for _, c := range []struct {
			before, after bool
			begins, ends  string
		}{
			{o.paused || was.Suspended.has(login), o.paused || f.Suspended.has(login), "suspend", "unsuspend"},
			{o.uninstalled || was.Uninstalled.has(login), o.uninstalled || f.Uninstalled.has(login), "deleted", "created"},
		} {
			switch {
			case c.after && !c.before:
				o.suspended = g.now()
				g.sendInstallation(o, c.begins, g.account(o))
			case c.before && !c.after:
				g.sendInstallation(o, c.ends, g.account(o))
			}
		}
	}
	for _, login := range slices.Sorted(maps.Keys(g.pools)) { // a runner group may be open again
		for _, j := range slices.Clone(g.pools[login].waiting) {
			g.findRunner(j)
		}
	}
	return nil
}

// Faults is what goes wrong now.
func (g *GitHub) Faults() Faults {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.faults
}

func (g *GitHub) faultRoutes() {
	g.mux.HandleFunc("GET /_standin/faults", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, g.Faults()) })
	g.mux.HandleFunc("PUT /_standin/faults", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		var object map[string]json.RawMessage
		if err != nil || json.Unmarshal(body, &object) != nil || object == nil {
			fail(w, http.StatusBadRequest, "the body is not a JSON object")
			return
		}
		var f Faults
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err = dec.Decode(&f); err == nil {
			err = g.SetFaults(f)
		}
		if err != nil {
			fail(w, http.StatusUnprocessableEntity, strings.TrimPrefix(err.Error(), "json: "))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// roll draws whether something of probability p happens. What is off draws nothing, so that it changes nothing else.
func (g *GitHub) roll(p float64) bool { return p > 0 && g.chance.Float64() < p }

// lag is how far reads are behind.
func (g *GitHub) lag() time.Duration { return time.Duration(g.faults.StaleS * float64(time.Second)) }

// readAt is the moment that reads show.
func (g *GitHub) readAt() time.Time { return g.cfg.Now().Add(-g.lag()) }

// excluded reports whether the organisation's runner group may not be used by a repository.
func (g *GitHub) excluded(login, repo string) bool {
	return len(g.faults.RunnerGroupExcludes) > 0 &&
		slices.ContainsFunc(g.faults.RunnerGroupExcludes, func(name string) bool { return strings.EqualFold(name, login+"/"+repo) })
}

// condition is what GitHub refuses a call of an installation with, because of a condition of its owner.
func (g *GitHub) condition(o *owner, c *call) error {
	f := &g.faults
	switch {
	case g.isSuspended(o):
		return refuse(http.StatusForbidden, saysSuspended)
	case f.IPAllowList.has(o.Login):
		return refuse(http.StatusForbidden, saysIPAllowList, o.Login)
	case !c.ofRunners():
		return nil
	case f.PermissionMissing.has(o.Login):
		return refuse(http.StatusForbidden, saysPermission)
	case f.SelfHostedDisabled.has(o.Login):
		return refusal{status: http.StatusForbidden, message: "Forbidden", errors: saysSelfHostedDisabled}
	}
	return nil
}

// What GitHub writes: word for word where a source is named, otherwise paraphrased.
const (
	saysSuspended  = "This installation has been suspended"   // octokit.rb's tests of InstallationSuspended
	saysPermission = "Resource not accessible by integration" // docs.github.com, "Troubleshooting the REST API"
	saysSAML       = "Resource protected by organization SAML enforcement. You must grant your OAuth token access to this organization."
	saysTooOld     = "Runner version v%s is deprecated and cannot receive messages." // actions/runner, BrokerHttpClient

	// Ubicloud's prog/github/github_runner_nexus.rb looks for its end; many logs have the whole.
	saysIPAllowList = "Although you appear to have the correct authorization credentials, the `%s` organization has an IP allow list enabled, " +
		"and your IP address is not permitted to access this resource."

	// Ubicloud looks for these words, too. Of that 403 go-github shows neither a message nor errors (runs-on/runs-on#417): so
	// they stand in "errors", as a string and not as the usual list.
	saysSelfHostedDisabled = "Repository level self-hosted runners are disabled on this repository"

	saysGroupFull    = "Invalid Argument - Runner group %d has reached max limit of 10000 runners." // ggml-org/llama.cpp#7893
	saysExceeded     = "API rate limit exceeded for installation ID %d."
	saysSecondary    = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
	saysNameTaken    = "Already exists - A runner with the name %s already exists."
	saysBusy         = "Bad request - Runner \"%s\" is still running a job\""
	saysRunning      = "This workflow is already running"
	saysNotRetried   = "This workflow run cannot be retried"
	saysNotCancelled = "Cannot cancel a workflow run that is completed."
	saysServerError  = "Server Error" // actions/runner#3479
)
