package sim

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace-ci/millrace"
)

// Database is a migrated, empty database of the simulator's own, by the URLs of three roles.
type Database struct {
	Superuser string
	App       string
	System    string
}

// notes are what the simulator adds to its database: a log of the changes that matter, written by triggers, so that what
// holds can be checked after every step without reading everything. Plans and clean-up that depend on how busy the machine
// is would make a day another one.
const notes = `
CREATE UNLOGGED TABLE sim_changes (
	n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind "char", org bigint, id uuid, host uuid, for_job uuid, ran_job uuid,
	github bigint, runner bigint, state text, text text, cpu int, memory int, other bigint
);
CREATE FUNCTION sim_job() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO sim_changes (kind, org, id, github, runner, state, text, memory, other)
	VALUES ('j', NEW.org_id, NEW.job_id, NEW.github_job_id, NEW.runner_id, NEW.status::text, NEW.wait_code, NEW.tries, NEW.cpu);
	RETURN NULL;
END $$;
CREATE FUNCTION sim_vm() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO sim_changes (kind, org, id, host, for_job, ran_job, runner, state, text, cpu, memory)
	VALUES ('v', NEW.org_id, NEW.vm_id, NEW.host_id, NEW.for_job, NEW.ran_job, NEW.runner_id, NEW.state, NEW.runner_name, NEW.cpu, NEW.memory);
	RETURN NULL;
END $$;
CREATE FUNCTION sim_host() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO sim_changes (kind, org, id, other) VALUES ('h', NEW.org_id, NEW.host_id, NEW.epoch);
	RETURN NULL;
END $$;
CREATE FUNCTION sim_incident() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO sim_changes (kind, org, id, state, text, other) VALUES ('i', NEW.org_id, NEW.incident_id,
		CASE WHEN NEW.closed_at IS NULL THEN 'open' ELSE 'closed' END, NEW.code, NEW.installation_id);
	RETURN NULL;
END $$;
CREATE TRIGGER sim_insert AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION sim_job();
CREATE TRIGGER sim_update AFTER UPDATE ON jobs FOR EACH ROW
	WHEN ((OLD.status, OLD.wait_code, OLD.runner_id, OLD.tries) IS DISTINCT FROM (NEW.status, NEW.wait_code, NEW.runner_id, NEW.tries)) EXECUTE FUNCTION sim_job();
CREATE TRIGGER sim_insert AFTER INSERT ON vms FOR EACH ROW EXECUTE FUNCTION sim_vm();
CREATE TRIGGER sim_update AFTER UPDATE ON vms FOR EACH ROW
	WHEN ((OLD.state, OLD.for_job, OLD.ran_job, OLD.runner_id) IS DISTINCT FROM (NEW.state, NEW.for_job, NEW.ran_job, NEW.runner_id)) EXECUTE FUNCTION sim_vm();
CREATE TRIGGER sim_insert AFTER INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION sim_host();
CREATE TRIGGER sim_update AFTER UPDATE ON hosts FOR EACH ROW WHEN (OLD.epoch <> NEW.epoch) EXECUTE FUNCTION sim_host();
CREATE TRIGGER sim_insert AFTER INSERT ON incidents FOR EACH ROW EXECUTE FUNCTION sim_incident();
CREATE TRIGGER sim_update AFTER UPDATE ON incidents FOR EACH ROW WHEN ((OLD.closed_at IS NULL) <> (NEW.closed_at IS NULL)) EXECUTE FUNCTION sim_incident();
DO $$
DECLARE t regclass;
BEGIN
	FOR t IN SELECT c.oid FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace LOOP
		EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', t);
	END LOOP;
	EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database());
	-- What that makes of a plan's cost would have it compiled, for a third of a second, to read a table of no rows.
	EXECUTE format('ALTER DATABASE %I SET jit = off', current_database());
	EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database());
	SET plan_cache_mode = force_generic_plan;
END $$;
CREATE FUNCTION sim_table() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
	FOR r IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' LOOP
		EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', r.object_identity);
	END LOOP;
END $$;
CREATE EVENT TRIGGER sim_partition ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION sim_table();
`

type jobRow struct {
	org      millrace.OrgID
	id       millrace.JobID
	github   int64
	runner   int64
	status   millrace.JobStatus
	wait     millrace.WaitCode
	tries    int  // that failed
	sensible bool // its labels can be parsed
	heard    time.Time
}

