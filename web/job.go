package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/store"
	"github.com/millrace-ci/millrace/web/chart"
	"github.com/millrace-ci/millrace/web/ui"
)

// jobsView is what the jobs page shows.
type jobsView struct {
	Path         string // without query
	Query        url.Values
	Status       millrace.JobStatus
	Repository   string
	Repositories []string
	Counts       map[millrace.JobStatus]int
	Page         store.JobPage
	Now          time.Time
}

// jobs is the list of jobs, newest first: the queue and the history are one table.
func (s *server) jobs(w http.ResponseWriter, r *http.Request, v visit) error {
	q := r.URL.Query()
	view := jobsView{
		Path: r.URL.Path, Query: q, Now: s.Now(),
		Status: millrace.JobStatus(q.Get("status")), Repository: q.Get("repository"),
	}
	filter := store.JobFilter{Repository: view.Repository, Cursor: q.Get("cursor")}
	if view.Status != "" {
		if !slices.Contains(millrace.JobStatuses, view.Status) {
			return millrace.Errorf(millrace.Invalid, "There is no job status %q; there are waiting, queued, in_progress and completed.", view.Status)
		}
		filter.Status = []millrace.JobStatus{view.Status}
	}
	org := s.Store.Org(v.Org.OrgID)
	var err error
	if view.Page, err = org.Jobs(r.Context(), filter); err != nil {
		return err
	}
	if view.Counts, err = org.JobCounts(r.Context()); err != nil {
		return err
	}
	f, err := s.frame(r, v, "Jobs", "jobs")
	if err != nil {
		return err
	}
	if partial(r) {
		return render(w, r, http.StatusOK, ui.Part(f, jobList(view)))
	}
	if view.Repositories, err = org.Repositories(r.Context()); err != nil {
		return err
	}
	if view.Repository != "" && !slices.Contains(view.Repositories, view.Repository) {
		view.Repositories = append(view.Repositories, view.Repository)
	}
	return render(w, r, http.StatusOK, jobsPage(f, view))
}

// here is the path with its query: what the live part is fetched from.
func (v jobsView) here() string { return with(v.Path, v.Query) }

func (v jobsView) older() string {
	q := url.Values{}
	for k, values := range v.Query {
		q[k] = values
	}
	q.Set("cursor", v.Page.Next)
	return with(v.Path, q)
}

func (v jobsView) newest() string {
	q := url.Values{}
	for k, values := range v.Query {
		if k != "cursor" {
			q[k] = values
		}
	}
	return with(v.Path, q)
}

