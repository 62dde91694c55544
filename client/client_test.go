package client_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// answer is a server that gives every request the same answer.
func answer(t *testing.T, status int, contentType, body string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestErrorsCrossTheWireUnchanged(t *testing.T) {
	t.Parallel()
	for _, code := range []millrace.Code{
		millrace.Invalid, millrace.Unauthenticated, millrace.Forbidden, millrace.NotFound, millrace.Conflict,
		millrace.Gone, millrace.Unprocessable, millrace.LimitReached, millrace.Internal, millrace.Unavailable,
	} {
		want := &millrace.Error{Code: code, Message: "A sentence with \u201cquotes\u201d."}
		body, err := json.Marshal(client.NewProblem(want, "req_1"))
		if err != nil {
			t.Fatal(err)
		}
		c := client.REST{URL: answer(t, code.Status(), client.ProblemType, string(body)), Org: "calm", HTTP: client.NewHTTP()}
		_, err = c.Hosts(t.Context())
		var got *millrace.Error
		if !errors.As(err, &got) || *got != *want {
			t.Errorf("%s: got %#v", code, err)
		}
	}
}

func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status      int
		contentType string
		body        string
		want        millrace.Code
	}{
		"a proxy's page":     {502, "text/html", "<h1>Bad gateway</h1>", millrace.Internal},
		"a proxy's 401":      {401, "text/html", "", millrace.Unauthenticated},
		"a foreign problem":  {404, client.ProblemType, `{"type":"about:blank","status":404,"detail":"No."}`, millrace.NotFound},
		"a lying problem":    {404, client.ProblemType, `{"type":"/docs/problems/conflict","status":200,"detail":"No."}`, millrace.NotFound},
		"a redirect":         {302, "text/html", "", millrace.Internal},
		"not JSON":           {200, "application/json", "{", millrace.Internal},
		"more than we read":  {200, "application/json", strings.Repeat(" ", 16<<20+1), millrace.Internal},
		"deeply nested JSON": {200, "application/json", strings.Repeat("[", 100_000), millrace.Internal},
	} {
		c := client.REST{URL: answer(t, tt.status, tt.contentType, tt.body), Org: "calm", HTTP: client.NewHTTP()}
		if _, err := c.Hosts(t.Context()); millrace.CodeOf(err) != tt.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A server that switches protocols and keeps the connection doesn't keep the client: no deadline ends such a body.
func TestSwitchedProtocol(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: sh\r\nConnection: Upgrade\r\n\r\n")
		<-held
	}))
	defer srv.Close()
	defer close(held)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		c := client.Agent{URL: srv.URL, Host: millrace.HostID{15: 1}, Key: signKey(1), HTTP: client.NewHTTP()}
		_, err := c.Sync(ctx, client.SyncRequest{})
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it is taken for an answer")
		}
	case <-time.After(20 * time.Second):
		t.Error("the call outlives its deadline")
	}
}