func (j *jobRow) open() bool { return j.status != millrace.JobCompleted }

type vmRow struct {
	org     millrace.OrgID
	id      millrace.VMID
	host    millrace.HostID
	forJob  millrace.JobID
	ranJob  millrace.JobID
	runner  int64
	state   millrace.VMState
	name    string
	size    millrace.Size
	placed  time.Time
	changed time.Time
}

// covers reports whether v stands for its job: the job may have no other.
func (v *vmRow) covers() bool {
	return v.ranJob.IsZero() && v.state != millrace.VMStopping && v.state != millrace.VMGone
}

// mirror is what the database says, kept up to date change by change, and the trace of all changes.
type mirror struct {
	conn      *pgx.Conn
	dirty     bool
	last      int64
	jobs      map[millrace.JobID]*jobRow
	byGitHub  map[int64]*jobRow
	vms       map[millrace.VMID]*vmRow
	live      map[millrace.VMID]*vmRow
	names     map[string]*vmRow
	ofJob     map[millrace.JobID][]*vmRow
	epochs    map[millrace.HostID]int64
	incidents map[millrace.IncidentID]millrace.WaitCode // open
	known     map[millrace.IncidentID]bool
	trace     hash.Hash64
	noted     []string // of this step
	lines     []string // the last of the trace
}

func newMirror(ctx context.Context, db Database) (*mirror, error) {
	conn, err := pgx.Connect(ctx, db.Superuser)
	if err != nil {
		return nil, err
	}
	m := &mirror{
		conn: conn, jobs: map[millrace.JobID]*jobRow{}, byGitHub: map[int64]*jobRow{}, vms: map[millrace.VMID]*vmRow{}, live: map[millrace.VMID]*vmRow{},
		names: map[string]*vmRow{}, ofJob: map[millrace.JobID][]*vmRow{}, epochs: map[millrace.HostID]int64{},
		incidents: map[millrace.IncidentID]millrace.WaitCode{}, known: map[millrace.IncidentID]bool{}, trace: fnv.New64a(),
	}
	if _, err := conn.Exec(ctx, notes); err != nil {
		conn.Close(ctx)
		return nil, err
	}
	return m, nil
}

func (m *mirror) close() { m.conn.Close(context.Background()) }

// analyze does what autovacuum does, when the day says so: tables this small are read whole, so that plans are the day's too.
func (m *mirror) analyze(ctx context.Context) error {
	_, err := m.conn.Exec(ctx, `ANALYZE`)
	return err
}

// waste counts why VMs ended that never ran a job.
func (m *mirror) waste(s *Sim) error {
	rows, err := m.conn.Query(context.WithoutCancel(s.ctx), `
		SELECT coalesce(nullif(retire_reason, ''), nullif(reason, ''), 'no reason'), count(*) FROM vms WHERE ran_job IS NULL AND state = 'gone' GROUP BY 1`)
	if err != nil {
		return err
	}
	var why string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&why, &n}, func() error {
		s.report.WastedBy[why] = n
		return nil
	})
	return err
}

// settled waits until what a process that died left open in the database is gone: of those that live each has two
// sessions, and none is in a transaction.
func (m *mirror) settled(alive int) error {
	for range 1000 {
		var sessions, open int
		err := m.conn.QueryRow(context.Background(), `
			SELECT count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity
			WHERE datname = current_database() AND usename IN ('millrace_app', 'millrace_system')`).Scan(&sessions, &open)
		if err != nil {
			return err
		}
		if sessions <= 2*alive+1 && open == 0 || sessions <= 2*alive {
			return nil
		}
		time.Sleep(time.Millisecond) // of a process that is really ending, and outside of the day
	}
	return errors.New("what a killed process left in the database does not end")
}

