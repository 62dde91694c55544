package store

import (
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ci/millrace"
)

// Who watches a console reads it again and again. It counts as watched for watchLasts after the last time, which is announced
// when only watchAgain of it is left.
const (
	topicWatch  = "watch"
	watchLasts  = 30 * time.Second
	watchAgain  = 20 * time.Second
	watchedMost = 10_000 // VMs of which it is known, before what is over is forgotten
)

// watched are the VMs whose consoles people watch, and until when. Nothing of it is stored: should an announcement be lost, what a
// VM prints comes a little later.
type watched struct {
	mu    sync.Mutex
	until map[millrace.VMID]time.Time
}

// Watch has v's host send what v prints as soon as it is printed, for a while: somebody reads it.
func (s *Store) Watch(v millrace.VM) {
	if v.State.Live() && s.Bus.watched.left(v.ID) <= watchAgain {
		s.announce([]string{topicWatch + ":" + v.ID.String(), TopicHost(v.HostID)})
	}
}

// Watched are those of some VMs whose consoles somebody reads.
func (s *Store) Watched(vms []millrace.VM) (ids []millrace.VMID) {
	for _, v := range vms {
		if s.Bus.watched.left(v.ID) > 0 {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// left is for how long a VM will count as watched; negative: it doesn't.
func (w *watched) left(id millrace.VMID) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Until(w.until[id])
}

// note takes an announcement, if topic is one of a VM that is watched.
func (w *watched) note(topic string) {
	vm, ok := strings.CutPrefix(topic, topicWatch+":")
	id, err := millrace.ParseVMID(vm)
	if !ok || err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.until == nil {
		w.until = map[millrace.VMID]time.Time{}
	}
	if len(w.until) >= watchedMost {
		maps.DeleteFunc(w.until, func(_ millrace.VMID, until time.Time) bool { return until.Before(now) })
	}
	w.until[id] = now.Add(watchLasts)
}
