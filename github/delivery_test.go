package github_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace-ci/millrace"
)

func TestDeliveryTries(t *testing.T) {
	t.Parallel()
	f := newFar(t, map[string]http.HandlerFunc{"GET /app/hook/deliveries": byQuery("cursor", map[string]http.HandlerFunc{
		"": says(200, `[
			{"id":9007199254740993,"guid":"72d3162e-cc78-11e3-81ab-4c9367dc0958","delivered_at":"2026-11-01T08:59:30.25Z","redelivery":false,"duration":0.27,
			 "status":"Invalid HTTP Response: 503","status_code":503,"event":"workflow_job","action":"queued","installation_id":5,"repository_id":41,"throttled_at":null},
			{"id":3,"guid":"b","delivered_at":"2026-11-01T08:59:00+01:00","redelivery":true,"status":"failed to connect to host","status_code":0},
			{"id":2,"guid":"c","delivered_at":"2026-11-01T08:58:00Z","status":"OK","status_code":202}]`,
			`Link: <https://github.test/app/hook/deliveries?per_page=100&cursor=v1_17%2Ba%2Cb>; rel="next"`),
		"v1_17+a,b": says(200, `[]`, `Link: <https://github.test/app/hook/deliveries?per_page=100&cursor=v0>; rel="prev"`),
	})})
	page, next, err := f.App.DeliveryTries(t.Context(), "")
	want := []millrace.DeliveryTry{
		{ID: 9007199254740993, GUID: guid, DeliveredAt: time.Date(2026, 11, 1, 8, 59, 30, 250e6, time.UTC), StatusCode: 503},
		{ID: 3, GUID: "b", DeliveredAt: time.Date(2026, 11, 1, 7, 59, 0, 0, time.UTC)},
		{ID: 2, GUID: "c", DeliveredAt: time.Date(2026, 11, 1, 8, 58, 0, 0, time.UTC), StatusCode: 202, OK: true},
	}
	if diff := cmp.Diff(want, page); diff != "" || next != "v1_17+a,b" || err != nil {
		t.Errorf("next %q, %v (-want +got):\n%s", next, err, diff)
	}
	page, next, err = f.App.DeliveryTries(t.Context(), next)
	if len(page) != 0 || next != "" || err != nil {
		t.Errorf("the last page: %+v, %q, %v", page, next, err)
	}
	asked := []string{"GET /app/hook/deliveries?per_page=100", "GET /app/hook/deliveries?per_page=100&cursor=v1_17%2Ba%2Cb"}
	if diff := cmp.Diff(asked, f.asked()); diff != "" || f.tokensGiven() != 0 {
		t.Errorf("%d tokens, asked (-want +got):\n%s", f.tokensGiven(), diff)
	}
}

func TestTheNextCursorIsInTheLinks(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		"": "",
		`<https://github.test/a?cursor=x>; rel="next"`:                                               "x",
		`<https://github.test/a?cursor=p>; rel="prev", <https://github.test/a?cursor=n>; rel="next"`: "n",
		`<https://github.test/a?cursor=n>; rel="next", <https://github.test/a>; rel="first"`:         "n",
		`<https://github.test/a?cursor=p>; rel="prev"`:                                               "",
		`<https://github.test/a?page=2>; rel="next"`:                                                 "",
		`https://github.test/a?cursor=x; rel="next"`:                                                 "",
		`<https://github.test/%zz?cursor=x>; rel="next"`:                                             "",
		`<https://github.test/a?cursor=x; rel="next"`:                                                "",
	} {
		f := newFar(t, map[string]http.HandlerFunc{"GET /app/hook/deliveries": says(200, `[]`, "Link: "+link)})
		if _, next, err := f.App.DeliveryTries(t.Context(), ""); next != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", link, next, err, want)
		}
	}
}

func TestRedeliver(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   millrace.Code
	}{
		"accepted":      {says(202, `{}`), ""},
		"kept no more":  {says(404, `{"message":"Not Found"}`), millrace.NotFound},
		"not delivered": {says(422, `{"message":"Validation Failed"}`), millrace.Unprocessable},
		"limited":       {says(403, `{"message":"You have exceeded a secondary rate limit"}`, "Retry-After: 60"), millrace.LimitReached},
		"down":          {says(500, ``), millrace.Unavailable},
	} {
		f := newFar(t, map[string]http.HandlerFunc{"POST /app/hook/deliveries/{id}/attempts": tc.answer})
		err := f.App.Redeliver(t.Context(), 9007199254740993)
		if got := millrace.CodeOf(err); got != tc.want {
			t.Errorf("%s: %q (%v), want %q", name, got, err, tc.want)
		}
		if calls := f.asked(); len(calls) != 1 || calls[0] != "POST /app/hook/deliveries/9007199254740993/attempts" {
			t.Errorf("%s: asked %q", name, calls)
		}
	}
}
