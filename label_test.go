package millrace_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

var std = millrace.Size{MilliCPU: 1000, MemoryMB: 512}

func TestParseLabels(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		labels string
		want   millrace.Demand
	}{
		{"millrace", millrace.Demand{Arch: millrace.AMD64, Size: std}},
		{"Millrace-ARM64", millrace.Demand{Arch: millrace.ARM64, Size: std}},
		{"millrace-aarch64-4cpu-16gb", millrace.Demand{Arch: millrace.ARM64, Size: millrace.Size{MilliCPU: 4000, MemoryMB: 16384}}},
		{"millrace-x86_64", millrace.Demand{Arch: millrace.AMD64, Size: std}},
		{"millrace-any-0.5cpu-512mb-burstable", millrace.Demand{Arch: millrace.ArchAny, Size: millrace.Size{MilliCPU: 500, MemoryMB: 512}, Burstable: true}},
		{"millrace-250mcpu-1.5gb", millrace.Demand{Arch: millrace.AMD64, Size: millrace.Size{MilliCPU: 250, MemoryMB: 1536}}},
		{"millrace-burstable", millrace.Demand{Arch: millrace.AMD64, Size: std, Burstable: true}},
		{"self-hosted linux arm64 millrace", millrace.Demand{Arch: millrace.ARM64, Size: std}},
		{"self-hosted Linux X64 millrace-any", millrace.Demand{Arch: millrace.AMD64, Size: std}},
		{"millrace GPU ssd gpu", millrace.Demand{Arch: millrace.AMD64, Size: std, Extra: []string{"gpu", "ssd"}}},
		{"millrace millrace", millrace.Demand{Arch: millrace.AMD64, Size: std}},
	} {
		t.Run(tc.labels, func(t *testing.T) {
			t.Parallel()
			got, ours, err := millrace.ParseLabels(strings.Fields(tc.labels), []string{"millrace"}, std)
			if err != nil || !ours {
				t.Fatalf("ours %v, error %v", ours, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseLabelsNotOurs(t *testing.T) {
	t.Parallel()
	for _, labels := range []string{"", "ubuntu-latest", "millracer", "self-hosted linux x64", "actuated-4cpu-8gb"} {
		if _, ours, err := millrace.ParseLabels(strings.Fields(labels), []string{"millrace"}, std); ours || err != nil {
			t.Errorf("%q: ours %v, error %v; want ignored", labels, ours, err)
		}
	}
}

func TestParseLabelsErrorsTeach(t *testing.T) {
	t.Parallel()
	for labels, want := range map[string]string{
		"millrace-4cpu":                 "gives vCPUs without memory",
		"millrace-0cpu-1gb":             "not a number of vCPUs",
		"millrace-999999cpu-1gb":        "not a number of vCPUs",
		"millrace--1cpu-1gb":            "is not understood",
		"millrace-0x10cpu-1gb":          "not a number of vCPUs",
		"millrace-1e3cpu-1gb":           "not a number of vCPUs",
		"millrace-٤cpu-1gb":             "not a number of vCPUs",
		"millrace-1cpu-1tb":             "not an amount of memory",
		"millrace-1cpu-.gb":             "not an amount of memory",
		"millrace-0.5mcpu-1gb":          "not a number of vCPUs",
		"millrace-burstable-1cpu-1gb":   "is not understood",
		"millrace-riscv64":              "is not understood",
		"millrace-":                     "is not understood",
		"millrace millrace-arm64":       "two of our labels",
		"millrace-arm64 x64":            "another label says amd64",
		"millrace-1cpu-1gb-burstable-x": "is not understood",
	} {
		_, ours, err := millrace.ParseLabels(strings.Fields(labels), []string{"millrace"}, std)
		if !ours || millrace.CodeOf(err) != millrace.Unprocessable || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: ours %v, error %v; want one that says %q", labels, ours, err, want)
		}
	}
}

func FuzzParseLabels(f *testing.F) {
	for _, seed := range []string{"millrace", "millrace-arm64-4cpu-16gb", "millrace-0.5cpu-512mb-burstable x64 gpu", "millrace-9999999999999cpu-1gb"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ours, err := millrace.ParseLabels(strings.Split(s, " "), []string{"millrace"}, std)
		if err != nil && !ours {
			t.Fatal("an error about labels that aren't ours")
		}
		if err == nil && ours && (d.Size.MilliCPU < 1 || d.Size.MemoryMB < 1 || d.Arch == "") {
			t.Fatalf("accepted %+v", d)
		}
	})
}