func TestListIsNeverNull(t *testing.T) {
	t.Parallel()
	for want, l := range map[string]client.List[int]{
		`{"data":[],"next_cursor":null}`:      client.NewList[int](nil, ""),
		`{"data":[1],"next_cursor":"opaque"}`: client.NewList([]int{1}, "opaque"),
	} {
		if got, err := json.Marshal(l); err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
}

func TestRESTAsksForWhatItWasAsked(t *testing.T) {
	t.Parallel()
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		if r.Header.Get("Authorization") != "Bearer mrat_x" {
			t.Errorf("Authorization is %q", r.Header.Get("Authorization"))
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	defer srv.Close()
	c := client.REST{URL: srv.URL + "/", Org: "calm/../x", Token: "mrat_x", HTTP: client.NewHTTP()}
	ctx := t.Context()
	for _, call := range []func() error{
		func() error {
			_, err := c.Jobs(ctx, client.JobQuery{Status: []millrace.JobStatus{"queued", "in_progress"}, Repository: "a/b", Limit: 5})
			return err
		},
		func() error { _, err := c.Job(ctx, millrace.JobID{15: 1}); return err },
		func() error { _, err := c.VMs(ctx, client.VMQuery{Live: true}); return err },
		func() error {
			_, err := c.VMs(ctx, client.VMQuery{Host: millrace.HostID{15: 1}, Job: millrace.JobID{15: 1}, Cursor: "c", Limit: 2})
			return err
		},
		func() error { _, err := c.VM(ctx, millrace.VMID{15: 1}); return err },
		func() error {
			if _, _, err := c.Console(ctx, millrace.VMID{15: 1}, 7); err == nil {
				t.Error("a console without a position")
			}
			return nil
		},
		func() error { _, err := c.Samples(ctx, millrace.VMID{15: 1}); return err },
		func() error {
			_, err := c.Usage(ctx, client.UsageQuery{By: millrace.ByUser, From: signedAt})
			return err
		},
	} {
		if err := call(); err != nil {
			t.Error(err)
		}
	}
	const org = "/api/v1/orgs/calm%2F..%2Fx"
	want := []string{
		org + "/jobs?limit=5&repository=a%2Fb&status=queued%2Cin_progress",
		org + "/jobs/job_00000000000000000000000001",
		org + "/vms?live=true",
		org + "/vms?cursor=c&host=host_00000000000000000000000001&job=job_00000000000000000000000001&limit=2",
		org + "/vms/vm_00000000000000000000000001",
		org + "/vms/vm_00000000000000000000000001/console?after=7",
		org + "/vms/vm_00000000000000000000000001/samples",
		org + "/usage?by=user&from=2026-11-24T12%3A00%3A00Z",
	}
	if d := cmp.Diff(want, asked); d != "" {
		t.Error(d)
	}
}

// agentServer verifies as the real one does: signature, epoch and sequence; its clock is ahead by an hour.
func agentServer(t *testing.T, key ed25519.PrivateKey) *httptest.Server {
	t.Helper()
	var window client.Window
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().Add(time.Hour)
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		body, _ := io.ReadAll(r.Body)
		c, err := client.Verify(r, body, func(millrace.HostID) (ed25519.PublicKey, error) {
			return key.Public().(ed25519.PublicKey), nil
		}, now)
		start := r.URL.Path == "/agent/v1/start"
		if err == nil && (start != (c.Epoch == 0) || !start && !window.Accept(c.Epoch, c.Sequence)) {
			err = millrace.Errorf(millrace.Unauthenticated, "The request was seen before.")
		}
		if err != nil {
			w.Header().Set("Content-Type", client.ProblemType)
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(client.NewProblem(err, ""))
			return
		}
		switch r.URL.RequestURI() {
		case "/agent/v1/start":
			_ = json.NewEncoder(w).Encode(client.StartResponse{Epoch: 7, ServerTime: now})
		case "/agent/v1/sync":
			_ = json.NewEncoder(w).Encode(client.SyncResponse{Version: c.Epoch, VMs: []client.VMOrder{}})
		case "/agent/v1/vms/vm_00000000000000000000000001/jit":
			_ = json.NewEncoder(w).Encode(client.JITResponse{Sealed: []byte("sealed")})
		case "/agent/v1/vms/vm_00000000000000000000000001/console?offset=9":
			if string(body) != "hello" {
				t.Errorf("console got %q", body)
			}
			w.WriteHeader(http.StatusNoContent)
		default:
			t.Errorf("unexpected %s", r.URL)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestAgentWithAWrongClock(t *testing.T) {
	t.Parallel()
	vm := millrace.VMID{15: 1}
	a := &client.Agent{URL: agentServer(t, signKey(1)).URL, Host: millrace.HostID{15: 1}, Key: signKey(1), HTTP: client.NewHTTP()}
	ctx := t.Context()
	if start, err := a.Start(ctx, client.StartRequest{}); err != nil || start.Epoch != 7 {
		t.Fatalf("start: %+v, %v", start, err)
	}
	for range 2 {
		if sync, err := a.Sync(ctx, client.SyncRequest{}); err != nil || sync.Version != 7 {
			t.Fatalf("sync: %+v, %v", sync, err)
		}
	}
	if jit, err := a.JIT(ctx, vm, 1); err != nil || string(jit.Sealed) != "sealed" {
		t.Errorf("jit: %+v, %v", jit, err)
	}
	if err := a.AppendConsole(ctx, vm, 9, []byte("hello")); err != nil {
		t.Error(err)
	}
	if skew := a.Skew(); skew < 59*time.Minute || skew > 61*time.Minute {
		t.Errorf("skew is %v", skew)
	}
}

func TestAgentWithAWrongKey(t *testing.T) {
	t.Parallel()
	a := &client.Agent{URL: agentServer(t, signKey(1)).URL, Host: millrace.HostID{15: 1}, Key: signKey(2), HTTP: client.NewHTTP()}
	if _, err := a.Start(t.Context(), client.StartRequest{}); millrace.CodeOf(err) != millrace.Unauthenticated || !client.IsAnswer(err) {
		t.Errorf("got %v", err)
	}
}

func TestAgentWithoutAServer(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(nil)
	srv.Close()
	a := &client.Agent{URL: srv.URL, Key: signKey(1), HTTP: client.NewHTTP()}
	if _, err := a.Sync(context.Background(), client.SyncRequest{}); err == nil || client.IsAnswer(err) {
		t.Errorf("got %v", err)
	}
}
