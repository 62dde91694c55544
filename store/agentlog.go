package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/millrace-ci/millrace"
)

// MaxAgentLog bounds what is kept of one host's agent log, in bytes: the newest. A little more may be there for a while.
const MaxAgentLog = 4 << 20

// agentLogsKey is the folder of all agents' logs of an org.
func agentLogsKey(org millrace.OrgID) string { return fmt.Sprintf("agent-logs/%d/", org) }

// agentLogKey is a folder of pieces, each named by its [millrace.LogPosition].
func agentLogKey(org millrace.OrgID, host millrace.HostID) string {
	return agentLogsKey(org) + host.String() + "/"
}

// AppendAgentLog keeps what a host's agent of this epoch said, from byte offset on. It may be repeated.
func (o Org) AppendAgentLog(ctx context.Context, host millrace.HostID, at millrace.LogPosition, data []byte) error {
	switch {
	case at.Offset < 0 || at.Epoch < 1:
		return millrace.Errorf(millrace.Invalid, "The offset is negative.")
	case len(data) == 0:
		return nil
	}
	prefix := agentLogKey(o.id, host)
	if err := o.store.blobs.WriteAll(ctx, prefix+at.String(), data, nil); err != nil {
		return err
	}
	const quarter = MaxAgentLog / 4
	if at.Offset > 0 && at.Offset/quarter == at.Plus(int64(len(data))).Offset/quarter {
		return nil // looked at now and then
	}
	pieces, err := o.agentLog(ctx, host)
	if err != nil {
		return err
	}
	kept := int64(0)
	for _, p := range slices.Backward(pieces) {
		if kept += p.size; kept > MaxAgentLog {
			if err := o.store.blobs.Delete(ctx, prefix+p.at.String()); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
				return err
			}
		}
	}
	return nil
}

// logPiece is a piece of a log.
type logPiece struct {
	at   millrace.LogPosition
	size int64
}

// agentLog are the pieces of a host's log, in order.
func (o Org) agentLog(ctx context.Context, host millrace.HostID) (pieces []logPiece, err error) {
	prefix := agentLogKey(o.id, host)
	for list := o.store.blobs.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return pieces, nil
		}
		if err != nil {
			return nil, err
		}
		if at, err := millrace.ParseLogPosition(strings.TrimPrefix(object.Key, prefix)); err == nil {
			pieces = append(pieces, logPiece{at, object.Size})
		}
	}
}

// AgentLog returns what a host's agents said after a position, at most the last limit bytes of it, and the position after it.
// The zero position is before everything. The caller has found the host in this org.
func (o Org) AgentLog(ctx context.Context, host millrace.HostID, after millrace.LogPosition, limit int64) (data []byte, end millrace.LogPosition, err error) {
	pieces, err := o.agentLog(ctx, host)
	if err != nil {
		return nil, after, err
	}
	end = after
	first, size := len(pieces), int64(0)
	for ; first > 0 && size < limit; first-- {
		p := pieces[first-1]
		if !after.Before(p.at.Plus(p.size)) {
			break
		}
		size += p.size
	}
	for _, p := range pieces[first:] {
		content, err := o.store.blobs.ReadAll(ctx, agentLogKey(o.id, host)+p.at.String())
		if gcerrors.Code(err) == gcerrors.NotFound {
			continue
		}
		if err != nil {
			return nil, after, err
		}
		if p.at.Epoch == end.Epoch && p.at.Offset < end.Offset { // repeated, or asked for from within
			content = content[min(end.Offset-p.at.Offset, int64(len(content))):]
		}
		data, end = append(data, content...), p.at.Plus(p.size)
	}
	return data[max(0, int64(len(data))-limit):], end, nil
}
