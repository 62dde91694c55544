package web

import (
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/millrace-ci/millrace"
)

// placementView is what the page on placement shows.
type placementView struct {
	Path     string
	Settings millrace.PlacementSettings
	Names    []string // of repositories, to propose
	MayWrite bool
	Problem  string
	At       string // the form that it is about
	Share    shareForm
	Zone     zoneForm // as it was typed; of no zone: nothing was
	Hosts    []millrace.Host
}

// shareForm and zoneForm are what was typed.
type (
	shareForm struct{ Repository, Priority, Limit string }
	zoneForm  struct {
		Zone                millrace.Zone
		Allowed             bool
		Labels, CPU, Memory string
		Egress              millrace.Egress
	}
)

// zone is what a zone's form shows.
func (v placementView) zone(z millrace.Zone) zoneForm {
	if v.Zone.Zone == z {
		return v.Zone
	}
	r := v.Settings.Zone(z)
	number := func(n int, unit float64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatFloat(float64(n)/unit, 'f', -1, 64)
	}
	return zoneForm{z, r.Allowed, strings.Join(r.HostLabels, ", "), number(r.MaxSize.MilliCPU, 1000), number(r.MaxSize.MemoryMB, 1024), r.Egress}
}

// change is what the form asks for.
func (f zoneForm) change() (c millrace.ZoneChange, err error) {
	number := func(s, what string, unit float64) int {
		n, parseErr := strconv.ParseFloat(s, 64)
		if s != "" && (parseErr != nil || !(n >= 0 && n <= 1<<20)) {
			err = millrace.Errorf(millrace.Unprocessable, "%s is a number, or empty for no limit; %q is neither.", what, s)
			return 0
		}
		return int(math.Round(n * unit))
	}
	labels := strings.Split(f.Labels, ",")
	size := millrace.Size{MilliCPU: number(f.CPU, "The most vCPU", 1000), MemoryMB: number(f.Memory, "The most memory", 1024)}
	return millrace.ZoneChange{Zone: f.Zone, Allowed: &f.Allowed, HostLabels: &labels, Egress: &f.Egress, MaxSize: &size}, err
}

// change is what the form asks for.
func (f shareForm) change() (c millrace.ShareChange, err error) {
	number := func(s, what string) *int {
		n, parseErr := strconv.Atoi(s)
		if s != "" && parseErr != nil {
			err = millrace.Errorf(millrace.Unprocessable, "%s is a whole number; %q is none.", what, s)
		}
		return &n
	}
	return millrace.ShareChange{Repository: f.Repository, Priority: number(f.Priority, "A priority"), Limit: number(f.Limit, "A limit")}, err
}

func (s *server) placement(w http.ResponseWriter, r *http.Request, v visit) error {
	return s.showPlacement(w, r, v, http.StatusOK, placementView{})
}

func (s *server) showPlacement(w http.ResponseWriter, r *http.Request, v visit, status int, view placementView) (err error) {
	org := s.Store.Org(v.Org.OrgID)
	view.Path, view.MayWrite = v.path("/placement"), v.By.May(millrace.OrgWrite)
	if view.Settings, err = org.PlacementSettings(r.Context()); err != nil {
		return err
	}
	if v.By.May(millrace.HostsRead) {
		hosts, err := org.Hosts(r.Context())
		if err != nil {
			return err
		}
		for _, h := range hosts {
			view.Hosts = append(view.Hosts, h.Host)
		}
	}
	if view.MayWrite {
		if view.Names, err = org.RepositoryNames(r.Context()); err != nil {
			return err
		}
	}
	f, err := s.settingsFrame(r, v, "Placement")
	if err != nil {
		return err
	}
	return render(w, r, status, placementPage(f, v, view))
}

// changePlacement does what a form asked for, or shows it again with what is wrong.
func (s *server) changePlacement(w http.ResponseWriter, r *http.Request, v visit, to millrace.PlacementChange, err error, again placementView) error {
	if err == nil {
		_, err = s.Store.Org(v.Org.OrgID).ChangePlacement(r.Context(), v.By, to)
	}
	switch code := millrace.CodeOf(err); {
	case err == nil:
		http.Redirect(w, r, v.path("/placement")+"#"+again.At, http.StatusSeeOther)
		return nil
	case code == millrace.Unprocessable, code == millrace.NotFound && again.At == "repositories":
		again.Problem = millrace.MessageOf(err)
		return s.showPlacement(w, r, v, http.StatusUnprocessableEntity, again)
	}
	return err
}

