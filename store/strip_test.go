package store_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
)

// filters are how a statement says which org: the row's alone, or with others' of its key.
var filters = []struct {
	find    *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\((?:\w+\.)?org_id, ([^()]*)\) = \((\$\d+|\?), ([^()]*)\)`), `($1) = ($3) AND $2::bigint IS NOT NULL`},
	{regexp.MustCompile(`(?:\w+\.)?org_id = (\$\d+|\?)`), `$1::bigint IS NOT NULL`},
}

// strip is a file with the org filters of [store.Org]'s methods taken out, and how many those were.
func strip(t *testing.T, path string) (text string, stripped int) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	var literals []*ast.BasicLit
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv == nil {
			continue
		}
		if of, ok := f.Recv.List[0].Type.(*ast.Ident); !ok || of.Name != "Org" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				literals = append(literals, l)
			}
			return true
		})
	}
	sort.Slice(literals, func(i, j int) bool { return literals[i].Pos() > literals[j].Pos() })
	text = string(source)
	for _, l := range literals {
		sql := l.Value
		for _, f := range filters {
			stripped += len(f.find.FindAllString(sql, -1))
			sql = f.find.ReplaceAllString(sql, f.instead)
		}
		from := files.Position(l.Pos()).Offset
		text = text[:from] + sql + text[from+len(l.Value):]
	}
	return text, stripped
}

// A forgotten filter leaks nothing: with those of all the tenant's statements taken out, row-level security alone answers,
// and whoever sweeps the routes with another org's IDs sees no difference.
func TestNothingLeaksWithoutOrgFilters(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds the tests of three packages anew")
	}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	dir, overlay, all := t.TempDir(), map[string]string{}, 0
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, n := strip(t, path)
		if n == 0 {
			continue
		}
		all += n
		to := filepath.Join(dir, path)
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		from, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		overlay[from] = to
	}
	if all < 30 {
		t.Fatalf("only %d filters were found: the test proves little", all)
	}
	replace, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	const sweeps = "^(TestEveryRouteForEveryRole|TestForeignIDs|TestREST|TestForeignRowsAreNotFound|TestAppRoleSeesItsTenantAlone)$"
	out, err := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-overlay", file, "-run", sweeps, "-v", ".", "../api", "../web").CombinedOutput()
	passed := strings.Count(string(out), "\n--- PASS: ")
	if err != nil || passed != 5 {
		t.Errorf("without %d filters %d of 5 sweeps pass, %v:\n%s", all, passed, err, out)
	}
	t.Logf("%d filters were taken out", all)
}
