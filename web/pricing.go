package web

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/chart"
	"github.com/millrace-ci/millrace/web/ui"
)

// pricingView is what the pricing page shows.
type pricingView struct {
	Typed map[string]string // what the fields hold
	Wrong map[string]string // what is wrong with them
	Quote millrace.Quote    // when nothing is
	Fits  bool
}

// workload is what the calculator begins with.
var workload = map[string]string{"jobs": "10", "minutes": "40000", "arch": string(millrace.ARM64), "vcpus": "8"}

// pricing shows the plans, and what a workload costs here and on hosted runners. What can't be read is said beside its
// field, with the status 200: the page is as good as any other, and htmx shows it.
func (s *server) pricing(w http.ResponseWriter, r *http.Request) error {
	view := readPricing(r)
	if partial(r) {
		return render(w, r, http.StatusOK, calculator(view))
	}
	f := ui.Frame{Title: "Pricing", Section: "pricing", Public: true}
	session, _, err := s.visitor(r)
	if err != nil && millrace.CodeOf(err) != millrace.Unauthenticated {
		return err
	}
	f.User = session.User
	return render(w, r, http.StatusOK, pricingPage(f, view))
}

func readPricing(r *http.Request) pricingView {
	q := r.URL.Query()
	v := pricingView{Typed: map[string]string{}}
	for field, usual := range workload {
		v.Typed[field] = usual
		if q.Has(field) {
			v.Typed[field] = q.Get(field)
		}
	}
	parsed, wrong := millrace.ParseWorkload(v.Typed)
	v.Wrong = wrong
	if len(wrong) > 0 {
		return v
	}
	quote, err := parsed.Quote()
	if err != nil {
		v.Wrong["vcpus"] = millrace.MessageOf(err)
		return v
	}
	v.Quote, v.Fits = quote, true
	return v
}

// sizes are the vCPUs to choose from: those of GitHub's runners.
func sizes() (list []int) {
	for _, r := range millrace.HostedRates {
		if r.Arch == millrace.AMD64 {
			list = append(list, r.VCPUs)
		}
	}
	return list
}

// rates are GitHub's prices of one architecture after the other, a row for each size.
func rates() (rows [][2]millrace.HostedRate) {
	for _, vcpus := range sizes() {
		var row [2]millrace.HostedRate
		for _, r := range millrace.HostedRates {
			if r.VCPUs != vcpus {
				continue
			}
			if r.Arch == millrace.AMD64 {
				row[0] = r
			} else {
				row[1] = r
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// perSlot is a plan's price for each of its slots.
func perSlot(p millrace.Plan) millrace.Money {
	return millrace.Money{Minor: p.Price.Minor / int64(p.Concurrency), Currency: p.Price.Currency}
}

// runner is GitHub's runner in words.
func runner(r millrace.HostedRate) string { return fmt.Sprintf("Linux %d-core %s", r.VCPUs, r.Arch) }

// verdict says which of the two costs less.
func verdict(q millrace.Quote) string {
	less := millrace.Money{Minor: q.Hosted.Minor - q.Plan.Price.Minor, Currency: q.Hosted.Currency}
	switch {
	case less.Minor > 0:
		return "Millrace costs " + less.String() + " a month less, before your machines."
	case less.Minor < 0:
		less.Minor = -less.Minor
		return "Hosted runners cost " + less.String() + " a month less."
	default:
		return "The two cost the same, before your machines."
	}
}

// crossover says from when on the flat price is the lower one.
func crossover(q millrace.Quote) string {
	return fmt.Sprintf("They cross at %s min a month. From there on each further minute costs %s there and nothing here.", ui.Count(q.Even), q.Rate)
}

// plane draws what a month costs against its minutes.
func plane(q millrace.Quote) chart.Plane {
	dollars := func(m millrace.Money) float64 { return float64(m.Minor) / 100 }
	rate := float64(q.Rate.Mills) / 1000
	flat := dollars(q.Plan.Price)
	return chart.Plane{
		Width: 1.2 * float64(max(q.Minutes, q.Even)),
		X:     axis,
		Y:     func(v float64) string { return "$" + axis(v) },
		Lines: func(end float64) []chart.Line {
			return []chart.Line{
				{Left: 0, Right: end * rate, Dashed: true, Text: fmt.Sprintf("GitHub-hosted: %s a minute", q.Rate)},
				{Left: flat, Right: flat, Text: fmt.Sprintf("%s: %s a month", q.Plan.Title, q.Plan.Price)},
			}
		},
		Marks: []chart.Mark{
			{X: float64(q.Even), Y: flat, Text: fmt.Sprintf("The same from %s min a month", ui.Count(q.Even))},
			{X: float64(q.Minutes), Y: dollars(q.Hosted), Solid: true, Text: fmt.Sprintf("Yours: %s min, %s hosted", ui.Count(q.Minutes), q.Hosted)},
		},
	}
}

// axis writes a number shortly: "500", "20k", "1.5M".
func axis(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', -1, 64) + "M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'f', -1, 64) + "k"
	default:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
}

// summary is the chart in one line.
func (v pricingView) summary() string {
	q := v.Quote
	return fmt.Sprintf("Cost of a month against its minutes: %s stays at %s; a %s runner costs %s at %s minutes and reaches the flat price at %s.",
		q.Plan.Title, q.Plan.Price, runner(q.Rate), q.Hosted, ui.Count(q.Minutes), ui.Count(q.Even))
}
