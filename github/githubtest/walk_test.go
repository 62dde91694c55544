package githubtest_test

import (
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace/github/githubtest"
)

// TestAnyDay plays a random day and compares what the API lists, which comes from indices, with what each job says of
// itself; and no job waits while a runner that may run it is idle.
func TestAnyDay(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		rnd := mathrand.New(mathrand.NewPCG(seed, 3))
		l := newLoop(t, seed)
		type queued struct {
			id, run      int64
			attempt      int
			repo, labels string
		}
		type runner struct {
			id           int64
			repo, labels string
			ignored      bool
		}
		var jobs []queued
		var runners []runner
		labels := []string{"a", "b", "a b"}
		auth := ""
		for step := range 300 {
			if step%100 == 0 {
				auth = l.asInstallation(l.owner)
			}
			repo := fmt.Sprintf("repo-%d", rnd.IntN(3))
			switch rnd.IntN(9) {
			case 0, 1:
				q := queued{repo: repo, labels: labels[rnd.IntN(3)]}
				in := githubtest.QueueRequest{Owner: "calm", Repo: repo, Labels: strings.Fields(q.labels)}
				if len(jobs) > 0 && rnd.IntN(2) == 0 {
					in.RunID, in.Repo = jobs[len(jobs)-1].run, jobs[len(jobs)-1].repo
					q.repo = in.Repo
				}
				id, err := l.Queue(in)
				if err != nil {
					break // the run is completed
				}
				q.id = id
				q.run, q.attempt = l.runOf(id)
				jobs = append(jobs, q)
			case 2, 3:
				r := runner{labels: labels[rnd.IntN(3)], ignored: rnd.IntN(8) == 0}
				at := "/orgs/calm"
				if rnd.IntN(3) == 0 {
					at, r.repo = "/repos/calm/"+repo, repo
				}
				if r.ignored {
					l.faults(githubtest.Faults{NeverAssign: 1})
				}
				r.id = l.register(auth, at, fmt.Sprintf("vm-%d", step), strings.Fields(r.labels)...).id
				if rnd.IntN(5) > 0 {
					if err := l.Connect(r.id); err != nil {
						t.Fatal(err)
					}
				} else {
					r.ignored = false
				}
				l.faults(githubtest.Faults{})
				runners = append(runners, r)
			case 4, 5:
				if len(l.assigned) > 0 {
					l.PickUp(l.assigned[rnd.IntN(len(l.assigned))][0])
				}
			case 6:
				if len(l.assigned) > 0 {
					l.Finish(l.assigned[rnd.IntN(len(l.assigned))][0], []string{"success", "failure"}[rnd.IntN(2)])
				}
			case 7:
				if len(jobs) > 0 {
					j := jobs[rnd.IntN(len(jobs))]
					if rnd.IntN(2) == 0 {
						l.Cancel(j.id)
					} else if id, err := l.Rerun(j.id); err == nil {
						j.id = id
						_, j.attempt = l.runOf(id)
						jobs = append(jobs, j)
					}
				}
			case 8:
				if len(runners) > 0 {
					l.Disconnect(runners[rnd.IntN(len(runners))].id)
				}
			}
			for _, r := range runners {
				if rnd.IntN(10) > 0 {
					_ = l.Alive(r.id) // some are gone
				}
			}
			l.pass(time.Duration(rnd.IntN(40)) * time.Second)
			l.out = nil
			if step%10 > 0 {
				continue
			}

			// A run's jobs of the latest attempt say what the run is.
			want := map[string]int{}
			latest, attempt, repos := map[int64][]githubtest.JobState{}, map[int64]int{}, map[int64]string{}
			for _, j := range jobs {
				if repos[j.run] = j.repo; attempt[j.run] < j.attempt {
					attempt[j.run], latest[j.run] = j.attempt, nil
				}
				if j.attempt == attempt[j.run] {
					latest[j.run] = append(latest[j.run], l.state(j.id))
				}
			}
			for run, states := range latest {
				status := "queued"
				if slices.ContainsFunc(states, func(s githubtest.JobState) bool { return s.RunnerID != 0 }) {
					status = "in_progress"
				}
				if !slices.ContainsFunc(states, func(s githubtest.JobState) bool { return s.Status != "completed" }) {
					status = "completed"
				}
				want[repos[run]+" "+status]++
			}
			for _, repo := range []string{"repo-0", "repo-1", "repo-2"} {
				for _, status := range []string{"queued", "in_progress", "completed"} {
					var list struct {
						Total int `json:"total_count"`
					}
					path := api + "/repos/calm/" + repo + "/actions/runs?status=" + status
					if w := l.send(t.Context(), auth, "GET", path, ""); w.Code == http.StatusNotFound {
						continue
					}
					l.call(auth, "GET", path, "", http.StatusOK, &list)
					if list.Total != want[repo+" "+status] {
						t.Fatalf("seed %d, step %d: %d runs of %s are %s, want %d", seed, step, list.Total, repo, status, want[repo+" "+status])
					}
				}
			}
			idle, busy := map[int64]bool{}, map[int64]bool{}
			for _, at := range []string{"/orgs/calm", "/repos/calm/repo-0", "/repos/calm/repo-1", "/repos/calm/repo-2"} {
				var list struct {
					Runners []struct {
						ID     int64
						Status string
						Busy   bool
					}
				}
				l.call(auth, "GET", api+at+"/actions/runners?per_page=100", "", http.StatusOK, &list)
				for _, r := range list.Runners {
					idle[r.ID], busy[r.ID] = r.Status == "online" && !r.Busy, r.Busy
				}
			}
			given := map[int64]int64{}
			for _, a := range l.assigned {
				given[a[0]] = a[1]
			}
			held := map[int64]bool{}
			for runner, job := range given {
				if busy[runner] {
					if held[job] {
						t.Fatalf("seed %d, step %d: job %d is given to two runners", seed, step, job)
					}
					if l.state(job).Status == "completed" {
						t.Fatalf("seed %d, step %d: runner %d is busy with job %d, which is completed", seed, step, runner, job)
					}
					held[job] = true
				}
			}
			for _, j := range jobs {
				if l.state(j.id).Status != "queued" || held[j.id] {
					continue
				}
				for _, r := range runners {
					if idle[r.id] && !r.ignored && (r.repo == "" || r.repo == j.repo) && !slices.ContainsFunc(strings.Fields(j.labels), func(label string) bool { return !strings.Contains(r.labels, label) }) {
						t.Fatalf("seed %d, step %d: job %d (%s) waits while runner %d (%s) is idle", seed, step, j.id, j.labels, r.id, r.labels)
					}
				}
			}
		}
		if v := l.Violations(); len(v) > 0 {
			t.Errorf("seed %d: %+v", seed, v[0])
		}
	}
}
