package workers

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/millrace-ci/millrace"
)

// readInstallation reads an installation's state at GitHub and keeps it: whether it is there, suspended or renamed, and of one
// that was installed again that it is its account's. It asks as the App, past the gate: what closed that may be what it reads.
func (w *Workers) readInstallation(ctx context.Context, id int64) error {
	_, at, err := w.store.KnownInstallation(ctx, id)
	if err != nil {
		return err
	}
	read, err := w.direct.Installation(ctx, id)
	switch {
	case millrace.CodeOf(err) == millrace.NotFound:
		return w.store.InstallationGone(ctx, id, at)
	case err != nil:
		return err
	}
	return w.store.SaveInstallation(ctx, read, at)
}

// readsAtOnce bounds what one sweep reads: as a rule nothing has changed of which no delivery told.
const readsAtOnce = 100

// sweepInstallations makes good what no delivery told of installations. One call lists a hundred with their states, new ones
// among them: to ask for each would cost a call for each, and would never find one that was installed again.
func (w *Workers) sweepInstallations(ctx context.Context) error {
	list, err := w.github.Installations(ctx)
	if err != nil {
		return err
	}
	ids, err := w.store.InstallationsToRead(ctx, list)
	if err != nil {
		return err
	}
	var failed error
	for _, id := range ids[:min(len(ids), readsAtOnce)] {
		w.log.Warn("GitHub knew of an installation what no delivery had told", "installation", id)
		failed = errors.Join(failed, w.readInstallation(ctx, id))
	}
	return failed
}

// readMembersFor reads who is in an organisation after something was told of one person in it: of somebody whom GitHub has
// never shown it, nothing comes of that.
func (w *Workers) readMembersFor(ctx context.Context, t millrace.ReadMembers) error {
	if t.PersonID != 0 {
		if shown, err := w.store.IsShown(ctx, t.InstallationID, t.PersonID); err != nil || !shown {
			return err
		}
	}
	return w.readMembers(ctx, t.InstallationID)
}

// readMembers reads who is in the organisation of an installation. What stops GitHub's answers is an incident by now, and
// what is known stays until the next sweep.
func (w *Workers) readMembers(ctx context.Context, id int64) error {
	err := w.askForMembers(ctx, id)
	if code := millrace.CodeOf(err); code == millrace.Conflict || code == millrace.NotFound { // it is called otherwise by now, or gone
		if err = w.readInstallation(ctx, id); err == nil && code == millrace.Conflict {
			err = w.askForMembers(ctx, id)
		}
	}
	switch millrace.CodeOf(err) {
	case millrace.Forbidden:
		if _, logged := w.unreadable.Swap(id, true); !logged && millrace.ConditionOf(err) == nil {
			w.log.Warn("who is in an organisation can't be read; whoever leaves it stays a member until their next sign-in", "installation", id, "error", err)
		}
		return nil
	case millrace.LimitReached, millrace.NotFound, millrace.Conflict:
		return nil
	default:
		return err
	}
}

func (w *Workers) askForMembers(ctx context.Context, id int64) error {
	known, at, err := w.store.KnownInstallation(ctx, id)
	if err != nil || known.OrgID == 0 || !known.DeletedAt.IsZero() || known.OwnerType != millrace.Organization {
		return err // in a personal account there is nobody but its person
	}
	list, err := w.github.Members(ctx, id, known.OwnerLogin)
	switch {
	case err != nil:
		return err
	case len(list) == 0: // an organisation has an owner
		return millrace.Errorf(millrace.Unavailable, "GitHub says that nobody is in %s.", known.OwnerLogin)
	}
	w.unreadable.Delete(id)
	return w.store.SaveMembers(ctx, id, list, at)
}

// sweepMembers reads who is in the organisations of people who are using the service: whoever was taken out of one is a
// member here for no longer than until then, though no delivery told. What has not changed costs nothing of GitHub's quota.
func (w *Workers) sweepMembers(ctx context.Context) error {
	ids, err := w.store.MembersToRead(ctx)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(w.abreast)
	errs := make([]error, len(ids))
	for n, id := range ids {
		if w.abreast == 1 {
			errs[n] = w.readMembers(ctx, id)
			continue
		}
		group.Go(func() error {
			errs[n] = w.readMembers(ctx, id)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errors.Join(errs...)
}
