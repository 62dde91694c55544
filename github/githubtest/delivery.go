package githubtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// delivery is one try of a webhook delivery, as GitHub lists it.
type delivery struct {
	ID             int64     `json:"id"`
	GUID           string    `json:"guid"`
	DeliveredAt    time.Time `json:"delivered_at"`
	Redelivery     bool      `json:"redelivery"`
	Duration       float64   `json:"duration"`
	Status         string    `json:"status"`
	StatusCode     int       `json:"status_code"`
	Event          string    `json:"event"`
	Action         string    `json:"action"`
	InstallationID int64     `json:"installation_id"`
	RepositoryID   int64     `json:"repository_id"`
	ThrottledAt    any       `json:"throttled_at"` // null: never

	seq  int64         // in order of the answers; cursors hold it
	body func() []byte // made again when asked for: 100,000 of them would take a gigabyte
}

func (d *delivery) ok() bool { return d.StatusCode >= 200 && d.StatusCode <= 299 }

// hooks are the App's deliveries. GitHub lists a try once it has ended; so the list is in the order of the answers, which
// is not that of the ids when one took long.
type hooks struct {
	pending map[int64]*delivery
	list    []*delivery // tried, oldest first
	failed  []*delivery // those of list that got no 2xx
	byID    map[int64]*delivery
	last    int64
}

// How long deliveries are kept: 3 days, as GitHub does, and no more than memory allows.
const (
	keepFor  = 3 * 24 * time.Hour
	keepMost = 200_000
)

func (h *hooks) tried(d *delivery, status int, took time.Duration, now time.Time) {
	delete(h.pending, d.ID)
	h.last++
	d.seq, d.DeliveredAt, d.Duration, d.StatusCode = h.last, now, took.Seconds(), status
	if d.Status = "OK"; !d.ok() {
		d.Status = cmp.Or(http.StatusText(status), "failed to connect to host")
		h.failed = append(h.failed, d)
	}
	if h.byID == nil {
		h.byID = map[int64]*delivery{}
	}
	h.list, h.byID[d.ID] = append(h.list, d), d
}

// forget drops what is too old.
func (h *hooks) forget(now time.Time) {
	n := max(0, len(h.list)-keepMost)
	for n < len(h.list) && now.Sub(h.list[n].DeliveredAt) > keepFor {
		n++
	}
	if n == 0 {
		return
	}
	for _, d := range h.list[:n] {
		delete(h.byID, d.ID)
	}
	first := h.list[n-1].seq
	h.list = slices.Delete(h.list, 0, n)
	h.failed = slices.DeleteFunc(h.failed, func(d *delivery) bool { return d.seq <= first })
}

// all are the newest n deliveries, those on their way first.
func (h *hooks) all(n int) []*delivery {
	list := make([]*delivery, 0, len(h.pending)+min(n, len(h.list)))
	for _, d := range h.pending {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b *delivery) int { return cmp.Compare(b.ID, a.ID) })
	for _, d := range slices.Backward(h.list) {
		if len(list) >= n {
			break
		}
		list = append(list, d)
	}
	return list
}

// listHookDeliveries pages with cursors: ?cursor= is the last delivery of the page before, and means nothing to others.
func (g *GitHub) listHookDeliveries(r *http.Request, _ *owner) (int, any, error) {
	h := &g.hooks
	_, size := page(r)
	list := h.list
	status := r.FormValue("status")
	switch status {
	case "", "success":
	case "failure":
		list = h.failed
	default:
		return 0, nil, refuse(http.StatusUnprocessableEntity, "Validation Failed")
	}
	end := len(list)
	if cursor := r.FormValue("cursor"); cursor != "" {
		seq, err := strconv.ParseInt(strings.TrimPrefix(cursor, "v1_"), 36, 64)
		if err != nil || !strings.HasPrefix(cursor, "v1_") {
			return 0, nil, refuse(http.StatusUnprocessableEntity, "Invalid cursor")
		}
		end, _ = slices.BinarySearchFunc(list, seq, func(d *delivery, seq int64) int { return cmp.Compare(d.seq, seq) })
	}
	found := []*delivery{}
	next := ""
	for _, d := range slices.Backward(list[:end]) {
		if status == "success" && !d.ok() {
			continue
		}
		if len(found) == size {
			q := r.URL.Query()
			q.Set("cursor", "v1_"+strconv.FormatInt(found[size-1].seq, 36))
			next = fmt.Sprintf("<%s%s?%s>; rel=\"next\"", g.cfg.URL, r.URL.EscapedPath(), q.Encode())
			break
		}
		found = append(found, d)
	}
	return http.StatusOK, listing{body: found, next: next}, nil
}

func (g *GitHub) hookDeliveryAt(r *http.Request) (*delivery, error) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if d, ok := g.hooks.byID[id]; ok {
		return d, nil
	}
	return nil, refuse(http.StatusNotFound, "Not Found")
}

func (g *GitHub) getHookDelivery(r *http.Request, _ *owner) (int, any, error) {
	d, err := g.hookDeliveryAt(r)
	if err != nil {
		return 0, nil, err
	}
	body := d.body()
	sent := http.Header{}
	SetHeaders(sent, g.secret, d.Event, d.GUID, body)
	headers := map[string]string{}
	for name := range sent {
		headers[name] = sent.Get(name)
	}
	return http.StatusOK, struct {
		*delivery
		URL      string         `json:"url"`
		Request  map[string]any `json:"request"`
		Response map[string]any `json:"response"`
	}{
		d, g.cfg.WebhookURL, map[string]any{"headers": headers, "payload": json.RawMessage(body)}, map[string]any{"headers": map[string]string{}, "payload": nil},
	}, nil
}

// redeliver sends a delivery once more: a try of its own, with the same GUID and body.
func (g *GitHub) redeliver(r *http.Request, _ *owner) (int, any, error) {
	d, err := g.hookDeliveryAt(r)
	if err != nil {
		return 0, nil, err
	}
	g.dispatch(&delivery{
		GUID: d.GUID, Event: d.Event, Action: d.Action, InstallationID: d.InstallationID, RepositoryID: d.RepositoryID, Redelivery: true, body: d.body,
	})
	return http.StatusAccepted, map[string]any{}, nil
}
