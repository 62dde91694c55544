package millrace_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
)

// The table in the docs is made from the code, so that the two cannot differ.
func TestRolesDoc(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# Who may do what

A member of an org has one role. Whoever owns the GitHub organisation, or whose personal account it is, becomes an admin, and
its other members become members; whoever created the org is its owner. An owner or admin may give anybody another role, which
then stays whatever GitHub says, or let it follow GitHub again. The last owner can't be made anything else; when they leave at
GitHub, whoever owns the GitHub organisation inherits. A collaborator of one repository is no member. GitHub is asked every
few minutes, and whenever it says that somebody came or went: whoever has left the GitHub organisation leaves the org within five
minutes, and their tokens with them.

An API token has scopes, which are permissions: it may do what they say, as long as its user's role may. A token of the org's
own is nobody's: it stays when its maker leaves, and has at most what an admin has. ` + "`make generate`" + ` makes this from the code.

| permission | allows to |`)
	for _, r := range millrace.Roles {
		fmt.Fprintf(&b, " %s |", r)
	}
	b.WriteString(" token |\n| --- | --- |" + strings.Repeat(" :-: |", len(millrace.Roles)+1) + "\n")
	tick := map[bool]string{true: "✓", false: ""}
	for _, r := range millrace.Rights {
		fmt.Fprintf(&b, "| `%s` | %s |", r.Permission, r.May)
		for _, role := range millrace.Roles {
			fmt.Fprintf(&b, " %s |", tick[role.May(r.Permission)])
		}
		fmt.Fprintf(&b, " %s |\n", tick[r.Scope])
	}
	fmt.Fprintf(&b, `
Making a token, changing a role, exporting and deleting an org take a confirmation on top: a code that is typed at GitHub, which is
good for %d minutes. A second trip through GitHub's login would be silent, and would prove nothing of whoever sits there.
`, millrace.ConfirmationLength/time.Minute)
	sameDoc(t, "docs/roles.md", b.String())
}

// Every role that is stronger may do what a weaker one may, but for what only billing is for; and an owner may do all.
func TestRights(t *testing.T) {
	t.Parallel()
	seen := map[millrace.Permission]bool{}
	for _, r := range millrace.Rights {
		if seen[r.Permission] || r.May == "" || !slices.IsSortedFunc(r.Roles, func(a, b millrace.Role) int {
			return slices.Index(millrace.Roles, a) - slices.Index(millrace.Roles, b)
		}) {
			t.Errorf("%s is there twice, is not said, or its roles are out of order", r.Permission)
		}
		seen[r.Permission] = true
		if !millrace.RoleOwner.May(r.Permission) {
			t.Errorf("an owner may not %s", r.May)
		}
		for _, pair := range [][2]millrace.Role{{millrace.RoleOwner, millrace.RoleAdmin}, {millrace.RoleAdmin, millrace.RoleMember}, {millrace.RoleMember, millrace.RoleViewer}} {
			if pair[1].May(r.Permission) && !pair[0].May(r.Permission) {
				t.Errorf("%s: %s may, %s may not", r.Permission, pair[1], pair[0])
			}
		}
	}
	for _, nobody := range []millrace.Role{"", "root", "Owner"} {
		for _, r := range millrace.Rights {
			if nobody.May(r.Permission) {
				t.Errorf("the role %q may %s", nobody, r.May)
			}
		}
	}
	if millrace.RoleOwner.May("jobs:write") || (millrace.Caller{Role: millrace.RoleOwner}).Require("jobs:write") == nil {
		t.Error("an owner has a permission that isn't in the table")
	}
}

// A token has what its scopes and its user's role have in common, and makes none that has more.
func TestTokensHaveNoMoreThanTheirMakers(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	person := func(r millrace.Role) millrace.Caller { return millrace.Caller{UserID: millrace.UserID{15: 1}, Role: r} }
	token := func(r millrace.Role, scopes ...millrace.Permission) millrace.Caller {
		t := millrace.APIToken{UserID: millrace.UserID{15: 1}, Role: r, Scopes: scopes, ExpiresAt: now.AddDate(0, 0, 10)}
		return t.Caller("", "")
	}
	of := millrace.APIToken{Role: millrace.RoleAdmin, Scopes: millrace.Scopes(), ExpiresAt: now.AddDate(0, 0, 400)}
	jobs := []millrace.Permission{millrace.JobsRead}
	for name, tc := range map[string]struct {
		by   millrace.Caller
		n    millrace.NewAPIToken
		want millrace.Code
	}{
		"a member":                        {person(millrace.RoleMember), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1}, ""},
		"an admin, for the org":           {person(millrace.RoleAdmin), millrace.NewAPIToken{Name: "ci", Scopes: millrace.Scopes(), Days: 366, OfOrg: true}, ""},
		"a viewer":                        {person(millrace.RoleViewer), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1}, millrace.Forbidden},
		"billing":                         {person(millrace.RoleBilling), millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{millrace.UsageRead}, Days: 1}, millrace.Forbidden},
		"a member, for the org":           {person(millrace.RoleMember), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1, OfOrg: true}, millrace.Forbidden},
		"a member, more than they have":   {person(millrace.RoleMember), millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{millrace.HostsWrite}, Days: 1}, millrace.Forbidden},
		"a scope that no token has":       {person(millrace.RoleOwner), millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{millrace.OrgDelete}, Days: 1}, millrace.Unprocessable},
		"a scope that there isn't":        {person(millrace.RoleOwner), millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{"root"}, Days: 1}, millrace.Unprocessable},
		"no scope":                        {person(millrace.RoleOwner), millrace.NewAPIToken{Name: "ci", Days: 1}, millrace.Unprocessable},
		"for ever":                        {person(millrace.RoleOwner), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 367}, millrace.Unprocessable},
		"not at all":                      {person(millrace.RoleOwner), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: -1}, millrace.Unprocessable},
		"without a name":                  {person(millrace.RoleOwner), millrace.NewAPIToken{Scopes: jobs, Days: 1}, millrace.Unprocessable},
		"a name that moves the cursor":    {person(millrace.RoleOwner), millrace.NewAPIToken{Name: "a\x1b[2J", Scopes: jobs, Days: 1}, millrace.Unprocessable},
		"a token":                         {token(millrace.RoleOwner, millrace.TokensWrite, millrace.JobsRead), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 10}, ""},
		"a token that may not":            {token(millrace.RoleOwner, millrace.JobsRead), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1}, millrace.Forbidden},
		"a token, more than it has":       {token(millrace.RoleOwner, millrace.TokensWrite, millrace.JobsRead), millrace.NewAPIToken{Name: "ci", Scopes: []millrace.Permission{millrace.HostsRead}, Days: 1}, millrace.Forbidden},
		"a token, one that outlives it":   {token(millrace.RoleOwner, millrace.TokensWrite, millrace.JobsRead), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 11}, millrace.Forbidden},
		"a token whose user has less now": {token(millrace.RoleViewer, millrace.TokensWrite, millrace.JobsRead), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1}, millrace.Forbidden},
		"the org's own, for nobody":       {of.Caller("", ""), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1}, millrace.Unprocessable},
		"the org's own, for the org":      {of.Caller("", ""), millrace.NewAPIToken{Name: "ci", Scopes: jobs, Days: 1, OfOrg: true}, ""},
	} {
		if err := tc.n.Check(tc.by, now); millrace.CodeOf(err) != tc.want {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	for _, tc := range []struct {
		by       millrace.Caller
		from, to millrace.Role
		ok       bool
	}{
		{person(millrace.RoleOwner), millrace.RoleOwner, millrace.RoleViewer, true},
		{person(millrace.RoleAdmin), millrace.RoleMember, millrace.RoleAdmin, true},
		{person(millrace.RoleAdmin), millrace.RoleMember, millrace.RoleOwner, false},
		{person(millrace.RoleAdmin), millrace.RoleOwner, millrace.RoleAdmin, false},
		{person(millrace.RoleMember), millrace.RoleViewer, millrace.RoleMember, false},
		{token(millrace.RoleOwner, millrace.MembersRead), millrace.RoleViewer, millrace.RoleMember, false},
		{of.Caller("", ""), millrace.RoleMember, millrace.RoleOwner, false},
	} {
		if err := tc.by.MayGive(tc.from, tc.to); (err == nil) != tc.ok {
			t.Errorf("%s makes a %s a %s: %v", tc.by.Role, tc.from, tc.to, err)
		}
	}
}
