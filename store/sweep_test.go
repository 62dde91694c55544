package store_test

import (
	"testing"
	"time"
)

// A sweep that ends doesn't end a pause that GitHub asked for meanwhile.
func TestSweepEndsNoPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	until := w.now().Add(time.Minute)
	w.must(w.st.EndSweep(t.Context(), w.now()))
	w.must(w.st.PauseApp(t.Context(), until))
	w.must(w.st.EndSweep(t.Context(), w.now()))
	if got, err := w.st.AppPause(t.Context()); err != nil || !got.Equal(until) {
		t.Errorf("paused until %v, not %v; %v", got, until, err)
	}
}
