package millrace

// Level is how bad a finding is.
type Level string

// The levels: nothing to do; works, but worse or less safely than it could; can't run jobs like this.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning"
	LevelFailure Level = "failure"
)

// Finding is what an agent found about one thing that a host needs, and what mends it.
type Finding struct {
	Check   string `json:"check"`
	Level   Level  `json:"level"`
	Found   string `json:"found"`
	Do      string `json:"do,omitempty"`      // "" when ok
	Command string `json:"command,omitempty"` // that does it, for root's shell; "" when none can
}

// Bounds of what is kept of a host's findings: how many, and how many bytes each text has.
const (
	MaxFindings    = 40
	MaxFindingText = 600
)
