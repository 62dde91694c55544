package store

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"gocloud.dev/blob"

	"github.com/millrace-ci/millrace"
)

// exported are the tables of an export, in its order, and the columns that are left out of their rows, each with the
// reason. Every other table with org_id is among [notExported]; a test sees to that.
var exported = []exportedTable{
	{name: "orgs"},
	{name: "org_flags"},
	{name: "memberships", more: `|| jsonb_build_object('login', u.login, 'name', u.name)`, from: ` JOIN member_names() u ON u.user_id = t.user_id`},
	{name: "installations"},
	{name: "repositories"},
	{name: "zone_rules"},
	{name: "api_tokens", without: map[string]string{"hash": "whoever has the hash can look for the secret"}},
	{name: "enrollment_tokens", without: map[string]string{"hash": "whoever has the hash can look for the secret"}},
	{name: "hosts", without: map[string]string{
		"sign_key":    "keys are the host's and ours; no other program can use them",
		"seal_key":    "keys are the host's and ours; no other program can use them",
		"changed_xid": "when it changed, as our database counts",
	}},
	{name: "host_beats"},
	{name: "jobs"},
	{name: "vms", without: map[string]string{"jit_sealed": "it registers a runner, if the host's key should ever get known", "ending": "state says it"}},
	{name: "job_facts"},
	{name: "job_durations"},
	{name: "vm_samples"},
	{name: "incidents"},
	{name: "audit"},
}

// notExported are the tables with org_id that an export passes over, and why. The app role may read none of them.
var notExported = map[string]string{
	"deliveries": "GitHub's messages as they came, kept for a week; what they say of the org is in jobs",
	"outbox":     "tasks of ours that are handed on within seconds",
	"placements": "what the last placement pass saw, for the next one",
}

type exportedTable struct {
	name       string
	without    map[string]string
	more, from string // what is added to a row t, and where that is from
}

// shown are the columns whose uuids people know as IDs, of any table or of one.
var shown = map[string]func(uuid string) string{
	"user_id":                    idOf(millrace.UserID{}),
	"host_id":                    idOf(millrace.HostID{}),
	"job_id":                     idOf(millrace.JobID{}),
	"for_job":                    idOf(millrace.JobID{}),
	"ran_job":                    idOf(millrace.JobID{}),
	"vm_id":                      idOf(millrace.VMID{}),
	"incident_id":                idOf(millrace.IncidentID{}),
	"api_tokens.token_id":        idOf(millrace.APITokenID{}),
	"enrollment_tokens.token_id": idOf(millrace.EnrollmentTokenID{}),
}

// idOf shows a uuid as an ID of the same kind as its argument.
func idOf[K millrace.Kind](millrace.ID[K]) func(string) string {
	return func(uuid string) string {
		var id millrace.ID[K]
		if id.Scan(uuid) != nil {
			return uuid
		}
		return id.String()
	}
}

// exportPage is how many rows are read at once.
const exportPage = 500

// manifest says what an export holds. It is written last: an export without it was cut short.
type manifest struct {
	Org        string         `json:"org"`
	ExportedAt time.Time      `json:"exported_at"`
	Tables     map[string]int `json:"tables"`
	Consoles   int            `json:"consoles"`
	AgentLogs  int            `json:"agent_logs"`
}

// Export writes all that the org has here as a ZIP: tables/<name>.jsonl with a row per line for each table,
// consoles/<VM>.log for each VM that printed anything, agent-logs/<host>.log for each host whose agent said something, and manifest.json with the counts. No secret is in it, nor the hash
// or key of one.
//
// Rows are read in pages by primary key, each page in a transaction of its own. A reader may take as long as it likes: one
// long transaction would be ended by the server for being idle, or keep it from cleaning up after every other org. The
// price is that what changes meanwhile may be seen in one table and not in another.
func (o Org) Export(ctx context.Context, actor millrace.Actor, w io.Writer) error {
	m := manifest{Tables: map[string]int{}}
	err := o.tx(ctx, func(tx *Tx) error { // first, for what was read is out even if the rest fails
		m.ExportedAt = tx.now.UTC()
		org, err := tx.readOrg(ctx, o.id)
		if err != nil {
			return err
		}
		m.Org = org.Slug
		return tx.audit(ctx, o.id, actor, "org.exported", org.Slug)
	})
	if err != nil {
		return err
	}
	z := zip.NewWriter(w)
	create := func(name string) (io.Writer, error) {
		return z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: m.ExportedAt})
	}
	for _, t := range exported {
		file, err := create("tables/" + t.name + ".jsonl")
		if err != nil {
			return err
		}
		if m.Tables[t.name], err = o.exportTable(ctx, t, file); err != nil {
			return err
		}
	}
	if m.AgentLogs, err = o.exportAgentLogs(ctx, create); err != nil {
		return err
	}
	if m.Consoles, err = o.exportConsoles(ctx, create); err != nil {
		return err
	}
	file, err := create("manifest.json")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(file).Encode(m); err != nil {
		return err
	}
	return z.Close()
}