func with(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

func (v jobsView) filtered() bool { return v.Status != "" || v.Repository != "" }

// statusNames are the filter's choices.
var statusNames = []struct {
	Status millrace.JobStatus
	Name   string
}{
	{millrace.JobWaiting, "Waiting for approval"},
	{millrace.JobQueued, "Queued"},
	{millrace.JobInProgress, "Running"},
	{millrace.JobCompleted, "Completed"},
}

// waited is how long a job waited to be run, until now if it still does; none if it never ran.
func waited(row store.JobRow, now time.Time) (time.Duration, bool) {
	line := millrace.Timeline(row.Job, row.VM)
	for _, at := range line {
		if at.Stage == millrace.StageRunning {
			return at.At.Sub(line[0].At), true
		}
	}
	if row.Status == millrace.JobCompleted || len(line) == 0 {
		return 0, false
	}
	return now.Sub(line[0].At), true
}

// ran is how long a job has run.
func ran(row store.JobRow, now time.Time) (time.Duration, bool) {
	var start time.Time
	for _, at := range millrace.Timeline(row.Job, row.VM) {
		switch {
		case at.Stage == millrace.StageRunning:
			start = at.At
		case at.Stage == millrace.StageDone && !start.IsZero():
			return at.At.Sub(start), true
		}
	}
	if start.IsZero() || row.Status == millrace.JobCompleted {
		return 0, false
	}
	return now.Sub(start), true
}

// waiting is why a job waits: the same as the API says.
func waiting(row store.JobRow) millrace.WaitReason { return row.Waiting(row.VM) }

// brief is what a job waits for in a few words, and when it is likely to start.
func brief(w millrace.WaitReason, now time.Time) string {
	if w.Estimate == nil {
		return w.Code.Title()
	}
	return w.Code.Title() + ", starts " + w.Estimate.In(now)
}

// noEstimate says why it is not known when a job that waits for w starts.
func noEstimate(w millrace.WaitReason) string {
	if why, never := strings.CutPrefix(w.Code.Basis(), "None"); never {
		return "No estimate" + why
	}
	return "No estimate: nothing is known yet that it could rest on."
}

// jobView is what a job's page shows.
type jobView struct {
	left // of its VM

	Path   string
	Row    store.JobRow
	Others []store.VMRow // VMs that it had besides, newest first
}

// newestTries is how many VMs of one job its page shows.
const newestTries = 20

func (s *server) job(w http.ResponseWriter, r *http.Request, v visit) error {
	id, err := millrace.ParseJobID(r.PathValue("job"))
	if err != nil {
		return errNoPage
	}
	org := s.Store.Org(v.Org.OrgID)
	view := jobView{Path: r.URL.Path}
	if view.Row, err = org.Job(r.Context(), id); millrace.CodeOf(err) == millrace.NotFound {
		return errNoPage
	} else if err != nil {
		return err
	}
	if view.left, err = s.left(r.Context(), org, view.Row.VM); err != nil {
		return err
	}
	tries, err := org.VMs(r.Context(), store.VMFilter{Job: id, Limit: newestTries})
	if err != nil {
		return err
	}
	view.Others = slices.DeleteFunc(tries.VMs, func(m store.VMRow) bool { return view.VM != nil && m.ID == view.VM.ID })
	f, err := s.frame(r, v, view.Row.Name, "jobs")
	if err != nil {
		return err
	}
	return live(w, r, f, jobBody(v, view), jobPage(f, v, view))
}

// leg is the time between one stage and the next that was seen.
type leg struct {
	From, To millrace.Stage // To is "now" while it goes on
	What     string
	Took     time.Duration
}

func (l leg) name() string { return string(l.From) + " → " + string(l.To) }

// between says what happens after a stage.
var between = map[millrace.Stage]string{
	millrace.StageQueued:  "waits for a place",
	millrace.StagePlaced:  "the host gets its order",
	millrace.StageBooting: "the VM boots, its runner registers",
	millrace.StageOnline:  "GitHub hands over the job",
	millrace.StageRunning: "the job runs",
}

// stageColours gives each stage its own colour, whether or not those before it were seen.
var stageColours = []millrace.Stage{millrace.StageQueued, millrace.StagePlaced, millrace.StageBooting, millrace.StageOnline, millrace.StageRunning}

func (l leg) colour() string { return chart.Fill(slices.Index(stageColours, l.From)) }

// legs are the times between the stages; the last goes on while the job is not done.
func (v jobView) legs() (legs []leg) {
	line := millrace.Timeline(v.Row.Job, v.Row.VM)
	for i, at := range line {
		l := leg{From: at.Stage, To: "now", What: between[at.Stage]}
		switch {
		case i+1 < len(line):
			l.To, l.Took = line[i+1].Stage, line[i+1].At.Sub(at.At)
		case at.Stage == millrace.StageDone || v.Row.Status == millrace.JobCompleted:
			continue
		default:
			l.Took = max(0, v.Now.Sub(at.At))
		}
		legs = append(legs, l)
	}
	return legs
}

func (v jobView) parts() []chart.Part {
	var parts []chart.Part
	for _, l := range v.legs() {
		parts = append(parts, chart.Part{Took: l.Took, Fill: l.colour(), Text: l.name() + ": " + ui.Millis(l.Took)})
	}
	return parts
}

// summary is the timeline in one line.
func (v jobView) summary() string {
	var words []string
	for _, p := range v.parts() {
		words = append(words, p.Text)
	}
	return "Timeline: " + strings.Join(words, ", ") + "."
}
