package store_test

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// leaver is a tenant with a row in every table with org_id, and what is secret of it.
type leaver struct {
	storetest.Tenant
	org               store.Org
	host              millrace.Host
	idle, done        millrace.VMID // one that is registered and online, and one whose job has ended
	token, enrollment string        // secrets
}

// tables are those with org_id, without partitions or with them.
func (w *world) tables(partitions bool) []string {
	w.t.Helper()
	return column[string](w.t, w.root, `
		SELECT c.oid::regclass::text FROM pg_class c
		WHERE c.relkind IN ('r', 'p') AND ($1 OR NOT c.relispartition)
			AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'org_id' AND NOT attisdropped)
		ORDER BY 1`, partitions)
}

// leavers are two tenants with the same in every table but the names. A table that no use case below writes is filled
// here.
func leavers(t *testing.T) (w *world, a, b leaver) {
	t.Helper()
	w = newWorld(t)
	w.Tenant, w.org = storetest.Tenant{}, store.Org{}
	fill := func(slug string, n byte) (l leaver) {
		l.Tenant = storetest.MustCreateOrg(t, w.st, slug)
		l.org = w.st.Org(l.ID)
		l.token = storetest.MustCreateToken(t, w.st, l.Tenant)
		_, secret, err := l.org.CreateEnrollmentToken(t.Context(), storetest.System, store.NewEnrollmentToken{Uses: 5})
		if err != nil {
			t.Fatal(err)
		}
		l.enrollment = secret.Reveal()
		l.host = storetest.MustEnroll(t, w.st, l.Tenant, slug+"-rack", key(n), key(n+1))
		w.Tenant, w.org, w.host = l.Tenant, l.org, l.host
		end := func(j *millrace.Job) { j.CompletedAt, j.Name = w.now(), slug+"-job" }
		base := int64(n) * 100
		place := func(githubID int64) millrace.VMID {
			storetest.MustIntake(t, w.st, storetest.Delivery(l.Tenant, githubID, millrace.JobQueued))
			return w.place(w.jobID(githubID))
		}
		l.done = place(base)
		w.register(l.done, base)
		storetest.MustIntake(t, w.st, storetest.Delivery(l.Tenant, base, millrace.JobCompleted, end, func(j *millrace.Job) { j.RunnerID = base }))
		w.pass(nothing)
		w.observe(millrace.VMGone, l.done)
		if err := l.org.AppendConsole(t.Context(), l.host.ID, l.done, 0, []byte(slug+" printed this")); err != nil {
			t.Fatal(err)
		}
		if err := l.org.AppendSamples(t.Context(), l.host.ID, l.done, 1, millrace.Series{{UptimeMS: 1000, CPUMillis: 600}}); err != nil {
			t.Fatal(err)
		}
		l.idle = place(base + 1)
		w.register(l.idle, base+1)
		limited := millrace.Condition{Code: millrace.WaitRunnerGroup, Detail: slug}
		if err := w.st.OpenIncident(t.Context(), l.Installation.ID, 77, slug+"/app", limited); err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			`INSERT INTO zone_rules (org_id, zone, allowed, host_labels, egress, max_cpu, max_memory) VALUES ($1, 'public', $2 > '2020-01-01'::timestamptz, '{}', 'none', 0, 0)`,
			`INSERT INTO outbox (org_id, kind, args, at) VALUES ($1, 'vm.retire', '{}', $2)`,
			`INSERT INTO org_flags (org_id, flag, created_at) VALUES ($1, 'early', $2)`,
			`INSERT INTO job_durations (org_id, repository_id, workflow, name, n, p50, p90) VALUES ($1, 1, 'w', 'n', 1, extract(epoch FROM $2::timestamptz), 1) ON CONFLICT DO NOTHING`,
		} {
			if _, err := w.root.Exec(t.Context(), sql, l.ID, w.now()); err != nil {
				t.Fatalf("%v\n%s", err, sql)
			}
		}
		for _, table := range w.tables(false) {
			if scalar[int](t, w.root, `SELECT count(*) FROM `+table+` WHERE org_id = $1`, l.ID) == 0 {
				t.Fatalf("%s is empty: fill it here, so that leaving is tested with it", table)
			}
		}
		return l
	}
	a, b = fill("leaver", 11), fill("canary", 21)
	return w, a, b
}

