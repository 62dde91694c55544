package millrace_test

import (
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
)

func TestPlansAreALadder(t *testing.T) {
	t.Parallel()
	paid := millrace.PaidPlans()
	for i, p := range paid {
		if found, ok := millrace.PlanNamed(p.Name); !ok || found != p || p.Price.Currency != "USD" {
			t.Errorf("%s: %+v", p.Name, found)
		}
		if i == 0 {
			continue
		}
		before := paid[i-1]
		if p.Concurrency <= before.Concurrency || p.Price.Minor <= before.Price.Minor {
			t.Errorf("%s is not above %s", p.Name, before.Name)
		}
		if p.Price.Minor*int64(before.Concurrency) > before.Price.Minor*int64(p.Concurrency) {
			t.Errorf("a slot of %s costs more than one of %s", p.Name, before.Name)
		}
	}
	for jobs, want := range map[int]millrace.PlanName{1: "millrace-5", 5: "millrace-5", 6: "millrace-10", 26: "millrace-50", 50: "millrace-50", 51: ""} {
		if p, ok := millrace.PlanFor(jobs); p.Name != want || ok != (want != "") {
			t.Errorf("%d jobs at once: %q, %v", jobs, p.Name, ok)
		}
	}
}

func TestMoney(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]millrace.Money{
		"$0": {Currency: "USD"}, "$1,600": {160000, "USD"}, "$19.20": {1920, "USD"}, "−$0.05": {-5, "USD"},
		"$1,234,567.89": {123456789, "USD"}, "12 EUR": {1200, "EUR"},
	} {
		if got := m.String(); got != want {
			t.Errorf("%+v is %q, want %q", m, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	q, err := millrace.Workload{Jobs: 10, Minutes: 60000, Arch: millrace.ARM64, VCPUs: 8}.Quote()
	if err != nil {
		t.Fatal(err)
	}
	if q.Plan.Name != "millrace-10" || q.Rate.String() != "$0.014" || q.Hosted.String() != "$840" || q.Even != 27143 {
		t.Errorf("got %+v", q)
	}
	if below, even := q.Rate.Cost(q.Even-1), q.Rate.Cost(q.Even); below.Minor > q.Plan.Price.Minor || even.Minor < q.Plan.Price.Minor {
		t.Errorf("around the crossover: %s, %s", below, even)
	}
	for _, w := range []millrace.Workload{
		{Jobs: 0, Arch: millrace.AMD64, VCPUs: 2},
		{Jobs: -1, Arch: millrace.AMD64, VCPUs: 2},
		{Jobs: 51, Arch: millrace.AMD64, VCPUs: 2},
		{Jobs: 1, Minutes: -1, Arch: millrace.AMD64, VCPUs: 2},
		{Jobs: 1, Minutes: millrace.MonthMinutes + 1, Arch: millrace.AMD64, VCPUs: 2},
		{Jobs: 1, Arch: millrace.ArchAny, VCPUs: 2},
		{Jobs: 1, Arch: millrace.AMD64, VCPUs: 3},
	} {
		if _, err := w.Quote(); millrace.CodeOf(err) != millrace.Unprocessable {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

func TestParseWorkload(t *testing.T) {
	t.Parallel()
	for _, bad := range []struct{ jobs, minutes, arch, vcpus, wrong string }{
		{"10", "40000", "arm64", "4", ""},
		{"1", "0", "amd64", "2", ""},
		{" 10 ", "40,000", "amd64", "64", ""},
		{"50", "2160000", "amd64", "2", ""},
		{"", "", "", "", "jobs minutes arch vcpus"},
		{"-1", "-5", "arm64", "4", "jobs minutes"},
		{"0", "1", "arm64", "4", "jobs"},
		{"51", "1", "arm64", "4", "jobs"},
		{"NaN", "Inf", "arm64", "4", "jobs minutes"},
		{"1e3", "1.5", "arm64", "4", "jobs minutes"},
		{"0x10", "+7", "arm64", "4", "jobs minutes"},
		{"5", "999999999", "arm64", "4", "minutes"},
		{"5", strings.Repeat("9", 400), "arm64", "4", "minutes"},
		{"5", "٣", "arm64", "4", "minutes"},
		{"5", "5", "any", "4", "arch"},
		{"5", "5", "arm64", "5", "vcpus"},
	} {
		w, wrong := millrace.ParseWorkload(map[string]string{"jobs": bad.jobs, "minutes": bad.minutes, "arch": bad.arch, "vcpus": bad.vcpus})
		want := strings.Fields(bad.wrong)
		for _, field := range want {
			if wrong[field] == "" {
				t.Errorf("%+v: nothing is said of %s", bad, field)
			}
		}
		if len(wrong) != len(want) {
			t.Errorf("%+v: %v", bad, wrong)
		}
		if _, err := w.Quote(); len(wrong) == 0 && err != nil {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
