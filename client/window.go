package client

// windowSize is how far a request may be overtaken and still be accepted. An agent has a handful in flight.
const windowSize = 64

// Window tells repeated sequence numbers of one host from new ones, as IPsec does (RFC 4303 §3.4.3): requests in
// flight overtake each other, so a lower number is not by itself a replay. Its zero value has seen nothing.
type Window struct {
	epoch, highest int64
	seen           uint64 // bit i: highest−i was seen
}

// Accept reports whether this number is new, and remembers it. An older epoch and what is too old to tell are
// refused; a newer epoch begins anew.
func (w *Window) Accept(epoch, sequence int64) bool {
	switch {
	case sequence < 0 || epoch < w.epoch:
		return false
	case epoch > w.epoch || w.seen == 0:
		*w = Window{epoch: epoch, highest: sequence, seen: 1}
		return true
	case sequence > w.highest:
		w.seen = w.seen<<min(sequence-w.highest, windowSize) | 1
		w.highest = sequence
		return true
	case w.highest-sequence >= windowSize || w.seen>>(w.highest-sequence)&1 == 1:
		return false
	default:
		w.seen |= 1 << (w.highest - sequence)
		return true
	}
}