// exportTable writes a table's rows in the order of its primary key, and returns how many those were.
func (o Org) exportTable(ctx context.Context, t exportedTable, w io.Writer) (n int, err error) {
	var without, names, types []string
	for column := range t.without {
		without = append(without, column)
	}
	var last []string // the key of the last row that was read
	for {
		var page []string
		err := o.tx(ctx, func(tx *Tx) error {
			if names == nil {
				if names, types, err = tx.primaryKey(ctx, t.name); err != nil {
					return err
				}
			}
			// Times are shown in UTC, wherever the server is. A page is a walk along the primary key: by statistics that are out of
			// date it would be all that is left of the table, sorted anew each time, by a program compiled anew.
			if _, err := tx.Exec(ctx, `
				SELECT set_config('timezone', 'UTC', true), set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
					set_config('jit', 'off', true)`); err != nil {
				return err
			}
			page, last, err = tx.exportPage(ctx, t, o.id, notNil(without), names, types, last)
			return err
		})
		if err != nil {
			return n, err
		}
		for _, row := range page {
			if err := writeRow(w, t.name, row); err != nil {
				return n, err
			}
		}
		if n += len(page); len(page) < exportPage {
			return n, nil
		}
	}
}

// primaryKey are the names and types of the columns of a table's primary key after org_id, which every one begins with.
// A comparison of keys leaves that out: Postgres would begin with the org's first row for each page.
func (tx *Tx) primaryKey(ctx context.Context, table string) (names, types []string, err error) {
	err = tx.QueryRow(ctx, `
		SELECT coalesce(array_agg(a.attname::text ORDER BY k.n), '{}'), coalesce(array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.n), '{}')
		FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY AS k (attnum, n), pg_attribute a
		WHERE c.conrelid = $1::text::regclass AND c.contype = 'p' AND (a.attrelid, a.attnum) = (c.conrelid, k.attnum) AND a.attname <> 'org_id'`, table).Scan(&names, &types)
	return names, types, err
}

// exportPage reads the rows that follow the one with the key after, and the key of the last of them.
func (tx *Tx) exportPage(ctx context.Context, t exportedTable, org millrace.OrgID, without, names, types, after []string) (rows, last []string, err error) {
	where, keys := `t.org_id = $1`, make([]string, len(names))
	args := []any{org, without}
	if after != nil {
		place := make([]string, len(names))
		for i, value := range after {
			args = append(args, value)
			place[i] = fmt.Sprintf("$%d::text::%s", i+3, types[i])
		}
		where += fmt.Sprintf(` AND (t.%s) > (%s)`, strings.Join(names, ", t."), strings.Join(place, ", "))
	}
	for i, name := range names {
		keys[i] = "t." + name + "::text"
	}
	order := strings.Join(append([]string{"org_id"}, names...), ", t.")
	sql := fmt.Sprintf(`
		SELECT ((to_jsonb(t) %s) - $2::text[])::text, ARRAY[%s]::text[] FROM %s t%s WHERE %s ORDER BY t.%s LIMIT %d`,
		t.more, strings.Join(keys, ", "), t.name, t.from, where, order, exportPage)
	result, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, nil, err
	}
	var row string
	_, err = pgx.ForEachRow(result, []any{&row, &last}, func() error { rows = append(rows, row); return nil })
	return rows, last, err
}

// writeRow writes a row as a line, its uuids as people see them.
func writeRow(w io.Writer, table, row string) error {
	var fields map[string]any
	d := json.NewDecoder(strings.NewReader(row))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return err
	}
	for name, value := range fields {
		uuid, ok := value.(string)
		if !ok {
			continue
		}
		show := shown[table+"."+name]
		if show == nil {
			show = shown[name]
		}
		if show != nil {
			fields[name] = show(uuid)
		}
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(fields); err != nil {
		return err
	}
	_, err := w.Write(line.Bytes())
	return err
}

// exportAgentLogs writes what the agents of the org's hosts said, and returns how many said something.
func (o Org) exportAgentLogs(ctx context.Context, create func(name string) (io.Writer, error)) (n int, err error) {
	for list := o.store.blobs.List(&blob.ListOptions{Prefix: agentLogsKey(o.id), Delimiter: "/"}); ; {
		folder, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		host, err := millrace.ParseHostID(path.Base(folder.Key))
		if err != nil || !folder.IsDir {
			continue // nothing that AppendAgentLog wrote
		}
		text, _, err := o.AgentLog(ctx, host, millrace.LogPosition{}, 2*MaxAgentLog)
		if err != nil {
			return n, err
		}
		file, err := create("agent-logs/" + host.String() + ".log")
		if err != nil {
			return n, err
		}
		if _, err := file.Write(text); err != nil {
			return n, err
		}
		n++
	}
}

// exportConsoles writes what the org's VMs printed, one after the other, and returns how many did.
func (o Org) exportConsoles(ctx context.Context, create func(name string) (io.Writer, error)) (n int, err error) {
	for list := o.store.blobs.List(&blob.ListOptions{Prefix: consolesKey(o.id), Delimiter: "/"}); ; {
		folder, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		vm, err := millrace.ParseVMID(path.Base(folder.Key))
		if err != nil || !folder.IsDir {
			continue // nothing that AppendConsole wrote
		}
		text, _, err := o.Console(ctx, vm, 0, MaxConsole)
		if err != nil {
			return n, err
		}
		file, err := create("consoles/" + vm.String() + ".log")
		if err != nil {
			return n, err
		}
		if _, err := file.Write(text); err != nil {
			return n, err
		}
		n++
	}
}
