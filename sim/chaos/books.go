package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace/github/githubtest"
)

// books are both sides' accounts. What goes on while they are read is in some and not in others: of what was acknowledged they
// have what was before they were begun, all of which the rest must have.
type books struct {
	acknowledged map[string]delivery           // by GUID
	standin      map[int64]githubtest.JobState // by GitHub's id
	cancelled    map[int64]bool                // that somebody cancelled
	outcomes     map[string]int                // the stand-in's conclusions
	runners      int                           // registered
	jobs         map[int64]jobRow              // of the jobs that run, by GitHub's id
	load         int                           // rows of the load
	ids          map[int64]bool                // GitHub's ids of all rows
	facts        map[string]int                // by job
	factless     int                           // completed jobs of the load without exactly one row of facts
	vms          []vmRow
	guids        map[string]bool // of deliveries
}

type jobRow struct {
	ID, Status, Conclusion string
	Runner                 int64
	Started, Completed     *time.Time
}

type vmRow struct {
	ID, State, RanJob string
	Runner            int64
}

func (w *world) readBooks(ctx context.Context) (*books, error) {
	b := &books{
		standin: map[int64]githubtest.JobState{}, cancelled: map[int64]bool{}, outcomes: map[string]int{}, runners: w.github.Runners(), jobs: map[int64]jobRow{},
		ids: map[int64]bool{}, facts: map[string]int{}, guids: map[string]bool{}, acknowledged: w.witness.acknowledged(),
	}
	for _, j := range w.queued() {
		state, _ := w.github.Job(j.id)
		b.standin[j.id], b.cancelled[j.id] = state, j.cancelled
		b.outcomes[state.Conclusion]++
	}
	conn, err := pgx.Connect(ctx, w.postgres.URL("postgres", database))
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	main, load := w.orgs[0].ID, w.orgs[1].ID
	var id int64
	var row jobRow
	var vm vmRow
	var text string
	var n int
	for _, q := range []struct {
		sql  string
		args []any
		into []any
		each func()
	}{
		{
			`SELECT github_job_id, job_id::text, status::text, conclusion, runner_id, started_at, completed_at FROM jobs WHERE org_id = $1`,
			[]any{main},
			[]any{&id, &row.ID, &row.Status, &row.Conclusion, &row.Runner, &row.Started, &row.Completed},
			func() { b.jobs[id], b.ids[id] = row, true },
		},
		{`SELECT github_job_id FROM jobs WHERE org_id = $1`, []any{load}, []any{&id}, func() { b.ids[id] = true; b.load++ }},
		{`SELECT job_id::text, count(*) FROM job_facts WHERE org_id = $1 GROUP BY job_id`, []any{main}, []any{&text, &n}, func() { b.facts[text] = n }},
		{
			`SELECT count(*) FROM (
				SELECT j.job_id FROM jobs j LEFT JOIN job_facts f ON (f.org_id, f.job_id) = (j.org_id, j.job_id)
				WHERE j.org_id = $1 GROUP BY j.job_id HAVING count(f.job_id) <> 1) AS wrong`,
			[]any{load},
			[]any{&b.factless},
			func() {},
		},
		{
			`SELECT vm_id::text, state, coalesce(ran_job::text, ''), runner_id FROM vms WHERE org_id = $1`,
			[]any{main},
			[]any{&vm.ID, &vm.State, &vm.RanJob, &vm.Runner},
			func() { b.vms = append(b.vms, vm) },
		},
		{`SELECT guid FROM deliveries`, nil, []any{&text}, func() { b.guids[text] = true }},
	} {
		rows, err := conn.Query(ctx, q.sql, q.args...)
		if err != nil {
			return nil, err
		}
		if _, err := pgx.ForEachRow(rows, q.into, func() error { q.each(); return nil }); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// lost are the acknowledged deliveries that are not in the database, or whose job is not.
func (b *books) lost() (lost []string) {
	for guid, d := range b.acknowledged {
		switch {
		case d.job == 0: // it told of no job
		case !b.guids[guid]:
			lost = append(lost, fmt.Sprintf("delivery %s (%s of job %d)", guid, d.action, d.job))
		case !b.ids[d.job]:
			lost = append(lost, fmt.Sprintf("job %d of delivery %s", d.job, guid))
		}
	}
	return lost
}

// idle counts the VMs that ran nothing.
func (b *books) idle() (n int) {
	for _, v := range b.vms {
		if v.RanJob == "" {
			n++
		}
	}
	return n
}

// unexplained are the jobs that failed though none of these kills happened while they ran, or that were cancelled by nobody.
func (b *books) unexplained(kills []outage) (list []string) {
	for id, at := range b.standin {
		row := b.jobs[id]
		switch {
		case at.Status != "completed", at.Conclusion == "success", at.Conclusion == "cancelled" && b.cancelled[id]:
			continue
		case at.Conclusion == "failure" && row.Started != nil && row.Completed != nil:
			// GitHub's times are whole seconds.
			ran := outage{row.Started.Add(-time.Second), row.Completed.Add(time.Second)}
			if slices.ContainsFunc(kills, ran.meets) {
				continue
			}
		}
		list = append(list, fmt.Sprintf("job %d: %s %s", id, at.Status, at.Conclusion))
	}
	return list
}

// open says what does not balance.
func (b *books) open() (open []string) {
	say := func(format string, args ...any) { open = append(open, fmt.Sprintf(format, args...)) }
	ranBy := map[string][]vmRow{}
	for _, v := range b.vms {
		if v.State != "gone" {
			say("VM %s is %s", v.ID, v.State)
		}
		if v.RanJob != "" {
			ranBy[v.RanJob] = append(ranBy[v.RanJob], v)
		}
	}
	if b.runners > 0 {
		say("%d runners are registered", b.runners)
	}
	if len(b.jobs) != len(b.standin) {
		say("%d jobs here, %d at GitHub", len(b.jobs), len(b.standin))
	}
	if b.factless > 0 {
		say("%d jobs of the load have no facts, or twice", b.factless)
	}
	runners := map[int64]int64{}
	for id, at := range b.standin {
		row, known := b.jobs[id]
		ran := ranBy[row.ID]
		switch logs := ranLines(at.Log); {
		case at.Status != "completed":
			say("job %d is %s at GitHub", id, at.Status)
		case !known:
			say("job %d is unknown here", id)
		case row.Status != "completed" || row.Conclusion != at.Conclusion:
			say("job %d is %s %s here, %s at GitHub", id, row.Status, row.Conclusion, at.Conclusion)
		case row.Runner != at.RunnerID:
			say("job %d was run by runner %d as seen here, %d at GitHub", id, row.Runner, at.RunnerID)
		case at.RunnerID == 0 && len(ran) > 0:
			say("job %d was run by no runner and by %d VMs", id, len(ran))
		case at.RunnerID != 0 && (len(ran) != 1 || ran[0].Runner != at.RunnerID):
			say("job %d was run by runner %d and by %d VMs: %v", id, at.RunnerID, len(ran), ran)
		case at.RunnerID != 0 && runners[at.RunnerID] != 0:
			say("runner %d ran job %d and job %d", at.RunnerID, id, runners[at.RunnerID])
		case len(logs) > 1, at.Conclusion == "success" && (len(logs) != 1 || logs[0] != at.RunnerName):
			say("job %d's log was written by %v, its runner is %s", id, logs, at.RunnerName)
		case b.facts[row.ID] != 1:
			say("job %d has %d rows of facts", id, b.facts[row.ID])
		}
		if at.RunnerID != 0 {
			runners[at.RunnerID] = id
		}
	}
	if len(b.facts) != len(b.jobs) {
		say("%d jobs, facts of %d", len(b.jobs), len(b.facts))
	}
	return open
}

// ranLines are the runners that a job's log names.
func ranLines(log string) (names []string) {
	for line := range strings.Lines(log) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), ranOn); ok {
			names = append(names, name)
		}
	}
	return names
}

// balance waits until nothing is open any more, and returns how long that took and what is open still.
func (w *world) balance(ctx context.Context) (took time.Duration, open []string, err error) {
	began := time.Now()
	said := began
	for {
		b, err := w.readBooks(ctx)
		if err != nil {
			return 0, nil, err
		}
		open = b.open()
		took = time.Since(began)
		if len(open) == 0 || took > w.o.drain {
			return took, open, nil
		}
		if time.Since(said) >= 15*time.Second {
			said = time.Now()
			w.say("after %s: %d things are open%s", round(took), len(open), sample(open))
		}
		sleep(ctx, time.Second)
		if ctx.Err() != nil {
			return took, open, ctx.Err()
		}
	}
}
