package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/github/githubtest"
	"github.com/millrace-ci/millrace/sim"
	"github.com/millrace-ci/millrace/store"
)

// payload is a full-size workflow_job event of a job that exists nowhere else.
func (w *world) payload(id int64, label, action string) []byte {
	return w.github.SampleEvent("bench", id, label, action)
}

// deliver posts one signed delivery and returns how long its answer took.
func (w *world) deliver(ctx context.Context, c *http.Client, guid string, body []byte) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/webhooks/github", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	githubtest.SetHeaders(req.Header, w.github.WebhookSecret(), "workflow_job", guid, body)
	began := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	took := time.Since(began)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("a delivery was answered %s", resp.Status)
	}
	return took, err
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
}

// acks delivers at a steady rate, whatever the answers take (open loop), jobs that no host suits.
func acks(ctx context.Context, w *world) ([]figure, error) {
	const rate, total = 200, 2000
	c := newClient()
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var wg sync.WaitGroup
	size := 0
	err := steadily(ctx, rate, total, func(i int) error {
		body := w.payload(1_000_000+int64(i), "millrace-arm64", "queued")
		size = len(body)
		wg.Go(func() {
			d, err := w.deliver(ctx, c, fmt.Sprintf("ack-%d", i), body)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			took = append(took, d)
		})
		return nil
	})
	wg.Wait()
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	// What follows starts from an empty queue.
	for i := range int64(total) {
		if _, err := w.deliver(ctx, c, fmt.Sprintf("ack-end-%d", i), w.payload(1_000_000+i, "millrace-arm64", "completed")); err != nil {
			return nil, err
		}
	}
	acks := sim.QuantilesOf(took)
	return []figure{
		{name: fmt.Sprintf("webhook ack p50 (%d/s, %.1f KB each)", rate, float64(size)/1024), value: ms(acks.P50)},
		{name: "webhook ack p99", value: ms(acks.P99)},
	}, nil
}

// orders times, one after the other, from the first byte of a queued event to the agent's having the order for its VM.
func orders(ctx context.Context, w *world) ([]figure, error) {
	const total = 150 // an installation may register 166 runners a minute; what is beyond waits for that, not for us
	host, err := w.enrollBench(ctx)
	if err != nil {
		return nil, err
	}
	c := newClient()
	var took []time.Duration
	var have int64
	sync := func() (client.SyncResponse, error) {
		resp, err := host.Sync(ctx, client.SyncRequest{Have: have})
		have = resp.Version
		return resp, err
	}
	type answer struct {
		at  time.Time
		vms int
		err error
	}
	for i := range int64(total) {
		// The agent's loop: it syncs until there is an order.
		got := make(chan answer, 1)
		go func() {
			for {
				resp, err := sync()
				if err != nil || len(resp.VMs) > 0 {
					got <- answer{time.Now(), len(resp.VMs), err}
					return
				}
			}
		}()
		if err := w.waiting(ctx); err != nil { // the long poll is there, as it is on an idle host
			return nil, err
		}
		body := w.payload(2_000_000+i, "millrace", "queued")
		began := time.Now()
		if _, err := w.deliver(ctx, c, fmt.Sprintf("order-%d", i), body); err != nil {
			return nil, err
		}
		a := <-got
		if a.err != nil || a.vms != 1 {
			return nil, fmt.Errorf("job %d: the agent was told of %d VMs, %w", i, a.vms, a.err)
		}
		took = append(took, a.at.Sub(began))
		// The job is cancelled, which retires its VM; the host has nothing of it.
		if _, err := w.deliver(ctx, c, fmt.Sprintf("order-end-%d", i), w.payload(2_000_000+i, "millrace", "completed")); err != nil {
			return nil, err
		}
		for resp, err := sync(); len(resp.VMs) > 0 || err != nil; resp, err = sync() {
			if err != nil {
				return nil, err
			}
		}
	}
	orders := sim.QuantilesOf(took)
	return []figure{
		{name: "webhook → order at the agent p50", value: ms(orders.P50), goal: "≤ 10 ms", missed: orders.P50 > 10*time.Millisecond},
		{name: "webhook → order at the agent p99", value: ms(orders.P99), goal: "≤ 100 ms", missed: orders.P99 > 100*time.Millisecond},
	}, nil
}

// waiting returns once a sync waits at the server, as its metrics say.
func (w *world) waiting(ctx context.Context) error {
	for range 1000 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.metrics+"/metrics", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if bytes.Contains(content, []byte("\nmillrace_sync_waiters 1\n")) {
			return nil
		}
	}
	return errors.New("the server never said that a sync waits")
}

