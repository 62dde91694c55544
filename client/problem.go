package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode"

	"github.com/millrace-ci/millrace"
)

// ProblemType is the media type of every error that the server answers (RFC 9457).
const ProblemType = "application/problem+json"

// problemPath leads a problem's type; the rest is its [millrace.Code]. The type is relative with its full path (RFC
// 9457 §3.1.1), so that every server documents its own.
const problemPath = "/docs/problems/"

// Problem is an error on the wire. It carries a *[millrace.Error] unchanged: [Problem.Err] of a [NewProblem] has the
// same code and sentence.
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Instance string `json:"instance,omitempty"` // the request's ID, for a question to us
}

// NewProblem is err as a person may be told of it; what is internal stays in the log.
func NewProblem(err error, requestID string) Problem {
	code := millrace.CodeOf(err)
	return Problem{
		Type:     problemPath + string(code),
		Title:    http.StatusText(code.Status()),
		Status:   code.Status(),
		Detail:   millrace.MessageOf(err),
		Instance: requestID,
	}
}

// Err is the error that the server meant. A type that isn't ours falls back to the status.
func (p Problem) Err() error {
	code := millrace.Code(strings.TrimPrefix(p.Type, problemPath))
	if !strings.HasPrefix(p.Type, problemPath) || code.Status() != p.Status {
		code = millrace.CodeForStatus(p.Status)
	}
	return &millrace.Error{Code: code, Message: p.Detail}
}

// errorOf is the error that an answer with this status and body means.
func errorOf(status int, contentType string, body []byte) error {
	var p Problem
	if strings.HasPrefix(contentType, ProblemType) && json.Unmarshal(body, &p) == nil && p.Detail != "" {
		p.Status, p.Detail = status, sentence(p.Detail)
		return p.Err()
	}
	text := http.StatusText(status)
	if text == "" {
		text = "an unknown status"
	}
	return millrace.Errorf(millrace.CodeForStatus(status), "The server answered %d (%s).", status, text)
}

// maxSentence is how long a sentence of the server's may be, in bytes.
const maxSentence = 1000

// sentence is what is kept of a server's: it ends up in logs, in terminals and in what an agent tells of a VM.
func sentence(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxSentence)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// IsAnswer reports whether err is the server's own word, and not a failure to reach it.
func IsAnswer(err error) bool {
	var e *millrace.Error
	return errors.As(err, &e)
}
