package githubtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ci/millrace/github/githubtest"
)

var nextLink = regexp.MustCompile(`^<([^>]*)>; rel="next"$`)

// walk reads a list of deliveries to its end by its links.
func (l *loop) walk(query string) (list []row, pages int) {
	l.t.Helper()
	for path := api + "/app/hook/deliveries" + query; path != ""; {
		w := l.send(l.t.Context(), l.asApp(), "GET", path, "")
		var page []row
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK {
			l.t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		pages++
		list = append(list, page...)
		path = ""
		if link := w.Header().Get("Link"); link != "" {
			m := nextLink.FindStringSubmatch(link)
			if m == nil {
				l.t.Fatalf("Link: %s", link)
			}
			next, err := url.Parse(m[1])
			if err != nil || next.Query().Get("cursor") == "" {
				l.t.Fatalf("%s: %v", m[1], err)
			}
			path = next.RequestURI()
			if !strings.HasPrefix(m[1], l.APIURL()+"app/hook/deliveries?") {
				l.t.Errorf("Link: %s", link)
			}
		}
	}
	return list, pages
}

func TestPagingDeliveriesByCursor(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	var ids []int64
	var failed int
	for i := range 250 {
		l.queue("x")
		status := http.StatusAccepted
		if i%5 == 0 {
			status = http.StatusServiceUnavailable
			failed++
		}
		ids = append(ids, l.out[0].DeliveryID)
		l.Answered(l.out[0].DeliveryID, status, time.Second)
		l.out = nil
		l.clock = l.clock.Add(time.Second)
	}
	slices.Reverse(ids)
	of := func(list []row) (got []int64) {
		for _, d := range list {
			got = append(got, d.ID)
		}
		return got
	}
	for query, pages := range map[string]int{"": 9, "?per_page=100": 3, "?per_page=50": 5, "?per_page=1000": 3} {
		list, n := l.walk(query)
		if !slices.Equal(of(list), ids) || n != pages {
			t.Errorf("%q: %d deliveries on %d pages, want 250 on %d, newest first", query, len(list), n, pages)
		}
	}
	list, _ := l.walk("?status=failure&per_page=20")
	if len(list) != failed || slices.ContainsFunc(list, func(d row) bool { return d.StatusCode != 503 || d.Status != "Service Unavailable" }) {
		t.Errorf("%d failed, want %d: %+v", len(list), failed, list)
	}
	list, _ = l.walk("?per_page=20&status=success")
	if len(list) != 250-failed || slices.ContainsFunc(list, func(d row) bool { return d.Status != "OK" }) {
		t.Errorf("%d succeeded: %+v", len(list), list)
	}
	for status, want := range map[int]string{0: "", 302: "success", 399: "success", 400: "failure", 599: "failure", 600: ""} {
		l.queue("x")
		id := l.out[0].DeliveryID
		l.Answered(id, status, time.Second)
		l.out = nil
		for _, filter := range []string{"success", "failure"} {
			var page []row
			l.call(l.asApp(), "GET", api+"/app/hook/deliveries?status="+filter, "", http.StatusOK, &page)
			if (page[0].ID == id) != (filter == want) {
				t.Errorf("an answer of %d is in the list of %s: %v", status, filter, page[0].ID == id)
			}
		}
	}
	l.refused(l.asApp(), "GET", api+"/app/hook/deliveries?cursor=7", "", http.StatusUnprocessableEntity, "cursor")
	l.refused(l.asApp(), "GET", api+"/app/hook/deliveries?status=odd", "", http.StatusUnprocessableEntity, "")

	// What comes while one reads moves nothing: a cursor is a place, not a number.
	w := l.send(t.Context(), l.asApp(), "GET", api+"/app/hook/deliveries?per_page=100", "")
	for range 7 {
		l.queue("x")
		l.sent()
	}
	next, err := url.Parse(nextLink.FindStringSubmatch(w.Header().Get("Link"))[1])
	if err != nil {
		t.Fatal(err)
	}
	var second []row
	l.call(l.asApp(), "GET", next.RequestURI(), "", http.StatusOK, &second)
	if !slices.Equal(of(second), ids[94:194]) {
		t.Error("the second page is another")
	}
}

// TestALateAnswerIsListedLate: GitHub lists a try once it has ended, so ids need not be in order.
func TestALateAnswerIsListedLate(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	l.queue("x")
	l.queue("x")
	slow, quick := l.out[0].DeliveryID, l.out[1].DeliveryID
	l.Answered(quick, http.StatusOK, time.Second)
	if list := l.deliveries(); len(list) != 1 || list[0].ID != quick {
		t.Errorf("%+v", list)
	}
	l.refused(l.asApp(), "GET", fmt.Sprintf("%s/app/hook/deliveries/%d", api, slow), "", http.StatusNotFound, "Not Found")
	l.clock = l.clock.Add(10 * time.Second)
	l.Answered(slow, http.StatusOK, 11*time.Second) // too late
	if list := l.deliveries(); len(list) != 2 || list[0].ID != slow || list[0].StatusCode != 0 || list[0].Status != "timed out" || !list[0].DeliveredAt.After(list[1].DeliveredAt) {
		t.Errorf("%+v", list)
	}
}

func TestRedelivery(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	job := l.queue("x")
	first := l.out[0]
	l.out = nil
	l.Answered(first.DeliveryID, 0, 10*time.Second)
	vm := l.runner("vm", "x")
	l.PickUp(vm) // the body says what was, not what is
	l.sent()
	path := fmt.Sprintf("%s/app/hook/deliveries/%d", api, first.DeliveryID)
	l.call(l.asApp(), "POST", path+"/attempts", "", http.StatusAccepted, nil)
	if len(l.out) != 1 {
		t.Fatalf("sent %d", len(l.out))
	}
	again := l.out[0]
	if again.DeliveryID == first.DeliveryID || again.GUID != first.GUID || string(again.Body) != string(first.Body) || fmt.Sprint(again.Header) != fmt.Sprint(first.Header) {
		t.Errorf("%+v, then %+v", first, again)
	}
	l.wantSent(fmt.Sprintf("queued %d", job))
	list := l.deliveries()
	if len(list) != 3 || list[0].ID != again.DeliveryID || !list[0].Redelivery || list[0].GUID != first.GUID || list[0].StatusCode != http.StatusAccepted || list[2].Redelivery || list[2].StatusCode != 0 {
		t.Errorf("%+v", list)
	}
	var one struct {
		row
		URL     string
		Request struct {
			Headers map[string]string
			Payload struct{ Action string }
		}
		Response map[string]any
	}
	l.call(l.asApp(), "GET", path, "", http.StatusOK, &one)
	if one.ID != first.DeliveryID || one.Request.Payload.Action != "queued" || one.Request.Headers["X-Github-Delivery"] != first.GUID || one.Response == nil {
		t.Errorf("%+v", one)
	}
	l.call(l.asApp(), "POST", api+"/app/hook/deliveries/1/attempts", "", http.StatusNotFound, nil)

	// A redelivery can fail, too, and while hooks are off it does.
	for _, f := range []githubtest.Faults{{Fail: 1}, {HooksOff: true}} {
		l.faults(f)
		l.call(l.asApp(), "POST", path+"/attempts", "", http.StatusAccepted, nil)
		if list := l.deliveries(); len(l.out) != 0 || list[0].StatusCode != 0 || !list[0].Redelivery {
			t.Errorf("%+v: sent %d; %+v", f, len(l.out), list[0])
		}
	}
}

// TestDeliveriesAreKeptForThreeDays, and as many as a busy day has.
func TestDeliveriesAreKeptForThreeDays(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	l.queue("x")
	old := l.out[0].DeliveryID
	l.sent()
	l.clock = l.clock.Add(3*24*time.Hour - time.Minute)
	l.queue("y")
	l.sent()
	l.Tidy()
	path := fmt.Sprintf("%s/app/hook/deliveries/%d", api, old)
	l.call(l.asApp(), "GET", path, "", http.StatusOK, nil)
	l.clock = l.clock.Add(2 * time.Minute)
	l.Tidy() // which also cancels what was queued for a day
	l.sent()
	l.call(l.asApp(), "POST", path+"/attempts", "", http.StatusNotFound, nil)
	if list := l.deliveries(); slices.ContainsFunc(list, func(d row) bool { return d.ID == old }) {
		t.Errorf("%+v", list)
	}
}

func TestInstallationRepositories(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	l.AddRepository("calm", "quiet", true)
	l.queueAt("calm", "engine", "x")
	l.call("", "POST", "/_standin/repositories", `{"owner":"calm","name":"docs","public":true}`, http.StatusCreated, nil)
	var out struct {
		Total        int `json:"total_count"`
		Repositories []struct {
			ID       int64
			Name     string
			FullName string `json:"full_name"`
			Private  bool
			Owner    struct{ Login string }
		}
	}
	auth := l.asInstallation(l.owner)
	l.call(auth, "GET", api+"/installation/repositories", "", http.StatusOK, &out)
	var got []string
	for _, r := range out.Repositories {
		got = append(got, fmt.Sprint(r.FullName, r.Private))
	}
	if out.Total != 3 || !slices.Equal(got, []string{"calm/docsfalse", "calm/enginetrue", "calm/quietfalse"}) {
		t.Errorf("%+v", out)
	}
	w := l.send(t.Context(), auth, "GET", api+"/installation/repositories?per_page=2", "")
	if !strings.Contains(w.Header().Get("Link"), `page=2&per_page=2>; rel="next"`) {
		t.Errorf("%v", w.Header())
	}
	l.call("", "GET", api+"/installation/repositories", "", http.StatusUnauthorized, nil)
}

func TestSearchingRuns(t *testing.T) {
	t.Parallel()
	l := newLoop(t, 1)
	for range 1010 {
		l.queue("nobody-has-it")
		l.out = nil
		l.clock = l.clock.Add(time.Minute)
	}
	type result struct {
		Total int `json:"total_count"`
		Runs  []struct {
			ID        int64
			CreatedAt time.Time `json:"created_at"`
		} `json:"workflow_runs"`
	}
	search := func(query string) (out result) {
		t.Helper()
		l.call(l.asInstallation(l.owner), "GET", api+"/repos/calm/engine/actions/runs?"+query, "", http.StatusOK, &out)
		return out
	}
	auth := l.asInstallation(l.owner)
	all := search("status=queued&per_page=100")
	if all.Total != 1000 || len(all.Runs) != 100 || !all.Runs[0].CreatedAt.After(all.Runs[1].CreatedAt) {
		t.Errorf("%d of %d", len(all.Runs), all.Total)
	}
	if last := search("status=queued&per_page=100&page=11"); len(last.Runs) != 0 {
		t.Errorf("the 11th page of a search has %d", len(last.Runs))
	}
	from := l.clock.Add(-30 * time.Minute).Format(time.RFC3339)
	for query, want := range map[string]int{
		"created=%3E%3D" + from: 30, "created=%3E" + from: 29, "created=" + from + "..*": 30, "created=" + from: 1,
		"status=completed": 0, "status=success": 0, "status=in_progress": 0, "created=%3C2026-03-02": 0, "created=2026-03-02": 900,
	} {
		if got := search(query); got.Total != want {
			t.Errorf("%s: %d, want %d", query, got.Total, want)
		}
	}
	l.refused(auth, "GET", api+"/repos/calm/engine/actions/runs?created=yesterday", "", http.StatusUnprocessableEntity, "Validation Failed")
}