// enrollBench makes the bench itself a host with room for everything.
func (w *world) enrollBench(ctx context.Context) (*client.Agent, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	seal, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	_, token, err := w.store.Org(w.orgs[0].ID).CreateEnrollmentToken(ctx, millrace.Actor{Kind: millrace.ActorSystem}, store.NewEnrollmentToken{})
	if err != nil {
		return nil, err
	}
	facts := millrace.HostFacts{
		Arch: millrace.AMD64, VCPUs: 64, MemoryMB: 1 << 20, Offer: millrace.Size{MilliCPU: 64_000, MemoryMB: 1 << 20}, Driver: "bench", Labels: []string{},
	}
	c := client.NewHTTP()
	answer, err := client.Enroll(ctx, c, w.url, client.EnrollRequest{
		Token: token.Reveal(), Name: "bench", SignKey: pub, SealKey: seal.PublicKey().Bytes(), Facts: facts,
	})
	if err != nil {
		return nil, err
	}
	agent := &client.Agent{URL: w.url, Host: answer.HostID, Key: key, HTTP: c}
	_, err = agent.Start(ctx, client.StartRequest{Facts: facts})
	return agent, err
}

// memory runs a real job in a real VM of a real agent, and then reads what both processes hold.
func memory(ctx context.Context, w *world) ([]figure, error) {
	_, token, err := w.store.Org(w.orgs[1].ID).CreateEnrollmentToken(ctx, millrace.Actor{Kind: millrace.ActorSystem}, store.NewEnrollmentToken{})
	if err != nil {
		return nil, err
	}
	dir, program := filepath.Join(w.dir, "agent"), filepath.Join(w.dir, "millrace-agent")
	enroll := exec.CommandContext(ctx, program, "--dir", dir, "enroll", "--url", w.url)
	enroll.Stdin = bytes.NewBufferString(token.Reveal() + "\n")
	if out, err := enroll.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("enrolling: %w\n%s", err, out)
	}
	// The stand-in is on this machine's loopback, which VMs reach by the user-mode network alone.
	agent := exec.Command(program, "--dir", dir, "run", "--network", "user", "--cpu-overcommit", "4")
	if err := w.launch(agent, "agent.log"); err != nil {
		return nil, err
	}
	began := time.Now()
	id, err := w.github.Queue(githubtest.QueueRequest{Owner: "real", Repo: "app", Labels: []string{"millrace"}, Steps: []githubtest.QueueStep{{Name: "hello", Run: "uname -r"}}})
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		job, _ := w.github.Job(id)
		if job.Status == "completed" {
			if job.Conclusion != "success" {
				return nil, fmt.Errorf("the job ended %s:\n%s", job.Conclusion, job.Log)
			}
			break
		}
		if time.Since(began) > 2*time.Minute {
			return nil, errors.New("the job did not complete within 2 minutes")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	took := time.Since(began)
	agentNow, agentPeak, err := rss(agent.Process.Pid)
	if err != nil {
		return nil, err
	}
	serverNow, serverPeak, err := rss(w.server.Process.Pid)
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: "a job from queued to completed, real VM", value: fmt.Sprintf("%.1f s", took.Seconds())},
		{name: "memory of the agent", value: fmt.Sprintf("%.0f MiB", agentNow), goal: ""},
		{name: "memory of the agent, peak", value: fmt.Sprintf("%.0f MiB", agentPeak)},
		{name: "memory of the server", value: fmt.Sprintf("%.0f MiB", serverNow)},
		{name: "memory of the server, peak", value: fmt.Sprintf("%.0f MiB", serverPeak)},
	}, nil
}

var bootLine = regexp.MustCompile(`([\d.]+) floor-ms\s+([\d.]+) hello-ms\s+([\d.]+) ratio`)

// boots runs the boot benchmark of vm/qemu.
func boots(ctx context.Context) ([]figure, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "./vm/qemu", "-run", "^$", "-bench", "^BenchmarkBoot$", "-benchtime", "11x").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("the boot benchmark: %w\n%s", err, out)
	}
	m := bootLine.FindSubmatch(out)
	if m == nil {
		return nil, fmt.Errorf("the boot benchmark printed no figures:\n%s", out)
	}
	ratio, err := strconv.ParseFloat(string(m[3]), 64)
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: "VM start → millrace-init, median of 11", value: string(m[2]) + " ms"},
		{name: "its floor: an init that only powers off", value: string(m[1]) + " ms"},
		{name: "VM start → millrace-init, times its floor", value: string(m[3]), goal: "≤ 1.2", missed: ratio > 1.2},
	}, nil
}
