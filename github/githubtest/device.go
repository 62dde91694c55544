package githubtest

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The device flow signs in what has no browser of its own
// (https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps#device-flow).

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

	deviceLife     = 15 * time.Minute
	deviceInterval = 5 // seconds between polls, and what a poll that comes too early adds
)

// device waits to be signed in.
type device struct {
	code, userCode string
	expires        time.Time
	interval       int
	polled         time.Time
	person         *person // who confirmed
	denied         bool
}

var (
	errPending = loginError{code: "authorization_pending", description: "The authorization request is still pending.", page: "authorization-request-errors/"}
	errExpired = loginError{code: "expired_token", description: "This 'device_code' has expired."}
	errDevice  = loginError{code: "incorrect_device_code", description: "The device_code provided is not valid."}
	errDenied  = loginError{code: "access_denied", description: "The authorization request was denied."}
)

func (g *GitHub) deviceCode(in url.Values) (map[string]any, error) {
	if in.Get("client_id") != clientID {
		return nil, errClient
	}
	now := g.cfg.Now()
	d := &device{code: g.randomHex(20), userCode: g.userCode(), expires: now.Add(deviceLife), interval: deviceInterval}
	for text, old := range g.devices { // an expired one is remembered for a while, to say so
		if now.Sub(old.expires) > time.Hour {
			delete(g.devices, text)
		}
	}
	g.devices[d.code] = d
	return map[string]any{
		"device_code": d.code, "user_code": d.userCode, "verification_uri": g.cfg.URL + "/login/device",
		"expires_in": int(deviceLife.Seconds()), "interval": d.interval,
	}, nil
}

// userCode is what a person types: no vowels, so that it spells nothing (RFC 8628, 6.1).
func (g *GitHub) userCode() string {
	const letters = "BCDFGHJKLMNPQRSTVWXZ"
	b := g.randomBytes(8)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b[:4]) + "-" + string(b[4:])
}

func (g *GitHub) pollDevice(code string) (map[string]any, error) {
	now := g.cfg.Now()
	d, ok := g.devices[code]
	switch {
	case !ok:
		return nil, errDevice
	case !d.expires.After(now):
		return nil, errExpired
	case now.Sub(d.polled) < time.Duration(d.interval)*time.Second:
		d.polled = now
		d.interval += deviceInterval
		return nil, loginError{code: "slow_down", description: "Too many requests have been made in the same timeframe.", interval: d.interval}
	}
	d.polled = now
	switch {
	case d.denied:
		return nil, errDenied
	case d.person == nil:
		return nil, errPending
	}
	delete(g.devices, code)
	return g.tokenFor(d.person, true), nil
}

// waiting is the device that shows that code and was not answered; nil when there is none.
func (g *GitHub) waitingDevice(userCode string) *device {
	userCode = strings.ToUpper(strings.TrimSpace(userCode))
	for _, d := range g.devices {
		if d.userCode == userCode && d.person == nil && !d.denied && d.expires.After(g.cfg.Now()) {
			return d
		}
	}
	return nil
}

// ApproveDevice plays a person who types a device's code and agrees, or refuses; false when no device shows that code.
func (g *GitHub) ApproveDevice(userCode, login string, agrees bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, p := g.waitingDevice(userCode), g.logins[strings.ToLower(login)]
	if d == nil || p == nil {
		return false
	}
	d.answer(p, agrees)
	return true
}

func (d *device) answer(p *person, agrees bool) {
	if !agrees {
		d.denied = true
		return
	}
	d.person, p.authorized = p, true
}

// deviceRoutes are the pages. They never go on silently, also for somebody who has authorised the App before: it is a code
// that somebody else may have sent.
func (g *GitHub) deviceRoutes() {
	g.screen("GET /login/device", func(_ *http.Request, who *person) screen {
		if who == nil {
			return g.askWho("/login/device", "")
		}
		return askCode(who, http.StatusOK, "Type the code that your device shows.")
	})
	g.screen("POST /login/device", func(r *http.Request, who *person) screen {
		if who == nil {
			return g.askWho("/login/device", "")
		}
		d := g.waitingDevice(r.PostFormValue("user_code"))
		if d == nil {
			return askCode(who, http.StatusUnprocessableEntity, "No device waits with this code.")
		}
		answer := r.PostFormValue("authorize")
		if answer == "" {
			fields := func(answer string) []field { return []field{{"user_code", d.userCode}, {"authorize", answer}} }
			return screen{status: http.StatusOK, page: pageData{Title: "Authorize Millrace on a device", Ask: &ask{
				Text: "Only go on if you yourself see " + d.userCode + " on your own device. It will be signed in as " + who.Login + ".",
				Forms: []askForm{
					{Title: "It is my device", Action: "/login/device", Fields: fields("1"), Button: "Authorize Millrace"},
					{Title: "It is not", Action: "/login/device", Fields: fields("0"), Button: "Cancel"},
				},
			}}}
		}
		d.answer(who, answer == "1")
		title := "Your device is signed in"
		if d.denied {
			title = "You refused"
		}
		return screen{status: http.StatusOK, page: pageData{Title: title, Ask: &ask{Text: "You can close this page."}}}
	})
}

func askCode(who *person, status int, text string) screen {
	return screen{status: status, page: pageData{Title: "Sign in a device", Ask: &ask{
		Text:  "You are signed in as " + who.Login + ".",
		Forms: []askForm{{Title: "Code", Text: text, Action: "/login/device", Input: "user_code", Button: "Continue"}},
	}}}
}
