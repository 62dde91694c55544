package millrace

// Zone is the trust class of a job. It decides which hosts may run the job and what it may reach, and two jobs of
// different zones never share a runner.
type Zone string

// The zones.
const (
	ZonePrivate Zone = "private"
	ZonePublic  Zone = "public"
	ZoneFork    Zone = "fork"
)

// ZoneOf is the zone of a job of a repository that is private or not, from a fork or not.
func ZoneOf(private, fork bool) Zone {
	switch {
	case fork:
		return ZoneFork
	case private:
		return ZonePrivate
	default:
		return ZonePublic
	}
}
