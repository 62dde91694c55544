package api

import (
	"bytes"
	"io"
	"math"
	"net/http"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
)

// maxWebhook is GitHub's own limit for a delivery's body.
const maxWebhook = 25 << 20

// githubWebhook takes a delivery. Its answer is 2xx only once the delivery is durable: GitHub does not deliver again by
// itself, and the signature is looked at before anything else is.
func (s *Server) githubWebhook(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, maxWebhook)
	if err != nil {
		return err
	}
	delivery, err := s.webhooks.Parse(r.Header, body)
	if err != nil {
		return err
	}
	if delivery.Job != nil && delivery.Job.Job.RunAttempt > math.MaxInt32 {
		return millrace.Errorf(millrace.Invalid, "The body is not a workflow_job event.")
	}
	delivery.GUID = text(delivery.GUID) // headers aren't signed, and may hold any byte
	result, err := s.store.Intake(r.Context(), delivery)
	if err != nil {
		s.log.Error("a delivery could not be stored", "request_id", requestID(r.Context()), "delivery", delivery.GUID, "error", err)
		return millrace.Errorf(millrace.Unavailable, "The delivery could not be stored; deliver it again.")
	}
	code := http.StatusAccepted
	if result == store.IntakeStored {
		code = http.StatusOK
	}
	writeJSON(w, code, map[string]store.IntakeResult{"result": result})
	return nil
}

// mostExpected is how much of a body is made room for before it has come: who sends it may only say so.
const mostExpected = 64 << 10

// readBody reads a whole body of at most limit bytes; TooLarge when it has more.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := millrace.Errorf(millrace.TooLarge, "The body is larger than %d bytes.", limit)
	if r.ContentLength > limit {
		if r.Header.Get("Expect") == "" { // else it waits to be asked for its body
			drain(r, limit)
		}
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), mostExpected)) + bytes.MinRead)
	_, err := b.ReadFrom(io.LimitReader(r.Body, limit+1))
	body := b.Bytes()
	switch {
	case err != nil:
		return nil, millrace.Errorf(millrace.Invalid, "The body ended early.")
	case int64(len(body)) > limit:
		drain(r, limit)
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	return body, nil
}

// drain reads a body that is refused, up to about twice what is allowed: whoever is still sending when the connection is
// closed sees it reset and never the answer.
func drain(r *http.Request, limit int64) {
	_, _ = io.CopyN(io.Discard, r.Body, 2*limit) // it is refused in any case
}
