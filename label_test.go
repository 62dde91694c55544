package millrace_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

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

// Whatever a workflow file says: no panic, an answer that holds in any case, and an error that can be shown as it is.
func FuzzParseLabels(f *testing.F) {
	for _, seed := range []string{
		"", "millrace", "MILLRACE", "millrace-arm64-4cpu-16gb", "millrace-0.5cpu-512mb-burstable x64 gpu", "millrace-9999999999999cpu-1gb", "millrace-any arm64 self-hosted linux",
		"millrace-250mcpu-0.5gb", "millrace-x86_64-1cpu-1gb", "actuated-aarch64-2cpu-4gb", "millrace-burstable", "millrace-4cpu", "millrace--1cpu-1gb", "millrace-1.cpu-1gb",
		"millrace-٤cpu-1gb", "millrace-1cpu-1gb-burstable-burstable", "millrace actuated", "millrace-arm64 x64", "millrace-\x00cpu", "millrace-\xffcpu-1gb", "millracecpu",
		"ubuntu-latest", "millrace " + strings.Repeat("a ", 200), "millrace-" + strings.Repeat("9", 400) + "cpu",
	} {
		f.Add(seed)
	}
	prefixes := []string{"millrace", "actuated"}
	f.Fuzz(func(t *testing.T, s string) {
		labels := strings.Split(s, " ")
		d, ours, err := millrace.ParseLabels(labels, prefixes, std)
		if err != nil {
			text := millrace.MessageOf(err)
			switch {
			case !ours:
				t.Fatal("an error about labels that aren't ours")
			case millrace.CodeOf(err) != millrace.Unprocessable || !strings.HasSuffix(text, "."):
				t.Fatalf("%v is no sentence for whoever wrote the labels", err)
			case len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
				t.Fatalf("%d bytes that can't be shown: %q", len(text), text)
			case !reflect.DeepEqual(d, millrace.Demand{}):
				t.Fatalf("an error and a demand, %+v", d)
			}
			return
		}
		switch {
		case !ours && !reflect.DeepEqual(d, millrace.Demand{}):
			t.Fatalf("a demand of labels that aren't ours, %+v", d)
		case !ours:
			return
		case d.Size.MilliCPU < 1 || d.Size.MilliCPU > 1024*1000 || d.Size.MemoryMB < 1 || d.Size.MemoryMB > 64<<20 || d.Size.VCPUs() < 1:
			t.Fatalf("accepted the size %+v", d.Size)
		case !slices.Contains([]millrace.Arch{millrace.AMD64, millrace.ARM64, millrace.ArchAny}, d.Arch):
			t.Fatalf("accepted the architecture %q", d.Arch)
		case !slices.IsSorted(d.Extra) || len(slices.Compact(slices.Clone(d.Extra))) != len(d.Extra):
			t.Fatalf("extra labels %q", d.Extra)
		}
		slices.Reverse(labels) // their order says nothing
		if again, _, err := millrace.ParseLabels(labels, prefixes, std); err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("in another order %+v, %v; first %+v", again, err, d)
		}
	})
}
