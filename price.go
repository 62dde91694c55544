package millrace

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Money is an amount in a currency's minor unit: cents for USD.
type Money struct {
	Minor    int64  `json:"minor"`
	Currency string `json:"currency"` // ISO 4217
}

func usd(cents int64) Money { return Money{Minor: cents, Currency: "USD"} }

// String is the amount as people write it, without cents where there are none: "$1,600", "$19.20".
func (m Money) String() string {
	sign, minor := "", m.Minor
	if minor < 0 {
		sign, minor = "−", -minor
	}
	whole := strconv.FormatInt(minor/100, 10)
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if cents := minor % 100; cents != 0 {
		whole += fmt.Sprintf(".%02d", cents)
	}
	if m.Currency == "USD" {
		return sign + "$" + whole
	}
	return sign + whole + " " + m.Currency
}

// HostedRate is what a minute on a GitHub-hosted Linux runner costs.
type HostedRate struct {
	Arch  Arch
	VCPUs int
	Mills int64 // thousandths of a USD
}

// String is the rate as GitHub writes it: "$0.012".
func (r HostedRate) String() string { return fmt.Sprintf("$%d.%03d", r.Mills/1000, r.Mills%1000) }

// HostedRates are GitHub's list prices for Linux runners: github/docs,
// content/billing/reference/actions-runner-pricing.md at 0460e40. GitHub rounds each job up to whole minutes, which is left
// out here. Standard runners (the two with 2 vCPUs) are free for public repositories and have included minutes; larger ones
// have neither.
var HostedRates = []HostedRate{
	{AMD64, 2, 6},
	{AMD64, 4, 12},
	{AMD64, 8, 22},
	{AMD64, 16, 42},
	{AMD64, 32, 82},
	{AMD64, 64, 162},
	{ARM64, 2, 5},
	{ARM64, 4, 8},
	{ARM64, 8, 14},
	{ARM64, 16, 26},
	{ARM64, 32, 50},
	{ARM64, 64, 98},
}

// HostedRatesURL is where GitHub publishes them.
const HostedRatesURL = "https://docs.github.com/en/billing/reference/actions-runner-pricing"

// MonthMinutes are the minutes of the month that prices are compared over: 30 days.
const MonthMinutes = 30 * 24 * 60

// Workload is how much an org builds.
type Workload struct {
	Jobs    int // at once, at the busiest
	Minutes int // of all jobs together, in a month of 30 days
	Arch    Arch
	VCPUs   int // of each job
}

// Quote is what a workload costs in a month, with us and on GitHub's runners of the same size.
type Quote struct {
	Workload
	Plan   Plan
	Rate   HostedRate
	Hosted Money
	Even   int // minutes a month from which hosted runners cost at least as much as the plan
}

// Quote prices w. An error (Unprocessable) says that no plan or no hosted runner fits, or how many minutes are possible.
func (w Workload) Quote() (Quote, error) {
	q := Quote{Workload: w}
	var ok bool
	if q.Plan, ok = PlanFor(w.Jobs); !ok || w.Jobs < 1 {
		return Quote{}, Errorf(Unprocessable, "Plans are for 1 to %d jobs at once.", largest())
	}
	if most := w.Jobs * MonthMinutes; w.Minutes < 0 || w.Minutes > most {
		return Quote{}, Errorf(Unprocessable, "%d at once can use 0 to %d minutes in a month of 30 days.", w.Jobs, most)
	}
	i := slices.IndexFunc(HostedRates, func(r HostedRate) bool { return r.Arch == w.Arch && r.VCPUs == w.VCPUs })
	if i < 0 {
		return Quote{}, Errorf(Unprocessable, "GitHub has no %s runner with %d vCPUs.", w.Arch, w.VCPUs)
	}
	q.Rate = HostedRates[i]
	q.Hosted = q.Rate.Cost(w.Minutes)
	q.Even = int((q.Plan.Price.Minor*10 + q.Rate.Mills - 1) / q.Rate.Mills)
	return q, nil
}

// Cost is what so many minutes cost, to the nearest cent.
func (r HostedRate) Cost(minutes int) Money { return usd((int64(minutes)*r.Mills + 5) / 10) }

func largest() int { return Plans[len(Plans)-1].Concurrency }

// ParseWorkload reads what somebody typed into the fields jobs, minutes, arch and vcpus; thousands may be separated by
// commas or spaces. What is wrong with a field is said under its name; w is whole when nothing is.
func ParseWorkload(typed map[string]string) (w Workload, wrong map[string]string) {
	wrong = map[string]string{}
	var ok bool
	if w.Jobs, ok = parseWhole(typed["jobs"]); !ok || w.Jobs < 1 || w.Jobs > largest() {
		wrong["jobs"] = fmt.Sprintf("Write a whole number from 1 to %d, the largest plan.", largest())
	}
	most := max(1, min(w.Jobs, largest())) * MonthMinutes
	if w.Minutes, ok = parseWhole(typed["minutes"]); !ok {
		wrong["minutes"] = "Write a whole number of minutes, for example 40000."
	} else if wrong["jobs"] == "" && w.Minutes > most {
		wrong["minutes"] = fmt.Sprintf("That is more than a month of 30 days has: %d at once can use %d minutes at the most.", w.Jobs, most)
	}
	w.Arch = Arch(typed["arch"])
	if w.Arch != AMD64 && w.Arch != ARM64 {
		wrong["arch"] = "Choose amd64 or arm64."
	}
	w.VCPUs, ok = parseWhole(typed["vcpus"])
	if !ok || !slices.ContainsFunc(HostedRates, func(r HostedRate) bool { return r.VCPUs == w.VCPUs }) {
		wrong["vcpus"] = "Choose a size that GitHub has too."
	}
	return w, wrong
}

// parseWhole reads a number of up to nine digits.
func parseWhole(s string) (int, bool) {
	s = strings.NewReplacer(",", "", " ", "").Replace(s)
	if s == "" || len(s) > 9 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}
