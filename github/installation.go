package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// Installation reads an installation as the App, which may when the installation itself is suspended
// (GET /app/installations/{id}).
func (a *App) Installation(ctx context.Context, installation int64) (millrace.Installation, error) {
	read, _, err := a.installation(ctx, installation)
	return read, err
}

// installation reads an installation, and what its owner has accepted that the App may do.
func (a *App) installation(ctx context.Context, installation int64) (millrace.Installation, *github.InstallationPermissions, error) {
	var i github.Installation
	_, err := a.do(ctx, asApp, http.MethodGet, fmt.Sprintf("app/installations/%d", installation), nil, &i)
	var refused *refusal
	switch {
	case errors.As(err, &refused) && refused.noSuchApp(): // a 404 too, and it says nothing of the installation
		return millrace.Installation{}, nil, fmt.Errorf("reading installation %d: %w: %w", installation,
			millrace.Errorf(millrace.Forbidden, "GitHub knows no App of our id."), err)
	case err != nil:
		return millrace.Installation{}, nil, fmt.Errorf("reading installation %d: %w", installation, err)
	}
	read, ok := installationOf(&i)
	if !ok || read.ID != installation {
		return millrace.Installation{}, nil, millrace.Errorf(millrace.Unavailable, "GitHub's answer is not installation %d.", installation)
	}
	return read, i.GetPermissions(), nil
}

// Installations lists the App's installations (GET /app/installations), page by page: the list has no total.
func (a *App) Installations(ctx context.Context) (list []millrace.Installation, err error) {
	for page := 1; page <= maxPages; page++ {
		var installations []*github.Installation
		got, err := a.do(ctx, asApp, http.MethodGet, fmt.Sprintf("app/installations?per_page=%d&page=%d", perPage, page), nil, &installations)
		if err != nil {
			return nil, fmt.Errorf("listing the App's installations: %w", err)
		}
		for _, i := range installations {
			if read, ok := installationOf(i); ok {
				list = append(list, read)
			}
		}
		if len(installations) == 0 || len(installations) < perPage && !strings.Contains(got.header.Get("Link"), `rel="next"`) {
			return list, nil
		}
	}
	return nil, millrace.Errorf(millrace.Unavailable, "GitHub's list of installations does not end.")
}

// Uninstall takes the App away (DELETE /app/installations/{id}): 204 and 404 alone mean that it is gone.
func (a *App) Uninstall(ctx context.Context, installation int64) error {
	got, err := a.do(ctx, asApp, http.MethodDelete, fmt.Sprintf("app/installations/%d", installation), nil, nil)
	var refused *refusal
	switch {
	case got.status == http.StatusNoContent:
		return nil
	case got.status == http.StatusNotFound && errors.As(err, &refused) && !refused.noSuchApp():
		return nil
	case err == nil:
		return millrace.Errorf(millrace.Unavailable, "GitHub answered %d and did not say that installation %d is gone.", got.status, installation)
	}
	return fmt.Errorf("uninstalling %d: %w", installation, err)
}

// installationOf is what GitHub says of an installation; it is not ok when it lacks what one must have.
func installationOf(i *github.Installation) (_ millrace.Installation, ok bool) {
	owner := i.GetAccount()
	if i.GetID() <= 0 || owner.GetID() <= 0 {
		return millrace.Installation{}, false
	}
	return millrace.Installation{
		ID: i.GetID(), OwnerID: owner.GetID(), OwnerLogin: clean(owner.GetLogin()), OwnerType: millrace.OwnerType(clean(owner.GetType())),
		SuspendedAt: first(i.GetSuspendedAt().Time),
	}, true
}
