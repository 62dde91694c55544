package store

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace-ci/millrace"
)

// One channel carries all announcements; its payload is the topics, separated by spaces. A payload has at most 8,000
// bytes: when the topics don't fit it is empty, which wakes everyone.
const (
	channel    = "millrace"
	maxPayload = 7900
	topicTasks = "tasks"
	topicAny   = "demand"
	topicXID   = "xid" // of the transaction that announces demand
)

// Demand is whose demand was announced, and by which transactions. [Unknown] stands for any that nobody told of.
type Demand map[millrace.OrgID][]uint64

// Unknown are transactions that no pass has seen for sure.
var Unknown = []uint64{0}

// TopicOrg is announced when something of org that people see changed.
func TopicOrg(org millrace.OrgID) string { return "org:" + strconv.FormatInt(int64(org), 10) }

// TopicDemand is announced when a placement pass for org might decide otherwise than the last.
func TopicDemand(org millrace.OrgID) string { return "demand:" + strconv.FormatInt(int64(org), 10) }

// TopicHost is announced when the list of VMs that host should have changed.
func TopicHost(host millrace.HostID) string { return host.String() }

// TopicTasks is announced when the outbox has a task.
func TopicTasks() string { return topicTasks }

// announceTo notes that topic is to be announced when the transaction commits: one NOTIFY for all of them.
func (tx *Tx) announceTo(topic string) { tx.topics[topic] = true }

func (tx *Tx) announceOrg(org millrace.OrgID) { tx.announceTo(TopicOrg(org)) }

func (tx *Tx) announceDemand(org millrace.OrgID) {
	tx.announceTo(TopicDemand(org))
	tx.announceTo(TopicOrg(org))
}

func payload(topics []string) string {
	joined := strings.Join(topics, " ")
	if len(joined) > maxPayload {
		return ""
	}
	return joined
}

// Bus tells waiters of announcements. An announcement may be lost (a broken connection wakes everyone for that reason),
// so whoever waits also polls.
type Bus struct {
	mu      sync.Mutex
	topics  map[string]chan struct{}
	demand  Demand
	demands chan struct{}
}

func newBus() *Bus {
	return &Bus{topics: map[string]chan struct{}{}, demand: Demand{}, demands: make(chan struct{}, 1)}
}

// On is closed at topic's next announcement. Take it before the query whose answer it outdates.
func (b *Bus) On(topic string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch, ok := b.topics[topic]
	if !ok {
		ch = make(chan struct{})
		b.topics[topic] = ch
	}
	return ch
}

// Demands receives when any org's demand was announced; [Bus.TakeDemand] says whose. It has one reader.
func (b *Bus) Demands() <-chan struct{} { return b.demands }

// TakeDemand returns the demand that was announced since it was last called. all is true when announcements may have been
// lost: any org's demand may have changed.
func (b *Bus) TakeDemand() (demand Demand, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	demand, b.demand = b.demand, Demand{}
	_, all = demand[0]
	delete(demand, 0)
	return demand, all
}

// DemandOf is the demand that topics announce.
func DemandOf(topics []string) Demand {
	demand := Demand{}
	commits := Unknown
	for _, topic := range topics {
		kind, id, _ := strings.Cut(topic, ":")
		switch n, err := strconv.ParseUint(id, 10, 63); {
		case err != nil:
		case kind == topicXID:
			commits = []uint64{n}
		case kind == topicAny:
			demand[millrace.OrgID(n)] = nil
		}
	}
	for org := range demand {
		demand[org] = commits
	}
	return demand
}

func (b *Bus) wake(payload string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if payload == "" {
		for topic, ch := range b.topics {
			close(ch)
			delete(b.topics, topic)
		}
		b.noteDemand(Demand{0: nil})
		return
	}
	topics := strings.Fields(payload)
	for _, topic := range topics {
		if ch, ok := b.topics[topic]; ok {
			close(ch)
			delete(b.topics, topic)
		}
	}
	if demand := DemandOf(topics); len(demand) > 0 {
		b.noteDemand(demand)
	}
}

func (b *Bus) noteDemand(demand Demand) {
	for org, commits := range demand {
		b.demand[org] = append(b.demand[org], commits...)
	}
	select {
	case b.demands <- struct{}{}:
	default:
	}
}

// listen relays announcements until ctx ends. Whenever it (re)connects it wakes everyone, for what was announced
// meanwhile is lost; first is closed when it listens for the first time.
func (b *Bus) listen(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger, first chan struct{}) {
	for ctx.Err() == nil {
		err := func() error {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return err
			}
			// A session that listens must not go back to the pool.
			raw := conn.Hijack()
			defer raw.Close(context.WithoutCancel(ctx))
			if _, err := raw.Exec(ctx, "LISTEN "+channel); err != nil {
				return err
			}
			b.wake("")
			if first != nil {
				close(first)
				first = nil
			}
			for {
				n, err := raw.WaitForNotification(ctx)
				if err != nil {
					return err
				}
				b.wake(n.Payload)
			}
		}()
		if ctx.Err() != nil {
			return
		}
		log.Warn("listening to the database broke off; trying again", "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
