package vm_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/vm"
)

// recorder is a driver that notes what is asked of it.
type recorder struct {
	vm.Driver
	name  string
	fails error
	asked *[]string
}

func (r recorder) Name() string { return r.name }

func (r recorder) Adopt(context.Context, []string) (map[string]vm.Machine, error) {
	return map[string]vm.Machine{r.name: nil}, r.fails
}

func (r recorder) Prepare(context.Context) error { return r.fails }

func (r recorder) Start(_ context.Context, spec vm.Spec) (vm.Machine, error) {
	*r.asked = append(*r.asked, r.name+" "+spec.ID)
	return nil, r.fails
}

func TestEmulating(t *testing.T) {
	t.Parallel()
	var asked []string
	own := recorder{name: "qemu/kvm", asked: &asked}
	arm := recorder{name: "qemu/tcg", asked: &asked}
	d := vm.Emulating{Driver: own, Others: map[millrace.Arch]vm.Driver{millrace.ARM64: arm}}
	if d.Name() != "qemu/kvm" {
		t.Errorf("it is called %s", d.Name())
	}
	for id, arch := range map[string]millrace.Arch{"a": millrace.AMD64, "b": millrace.ARM64} {
		if _, err := d.Start(t.Context(), vm.Spec{ID: id, Arch: arch}); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(asked)
	if got := strings.Join(asked, ", "); got != "qemu/kvm a, qemu/tcg b" {
		t.Errorf("asked %s", got)
	}
	if adopted, err := d.Adopt(t.Context(), nil); err != nil || len(adopted) != 2 {
		t.Errorf("adopted %v, %v", adopted, err)
	}
	arm.fails = errors.New("no kernel")
	d.Others[millrace.ARM64] = arm
	if err := d.Prepare(t.Context()); !errors.Is(err, arm.fails) {
		t.Errorf("prepared: %v", err)
	}
	if _, err := d.Adopt(t.Context(), nil); !errors.Is(err, arm.fails) {
		t.Errorf("adopted: %v", err)
	}
}
