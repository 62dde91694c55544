package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/millrace-ci/millrace"
)

// MaxConsole bounds what is kept of one VM's console, in bytes.
const MaxConsole = 8 << 20

// consolesKey is the folder of all consoles of an org.
func consolesKey(org millrace.OrgID) string { return fmt.Sprintf("consoles/%d/", org) }

// consoleKey is a folder of chunks, each named by the offset of its first byte.
func consoleKey(org millrace.OrgID, vm millrace.VMID) string {
	return consolesKey(org) + vm.String() + "/"
}

// VMView is a host that speaks of a VM.
type VMView struct {
	HostCredentials

	org   Org
	vm    millrace.VMID
	found bool // it is the host's
}

// ViewVM finds a host by its ID alone, and whether a VM is its own. NotFound when there is no such host.
func (s *Store) ViewVM(ctx context.Context, host millrace.HostID, vm millrace.VMID) (VMView, error) {
	org, err := s.orgOfHost(ctx, host)
	if err != nil {
		return VMView{}, err
	}
	return s.Org(org).viewVM(ctx, host, vm)
}

func (o Org) viewVM(ctx context.Context, host millrace.HostID, vm millrace.VMID) (VMView, error) {
	v := VMView{org: o, vm: vm}
	_, err := o.store.roundTrip(ctx, o.store.app, o.id, func(b *pgx.Batch) {
		v.queueCredentials(b, o.id, host)
		b.Queue(`SELECT EXISTS (SELECT FROM vms WHERE (org_id, vm_id, host_id) = ($1, $2, $3))`, o.id, vm, host).QueryRow(func(row pgx.Row) error { return row.Scan(&v.found) })
	})
	return v, err
}

// AppendConsole is [VMView.AppendConsole] of a VM of host.
func (o Org) AppendConsole(ctx context.Context, host millrace.HostID, vm millrace.VMID, offset int64, data []byte) error {
	v, err := o.viewVM(ctx, host, vm)
	if err != nil {
		return err
	}
	return v.AppendConsole(ctx, offset, data)
}

// AppendConsole keeps what the VM printed, from byte offset on. It may be repeated; what lies past MaxConsole is dropped. NotFound
// when the VM is not the host's.
func (v VMView) AppendConsole(ctx context.Context, offset int64, data []byte) error {
	o, vm := v.org, v.vm
	switch {
	case !v.found:
		return errNoVM
	case offset < 0:
		return millrace.Errorf(millrace.Invalid, "The offset is negative.")
	case offset >= MaxConsole || len(data) == 0:
		return nil
	}
	data = data[:min(int64(len(data)), MaxConsole-offset)]
	if !o.store.consoles.take(vm, int64(len(data))) {
		return millrace.Errorf(millrace.TooLarge, "The VM's console was sent over and over.")
	}
	return o.store.blobs.WriteAll(ctx, consoleKey(o.id, vm)+fmt.Sprintf("%012d", offset), data, nil)
}

// consoles are the bytes that this process stored of VMs' consoles. Pieces overlap where an agent repeats some, and a host that
// lies could store without end in overlaps, or in pieces of a byte.
type consoles struct {
	mu     sync.Mutex
	stored map[millrace.VMID]int64
}

const (
	consoleRepeats = 4       // times that a whole console may be sent
	consolePiece   = 64      // bytes that the smallest piece counts as
	consolesKept   = 100_000 // VMs of which it is known, before all is forgotten
)

// take reports whether n more bytes of a VM's console may be stored.
func (c *consoles) take(vm millrace.VMID, n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stored == nil || len(c.stored) >= consolesKept {
		c.stored = map[millrace.VMID]int64{}
	}
	c.stored[vm] += max(n, consolePiece)
	return c.stored[vm] <= consoleRepeats*MaxConsole
}

// Console returns what a VM printed from byte after on, at most the last limit bytes of it, and how many it printed in all. Pieces
// may overlap, as an agent that comes after another repeats some, and may be missing. A VM without a console has an empty one. The
// caller has found the VM in this org.
func (o Org) Console(ctx context.Context, vm millrace.VMID, after, limit int64) (data []byte, total int64, err error) {
	type chunk struct {
		key          string
		offset, size int64
	}
	var chunks []chunk
	prefix := consoleKey(o.id, vm)
	for list := o.store.blobs.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		offset, err := strconv.ParseInt(strings.TrimPrefix(object.Key, prefix), 10, 64)
		if err != nil {
			continue
		}
		chunks = append(chunks, chunk{object.Key, offset, object.Size})
		total = max(total, offset+object.Size)
	}
	at := max(after, total-limit, 0)
	for _, c := range chunks { // listed in the order of their names, which is that of their offsets
		if c.offset+c.size <= at {
			continue
		}
		content, err := o.store.blobs.ReadAll(ctx, c.key)
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		if skip := at - c.offset; skip > 0 {
			content = content[min(skip, int64(len(content))):]
		}
		data, at = append(data, content...), c.offset+c.size
	}
	return data, total, nil
}
