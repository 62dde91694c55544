package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/vm"
)

// Whatever two answers order, a host runs no more than its offer, and nothing out of bounds.
func FuzzStep(f *testing.F) {
	f.Add([]byte(`{"version":1,"vms":[`+raw()+`]}`), []byte(`{"version":2,"vms":[`+raw("epoch", "2", "memory_mb", "1024")+`],"restart":true}`))
	f.Add([]byte(`{"vms":[`+raw("milli_cpu", "9223372036854775807")+`]}`), []byte(`{"vms":[],"reboot":true}`))
	f.Add([]byte(`{"vms":[`+raw("arch", `"<"`)+`,`+raw("id", `"vm_00000000000000000000000002"`, "egress", `"host"`)+`]}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		st, now := State{Facts: millrace.HostFacts{Arch: millrace.AMD64, Offer: offered}, Started: true}, noon
		running := map[Ref]vm.Spec{}
		take := func(ev Event) {
			var effects []Effect
			st, effects = Step(st, ev, now)
			for _, e := range effects {
				switch e := e.(type) {
				case StartVM:
					running[e.Ref] = e.Spec
					if !machineID.MatchString(e.Spec.ID) || e.Spec.Arch != millrace.AMD64 {
						t.Fatalf("%+v was started", e.Spec)
					}
				case SendSync:
					if body, err := json.Marshal(e.Request); err != nil || len(body) > 4<<20 {
						t.Fatalf("a report of %d bytes, %v", len(body), err)
					}
				}
			}
			used := millrace.Size{}
			for _, spec := range running {
				used.MilliCPU += spec.MilliCPU
				used.MemoryMB += spec.MemoryMB
			}
			if used.MilliCPU > offered.MilliCPU || used.MemoryMB > offered.MemoryMB || st.Ended() == EndReboot {
				t.Fatalf("%v runs of %v, end %q", used, offered, st.Ended())
			}
		}
		take(Timer{})
		for _, body := range [][]byte{first, second} {
			var answer client.SyncResponse
			if json.Unmarshal(body, &answer) != nil {
				continue
			}
			take(Synced{Call: st.Call.N, Response: answer})
			now = now.Add(time.Second)
			take(Timer{})
			for _, id := range st.ids() {
				if v := st.VMs[id]; v.Killed && v.live() {
					delete(running, v.ref())
					take(VMDone{Ref: v.ref()})
				}
			}
		}
	})
}
