package github

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/millrace-ci/millrace"
)

// repositoryPath is the repository's part of a path. Invalid: it is not called owner/name.
func repositoryPath(at millrace.RepositoryTarget) (string, error) {
	owner, name, _ := strings.Cut(at.FullName, "/")
	for _, part := range []string{owner, name} {
		if part == "" || part == "." || part == ".." { // which would be another path
			return "", millrace.Errorf(millrace.Invalid, "A repository is called owner/name; %q is not.", at.FullName)
		}
	}
	return "repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name), nil
}

// InstallationRepositories lists the repositories that the installation may see (GET /installation/repositories).
func (a *App) InstallationRepositories(ctx context.Context, installation int64) (list []millrace.Repository, err error) {
	_, err = a.pages(ctx, installation, "installation/repositories", "", maxPages, func(l listing) int {
		for _, r := range l.Repositories {
			if name := clean(r.GetFullName()); r.GetID() > 0 && name != "" {
				list = append(list, millrace.Repository{ID: r.GetID(), InstallationID: installation, FullName: name, Private: r.GetPrivate()})
			}
		}
		return len(l.Repositories)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the repositories of installation %d: %w", installation, err)
	}
	return list, nil
}