// rows are all rows of an org, as text, by table.
func (w *world) rows(org millrace.OrgID) map[string]string {
	w.t.Helper()
	all := map[string]string{}
	for _, table := range w.tables(true) {
		all[table] = scalar[string](w.t, w.root, `SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM `+table+` t WHERE org_id = $1`, org)
	}
	return all
}

func TestExport(t *testing.T) {
	t.Parallel()
	w, a, b := leavers(t)
	var out bytes.Buffer
	actor := millrace.Actor{Kind: millrace.ActorUser, ID: a.Owner.ID.String()}
	// More than a page of one table.
	_, err := w.root.Exec(t.Context(), `
		INSERT INTO audit (org_id, at, audit_id, actor_kind, actor_id, action, subject)
		SELECT org_id, $2::timestamptz + n * interval '1 millisecond', gen_random_uuid(), 'system', '', 'tested', '' FROM orgs, generate_series(1, 800) AS n WHERE org_id = $1`, a.ID, w.now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.org.Export(t.Context(), actor, &out); err != nil {
		t.Fatal(err)
	}
	files := unzip(t, out.Bytes())
	var m struct {
		Org        string
		ExportedAt time.Time `json:"exported_at"`
		Tables     map[string]int
		Consoles   int
	}
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil {
		t.Fatal(err)
	}
	if m.Org != a.Slug || !m.ExportedAt.Equal(w.now()) || m.Consoles != 1 {
		t.Errorf("manifest %+v", m)
	}
	without, passedOver := store.ExportedColumns()
	for _, table := range w.tables(false) {
		if slices.Contains(passedOver, table) {
			continue
		}
		lines := strings.Split(strings.TrimSuffix(string(files["tables/"+table+".jsonl"]), "\n"), "\n")
		if n := scalar[int](t, w.root, `SELECT count(DISTINCT t) FROM `+table+` t WHERE org_id = $1`, a.ID); len(lines) != n || m.Tables[table] != n {
			t.Errorf("%s has %d rows; exported are %d, and %d by the manifest", table, n, len(lines), m.Tables[table])
		}
		seen := map[string]bool{}
		for _, line := range lines {
			var row map[string]any
			if err := json.Unmarshal([]byte(line), &row); err != nil || seen[line] {
				t.Fatalf("%s: %v, or twice: %s", table, err, line)
			}
			seen[line] = true
			if row["org_id"] != float64(a.ID) {
				t.Errorf("%s: %s", table, line)
			}
			for _, column := range without[table] {
				if _, ok := row[column]; ok {
					t.Errorf("%s has %s", table, column)
				}
			}
		}
	}
	if got := string(files["consoles/"+a.done.String()+".log"]); got != "leaver printed this" {
		t.Errorf("console %q", got)
	}
	for table, want := range map[string]string{
		"memberships": `"login":"leaver-admin"`, "vms": `"vm_id":"` + a.idle.String() + `"`, "api_tokens": `"token_id":"tok_`, "audit": `"action":"org.exported"`,
	} {
		if !strings.Contains(string(files["tables/"+table+".jsonl"]), want) {
			t.Errorf("%s lacks %s:\n%s", table, want, files["tables/"+table+".jsonl"])
		}
	}
	if by := scalar[string](t, w.root, `SELECT actor_id FROM audit WHERE org_id = $1 AND action = 'org.exported'`, a.ID); by != actor.ID {
		t.Errorf("exported by %q", by)
	}

	all := slices.Concat(slices.Collect(maps.Values(files))...)
	canaries := map[string][]byte{"the other org": []byte("canary"), "its host": []byte(b.host.ID.String()), "its host's uuid": []byte(b.host.ID.UUID())}
	secret := func(name string, value []byte) {
		canaries[name] = value
		canaries[name+" in hex"] = []byte(hex.EncodeToString(value))
		canaries[name+" in base64"] = []byte(base64.StdEncoding.EncodeToString(value))
	}
	secret("the API token", []byte(a.token))
	secret("the enrollment token", []byte(a.enrollment))
	secret("the sealed configuration", []byte("sealed"))
	secret("the host's sign key", a.host.SignKey)
	secret("the host's seal key", a.host.SealKey)
	for _, table := range []string{"api_tokens", "enrollment_tokens"} {
		for i, hash := range column[[]byte](t, w.root, `SELECT hash FROM `+table+` WHERE org_id = $1`, a.ID) {
			secret(fmt.Sprintf("hash %d of %s", i, table), hash)
		}
	}
	for name, value := range canaries {
		if bytes.Contains(all, value) {
			t.Errorf("%s is in the export", name)
		}
	}
}

// Every table with org_id is exported, or passed over for a reason; and no column of bytes, which keys and hashes are, is
// in an export.
func TestExportKnowsEveryTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	without, passedOver := store.ExportedColumns()
	if diff := cmp.Diff(w.tables(false), slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Keys(without)), passedOver)))); diff != "" {
		t.Errorf("tables with org_id, and what store/export.go says of them:\n%s", diff)
	}
	for table, columns := range without {
		for _, secret := range column[string](t, w.root, `
			SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND NOT attisdropped
				AND (atttypid = 'bytea'::regtype OR attname ~ 'hash|secret|sealed|password')`, table) {
			if !slices.Contains(columns, secret) {
				t.Errorf("%s.%s is exported", table, secret)
			}
		}
		for _, column := range columns {
			if !scalar[bool](t, w.root, `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = $2)`, table, column) {
				t.Errorf("%s.%s, which is left out, is none", table, column)
			}
		}
	}
}

