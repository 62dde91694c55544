package millrace

import (
	"fmt"
	"slices"
	"strings"
)

// Permission is one thing that may be done in an org, as resource:action. Roles have permissions; a token's scopes are
// permissions.
type Permission string

// The permissions.
const (
	OrgRead        Permission = "org:read"
	OrgWrite       Permission = "org:write"
	OrgExport      Permission = "org:export"
	OrgDelete      Permission = "org:delete"
	JobsRead       Permission = "jobs:read"
	HostsRead      Permission = "hosts:read"
	HostsWrite     Permission = "hosts:write"
	UsageRead      Permission = "usage:read"
	IncidentsRead  Permission = "incidents:read"
	MembersRead    Permission = "members:read"
	MembersWrite   Permission = "members:write"
	TokensWrite    Permission = "tokens:write"
	OrgTokensWrite Permission = "org_tokens:write"
	AuditRead      Permission = "audit:read"
)

// Right is a row of the table of who may do what.
type Right struct {
	Permission Permission
	May        string // what it allows, after "may"
	Roles      []Role // who has it, strongest first
	Scope      bool   // a token may have it; otherwise it takes a person at the dashboard
}

// Rights is that table, the only one: pages, the API, tokens and docs/roles.md follow it.
var Rights = []Right{
	{OrgRead, "see the org's overview, settings and installations", Roles, true},
	{JobsRead, "see jobs, VMs and what they print", []Role{RoleOwner, RoleAdmin, RoleMember, RoleViewer}, true},
	{HostsRead, "see hosts", []Role{RoleOwner, RoleAdmin, RoleMember, RoleViewer}, true},
	{UsageRead, "see usage", Roles, true},
	{IncidentsRead, "see incidents", Roles, true},
	{MembersRead, "see who is a member", Roles, true},
	{TokensWrite, "see, make and revoke API tokens of one's own", []Role{RoleOwner, RoleAdmin, RoleMember}, true},
	{HostsWrite, "add hosts: see, make and revoke enrollment tokens", []Role{RoleOwner, RoleAdmin}, true},
	{MembersWrite, "change roles; only an owner makes or unmakes an owner", []Role{RoleOwner, RoleAdmin}, true},
	{OrgTokensWrite, "make API tokens of the org's own, and see and revoke everybody's", []Role{RoleOwner, RoleAdmin}, true},
	{AuditRead, "see the audit log", []Role{RoleOwner, RoleAdmin}, true},
	{OrgWrite, "change the org's settings and link installations", []Role{RoleOwner, RoleAdmin}, true},
	{OrgExport, "export all of the org's data", []Role{RoleOwner}, false},
	{OrgDelete, "delete the org", []Role{RoleOwner}, false},
}

// right is a permission's row; its zero value, which nobody has, for an unknown one.
func right(p Permission) Right {
	i := slices.IndexFunc(Rights, func(r Right) bool { return r.Permission == p })
	if i < 0 {
		return Right{Permission: p, May: "do that"}
	}
	return Rights[i]
}

// May reports whether the role has a permission.
func (r Role) May(p Permission) bool { return slices.Contains(right(p).Roles, r) }

// Caller is who asks for something in an org: a member at the dashboard, or a token.
type Caller struct {
	Actor  Actor
	UserID UserID // the member's, or that of a personal token; zero: a token of the org's own
	Role   Role   // the member's as it is now; a token of the org's own has an admin's
	Token  *APIToken
}

// May reports whether the caller has a permission: its role has it, and the token, if it is one, was given it.
func (c Caller) May(p Permission) bool {
	return c.Role.May(p) && (c.Token == nil || right(p).Scope && slices.Contains(c.Token.Scopes, p))
}

// Require is Forbidden, with what is lacking and who has it, unless the caller has the permission.
func (c Caller) Require(p Permission) error {
	r := right(p)
	switch {
	case c.May(p):
		return nil
	case c.Token != nil && !r.Scope:
		return Errorf(Forbidden, "No token may %s: it takes a person at the dashboard.", r.May)
	case c.Token != nil && !slices.Contains(c.Token.Scopes, p):
		return Errorf(Forbidden, "This token lacks the scope %s.", p)
	case len(r.Roles) == 0:
		return Errorf(Forbidden, "Nobody may %s.", r.May)
	}
	return Errorf(Forbidden, "The role %s may not %s; %s may.", c.Role, r.May, names(r.Roles))
}

// Allowed are those of some permissions that the caller has.
func (c Caller) Allowed(permissions []Permission) (list []Permission) {
	for _, p := range permissions {
		if c.May(p) {
			list = append(list, p)
		}
	}
	return list
}

// MayGive is Forbidden unless the caller may change a member's role from one to another: nobody gives more than they have.
func (c Caller) MayGive(from, to Role) error {
	if err := c.Require(MembersWrite); err != nil {
		return err
	}
	if (from == RoleOwner || to == RoleOwner) && c.Role != RoleOwner {
		return Errorf(Forbidden, "Only an owner makes or unmakes an owner.")
	}
	return nil
}

func names(roles []Role) string {
	var b strings.Builder
	for i, r := range roles {
		switch {
		case i > 0 && i == len(roles)-1:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		fmt.Fprint(&b, r)
	}
	return b.String()
}

// Scopes are the permissions that a token may have, in the table's order.
func Scopes() []Permission {
	var list []Permission
	for _, r := range Rights {
		if r.Scope {
			list = append(list, r.Permission)
		}
	}
	return list
}

// Means is what a permission allows, in words.
func (p Permission) Means() string { return right(p).May }
