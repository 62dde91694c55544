package workers

import (
	"context"

	"github.com/millrace-ci/millrace"
)

// readMembers has whoever left an organisation at GitHub leave its org. An organisation that can't be read now is left as it
// is known, and is due again in a while.
func (w *Workers) readMembers(ctx context.Context) error {
	due, err := w.store.MembersDue(ctx)
	if err != nil {
		return err
	}
	for _, i := range due {
		members, err := w.github.Members(ctx, i.ID, i.OwnerLogin)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			w.log.Warn("who belongs to an organisation can't be read", "installation", i.ID, "error", err)
			continue
		}
		if err := w.store.SaveMembers(ctx, i.ID, members); err != nil {
			return err
		}
	}
	return nil
}

var _ millrace.People = (*Gate)(nil)
