package millrace

import (
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of mistake an [Error] is. Codes travel over the wire as the last part of a problem's type.
type Code string

// The codes, each with the HTTP status that [Code.Status] gives it.
const (
	Invalid         Code = "invalid"          // 400: malformed input
	Unauthenticated Code = "unauthenticated"  // 401: no or unknown credentials
	PaymentRequired Code = "payment_required" // 402: the plan doesn't cover it
	Forbidden       Code = "forbidden"        // 403: known, but lacks the right within its own org
	NotFound        Code = "not_found"        // 404: isn't there, or is another org's
	Conflict        Code = "conflict"         // 409: contradicts the present state
	Gone            Code = "gone"             // 410: was there, won't come back
	TooLarge        Code = "too_large"        // 413: the body exceeds its limit
	Unprocessable   Code = "unprocessable"    // 422: well-formed, but a value isn't acceptable
	LimitReached    Code = "limit_reached"    // 429: a rate or plan limit
	Internal        Code = "internal"         // 500: our fault; details are in the log only
	Unavailable     Code = "unavailable"      // 503: try again later
)

var statuses = map[Code]int{
	Invalid:         http.StatusBadRequest,
	Unauthenticated: http.StatusUnauthorized,
	PaymentRequired: http.StatusPaymentRequired,
	Forbidden:       http.StatusForbidden,
	NotFound:        http.StatusNotFound,
	Conflict:        http.StatusConflict,
	Gone:            http.StatusGone,
	TooLarge:        http.StatusRequestEntityTooLarge,
	Unprocessable:   http.StatusUnprocessableEntity,
	LimitReached:    http.StatusTooManyRequests,
	Internal:        http.StatusInternalServerError,
	Unavailable:     http.StatusServiceUnavailable,
}

// Status is the HTTP status of c; 500 for an unknown code.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// CodeForStatus is the code whose [Code.Status] is status; Internal when there is none.
func CodeForStatus(status int) Code {
	for c, s := range statuses {
		if s == status {
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