func (s *server) setStrategy(w http.ResponseWriter, r *http.Request, v visit) error {
	strategy := millrace.Strategy(r.PostFormValue("strategy"))
	return s.changePlacement(w, r, v, millrace.PlacementChange{Strategy: &strategy}, nil, placementView{At: "strategy"})
}

func (s *server) setShare(w http.ResponseWriter, r *http.Request, v visit) error {
	f := shareForm{strings.TrimSpace(r.PostFormValue("repository")), strings.TrimSpace(r.PostFormValue("priority")), strings.TrimSpace(r.PostFormValue("limit"))}
	c, err := f.change()
	// The table has what GitHub lists no more, too, whose name may be another's by now: its rows say which by the ID.
	c.RepositoryID, _ = strconv.ParseInt(r.PostFormValue("repository_id"), 10, 64) // what is no number is 0, and one too large is no repository's
	if f.Repository == "" && c.RepositoryID == 0 {
		err = millrace.Errorf(millrace.Unprocessable, "Which repository? The form didn't say.")
	}
	return s.changePlacement(w, r, v, millrace.PlacementChange{Shares: []millrace.ShareChange{c}}, err, placementView{At: "repositories", Share: f})
}

func (s *server) setZone(w http.ResponseWriter, r *http.Request, v visit) error {
	f := zoneForm{
		Zone: millrace.Zone(r.PathValue("zone")), Allowed: r.PostFormValue("allowed") == "yes", Labels: r.PostFormValue("labels"),
		CPU: strings.TrimSpace(r.PostFormValue("cpu")), Memory: strings.TrimSpace(r.PostFormValue("memory")), Egress: millrace.Egress(r.PostFormValue("egress")),
	}
	f.Allowed = f.Allowed || f.Zone == millrace.ZonePrivate // those always run
	c, err := f.change()
	return s.changePlacement(w, r, v, millrace.PlacementChange{Zones: []millrace.ZoneChange{c}}, err, placementView{At: string(f.Zone), Zone: f})
}

// exposed says which hosts' networks jobs of z could look around in, and what to do; "" when none are, or they are trusted.
func (v placementView) exposed(z millrace.Zone) string {
	var open, unknown []string
	if z != millrace.ZonePrivate {
		for _, h := range v.Settings.Zone(z).Exposed(v.Hosts) {
			if h.Facts.Network == millrace.NetworkUser {
				open = append(open, h.Name)
			} else {
				unknown = append(unknown, h.Name)
			}
		}
	}
	var text string
	if len(open) > 0 {
		text = "These jobs reach all that their host reaches, its own services and the networks around it, on " + strings.Join(open, ", ") +
			". Run the agent there with --network tap, which takes root, or name labels above that these hosts don't have. "
	}
	if len(unknown) > 0 {
		text += "Whether they do isn't known of " + strings.Join(unknown, ", ") + ": bring the agent there up to date."
	}
	return strings.TrimSpace(text)
}

// networks are what VMs' networks are, in words.
var networks = map[millrace.VMNetwork]string{
	millrace.NetworkTap:     "closed: the internet, and what the host's owner opened",
	millrace.NetworkUser:    "open to all that the host reaches",
	millrace.NetworkUnknown: "unknown: its agent has not said",
}

// strategies are what the strategies do, in words.
var strategies = map[millrace.Strategy]string{
	millrace.Pack:   "Pack: the host with the least left that holds the job, so that large jobs find whole hosts",
	millrace.Spread: "Spread: the host with the most left, so that a job has few neighbours",
}

// egresses are what the policies are, in words.
var egresses = map[millrace.Egress]string{
	millrace.EgressInternet: "The internet, as its host does",
	millrace.EgressNone:     "Only what their hosts' owners open to VMs",
}

// zoneNotes say what is to be known before a zone is allowed.
var zoneNotes = map[millrace.Zone]string{
	millrace.ZonePrivate: "Code of people whom you gave access. It always runs.",
	millrace.ZonePublic:  "Anybody can open a pull request and so propose what runs. Give these jobs hosts in a network of their own.",
	millrace.ZoneFork:    "Code of whoever forked a repository. In public repositories it takes both switches.",
}

// capital is s with a capital first letter.
func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
