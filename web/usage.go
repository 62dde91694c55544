package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/web/chart"
	"github.com/millrace-ci/millrace/web/ui"
)

// usageView is what the usage page shows.
type usageView struct {
	Path   string
	By     millrace.UsageBy
	Days   int
	From   time.Time
	Groups []millrace.Usage
	PerDay []millrace.Usage // every day of the window, those without jobs too
	Total  millrace.Usage   // without percentiles, which can't be summed
}

// windows are the lengths to choose from, in days; the last day is today, all in UTC.
var windows = []int{1, 7, 14, 28}

const defaultWindow = 7

// usage shows who and what used build time.
func (s *server) usage(w http.ResponseWriter, r *http.Request, v visit) error {
	view, err := readUsage(r)
	if err != nil {
		return err
	}
	now := s.Now().UTC()
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	view.From = today.AddDate(0, 0, 1-view.Days)
	to := today.AddDate(0, 0, 1)
	org := s.Store.Org(v.Org.OrgID)
	if view.Groups, err = org.Usage(r.Context(), view.By, view.From, to); err != nil {
		return err
	}
	days, err := org.Usage(r.Context(), millrace.ByDay, view.From, to)
	if err != nil {
		return err
	}
	view.PerDay, view.Total = everyDay(days, view.From, to), sum(days)
	f, err := s.frame(r, v, "Usage", "usage")
	if err != nil {
		return err
	}
	if partial(r) {
		return render(w, r, http.StatusOK, ui.Part(f, usageBody(view)))
	}
	return render(w, r, http.StatusOK, usagePage(f, view))
}

func readUsage(r *http.Request) (v usageView, err error) {
	v = usageView{Path: r.URL.Path, By: millrace.ByRepository, Days: defaultWindow}
	switch by := millrace.UsageBy(r.URL.Query().Get("by")); by {
	case millrace.ByRepository, "":
	case millrace.ByUser:
		v.By = by
	default:
		return v, millrace.Errorf(millrace.Invalid, "Usage is shown by repository or by user, not by %q.", by)
	}
	text := r.URL.Query().Get("window")
	if text == "" {
		return v, nil
	}
	days, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
	for _, known := range windows {
		if err == nil && days == known {
			v.Days = days
			return v, nil
		}
	}
	return v, millrace.Errorf(millrace.Invalid, "There is no window %q; there are 1d, 7d, 14d and 28d.", text)
}

// link is the page's address with another grouping or window.
func (v usageView) link(by millrace.UsageBy, days int) string {
	return with(v.Path, url.Values{"by": {string(by)}, "window": {fmt.Sprintf("%dd", days)}})
}

func windowName(days int) string {
	if days == 1 {
		return "Today"
	}
	return fmt.Sprintf("%d days", days)
}

// everyDay fills the days that had no job.
func everyDay(days []millrace.Usage, from, to time.Time) []millrace.Usage {
	byKey := make(map[string]millrace.Usage, len(days))
	for _, d := range days {
		byKey[d.Key] = d
	}
	var list []millrace.Usage
	for day := from; day.Before(to); day = day.AddDate(0, 0, 1) {
		key := day.Format(time.DateOnly)
		d := byKey[key]
		d.Key = key
		list = append(list, d)
	}
	return list
}

func sum(list []millrace.Usage) (total millrace.Usage) {
	for _, u := range list {
		total.Jobs += u.Jobs
		total.Succeeded += u.Succeeded
		total.Failed += u.Failed
		total.Cancelled += u.Cancelled
		total.BuildTime += u.BuildTime
		total.VCPUTime += u.VCPUTime
	}
	return total
}

// success is the share of jobs that succeeded among those that succeeded or failed: cancelled and skipped ones say
// nothing of the code.
func success(u millrace.Usage) string { return ui.Percent(u.Succeeded, u.Succeeded+u.Failed) }

// bars are the minutes of each day.
func (v usageView) bars() []chart.Bar {
	bars := make([]chart.Bar, len(v.PerDay))
	for i, d := range v.PerDay {
		day, _ := time.Parse(time.DateOnly, d.Key)
		bars[i] = chart.Bar{
			Label: day.Format("2 Jan"),
			Value: d.BuildTime.Minutes(),
			Text:  fmt.Sprintf("%s: %s min, %s jobs", day.Format("Mon 2 Jan"), ui.Minutes(d.BuildTime), ui.Count(d.Jobs)),
		}
	}
	return bars
}

// summary is the chart in one line.
func (v usageView) summary() string {
	return fmt.Sprintf("Build minutes per day since %s, %s in all. The table of days below has the figures.",
		v.From.Format("2 January"), ui.Minutes(v.Total.BuildTime))
}
