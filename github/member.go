package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// Members lists who is in an organisation (GET /orgs/{org}/members): all, and then who of them is an admin. Asked for by the
// two roles one after the other, whoever changes from one to the other in between could be in neither list.
//
// GitHub tells anybody the public members of any organisation. So the installation is looked at first: without the
// permission, or by a login that is another's by now, the list would be a wrong one and no refusal.
func (a *App) Members(ctx context.Context, installation int64, owner string) ([]millrace.GitHubMember, error) {
	at, may, err := a.installation(ctx, installation)
	switch {
	case err != nil:
		return nil, err
	case at.OwnerType != millrace.Organization:
		return nil, millrace.Errorf(millrace.NotFound, "%s is a personal account, which has no members.", owner)
	case !strings.EqualFold(at.OwnerLogin, owner):
		return nil, millrace.Errorf(millrace.Conflict, "%s is called %s at GitHub by now.", owner, at.OwnerLogin)
	case may.GetMembers() == "" && at.SuspendedAt.IsZero():
		return nil, millrace.Errorf(millrace.Forbidden, "The GitHub App may not read who is in %s: its owner has not accepted the permission Members.", owner)
	}
	var list []millrace.GitHubMember
	known := map[int64]int{} // where they are in list
	for _, role := range []string{"all", "admin"} {
		err := a.members(ctx, installation, owner, role, func(m millrace.GitHubMember) {
			if i, ok := known[m.GitHubID]; ok {
				list[i].Admin = list[i].Admin || m.Admin
				return
			}
			known[m.GitHubID] = len(list)
			list = append(list, m)
		})
		if err != nil {
			return nil, fmt.Errorf("listing the members of %s: %w", owner, err)
		}
	}
	return list, nil
}

// members reads those of one role, page by page. The list has no total, and a 304 may come without the Link header: a full
// page is never taken for the last.
func (a *App) members(ctx context.Context, installation int64, owner, role string, take func(millrace.GitHubMember)) error {
	path := "orgs/" + url.PathEscape(owner) + "/members?role=" + role
	for page := 1; page <= maxPages; page++ {
		var list []*github.User
		got, err := a.do(ctx, installation, http.MethodGet, fmt.Sprintf("%s&per_page=%d&page=%d", path, perPage, page), nil, &list)
		if err != nil {
			return err
		}
		for _, u := range list {
			if login := clean(u.GetLogin()); u.GetID() > 0 && login != "" {
				take(millrace.GitHubMember{GitHubID: u.GetID(), Login: login, Admin: role == "admin"})
			}
		}
		if len(list) == 0 || len(list) < perPage && !strings.Contains(got.header.Get("Link"), `rel="next"`) {
			return nil
		}
	}
	return millrace.Errorf(millrace.Unavailable, "GitHub's list of members does not end.") // a part of it would be a wrong one
}
