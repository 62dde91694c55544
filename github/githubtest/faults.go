package githubtest

import "time"

// says are GitHub's own words.
var says = struct{ nameTaken, busy, running, notRetried, notCancelled string }{
	nameTaken:    "Already exists - A runner with the name %s already exists.",
	busy:         "Bad request - Runner \"%s\" is still running a job\"",
	running:      "This workflow is already running",
	notRetried:   "This workflow run cannot be retried",
	notCancelled: "Cannot cancel a workflow run that is completed.",
}

func (g *GitHub) lag() time.Duration { return 0 }
func (g *GitHub) readAt() time.Time  { return g.cfg.Now().Add(-g.lag()) }
