package store_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store/storetest"
)

var deviceScopes = []millrace.Permission{millrace.JobsRead, millrace.HostsWrite}

// device begins the sign-in of a program.
func (w *world) device() (userCode, deviceCode string) {
	w.t.Helper()
	d, secret, err := w.st.CreateDeviceAuthorization(w.t.Context(), "millrace CLI on rack-1", deviceScopes, millrace.Device{Address: "192.0.2.1", UserAgent: "cli"})
	if err != nil {
		w.t.Fatal(err)
	}
	return d.UserCode, secret.Reveal()
}

// typed has a user type a code.
func (w *world) typed(user millrace.UserID, userCode string) error {
	_, err := w.st.DeviceAuthorization(w.t.Context(), user, userCode)
	return err
}

// redeem asks for the token.
func (w *world) redeem(deviceCode string) (millrace.APIToken, millrace.Secret, error) {
	token, _, secret, err := w.st.RedeemDevice(w.t.Context(), deviceCode, millrace.Device{Address: "192.0.2.2"}, "req_1")
	return token, secret, err
}

// memberOf is another member of the org.
func (w *world) memberOf(tenant storetest.Tenant, githubID int64, role millrace.Role) millrace.UserID {
	w.t.Helper()
	secret, err := w.st.SignInPerson(w.t.Context(), millrace.GitHubPerson{
		User: millrace.User{GitHubID: githubID, Login: "other"}, Installations: []millrace.PersonInstallation{{Installation: tenant.Installation, Member: true}},
	}, millrace.Device{})
	if err != nil {
		w.t.Fatal(err)
	}
	session, err := w.st.SessionUser(w.t.Context(), secret.Reveal())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.st.Org(tenant.ID).SetRole(w.t.Context(), tenant.Caller(), session.User.ID, role); err != nil {
		w.t.Fatal(err)
	}
	return session.User.ID
}

