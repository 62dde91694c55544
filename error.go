package millrace

import (
	"errors"
	"fmt"
)

// Code says what kind of mistake an [Error] is. Codes travel over the wire as the last part of a problem's type.
type Code string

// The codes, each with the HTTP status that [Code.Status] gives it.
const (
	Invalid         Code = "invalid"          // 400: malformed input
	Unauthenticated Code = "unauthenticated"  // 401: no or unknown credentials
	TokenExpired    Code = "token_expired"    // 401: it was good once
	PaymentRequired Code = "payment_required" // 402: the plan doesn't cover it
	Forbidden       Code = "forbidden"        // 403: known, but lacks the right within its own org
	ReauthRequired  Code = "reauth_required"  // 403: may do it, once they have confirmed that it is them
	NotFound        Code = "not_found"        // 404: isn't there, or is another org's
	Conflict        Code = "conflict"         // 409: contradicts the present state
	Gone            Code = "gone"             // 410: was there, won't come back
	HostRemoved     Code = "host_removed"     // 410: the host that asks was taken out of its org; its agent ends its VMs
	TooLarge        Code = "too_large"        // 413: the body exceeds its limit
	Unprocessable   Code = "unprocessable"    // 422: well-formed, but a value isn't acceptable
	LimitReached    Code = "limit_reached"    // 429: a rate or plan limit
	Internal        Code = "internal"         // 500: our fault; details are in the log only
	Unavailable     Code = "unavailable"      // 503: try again later
)

// codes are without net/http, which this package would otherwise bring into every VM.
var codes = map[Code]struct {
	status  int
	meaning string
}{
	Invalid:         {400, "The request is malformed. Its detail says where."},
	Unauthenticated: {401, "The request carries no credentials that we know, or they have expired or were revoked."},
	TokenExpired:    {401, "The token was good and has expired. Make a new one."},
	PaymentRequired: {402, "The plan does not cover it."},
	Forbidden:       {403, "You are known, and lack the right within your org. An owner can grant it."},
	ReauthRequired:  {403, "This is asked again of whoever does it, even when they are signed in. Confirm at the dashboard that it is you."},
	NotFound:        {404, "It isn't there, or it is another org's: the two look the same."},
	Conflict:        {409, "It contradicts the present state. Look at it again before you repeat the request."},
	Gone:            {410, "It was there and won't come back."},
	HostRemoved:     {410, "The host was removed from its org. Enroll the machine anew to use it again."},
	TooLarge:        {413, "The body is larger than this path takes."},
	Unprocessable:   {422, "The request is well-formed, but a value in it is not acceptable. Its detail says which."},
	LimitReached:    {429, "A rate or a limit of the plan is reached. Try again later."},
	Internal:        {500, "Our mistake. Tell us the instance of the answer: it names the request in our log."},
	Unavailable:     {503, "We cannot do it right now. Try again in a moment."},
}

// Status is the HTTP status of c; 500 for an unknown code.
func (c Code) Status() int {
	if s, ok := codes[c]; ok {
		return s.status
	}
	return codes[Internal].status
}

// Meaning says in a sentence or two what c tells whoever meets it; "" for an unknown code.
func (c Code) Meaning() string { return codes[c].meaning }

// CodeForStatus is the general code whose [Code.Status] is status; Internal when there is none.
func CodeForStatus(status int) Code {
	for c, s := range codes {
		if s.status == status && c != ReauthRequired && c != TokenExpired && c != HostRemoved {
			return c
		}
	}
	return Internal
}

// Error is a mistake that a person may be told about: a code and one sentence saying what was wrong and what to do.
// Every other error is internal; its text goes to the log only.
type Error struct {
	Code    Code
	Message string
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

// Errorf makes an *Error with a formatted sentence.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf is the code of the first *Error in err's chain, Internal if there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// MessageOf is what a person may be told of err: the sentence of an *Error, "Internal error." for anything else.
func MessageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "Internal error."
}
