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
	jobs  []acknowledged  // those whose queued event was
	times []time.Duration // that acknowledgements took
}

// acknowledged is a delivery that was answered. It is looked at later: this shares the processors.
type acknowledged struct {
	at   time.Time
	body []byte
}

func newAcknowledgements() *acknowledgements {
	return &acknowledgements{base: &http.Transport{MaxIdleConnsPerHost: 256}}
}

// RoundTrip sends a delivery.
func (a *acknowledgements) RoundTrip(r *http.Request) (*http.Response, error) {
	content, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(content, body); err != nil {
		return nil, err
	}
	began := time.Now()
	resp, err := a.base.RoundTrip(r)
	at := time.Now()
	if err != nil || resp.StatusCode/100 != 2 || r.Header.Get("X-GitHub-Event") != "workflow_job" {
		return resp, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, at.Sub(began))
	if bytes.HasPrefix(body, []byte(`{"action":"queued"`)) {
		a.jobs = append(a.jobs, acknowledged{at, body})
	}
	return resp, nil
}

// queued is when the queued events of jobs were acknowledged, by GitHub's ids of the jobs.
func (a *acknowledgements) queued() (map[int64]time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	jobs := map[int64]time.Time{}
	for _, d := range a.jobs {
		var e struct {
			Job struct {
				ID int64 `json:"id"`
			} `json:"workflow_job"`
		}
		if err := json.Unmarshal(d.body, &e); err != nil {
			return nil, err
		}
		jobs[e.Job.ID] = d.at
	}
	return jobs, nil
}

func (a *acknowledgements) took() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.times
}