func unzip(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestDeletion(t *testing.T) {
	t.Parallel()
	w, a, _ := leavers(t)
	storetest.MustIntake(t, w.st, storetest.Delivery(a.Tenant, 1101, millrace.JobInProgress))
	got, err := a.org.Deletion(t.Context())
	want := millrace.OrgDeletion{Slug: "leaver", Members: 1, Installations: 1, Hosts: 1, Jobs: 2, RunningJobs: 1, VMs: 2, Tokens: 2}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestDeleteOrgWantsItsSlug(t *testing.T) {
	t.Parallel()
	w, a, b := leavers(t)
	before := w.rows(a.ID)
	for _, typed := range []string{"", "Leaver", "leaver ", b.Slug} {
		code(t, w.st.DeleteOrg(t.Context(), storetest.System, a.ID, typed), millrace.Unprocessable)
	}
	code(t, w.st.DeleteOrg(t.Context(), storetest.System, 1<<30, a.Slug), millrace.NotFound)
	if diff := cmp.Diff(before, w.rows(a.ID)); diff != "" {
		t.Errorf("a wrong name changed:\n%s", diff)
	}
}

// From the deletion on every way to the org ends as it does for one that never was.
func TestDeletedOrgIsNotFound(t *testing.T) {
	t.Parallel()
	w, a, b := leavers(t)
	ctx := t.Context()
	actor := millrace.Actor{Kind: millrace.ActorUser, ID: a.Owner.ID.String()}
	told := w.st.Bus.On(store.TopicOrg(a.ID))
	if err := w.st.DeleteOrg(ctx, actor, a.ID, a.Slug); err != nil {
		t.Fatal(err)
	}
	closed(t, told, "the deletion")
	if by := scalar[string](t, w.root, `SELECT o.deleted_by || ' ' || a.actor_id FROM orgs o JOIN audit a USING (org_id) WHERE o.org_id = $1 AND a.action = 'org.deleted'`, a.ID); by != actor.ID+" "+actor.ID {
		t.Errorf("deleted by %s", by)
	}
	same := func(what string, deleted, missing error) {
		t.Helper()
		if deleted == nil || missing == nil || deleted.Error() != missing.Error() || millrace.CodeOf(deleted) != millrace.CodeOf(missing) {
			t.Errorf("%s: a deleted org's is %v, a missing one's %v", what, deleted, missing)
		}
	}
	_, deleted := w.st.OrgBySlug(ctx, a.Slug)
	_, missing := w.st.OrgBySlug(ctx, "nobody")
	same("slug", deleted, missing)
	_, deleted = w.st.TokenAuth(ctx, a.token, millrace.Device{})
	_, missing = w.st.TokenAuth(ctx, millrace.NewSecret(millrace.APITokenPrefix, nil).Reveal(), millrace.Device{})
	same("token", deleted, missing)
	_, _, deleted = w.st.EnrollHost(ctx, millrace.Actor{}, store.Enrollment{Secret: a.enrollment, Name: "late", SignKey: key(90), SealKey: key(91), Facts: storetest.Facts()})
	_, _, missing = w.st.EnrollHost(ctx, millrace.Actor{}, store.Enrollment{Secret: millrace.NewSecret(millrace.EnrollmentTokenPrefix, nil).Reveal(), Name: "late", SignKey: key(90), SealKey: key(91), Facts: storetest.Facts()})
	same("enrollment", deleted, missing)
	same("deletion", w.st.DeleteOrg(ctx, actor, a.ID, a.Slug), w.st.DeleteOrg(ctx, actor, 1<<30, a.Slug))
	_, deleted = a.org.Deletion(ctx)
	_, missing = w.st.Org(1 << 40).Deletion(ctx)
	same("what would go", deleted, missing)

	if list, err := w.st.Memberships(ctx, a.Owner.ID); err != nil || len(list) != 0 {
		t.Errorf("a member of %v, %v", list, err)
	}
	if got, err := w.st.Intake(ctx, storetest.Delivery(a.Tenant, 1199, millrace.JobQueued)); got != store.IntakeUnknownInstallation || err != nil {
		t.Errorf("intake: %s, %v", got, err)
	}
	if placed, err := w.st.Place(ctx, a.ID, store.Unknown, func(millrace.Pass) millrace.Decision {
		t.Error("a pass is run")
		return millrace.Decision{}
	}); err != nil || placed.VMs != 0 || !placed.NextAt.IsZero() {
		t.Errorf("%+v, %v", placed, err)
	}
	if demand, err := w.st.OrgsWithDemand(ctx); err != nil || len(demand[a.ID].Commits) > 0 || len(demand[b.ID].Commits) == 0 {
		t.Errorf("demand %v, %v", demand, err)
	}
	w.advance(24 * time.Hour)
	polls, err := w.st.BeginPolls(ctx, 100)
	if err != nil || len(polls.Due) != 1 || polls.Due[0].OrgID != b.ID || !slices.Contains(polls.Unlisted, b.Installation.ID) || slices.Contains(polls.Unlisted, a.Installation.ID) {
		t.Errorf("polls %+v, %v", polls, err)
	}
	if due, _, err := w.st.DueIncidents(ctx); err != nil || len(due) != 1 || due[0].OrgID != b.ID {
		t.Errorf("incidents to probe %+v, %v", due, err)
	}
	if targets, err := w.st.RunnerTargets(ctx); err != nil || len(targets) < 2 || slices.ContainsFunc(targets, func(r store.RunnersToSweep) bool { return r.OrgID == a.ID }) {
		t.Errorf("registrations to sweep %+v, %v", targets, err)
	}
	if err := w.st.OpenIncident(ctx, a.Installation.ID, 0, "", millrace.Condition{Code: millrace.WaitSuspended}); err != nil {
		t.Error(err)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM incidents WHERE org_id = $1`, a.ID); n != 1 {
		t.Errorf("%d incidents", n)
	}

	// Whoever would come back to it does not.
	person := millrace.GitHubPerson{User: a.Owner, Installations: []millrace.PersonInstallation{{Installation: a.Installation, Member: true, Admin: true}}}
	if _, err := w.st.SignInPerson(ctx, person, millrace.Device{}); err != nil {
		t.Error(err)
	}
	_, _, _ = a.org.CreateAPIToken(ctx, a.Caller(), millrace.NewAPIToken{Name: "late", Scopes: millrace.Scopes()})
	_, _, _ = a.org.CreateEnrollmentToken(ctx, actor, store.NewEnrollmentToken{})
	for _, table := range []string{"memberships", "api_tokens", "enrollment_tokens"} {
		if n := scalar[int](t, w.root, `SELECT count(*) FROM `+table+` WHERE org_id = $1`, a.ID); n != 0 {
			t.Errorf("%d %s", n, table)
		}
	}
	_, _, err = w.st.CreateOrg(ctx, store.NewOrg{Slug: a.Slug, Name: "again", DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512}, Owner: a.Owner})
	code(t, err, millrace.Conflict)
}

// Its VMs are ended, whatever they do; its hosts are told, and known until they can't be.
func TestDeletedOrgsVMs(t *testing.T) {
	t.Parallel()
	w, a, _ := leavers(t)
	w.Tenant, w.org, w.host = a.Tenant, a.org, a.host
	storetest.MustIntake(t, w.st, storetest.Delivery(a.Tenant, 1150, millrace.JobQueued))
	pending := w.place(w.jobID(1150))
	storetest.MustIntake(t, w.st, storetest.Delivery(a.Tenant, 1151, millrace.JobQueued))
	busy := w.place(w.jobID(1151))
	w.register(busy, 1151)
	storetest.MustIntake(t, w.st, storetest.Delivery(a.Tenant, 1151, millrace.JobInProgress, func(j *millrace.Job) { j.RunnerID = 1151 }))
	w.pass(nothing)
	if _, err := w.root.Exec(t.Context(), `DELETE FROM outbox`); err != nil {
		t.Fatal(err)
	}
	before, err := a.org.Desired(t.Context(), a.host.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.st.DeleteOrg(t.Context(), storetest.System, a.ID, a.Slug); err != nil {
		t.Fatal(err)
	}
	if got := w.tasks(); !slices.Equal(got, []string{"vm.retire", "vm.retire", "org.erase"}) {
		t.Errorf("tasks %v", got)
	}
	desired, err := a.org.Desired(t.Context(), a.host.ID)
	if err != nil || desired.Version == before.Version || len(desired.VMs) != 2 || slices.ContainsFunc(desired.VMs, func(v millrace.VM) bool { return v.ID == pending }) {
		t.Errorf("version %d, then %d; %d VMs, %v", before.Version, desired.Version, len(desired.VMs), err)
	}
	if _, err := a.org.BeginJIT(t.Context(), a.host.ID, pending, 1); millrace.CodeOf(err) != millrace.Gone {
		t.Errorf("a VM of a deleted org is registered: %v", err)
	}
	// The busy one's job goes with the org, whether GitHub says that the runner is busy or that it is removed.
	if w.vm(busy).State != millrace.VMBusy {
		t.Fatalf("the VM is %s", w.vm(busy).State)
	}
	if err := w.st.KeepBusy(t.Context(), a.ID, busy); err != nil {
		t.Fatal(err)
	}
	if err := w.st.Unregistered(t.Context(), a.ID, a.idle); err != nil {
		t.Fatal(err)
	}
	if desired, err = a.org.Desired(t.Context(), a.host.ID); err != nil || len(desired.VMs) != 0 {
		t.Errorf("%d VMs, %v", len(desired.VMs), err)
	}
	live := func(want int) {
		t.Helper()
		if n, err := w.st.EndVMs(t.Context(), a.ID); err != nil || n != want {
			t.Errorf("%d VMs hold the erasure back, %v; want %d", n, err, want)
		}
	}
	live(3)
	w.observe(millrace.VMGone, busy)
	w.advance(millrace.LeaveAtMost - time.Second)
	w.org = a.org
	w.observe(millrace.VMGone, pending)
	live(0)
	if _, err := w.st.HostCredentials(t.Context(), a.host.ID); err != nil {
		t.Errorf("the host is not known any more: %v", err)
	}
}

// GitHub does not answer, and then the host does not: the VM is told to end after a while, and holds nothing back in the
// end.
func TestDeletedOrgsVMsAtMost(t *testing.T) {
	t.Parallel()
	w, a, _ := leavers(t)
	if err := w.st.DeleteOrg(t.Context(), storetest.System, a.ID, a.Slug); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after         time.Duration
		live, desired int
	}{
		{0, 1, 1},
		{millrace.LeaveInOrder - time.Second, 1, 1},
		{time.Second, 1, 0},
		{millrace.LeaveAtMost - millrace.LeaveInOrder - time.Second, 1, 0},
		{time.Second, 0, 0},
	} {
		w.advance(step.after)
		live, err := w.st.EndVMs(t.Context(), a.ID)
		desired, desiredErr := a.org.Desired(t.Context(), a.host.ID)
		if err != nil || desiredErr != nil || live != step.live || len(desired.VMs) != step.desired {
			t.Errorf("after %s: %d VMs hold back, %d are to be there; want %d and %d; %v, %v", step.after, live, len(desired.VMs), step.live, step.desired, err, desiredErr)
		}
	}
}

// Nothing of an erased org is left, in any table, partition or blob, and nothing of another's is touched.
func TestEraseOrg(t *testing.T) {
	t.Parallel()
	w, a, b := leavers(t)
	ctx := t.Context()
	others := w.rows(b.ID)
	users := scalar[int](t, w.root, `SELECT count(*) FROM users`)
	if err := w.st.DeleteOrg(ctx, storetest.System, a.ID, a.Slug); err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, text := range w.rows(a.ID) {
		if text != "" {
			held++
		}
	}
	before := scalar[int64](t, w.root, `SELECT sum((xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %s WHERE org_id = %s', t, $1::bigint), false, true, '')))[1]::text::bigint)::bigint
		FROM unnest($2::text[]) AS t`, a.ID, w.tables(false))
	if n, err := w.st.EraseBlobs(ctx, a.ID); n != 1 || err != nil {
		t.Errorf("%d blobs, %v", n, err)
	}
	var total int64
	calls := 0
	for all := false; !all; calls++ { // a few rows at a time
		erased, over, err := w.st.EraseOrg(ctx, a.ID, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range erased {
			total += n
		}
		all = over
	}
	if total != before || calls < 5 || held < 10 {
		t.Errorf("%d of %d rows were erased in %d calls, of %d tables and partitions", total, before, calls, held)
	}
	for table, text := range w.rows(a.ID) {
		if text != "" {
			t.Errorf("%s holds:\n%s", table, text)
		}
	}
	if diff := cmp.Diff(others, w.rows(b.ID)); diff != "" {
		t.Errorf("another org's rows changed:\n%s", diff)
	}
	if text, _, err := b.org.Console(ctx, b.done, 0, 100); err != nil || string(text) != "canary printed this" {
		t.Errorf("another org's console is %q, %v", text, err)
	}
	if text, _, err := a.org.Console(ctx, a.done, 0, 100); err != nil || len(text) != 0 {
		t.Errorf("its console is %q, %v", text, err)
	}
	if n := scalar[int](t, w.root, `SELECT count(*) FROM users`); n != users {
		t.Errorf("%d users were %d", n, users)
	}
	if _, err := w.st.HostCredentials(ctx, a.host.ID); millrace.CodeOf(err) != millrace.NotFound {
		t.Errorf("its host is known: %v", err)
	}
	code(t, a.org.AppendConsole(ctx, a.host.ID, a.done, 0, []byte("late")), millrace.NotFound)
	stays := scalar[string](t, w.root, `SELECT format('%s %s %s', slug, rows, erased_at - deleted_at) FROM erased_orgs WHERE former_id = $1`, a.ID)
	if want := fmt.Sprintf("leaver %d 00:00:00", total); stays != want {
		t.Errorf("what stays is %s, want %s", stays, want)
	}

	t.Run("again", func(t *testing.T) { //nolint:paralleltest // one after the other
		if live, err := w.st.EndVMs(ctx, a.ID); live != 0 || err != nil {
			t.Error(live, err)
		}
		if n, err := w.st.EraseBlobs(ctx, a.ID); n != 0 || err != nil {
			t.Error(n, err)
		}
		if erased, all, err := w.st.EraseOrg(ctx, a.ID, 3); len(erased) != 0 || !all || err != nil {
			t.Error(erased, all, err)
		}
		if n := scalar[int64](t, w.root, `SELECT rows FROM erased_orgs WHERE former_id = $1`, a.ID); n != total {
			t.Errorf("%d rows by now", n)
		}
	})
	t.Run("its slug is kept for 30 days", func(t *testing.T) { //nolint:paralleltest // time passes
		again := store.NewOrg{Slug: a.Slug, Name: "again", DefaultSize: millrace.Size{MilliCPU: 1000, MemoryMB: 512}, Owner: a.Owner, Installations: []millrace.Installation{a.Installation}}
		w.advance(30*24*time.Hour - time.Second)
		_, _, err := w.st.CreateOrg(ctx, again)
		code(t, err, millrace.Conflict)
		if millrace.MessageOf(err) != "This short name is taken." {
			t.Errorf("its creator is told: %v", err)
		}
		w.advance(2 * time.Second)
		org, _, err := w.st.CreateOrg(ctx, again)
		if err != nil || org.ID == a.ID {
			t.Errorf("org %d, %v", org.ID, err)
		}
	})
}

func TestEraseOrgIsNotForEverybody(t *testing.T) {
	t.Parallel()
	w, a, _ := leavers(t)
	before := w.rows(a.ID)
	if _, _, err := w.st.EraseOrg(t.Context(), a.ID, 1000); sqlState(err) != "55000" {
		t.Errorf("an org that nobody deleted: %v", err)
	}
	if _, err := w.st.EndVMs(t.Context(), a.ID); millrace.CodeOf(err) != millrace.Conflict {
		t.Errorf("its VMs: %v", err)
	}
	app := connect(t, w.db.App)
	for _, sql := range []string{`SELECT erase_org($1, now(), 1)`, `SELECT FROM erased_orgs WHERE former_id = $1`, `UPDATE orgs SET deleted_at = now(), deleted_by = '' WHERE org_id = $1`} {
		if _, err := app.Exec(t.Context(), sql, a.ID); sqlState(err) != insufficientPrivilege {
			t.Errorf("the app role: %s: %v", sql, err)
		}
	}
	if diff := cmp.Diff(before, w.rows(a.ID)); diff != "" {
		t.Error(diff)
	}
}

// A task that was lost is asked for again, once it should have been done.
func TestFindDeletedOrgs(t *testing.T) {
	t.Parallel()
	w, a, _ := leavers(t)
	if err := w.st.DeleteOrg(t.Context(), storetest.System, a.ID, a.Slug); err != nil {
		t.Fatal(err)
	}
	if _, err := w.root.Exec(t.Context(), `DELETE FROM outbox`); err != nil {
		t.Fatal(err)
	}
	find := func(want ...string) {
		t.Helper()
		if n, err := w.st.FindDeletedOrgs(t.Context()); err != nil || n != len(want) || !slices.Equal(w.tasks(), want) && len(want) > 0 {
			t.Errorf("%d, %v, tasks %v; want %v", n, err, w.tasks(), want)
		}
	}
	find()
	w.advance(20 * time.Minute)
	find("org.erase")
	if _, _, err := w.st.EraseOrg(t.Context(), a.ID, 1000); err != nil {
		t.Fatal(err)
	}
	find()
}
