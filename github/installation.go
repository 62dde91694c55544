package github

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/go-github/v53/github"

	"github.com/millrace-ci/millrace"
)

// Installation reads an installation as the App, which may when the installation itself is suspended
// (GET /app/installations/{id}).
func (a *App) Installation(ctx context.Context, installation int64) (millrace.Installation, error) {
	var i github.Installation
	if _, err := a.do(ctx, asApp, http.MethodGet, fmt.Sprintf("app/installations/%d", installation), nil, &i); err != nil {
		return millrace.Installation{}, fmt.Errorf("reading installation %d: %w", installation, err)
	}
	read, ok := installationOf(&i)
	if !ok || read.ID != installation {
		return millrace.Installation{}, millrace.Errorf(millrace.Unavailable, "GitHub's answer is not installation %d.", installation)
	}
	return read, nil
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
