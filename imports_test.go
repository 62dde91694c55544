package millrace_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/millrace-ci/millrace"

// mayImport is the house: what each folder may import of ours, and why it may import no more. A folder's subfolders
// count as the folder, and external _test packages are exempt.
var mayImport = map[string]struct {
	imports []string
	because string
}{
	"":           {nil, "the root package is vocabulary; it imports the standard library alone"},
	"migrations": {nil, "migrations are SQL; they must run without the rest of the program"},
	"pg":         {nil, "pg starts a database and knows nothing of what is in it"},
	"vm":         {[]string{""}, "a driver knows machines, not jobs, agents or the control plane"},
	"guest":      {[]string{""}, "what runs inside a guest must not carry the control plane with it"},
	"scheduler":  {[]string{""}, "placement is pure: it sees a pass and nothing else"},
	"client":     {[]string{""}, "client is linked into the agent and the CLI, on customers' machines"},
	"github":     {[]string{""}, "the adapter knows GitHub; what it is used for is decided elsewhere"},
	"billing":    {[]string{""}, "the adapter knows Stripe; what it is used for is decided elsewhere"},
	"store":      {[]string{"", "migrations", "pg"}, "every SQL statement is below the layers that use it"},
	"workers":    {[]string{"", "store", "scheduler"}, "workers reach GitHub and Stripe through ports that cmd passes in"},
	"api":        {[]string{"", "store", "scheduler", "client"}, "the API reaches GitHub and Stripe through ports that cmd passes in"},
	"web":        {[]string{"", "store"}, "pages show use cases of store; what two layers need is a rule (root) or a use case (store)"},
	"release":    {[]string{""}, "a release is files"},
	"agent":      {[]string{"", "client", "vm", "guest"}, "the agent runs on customers' hosts; it knows the server only through client"},
	"cli":        {[]string{"", "client", "workflow"}, "the CLI knows the server only through client"},
	"workflow":   {nil, "reading workflow files needs nothing of ours"},
	"frontend":   {nil, "frontend is an npm project"},
	"sim":        {[]string{"*"}, ""},
	"cmd":        {[]string{"*"}, ""},
}

func TestImportTable(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg struct {
			ImportPath           string
			Imports, TestImports []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages++
		from := folder(pkg.ImportPath)
		rule, known := mayImport[from]
		if !known {
			t.Errorf("%s: folder %q is not in the table of imports; say what lives there and what it may import", pkg.ImportPath, from)
			continue
		}
		for _, imported := range append(pkg.Imports, pkg.TestImports...) {
			if imported == pkg.ImportPath || !strings.HasPrefix(imported+"/", module+"/") {
				if from == "" && strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") && !isTestOnly(imported, pkg.Imports) {
					t.Errorf("the root package imports %s: %s", imported, rule.because)
				}
				continue
			}
			if to := folder(imported); to != from && !allowed(rule.imports, to) {
				t.Errorf("%s imports %s: %s", pkg.ImportPath, imported, rule.because)
			}
		}
	}
	if packages < 5 {
		t.Fatalf("go list found %d packages; run the test from the module's root", packages)
	}
}

// folder is the top-level folder of a package of ours, "" for the root package.
func folder(importPath string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
	top, _, _ := strings.Cut(rest, "/")
	return top
}

func allowed(imports []string, to string) bool {
	for _, i := range imports {
		if i == to || i == "*" {
			return true
		}
	}
	return false
}

func isTestOnly(imported string, imports []string) bool {
	for _, i := range imports {
		if i == imported {
			return false
		}
	}
	return true
}
