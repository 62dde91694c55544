package store_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/store/storetest"
)

// auditedActions are the actions that the package's source records: the first text in each call of audit, or where that is
// a variable, what may be in it.
func auditedActions(t *testing.T) []string {
	t.Helper()
	found := []string{"member.joined", "member.left", "member.role_changed"} // followGitHub has them from its statement
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := ""
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			for _, arg := range call.Args {
				if text, ok := arg.(*ast.BasicLit); ok && name == "audit" {
					action, _ := strconv.Unquote(text.Value)
					found = append(found, action)
					break
				}
			}
			return true
		})
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// A change and its entry in the audit log are one transaction: with the entry refused, nothing of the change is done.
func TestNothingIsDoneUnaudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, system := t.Context(), storetest.System
	if _, err := w.root.Exec(ctx, `
		CREATE FUNCTION refuse_entry() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no entry for %', NEW.action; END $$`); err != nil {
		t.Fatal(err)
	}
	member := w.person("mona", 4077, shows(w.Installation, false))
	founder := w.person("founder", 4078, shows(account(1), true), shows(account(2), true))
	owner := millrace.Caller{Actor: actor(founder), UserID: founder.ID, Role: millrace.RoleOwner}
	_, enrollment, err := w.org.CreateEnrollmentToken(ctx, system, store.NewEnrollmentToken{Uses: 9})
	w.must(err)
	spare, _, err := w.org.CreateEnrollmentToken(ctx, system, store.NewEnrollmentToken{})
	w.must(err)
	first, err := w.org.StartHost(ctx, w.host.ID, "boot-1", storetest.Facts())
	w.must(err)
	_, err = w.org.StartHost(ctx, w.host.ID, "boot-2", storetest.Facts())
	w.must(err)
	w.advance(10 * time.Second)
	_, used, err := w.org.CreateEnrollmentToken(ctx, system, store.NewEnrollmentToken{Labels: []string{}, CIDR: "192.0.2.0/24"})
	w.must(err)
	apiToken, _, err := w.org.CreateAPIToken(ctx, w.Caller(), millrace.NewAPIToken{Name: "x", Scopes: millrace.Scopes()})
	w.must(err)
	founded := func() store.Org {
		org, err := w.st.OrgBySlug(ctx, "founded")
		w.must(err)
		return w.st.Org(org.ID)
	}
	save := func(change func(*millrace.Installation)) func() error {
		return func() error {
			i := w.Installation
			i.OrgID = 0
			change(&i)
			return w.st.SaveInstallation(ctx, i, w.now())
		}
	}
	same := func(*millrace.Installation) {}
	signIn := func(at ...millrace.PersonInstallation) func() error {
		return func() error {
			_, err := w.st.SignInPerson(ctx, millrace.GitHubPerson{User: millrace.User{GitHubID: 4077, Login: "mona"}, Installations: at}, millrace.Device{})
			return err
		}
	}
	var export bytes.Buffer
	tried := map[string]bool{}
	// In this order: each does what the ones after it need.
	for _, change := range []struct {
		action string
		do     func() error
	}{
		{"org.created", func() error {
			_, _, err := w.st.CreateOrg(ctx, store.NewOrg{Slug: "made", Name: "Made", DefaultSize: w.DefaultSize, Owner: w.Owner})
			return err
		}},
		{"org.created", func() error {
			_, err := w.st.FoundOrg(ctx, actor(founder), founder.ID, store.FoundOrg{InstallationID: account(1).ID, Slug: "founded"})
			return err
		}},
		{"installation.linked", func() error { return founded().LinkInstallation(ctx, owner, account(2).ID) }},
		{"org.renamed", func() error { return founded().Rename(ctx, owner, "Renamed") }},
		{"api_token.created", func() error {
			_, _, err := w.org.CreateAPIToken(ctx, w.Caller(), millrace.NewAPIToken{Name: "y", Scopes: millrace.Scopes()})
			return err
		}},
		{"api_token.revoked", func() error { return w.org.RevokeAPIToken(ctx, w.Caller(), apiToken.ID) }},
		{"enrollment_token.created", func() error {
			_, _, err := w.org.CreateEnrollmentToken(ctx, system, store.NewEnrollmentToken{})
			return err
		}},
		{"enrollment_token.revoked", func() error { return w.org.RevokeEnrollmentToken(ctx, system, spare.ID) }},
		{"host.enrolled", func() error {
			_, _, err := w.st.EnrollHost(ctx, millrace.Actor{}, store.Enrollment{Secret: enrollment.Reveal(), Name: "rack-2", SignKey: key(3), SealKey: key(4), Facts: storetest.Facts()})
			return err
		}},
		{"enrollment_token.refused", func() error {
			_, _, err := w.st.EnrollHost(ctx, millrace.Actor{}, store.Enrollment{Secret: used.Reveal(), Name: "rack-3", SignKey: key(5), SealKey: key(6), Facts: storetest.Facts()})
			if millrace.CodeOf(err) == millrace.Forbidden {
				return nil // which is what is noted
			}
			return err
		}},
		{"enrollment_token.revoked", func() error { return w.st.RevokeLeaked(ctx, millrace.Actor{}, enrollment.Reveal()) }},
		{"placement.changed", func() error {
			_, err := w.org.ChangePlacement(ctx, w.Caller(), millrace.PlacementChange{Strategy: new(millrace.Spread)})
			return err
		}},
		{"host.changed", func() error { return w.org.SetHostAdmin(ctx, w.Caller(), w.host.ID, millrace.HostDisabled) }},
		{"host.cloned", func() error { return w.org.Cloned(ctx, w.host.ID, first) }},
		{"host.restarted", func() error { return w.org.RestartAgent(ctx, w.Caller(), w.host.ID) }},
		{"host.keys_asked", func() error { return w.org.RotateKeys(ctx, w.Caller(), w.host.ID) }},
		{"host.keys_rotated", func() error {
			return w.org.SetHostKeys(ctx, millrace.Actor{}, store.HostCredentials{HostID: w.host.ID, SignKey: w.host.SignKey}, "", bytes.Repeat([]byte{0x77}, 32), bytes.Repeat([]byte{0x78}, 32))
		}},
		{"host.rebooted", func() error { return w.org.RebootHost(ctx, w.Caller(), w.host.ID) }},
		{"host.removed", func() error { return w.org.RemoveHost(ctx, w.Caller(), w.host.ID, true) }},
		{"member.role_changed", func() error { _, err := w.org.SetRole(ctx, w.Caller(), member.ID, millrace.RoleViewer); return err }},
		{"member.role_changed", func() error { _, err := w.org.SetRole(ctx, w.Caller(), member.ID, ""); return err }},
		{"member.role_changed", signIn(shows(w.Installation, true))},
		{"member.left", func() error { return w.st.SaveMembers(ctx, w.Installation.ID, nil, w.now()) }},
		{"member.joined", signIn(shows(w.Installation, false))},
		{"member.left", signIn()},
		{"installation.suspended", save(func(i *millrace.Installation) { i.SuspendedAt = w.now() })},
		{"installation.unsuspended", save(same)},
		{"installation.renamed", save(func(i *millrace.Installation) { i.OwnerLogin = "serene" })},
		{"installation.deleted", func() error { return w.st.InstallationGone(ctx, w.Installation.ID, w.now()) }},
		{"installation.restored", save(func(i *millrace.Installation) { i.OwnerLogin = "serene" })},
		{"installation.reinstalled", save(func(i *millrace.Installation) { i.ID, i.OwnerLogin = i.ID+7000, "serene" })},
		{"org.exported", func() error { return w.org.Export(ctx, system, &export) }},
		{"org.deleted", func() error { return w.st.DeleteOrg(ctx, system, w.ID, w.Slug) }},
	} {
		w.advance(time.Second)
		tried[change.action] = true
		if _, err := w.root.Exec(ctx, `
			CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW WHEN (NEW.action = '`+change.action+`') EXECUTE FUNCTION refuse_entry()`); err != nil {
			t.Fatal(err)
		}
		before := w.db.Rows(t)
		if err := change.do(); err == nil || !strings.Contains(err.Error(), "no entry for "+change.action) {
			t.Errorf("%s without its entry: %v", change.action, err)
		}
		if diff := cmp.Diff(before, w.db.Rows(t)); diff != "" {
			t.Errorf("%s was done without its entry:\n%s", change.action, diff)
		}
		if export.Len() != 0 {
			t.Errorf("%d bytes were exported without an entry", export.Len())
		}
		if _, err := w.root.Exec(ctx, `DROP TRIGGER refuse ON audit`); err != nil {
			t.Fatal(err)
		}
		if err := change.do(); err != nil {
			t.Fatalf("%s: %v", change.action, err)
		}
		export.Reset()
		changed := 0
		for table, rows := range w.db.Rows(t) {
			if rows != before[table] {
				changed++
			}
		}
		if changed < 2 && change.action != "org.exported" && change.action != "enrollment_token.refused" { // the audit log's partition, and what the entry is of
			t.Errorf("%s changed nothing but the log: this proves little", change.action)
		}
	}
	for _, action := range auditedActions(t) {
		if !tried[action] {
			t.Errorf("%s is not tried here without its entry", action)
		}
	}
}