// A program gets one token, of whoever agreed, with no more than they may; nobody gets one by guessing, late, twice, or with
// what another typed or refused (RFC 8628 §5.1, §5.4).
func TestDeviceAuthorization(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.memberOf(w.Tenant, 77, millrace.RoleMember)

	userCode, deviceCode := w.device()
	_, _, err := w.redeem(deviceCode)
	code(t, err, millrace.Conflict)
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.LimitReached) // asked at once again
	w.advance(millrace.DeviceInterval)
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.LimitReached) // and must wait for longer now
	w.advance(4 * millrace.DeviceInterval)
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Conflict)

	code(t, w.st.DecideDevice(t.Context(), w.Owner.ID, userCode, w.ID, 30), millrace.NotFound) // not typed yet
	code(t, w.typed(w.Owner.ID, userCode), "")
	code(t, w.typed(other, userCode), millrace.NotFound) // it is the owner's now
	code(t, w.st.DecideDevice(t.Context(), other, userCode, w.ID, 30), millrace.NotFound)
	for _, days := range []int{-1, 0, millrace.MaxTokenDays + 1} {
		code(t, w.st.DecideDevice(t.Context(), w.Owner.ID, userCode, w.ID, days), millrace.Unprocessable)
	}
	code(t, w.st.DecideDevice(t.Context(), w.Owner.ID, userCode, w.ID, 30), "")
	code(t, w.st.DecideDevice(t.Context(), w.Owner.ID, userCode, 0, 0), millrace.NotFound) // decided
	code(t, w.typed(w.Owner.ID, userCode), millrace.NotFound)

	var tries sync.WaitGroup
	var made atomic.Int64
	for range 20 {
		tries.Go(func() {
			token, secret, err := w.redeem(deviceCode)
			if err != nil {
				code(t, err, millrace.Invalid)
				return
			}
			made.Add(1)
			if token.UserID != w.Owner.ID || token.Login != w.Owner.Login || !slices.Equal(token.Scopes, deviceScopes) || !token.ExpiresAt.Equal(w.now().AddDate(0, 0, 30)) {
				t.Errorf("%+v", token)
			}
			if _, err := w.st.TokenAuth(t.Context(), secret.Reveal(), millrace.Device{}); err != nil {
				t.Error(err)
			}
		})
	}
	tries.Wait()
	if made.Load() != 1 {
		t.Errorf("%d tokens of one sign-in", made.Load())
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM audit WHERE action = 'api_token.created' AND actor_kind = 'user' AND actor_id = $1 AND actor_name = $2 AND address = '192.0.2.2' AND request_id = 'req_1'`,
		w.Owner.ID.String(), w.Owner.Login); n != 1 {
		t.Errorf("%d entries of the audit log", n)
	}

	userCode, deviceCode = w.device() // a member, who may give no hosts:write
	code(t, w.typed(other, userCode), "")
	code(t, w.st.DecideDevice(t.Context(), other, userCode, w.ID, 7), "")
	token, _, err := w.redeem(deviceCode)
	if code(t, err, ""); !slices.Equal(token.Scopes, []millrace.Permission{millrace.JobsRead}) {
		t.Errorf("a member's: %v", token.Scopes)
	}

	userCode, deviceCode = w.device() // refused
	code(t, w.typed(other, userCode), "")
	code(t, w.st.DecideDevice(t.Context(), other, userCode, 0, 0), "")
	code(t, w.st.DecideDevice(t.Context(), other, userCode, w.ID, 7), millrace.NotFound)
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Forbidden)
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Invalid)

	userCode, deviceCode = w.device() // agreed to by whoever may not any more
	code(t, w.typed(other, userCode), "")
	code(t, w.st.DecideDevice(t.Context(), other, userCode, w.ID, 7), "")
	if _, err := w.st.Org(w.ID).SetRole(t.Context(), w.Caller(), other, millrace.RoleViewer); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Forbidden)

	userCode, deviceCode = w.device() // another org's
	rival := storetest.MustCreateOrg(t, w.st, "stranger")
	code(t, w.typed(w.Owner.ID, userCode), "")
	code(t, w.st.DecideDevice(t.Context(), w.Owner.ID, userCode, rival.ID, 7), "")
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Forbidden)

	userCode, deviceCode = w.device() // late
	w.advance(millrace.DeviceLength)
	code(t, w.typed(w.Owner.ID, userCode), millrace.NotFound)
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Gone)
	w.advance(millrace.DeviceLength + time.Second)
	w.device() // makes room
	_, _, err = w.redeem(deviceCode)
	code(t, err, millrace.Invalid)

	for _, other := range []string{"", "mrdc_", w.signIn(), millrace.NewSecret(millrace.DeviceCodePrefix, nil).Reveal()} {
		_, _, err := w.redeem(other)
		code(t, err, millrace.Invalid)
	}
}

// Ten wrong codes within ten minutes are enough, by however many requests at once; a right one is no guess.
func TestDeviceGuesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 * millrace.DeviceGuesses {
		userCode, _ := w.device()
		code(t, w.typed(w.Owner.ID, userCode), "")
		code(t, w.st.DecideDevice(t.Context(), w.Owner.ID, userCode, 0, 0), "")
	}
	var tries sync.WaitGroup
	var wrong, limited atomic.Int64
	for range 50 {
		tries.Go(func() {
			switch err := w.typed(w.Owner.ID, millrace.NewUserCode(nil)); millrace.CodeOf(err) {
			case millrace.NotFound:
				wrong.Add(1)
			case millrace.LimitReached:
				limited.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	tries.Wait()
	if wrong.Load() != millrace.DeviceGuesses || limited.Load() != 40 {
		t.Errorf("%d guesses, %d refused", wrong.Load(), limited.Load())
	}
	userCode, _ := w.device()
	code(t, w.typed(w.Owner.ID, userCode), millrace.LimitReached) // the right one, too
	w.advance(millrace.DeviceLength)
	userCode, _ = w.device()
	code(t, w.typed(w.Owner.ID, userCode), "")
}

// Whoever begins sign-ins without end fills nothing.
func TestDevicesWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range millrace.DevicesWaiting {
		w.device()
	}
	begin := func(client string, scopes []millrace.Permission, address string) error {
		_, _, err := w.st.CreateDeviceAuthorization(t.Context(), client, scopes, millrace.Device{Address: address})
		return err
	}
	code(t, begin("x", deviceScopes, "192.0.2.1"), millrace.LimitReached)
	code(t, begin("x", deviceScopes, "192.0.2.9"), "")
	code(t, begin("", deviceScopes, "192.0.2.9"), millrace.Unprocessable)
	code(t, begin("a\x1bb", deviceScopes, "192.0.2.9"), millrace.Unprocessable)
	code(t, begin("x", nil, "192.0.2.9"), millrace.Unprocessable)
	code(t, begin("x", []millrace.Permission{millrace.OrgDelete}, "192.0.2.9"), millrace.Unprocessable)
	w.advance(millrace.DeviceLength)
	code(t, begin("x", deviceScopes, "192.0.2.1"), "")
}
