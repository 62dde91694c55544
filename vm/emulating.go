package vm

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/millrace-ci/millrace"
)

// Emulating is a driver that has others start the machines of further architectures.
type Emulating struct {
	Driver
	Others map[millrace.Arch]Driver
}

// Adopt has each driver adopt its machines.
func (e Emulating) Adopt(ctx context.Context, ids []string) (map[string]Machine, error) {
	adopted := map[string]Machine{}
	for _, d := range e.all() {
		machines, err := d.Adopt(ctx, ids)
		if err != nil {
			return nil, err
		}
		maps.Copy(adopted, machines)
	}
	return adopted, nil
}

// Prepare prepares each driver: what the host's owner says it runs, it runs or the reason is told.
func (e Emulating) Prepare(ctx context.Context) (err error) {
	for _, d := range e.all() {
		err = errors.Join(err, d.Prepare(ctx))
	}
	return err
}

// Start has the driver for spec's architecture start the machine.
func (e Emulating) Start(ctx context.Context, spec Spec) (Machine, error) {
	if other, ok := e.Others[spec.Arch]; ok {
		return other.Start(ctx, spec)
	}
	return e.Driver.Start(ctx, spec)
}

// all are the drivers, the host's own first.
func (e Emulating) all() []Driver {
	list := []Driver{e.Driver}
	for _, arch := range slices.Sorted(maps.Keys(e.Others)) {
		list = append(list, e.Others[arch])
	}
	return list
}
