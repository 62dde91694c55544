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
	owner := i.GetAccount()
	if i.GetID() != installation || owner.GetID() <= 0 {
		return millrace.Installation{}, millrace.Errorf(millrace.Unavailable, "GitHub's answer is not installation %d.", installation)
	}
	return millrace.Installation{
		ID: installation, OwnerID: owner.GetID(), OwnerLogin: clean(owner.GetLogin()), OwnerType: millrace.OwnerType(clean(owner.GetType())),
		SuspendedAt: first(i.GetSuspendedAt().Time),
	}, nil
}
