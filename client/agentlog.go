package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/millrace-ci/millrace"
)

// LogPositionHeader is the position after what an answer has of a log.
const LogPositionHeader = "Millrace-Log-Position"

// HostLog is what a host's agent said after a position, at most the last MiB of it, and the position after that. The zero position
// is before everything.
func (c REST) HostLog(ctx context.Context, id millrace.HostID, after millrace.LogPosition) (text []byte, end millrace.LogPosition, err error) {
	v := url.Values{}
	if after != (millrace.LogPosition{}) {
		v.Set("after", after.String())
	}
	header, err := c.send(ctx, http.MethodGet, "hosts/"+id.String()+"/log", v, nil, &text)
	if err != nil {
		return nil, after, err
	}
	end, err = millrace.ParseLogPosition(header.Get(LogPositionHeader))
	return text, end, err
}
