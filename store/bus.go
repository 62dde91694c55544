package store

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
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
	topicTie   = "tie"
	topicRoom  = "room"
	topicRules = "rules"
	topicXID   = "xid" // of the transaction that announces demand
)

// tellingRest is by how much other processes may hear of something later because they just heard of something else.
const tellingRest = 20 * time.Millisecond

// Demand is whose demand was announced.
type Demand map[millrace.OrgID]Asked

// Asked is what asks for a placement pass; its zero value is nothing.
type Asked struct {
	Commits []uint64 // the transactions; 0 is one of which nobody told
	Urgency Urgency
}

// Urgency is how soon a placement pass is wanted.
type Urgency int

// The urgencies.
const (
	CanWait Urgency = iota // it places nothing: a job began, or is over
	ForRoom                // a VM is gone: it can wait as well, unless a job waits for its room
	AtOnce
)

// And is what asks for a pass when other does, too.
func (a Asked) And(other Asked) Asked {
	return Asked{slices.Concat(a.Commits, other.Commits), max(a.Urgency, other.Urgency)}
}

// Known reports whether all transactions that ask are known.
func (a Asked) Known() bool { return !slices.Contains(a.Commits, unknown) }

// Unknown asks for a pass that no other makes needless.
var Unknown = Asked{Commits: []uint64{unknown}, Urgency: AtOnce}

const unknown = 0

// TopicOrg is announced when something of org that people see changed.
func TopicOrg(org millrace.OrgID) string { return "org:" + strconv.FormatInt(int64(org), 10) }

// TopicDemand is announced when a placement pass for org might decide otherwise than the last.
func TopicDemand(org millrace.OrgID) string { return "demand:" + strconv.FormatInt(int64(org), 10) }

// TopicHost is announced when the list of VMs that host should have changed.
func TopicHost(host millrace.HostID) string { return host.String() }

// topicOfTie is announced when such a pass would have no more to do than to tie VMs to their jobs, or to retire some.
func topicOfTie(org millrace.OrgID) string { return topicTie + ":" + strconv.FormatInt(int64(org), 10) }

// topicOfRoom is announced when such a pass might place jobs that wait for room.
func topicOfRoom(org millrace.OrgID) string {
	return topicRoom + ":" + strconv.FormatInt(int64(org), 10)
}

// topicOfRules is announced when such a pass might decide otherwise even of jobs that have their VMs.
func topicOfRules(org millrace.OrgID) string {
	return topicRules + ":" + strconv.FormatInt(int64(org), 10)
}

// TopicTasks is announced when the outbox has a task.
func TopicTasks() string { return topicTasks }

// announceTo notes that topic is to be announced when the transaction has committed.
func (tx *Tx) announceTo(topic string) { tx.topics[topic] = true }

func (tx *Tx) announceOrg(org millrace.OrgID) { tx.announceTo(TopicOrg(org)) }

func (tx *Tx) announceDemand(org millrace.OrgID) {
	tx.announceTo(TopicDemand(org))
	tx.announceTo(TopicOrg(org))
}

// announceTie announces demand that can wait.
func (tx *Tx) announceTie(org millrace.OrgID) {
	tx.announceTo(topicOfTie(org))
	tx.announceTo(TopicOrg(org))
}

// announceRoom announces demand after a VM has ended.
func (tx *Tx) announceRoom(org millrace.OrgID) {
	tx.announceTo(topicOfRoom(org))
	tx.announceTo(TopicOrg(org))
}

// announceRules announces demand after what decides where jobs may run has changed.
func (tx *Tx) announceRules(org millrace.OrgID) {
	tx.announceTo(topicOfRules(org))
	tx.announceTo(TopicOrg(org))
}

func payload(topics []string) string {
	joined := strings.Join(topics, " ")
	if len(joined) > maxPayload {
		return ""
	}
	return joined
}

// Bus tells waiters of announcements: those of this process at once, and of other processes through Postgres. An announcement
// may be lost (a broken connection wakes everyone for that reason), so whoever waits also polls.
type Bus struct {
	mu      sync.Mutex
	topics  map[string]chan struct{}
	demand  Demand
	demands chan struct{}

	untold  []string      // payloads that other processes are to hear
	telling chan struct{} // receives when there are some
	teller  uint32        // the session that tells them: what it says is known here

	watched watched
}

func newBus() *Bus {
	return &Bus{topics: map[string]chan struct{}{}, demand: Demand{}, demands: make(chan struct{}, 1), telling: make(chan struct{}, 1)}
}

