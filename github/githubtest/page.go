package githubtest

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

//go:embed page.html
var pageHTML string

//go:embed login.html
var loginHTML string

//go:embed page.css
var pageCSS []byte

var pages = template.Must(template.Must(template.New("page").Parse(pageHTML)).Parse(loginHTML))

// sample is a workflow that the front page offers to queue.
type sample struct {
	Key, Title, Text, Label string
	Jobs                    []QueueRequest
}

const whereRun = "echo \"Hello from $(uname -sr) on $(hostname)\"\nid\necho \"boot id $(cat /proc/sys/kernel/random/boot_id)\"\ngrep -m1 'model name' /proc/cpuinfo || true\nfree"

// samples are made for the first owner.
func samples(owner string) []sample {
	one := func(repo, name, label string, steps ...QueueStep) QueueRequest {
		return QueueRequest{Owner: owner, Repo: repo, Workflow: "ci", Name: name, Labels: []string{label}, Steps: steps, Actor: "mona", Branch: "main"}
	}
	return []sample{
		{"hello", "Hello", "One job that says where it runs.", "millrace", []QueueRequest{
			one("engine", "hello", "millrace", QueueStep{"Where am I?", whereRun}),
		}},
		{"matrix", "Matrix of three", "Three jobs at once, each in its own VM.", "millrace", []QueueRequest{
			one("engine", "test (1)", "millrace", QueueStep{"Test", "echo shard 1; uname -a"}),
			one("engine", "test (2)", "millrace", QueueStep{"Test", "echo shard 2; uname -a"}),
			one("engine", "test (3)", "millrace", QueueStep{"Test", "echo shard 3; uname -a"}),
		}},
		{"failing", "Failing test", "A job whose second step fails.", "millrace", []QueueRequest{
			one("website", "lint", "millrace", QueueStep{"Set up", "echo ready"}, QueueStep{"Lint", "echo 'main.css: unknown property' >&2; exit 1"}, QueueStep{"Publish", "echo never"}),
		}},
		{"slow", "Half a minute", "A job that takes its time, to watch or to cancel.", "millrace-1cpu-256mb", []QueueRequest{
			one("engine", "soak", "millrace-1cpu-256mb", QueueStep{"Soak", "for i in 1 2 3 4 5 6 7 8 9 10; do echo \"round $i of 10\"; sleep 3; done"}),
		}},
		{"arm", "Arm build", "Waits unless there is an Arm host.", "millrace-arm64-4cpu-16gb", []QueueRequest{
			one("engine", "build (arm64)", "millrace-arm64-4cpu-16gb", QueueStep{"Build", "uname -m"}),
		}},
		{"huge", "Too big", "Asks for more than any host has, and waits with the reason.", "millrace-64cpu-512gb", []QueueRequest{
			one("engine", "build (everything)", "millrace-64cpu-512gb", QueueStep{"Build", "echo done"}),
		}},
	}
}

type pageData struct {
	Title   string
	Refresh bool
	Samples []sample
	Faults  string
	Jobs    []jobView
	Job     *jobView
	Ask     *ask

	leadsTo []string // origins that its forms lead to, beside this one
}

type jobView struct {
	ID                                  int64
	Path, Repo, Workflow, Name          string
	Labels, Actor, Branch, State, Since string
	Runner, Log                         string
	Open                                bool
	Steps                               []*step
}

func (g *GitHub) view(j *job) jobView {
	v := jobView{
		ID: j.ID, Path: strings.TrimPrefix(g.jobURL(j), g.cfg.URL), Repo: j.Owner + "/" + j.Repo, Workflow: j.Workflow, Name: j.Name,
		Labels: strings.Join(j.Labels, ", "), Actor: j.Actor, Branch: j.Branch, State: cmp.Or(j.Conclusion, j.Status),
		Since: j.CreatedAt.Format("15:04:05"), Runner: j.RunnerName, Log: j.Log, Open: j.Status != "completed", Steps: j.Steps,
	}
	return v
}

func (g *GitHub) pageRoutes() {
	g.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		data := pageData{Title: "Stand-in GitHub", Faults: g.faults.String()}
		if o := g.firstOwner(); o != nil && g.cfg.Demo {
			data.Samples = samples(o.Login)
		}
		for _, j := range slices.Backward(g.order) {
			if len(data.Jobs) == 100 {
				break
			}
			data.Jobs = append(data.Jobs, g.view(j))
		}
		data.Refresh = len(g.open) > 0
		g.mu.Unlock()
		render(w, http.StatusOK, data)
	})
	g.mux.HandleFunc("POST /_standin/samples/{key}", func(w http.ResponseWriter, r *http.Request) {
		if err := g.queueSample(r.PathValue("key")); err != nil {
			fail(w, http.StatusNotFound, err.Error())
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	g.mux.HandleFunc("GET /{owner}/{repo}/actions/runs/{run}/job/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
		g.mu.Lock()
		j, ok := g.jobs[id]
		var v jobView
		if ok {
			v = g.view(j)
		}
		g.mu.Unlock()
		if !ok {
			render(w, http.StatusNotFound, pageData{Title: "There is no such job"})
			return
		}
		render(w, http.StatusOK, pageData{Title: v.Name, Refresh: v.Open, Job: &v})
	})
	g.mux.HandleFunc("GET /_standin/page.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Write(pageCSS)
	})
}

func (g *GitHub) firstOwner() *owner {
	var first *owner
	for _, o := range g.owners {
		if first == nil || o.Login < first.Login {
			first = o
		}
	}
	return first
}

func (g *GitHub) queueSample(key string) error {
	g.mu.Lock()
	o := g.firstOwner()
	g.mu.Unlock()
	if o == nil || !g.cfg.Demo {
		return errors.New("there are no sample workflows here")
	}
	for _, s := range samples(o.Login) {
		if s.Key != key {
			continue
		}
		for _, job := range s.Jobs {
			if _, err := g.Queue(job); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("there is no sample workflow %q", key)
}

// QueueDemo queues a first workflow, so that a new dashboard has something to show. It does nothing where there are jobs.
func (g *GitHub) QueueDemo() error {
	g.mu.Lock()
	n := len(g.jobs)
	g.mu.Unlock()
	if n > 0 {
		return nil
	}
	return g.queueSample("hello")
}

func render(w http.ResponseWriter, status int, data pageData) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action "+strings.Join(append([]string{"'self'"}, data.leadsTo...), " ")+"; frame-ancestors 'none'")
	w.WriteHeader(status)
	pages.Execute(w, data) //nolint:errcheck // the peer is gone
}