// read takes what has changed since it was last called, and checks each change.
func (m *mirror) read(s *Sim) {
	if !m.dirty || s.failed != nil {
		return
	}
	m.dirty = false
	rows, err := m.conn.Query(s.ctx, `
		SELECT n, kind::text, org, id, host, for_job, ran_job, coalesce(github, 0), coalesce(runner, 0), coalesce(state, ''), coalesce(text, ''),
			coalesce(cpu, 0), coalesce(memory, 0), coalesce(other, 0)
		FROM sim_changes WHERE n > $1 ORDER BY n`, m.last)
	if err != nil {
		s.must(err)
		return
	}
	var kind, state, text string
	var org millrace.OrgID
	var id, host, forJob, ranJob millrace.VMID // of whatever kind
	var github, runner, other int64
	var cpu, memory int
	_, err = pgx.ForEachRow(rows, []any{&m.last, &kind, &org, &id, &host, &forJob, &ranJob, &github, &runner, &state, &text, &cpu, &memory, &other}, func() error {
		switch kind {
		case "j":
			m.job(s, jobRow{org: org, id: millrace.JobID(id), github: github, runner: runner, status: millrace.JobStatus(state), wait: millrace.WaitCode(text), tries: memory, sensible: other > 0})
		case "v":
			m.vm(s, vmRow{
				org: org, id: id, host: millrace.HostID(host), forJob: millrace.JobID(forJob), ranJob: millrace.JobID(ranJob), runner: runner,
				state: millrace.VMState(state), name: text, size: millrace.Size{MilliCPU: cpu, MemoryMB: memory},
			})
		case "h":
			m.epochs[millrace.HostID(id)] = other
		case "i":
			m.note("incident", text, state)
			if state == "open" {
				if !m.known[millrace.IncidentID(id)] {
					s.report.Incidents[millrace.WaitCode(text)]++
				}
				m.known[millrace.IncidentID(id)] = true
				m.incidents[millrace.IncidentID(id)] = millrace.WaitCode(text)
			} else {
				delete(m.incidents, millrace.IncidentID(id))
			}
		}
		return nil
	})
	s.must(err)
	m.write(s)
}

// note adds a line to the trace: what changed.
func (m *mirror) note(words ...any) { m.noted = append(m.noted, fmt.Sprintln(words...)) }

// write writes what was noted of a step. The rows of one statement change in an order that is the planner's.
func (m *mirror) write(s *Sim) {
	slices.Sort(m.noted)
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], uint64(s.now.Sub(s.start)))
	for _, line := range m.noted {
		m.trace.Write(at[:])
		m.trace.Write([]byte(line))
		line = fmt.Sprintf("%12s %s", s.now.Sub(s.start).Round(time.Millisecond), line)
		m.lines = append(m.lines, line)
		if s.cfg.Trace != nil {
			_, err := io.WriteString(s.cfg.Trace, line)
			s.must(err)
		}
	}
	m.noted = m.noted[:0]
	if len(m.lines) > 400 {
		m.lines = m.lines[len(m.lines)-200:]
	}
}

func (m *mirror) job(s *Sim, j jobRow) {
	old, known := m.jobs[j.id]
	j.heard = s.now
	if known {
		j.heard = old.heard
		s.checkJob(old, &j)
		*old = j
	} else {
		old = &j
		m.jobs[j.id], m.byGitHub[j.github] = old, old
		s.load.detected(j.github)
	}
	m.note("job", j.github, j.status, j.wait, j.runner)
}

func (m *mirror) vm(s *Sim, v vmRow) {
	old, known := m.vms[v.id]
	v.changed = s.now
	m.note("vm", v.name, v.state, v.runner, m.number(v.forJob), m.number(v.ranJob))
	if !known {
		v.placed = s.now
		old = &v
		m.vms[v.id], m.live[v.id], m.names[v.name] = old, old, old
		m.ofJob[v.forJob] = append(m.ofJob[v.forJob], old)
		s.checkLaunch(old)
		return
	}
	v.placed = old.placed
	before := *old
	*old = v
	if before.forJob != v.forJob {
		m.ofJob[v.forJob] = append(m.ofJob[v.forJob], old)
	}
	if v.state == millrace.VMGone {
		delete(m.live, v.id)
	}
	s.checkMove(&before, old)
}

// number is GitHub's of a job, for the trace.
func (m *mirror) number(id millrace.JobID) int64 {
	if j := m.jobs[id]; j != nil {
		return j.github
	}
	return 0
}

// jobList and vmList are in order: no decision, and no trace, may depend on that of a map.
func (m *mirror) jobList() []*jobRow {
	list := make([]*jobRow, 0, len(m.jobs))
	for _, j := range m.jobs {
		list = append(list, j)
	}
	slices.SortFunc(list, func(a, b *jobRow) int { return cmp.Compare(a.github, b.github) })
	return list
}

func (m *mirror) vmList() []*vmRow {
	list := make([]*vmRow, 0, len(m.live))
	for _, v := range m.live {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b *vmRow) int { return cmp.Compare(a.name, b.name) })
	return list
}
