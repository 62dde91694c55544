package web

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/ui"
)

// logTail is how much of a log a page shows.
const logTail = 64 << 10

// left is what a VM leaves behind, as its own page and its job's show it.
type left struct {
	VM   *millrace.VM // nil: there was none
	Used millrace.Series
	Log  string
	Cut  bool // the log's beginning is left out
	Now  time.Time
}

// left finds what a VM of the org left, and has its host send what it prints at once, for somebody looks.
func (s *server) left(ctx context.Context, org store.Org, vm *millrace.VM) (l left, err error) {
	l = left{VM: vm, Now: s.Now()}
	if vm == nil {
		return l, nil
	}
	s.Store.Watch(*vm)
	console, total, err := org.Console(ctx, vm.ID, 0, logTail)
	if err != nil {
		return l, err
	}
	l.Cut = total > int64(len(console))
	l.Log = millrace.PlainText(console, l.Cut)
	l.Used, err = org.Samples(ctx, vm.ID)
	return l, err
}

// trigger says when the page fetches itself anew. A log grows without an announcement.
func (l left) trigger() string {
	if l.VM != nil && l.VM.State.Live() {
		return "refresh from:body, every 2s"
	}
	return "refresh from:body"
}

// silence says why there is no log.
func (l left) silence() string {
	switch {
	case l.VM == nil:
		return "It appears here once a VM runs the job."
	case l.VM.State.Live():
		return "The VM has printed nothing yet."
	case l.Now.Sub(l.VM.Stamps.Gone) >= millrace.LogRetention:
		return "What the VM printed was kept for 30 days."
	default:
		return "The VM printed nothing."
	}
}

// vmView is what a VM's page shows.
type vmView struct {
	left

	Path     string
	HostName string
}

func (s *server) vm(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseVMID(r.PathValue("vm"))
	if err != nil {
		return errNoPage
	}
	org := s.Store.Org(v.Org.OrgID)
	row, err := org.VM(r.Context(), id)
	if millrace.CodeOf(err) == millrace.NotFound {
		return errNoPage
	}
	if err != nil {
		return err
	}
	view := vmView{Path: v.path("/vms/") + id.String(), HostName: row.HostName}
	if view.left, err = s.left(r.Context(), org, &row.VM); err != nil {
		return err
	}
	f, err := s.frame(r, v, "VM on "+row.HostName, "hosts")
	if err != nil {
		return err
	}
	return live(w, r, f, vmNow(v, view), vmPage(f, v, view))
}

// moment is a state that a VM entered, and when.
type moment struct {
	State string
	At    time.Time
}

// moments are the states that the VM was seen to enter, in order.
func (v vmView) moments() (list []moment) {
	at := v.VM.Stamps
	for _, m := range []moment{{"Placed", at.Placed}, {"Booting", at.Booting}, {"Online", at.Online}, {"Busy", at.Busy}, {"Stopping", at.Stopping}, {"Gone", at.Gone}} {
		if !m.At.IsZero() {
			list = append(list, m)
		}
	}
	if v.VM.State == millrace.VMLost {
		list = append(list, moment{"Lost", at.Changed})
	}
	return list
}

// text is the time, and how long it was after the VM's placing.
func (m moment) text(placed time.Time) string {
	if m.At.Equal(placed) {
		return ui.Absolute(m.At)
	}
	return ui.Absolute(m.At) + " (+" + ui.Millis(m.At.Sub(placed)) + ")"
}
