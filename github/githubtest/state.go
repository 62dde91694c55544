package githubtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// saved is what outlives a restart. Runners don't: their machines are gone too.
type saved struct {
	LastID int64  `json:"last_id"`
	Jobs   []*job `json:"jobs"`
}

// touch notes that the state file is behind.
func (g *GitHub) touch() {
	select {
	case g.dirty <- struct{}{}:
	default:
	}
}

// load reads the state file. A job that was running has lost its runner.
func (g *GitHub) load() error {
	if g.cfg.StateFile == "" {
		return nil
	}
	content, err := os.ReadFile(g.cfg.StateFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s saved
	if err := json.Unmarshal(content, &s); err != nil {
		return fmt.Errorf("%s: %w (remove it to start with an empty GitHub)", g.cfg.StateFile, err)
	}
	g.lastID = max(g.lastID, s.LastID)
	for _, j := range s.Jobs {
		j.Attempt = max(j.Attempt, 1)
		j.queued, j.ended = j.CreatedAt, j.CompletedAt
		if j.RunnerID != 0 {
			j.ran = j.StartedAt
		}
		g.add(j)
	}
	return nil
}

// Resume says that the owners are there and webhooks are heard: what ran when the state was saved has lost its runner.
func (g *GitHub) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, j := range slices.Clone(g.open) {
		if j.Status == "in_progress" && j.runner == nil {
			g.lose(j)
		}
	}
}

// saver writes the state file some time after each change, and at the end.
func (g *GitHub) saver() {
	if g.cfg.StateFile == "" {
		return
	}
	for {
		select {
		case <-g.dirty:
		case <-g.ctx.Done():
			g.save()
			return
		}
		select { // changes come in bursts
		case <-time.After(500 * time.Millisecond):
		case <-g.ctx.Done():
		}
		g.save()
	}
}

func (g *GitHub) save() {
	g.mu.Lock()
	content, err := json.Marshal(saved{LastID: g.lastID, Jobs: g.order})
	g.mu.Unlock()
	if err != nil {
		panic("githubtest: " + err.Error()) // the state is ours
	}
	tmp := filepath.Join(filepath.Dir(g.cfg.StateFile), "."+filepath.Base(g.cfg.StateFile)+".tmp")
	if os.WriteFile(tmp, content, 0o600) == nil {
		os.Rename(tmp, g.cfg.StateFile) //nolint:errcheck // the next change writes again
	}
}
