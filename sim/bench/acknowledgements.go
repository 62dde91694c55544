package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// acknowledgements is the client of whoever sends deliveries; it notes when they were answered with 2xx.
type acknowledgements struct {
	base http.RoundTripper

	mu    sync.Mutex
	jobs  map[int64]time.Time // those whose queued event was acknowledged
	times []time.Duration     // that acknowledgements took
}

func newAcknowledgements() *acknowledgements {
	return &acknowledgements{base: &http.Transport{MaxIdleConnsPerHost: 256}, jobs: map[int64]time.Time{}}
}

// RoundTrip sends a delivery.
func (a *acknowledgements) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	began := time.Now()
	resp, err := a.base.RoundTrip(r)
	at := time.Now()
	if err != nil || resp.StatusCode/100 != 2 || r.Header.Get("X-GitHub-Event") != "workflow_job" {
		return resp, err
	}
	var e struct {
		Job struct {
			ID int64 `json:"id"`
		} `json:"workflow_job"`
	}
	queued := bytes.Contains(body, []byte(`"action":"queued"`)) // of the others nothing more is looked at: this shares the processors
	if queued {
		if err := json.Unmarshal(body, &e); err != nil {
			return resp, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, at.Sub(began))
	if queued {
		a.jobs[e.Job.ID] = at
	}
	return resp, nil
}

func (a *acknowledgements) queued() map[int64]time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.jobs
}

func (a *acknowledgements) took() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.times
}