// announce wakes the waiters of topics, which a commit made true, in this process and soon in others.
func (b *Bus) announce(topics []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wakeTopics(topics)
	b.untold = append(b.untold, payload(topics))
	poke(b.telling)
}

// poke makes a channel receive; once is enough.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
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

// DemandOf is the demand that topics announce. That by a change of rules is [Unknown]: no pass is left out for it.
func DemandOf(topics []string) Demand {
	demand := Demand{}
	commits := Unknown.Commits
	for _, topic := range topics {
		if id, ok := strings.CutPrefix(topic, topicXID+":"); ok {
			if n, err := strconv.ParseUint(id, 10, 64); err == nil {
				commits = []uint64{n}
			}
		}
	}
	for _, topic := range topics {
		kind, id, _ := strings.Cut(topic, ":")
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			continue
		}
		org := millrace.OrgID(n)
		switch kind {
		case topicAny:
			demand[org] = demand[org].And(Asked{commits, AtOnce})
		case topicRoom:
			demand[org] = demand[org].And(Asked{commits, ForRoom})
		case topicTie:
			demand[org] = demand[org].And(Asked{commits, CanWait})
		case topicRules:
			demand[org] = demand[org].And(Unknown)
		}
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
		b.noteDemand(Demand{0: {}})
		return
	}
	b.wakeTopics(strings.Fields(payload))
}

// wakeTopics wakes the waiters of topics. The caller holds the lock.
func (b *Bus) wakeTopics(topics []string) {
	for _, topic := range topics {
		b.watched.note(topic)
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
	for org, asked := range demand {
		b.demand[org] = b.demand[org].And(asked)
	}
	poke(b.demands)
}

// hold lets use work with a session of its own, which never goes back to the pool, and with another when that breaks, until ctx
// ends.
func hold(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger, use func(*pgx.Conn) error) {
	for ctx.Err() == nil {
		err := func() error {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return err
			}
			raw := conn.Hijack()
			defer raw.Close(context.WithoutCancel(ctx))
			return use(raw)
		}()
		if ctx.Err() != nil {
			return
		}
		log.Warn("a session for announcements broke; trying again", "error", err)
		select {
		case <-time.After(retryAway):
		case <-ctx.Done():
		}
	}
}

// listen relays announcements until ctx ends. Whenever it (re)connects it wakes everyone, for what was announced
// meanwhile is lost; first is closed when it listens for the first time.
func (b *Bus) listen(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger, first chan struct{}) {
	hold(ctx, pool, log, func(session *pgx.Conn) error {
		if _, err := session.Exec(ctx, "LISTEN "+channel); err != nil {
			return err
		}
		b.wake("")
		if first != nil {
			close(first)
			first = nil
		}
		for {
			n, err := session.WaitForNotification(ctx)
			if err != nil {
				return err
			}
			if !b.tells(n.PID) {
				b.wake(n.Payload)
			}
		}
	})
}

// tell has other processes hear what is announced here, until ctx ends and all is told. A session that notifies commits alone
// in its database until its commit is on disk (the notes of Postgres's async.c): were each transaction to notify, no two could
// commit at once. This one tells what came meanwhile in one transaction, and doesn't wait for the disk. Each telling wakes the
// listening sessions of all processes, too: it is followed by a rest.
func (b *Bus) tell(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) {
	hold(ctx, pool, log, func(session *pgx.Conn) error {
		if _, err := session.Exec(ctx, "SET synchronous_commit = off"); err != nil {
			return err
		}
		b.mu.Lock()
		b.teller = session.PgConn().PID()
		b.mu.Unlock()
		for ended := false; !ended; {
			select {
			case <-b.telling:
			case <-ctx.Done():
				ended = true
			}
			if err := b.tellOthers(ctx, session); err != nil {
				return err
			}
			select {
			case <-time.After(tellingRest):
			case <-ctx.Done():
			}
		}
		return nil
	})
}

// tellOthers tells what is untold, even when ctx has ended. What fails is lost: everyone is to be woken then.
func (b *Bus) tellOthers(ctx context.Context, session *pgx.Conn) error {
	b.mu.Lock()
	untold := b.untold
	b.untold = nil
	b.mu.Unlock()
	if len(untold) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lingers)
	defer cancel()
	_, err := session.Exec(ctx, `SELECT pg_notify($1, p) FROM unnest($2::text[]) AS t (p)`, channel, untold)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.untold = []string{""}
		poke(b.telling)
	}
	return err
}

// tells reports whether a session is the one that tells what is announced here.
func (b *Bus) tells(session uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return session == b.teller
}
