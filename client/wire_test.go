package client_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace/client"
)

// What a control plane can say to a host is what these types have: no program to run, no file to read or send, no image, drive,
// kernel argument or address. A new field needs a row here that says why a host that obeys a hostile one stays safe.
func TestAgentProtocolIsClosed(t *testing.T) {
	t.Parallel()
	for _, answer := range []struct {
		of   any
		safe map[string]string
	}{
		{client.EnrollResponse{}, map[string]string{
			"host_id": "16 bytes", "org": "is printed, bounded and without control characters", "epoch": "is only said again", "server_time": "moves what the agent signs with",
		}},
		{client.StartResponse{}, map[string]string{"epoch": "is only said again", "server_time": "moves what the agent signs with"}},
		{client.SyncResponse{}, map[string]string{
			"version": "is only said again", "vms": "at most a thousand, within the offer", "server_time": "is not read",
			"restart": "ends the process, which the service manager starts again; VMs run on", "reboot": "is done only where the host's owner allows it",
			"rotate": "ends the process as restart does; what the new keys are is made here",
		}},
		{client.VMOrder{}, map[string]string{
			"id": "16 bytes", "epoch": "a number", "arch": "one that the owner offers", "milli_cpu": "within the offer", "memory_mb": "within the offer",
			"burstable": "takes no more than the offer", "zone": "is not read", "egress": "one of two; the owner's bounds hold beside it", "state": "is compared",
			"watched": "has what the VM prints sent in smaller pieces",
		}},
		{client.JITResponse{}, map[string]string{"sealed": "goes to the guest alone, by its channel"}},
		{client.Problem{}, map[string]string{
			"type": "is compared", "title": "is not read", "status": "is not read", "detail": "bounded and without control characters", "instance": "is not read",
		}},
	} {
		kind := reflect.TypeOf(answer.of)
		var names []string
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			if answer.safe[name] == "" {
				t.Errorf("%s.%s: why is it safe to obey?", kind, name)
			}
			names = append(names, name)
		}
		for name := range answer.safe {
			if !slices.Contains(names, name) {
				t.Errorf("%s has no %s", kind, name)
			}
		}
	}
}

// Whatever an answer holds, it is read or refused.
func FuzzSyncResponse(f *testing.F) {
	f.Add([]byte(`{"version":1,"vms":[{"id":"vm_00000000000000000000000001","epoch":1,"arch":"amd64","milli_cpu":1000,"memory_mb":512}]}`))
	f.Add([]byte(`{"vms":[{"id":"../../etc","milli_cpu":1e3}]}`))
	f.Add([]byte(strings.Repeat("[", 20_000)))
	f.Fuzz(func(t *testing.T, body []byte) {
		var out client.SyncResponse
		if json.Unmarshal(body, &out) != nil {
			return
		}
		for _, o := range out.VMs {
			if id := o.ID.String(); id != "" && (len(id) != 29 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz_") != "") {
				t.Errorf("%q", id)
			}
		}
	})
}
