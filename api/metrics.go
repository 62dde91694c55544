package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace-ci/millrace/store"
)

// Metrics are for operators: few, and never with an org or a repository as a label.
var (
	webhookSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "millrace_webhook_ack_seconds", Help: "From the last byte of a delivery's headers to its answer.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
	}, []string{"status"})
	waiting = prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_sync_waiters", Help: "Agents whose sync waits for news."})

	jobs  = prometheus.NewDesc("millrace_jobs", "Jobs that aren't completed, by status.", []string{"status"}, nil)
	vms   = prometheus.NewDesc("millrace_vms", "VMs that aren't gone, by state.", []string{"state"}, nil)
	hosts = prometheus.NewDesc("millrace_hosts_online", "Hosts heard of within the last 30 s.", nil, nil)
)

// observe notes how long a webhook took.
func observe(r *http.Request, status int, took time.Duration) {
	if r.URL.Path == "/webhooks/github" {
		webhookSeconds.WithLabelValues(strconv.Itoa(status)).Observe(took.Seconds())
	}
}

// fleet counts what the database holds, when it is asked.
type fleet struct{ store *store.Store }

// Describe names the metrics.
func (fleet) Describe(ch chan<- *prometheus.Desc) { ch <- jobs; ch <- vms; ch <- hosts }

// Collect counts.
func (f fleet) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counts, err := f.store.FleetCounts(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(jobs, err)
		return
	}
	for status, n := range counts.Jobs {
		ch <- prometheus.MustNewConstMetric(jobs, prometheus.GaugeValue, float64(n), string(status))
	}
	for state, n := range counts.VMs {
		ch <- prometheus.MustNewConstMetric(vms, prometheus.GaugeValue, float64(n), string(state))
	}
	ch <- prometheus.MustNewConstMetric(hosts, prometheus.GaugeValue, float64(counts.HostsOnline))
}

// Metrics serves /metrics, for a port that only operators reach.
func Metrics(st *store.Store) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(webhookSeconds, waiting, fleet{st}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}
