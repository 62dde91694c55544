package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// front balances between the two servers, in turn and without looking at their health, so that what goes to a dead one
// fails: the nets below have something to catch.
type front struct {
	httputil.ReverseProxy
	next atomic.Uint64
}

func newFront(urls [2]string) *front {
	f := &front{}
	var to [2]*url.URL
	for i, u := range urls {
		to[i], _ = url.Parse(u)
	}
	f.Rewrite = func(r *httputil.ProxyRequest) { r.SetURL(to[f.next.Add(1)%2]) }
	f.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	f.ErrorLog = log.New(io.Discard, "", 0)
	f.Transport = &http.Transport{MaxIdleConnsPerHost: 32}
	return f
}

// witness notes how each delivery was answered. It is the client of whoever sends them.
type witness struct {
	front  string
	client *http.Client
	base   http.RoundTripper

	mu         sync.Mutex
	deliveries map[string]*delivery // by GUID
}

// delivery is what was told under one GUID.
type delivery struct {
	job          int64
	action       string
	load         bool
	tries        int
	acknowledged int // at which try; 0: never
}

// answerWithin is how long GitHub waits for an answer.
const answerWithin = 10 * time.Second

func newWitness(front string) *witness {
	w := &witness{front: front, base: &http.Transport{MaxIdleConnsPerHost: 32}, deliveries: map[string]*delivery{}}
	w.client = &http.Client{Transport: w, Timeout: answerWithin}
	return w
}

// RoundTrip sends a delivery.
func (w *witness) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	guid := r.Header.Get("X-GitHub-Delivery")
	w.mu.Lock()
	d := w.deliveries[guid]
	if d == nil {
		d = read(body)
		w.deliveries[guid] = d
	}
	d.tries++
	try := d.tries
	w.mu.Unlock()

	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	resp, err := w.base.RoundTrip(r)
	if err == nil && resp.StatusCode/100 == 2 {
		w.mu.Lock()
		if d.acknowledged == 0 || try < d.acknowledged {
			d.acknowledged = try
		}
		w.mu.Unlock()
	}
	return resp, err
}

func read(body []byte) *delivery {
	var e struct {
		Action string `json:"action"`
		Job    struct {
			ID int64 `json:"id"`
		} `json:"workflow_job"`
		Repository struct {
			Name string `json:"name"`
		} `json:"repository"`
	}
	_ = json.Unmarshal(body, &e) // it is the stand-in's own
	return &delivery{job: e.Job.ID, action: e.Action, load: e.Repository.Name == "load"}
}

// acknowledged are the deliveries that were answered with 2xx, by GUID.
func (w *witness) acknowledged() map[string]delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := map[string]delivery{}
	for guid, d := range w.deliveries {
		if d.acknowledged > 0 {
			list[guid] = *d
		}
	}
	return list
}

// counted is what became of the deliveries; the jobs are those that run, not the load's.
type counted struct {
	all, tries, first, later, never          int
	missedAny, missedQueued, missedCompleted int // jobs with a delivery that was not acknowledged at its first try
	neverCompleted                           int // jobs whose `completed` never was
}

func (w *witness) count() (c counted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	missed := map[int64][]string{}
	for _, d := range w.deliveries {
		c.all++
		c.tries += d.tries
		switch {
		case d.acknowledged == 1:
			c.first++
			continue
		case d.acknowledged > 1:
			c.later++
		default:
			c.never++
		}
		if d.load || d.job == 0 {
			continue
		}
		missed[d.job] = append(missed[d.job], d.action)
		if d.action == "completed" && d.acknowledged == 0 {
			c.neverCompleted++
		}
	}
	c.missedAny = len(missed)
	for _, actions := range missed {
		if slices.Contains(actions, "queued") {
			c.missedQueued++
		}
		if slices.Contains(actions, "completed") {
			c.missedCompleted++
		}
	}
	return c
}
