package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace-ci/millrace"
)

// DeliveryTries lists a page of the App's deliveries (GET /app/hook/deliveries). The cursor is GitHub's own, from the Link
// header. The filter status=failure is not used: it is documented as a status_code of 400 to 599, and says nothing of
// deliveries that got no answer, which have none.
func (a *App) DeliveryTries(ctx context.Context, cursor string) (page []millrace.DeliveryTry, next string, err error) {
	path := fmt.Sprintf("app/hook/deliveries?per_page=%d", perPage)
	if cursor != "" {
		path += "&cursor=" + url.QueryEscape(cursor)
	}
	var list []struct {
		ID          int64     `json:"id"`
		GUID        string    `json:"guid"`
		DeliveredAt time.Time `json:"delivered_at"`
		Status      string    `json:"status"`
		StatusCode  int       `json:"status_code"`
	}
	got, err := a.do(ctx, asApp, http.MethodGet, path, nil, &list)
	if err != nil {
		return nil, "", fmt.Errorf("listing deliveries: %w", err)
	}
	for _, d := range list {
		if d.ID > 0 {
			page = append(page, millrace.DeliveryTry{
				ID: d.ID, GUID: clean(d.GUID), DeliveredAt: d.DeliveredAt.UTC(), StatusCode: d.StatusCode, OK: d.Status == "OK",
			})
		}
	}
	return page, nextCursor(got.header), nil
}

// Redeliver has GitHub deliver once more (POST /app/hook/deliveries/{id}/attempts).
func (a *App) Redeliver(ctx context.Context, id int64) error {
	if _, err := a.do(ctx, asApp, http.MethodPost, fmt.Sprintf("app/hook/deliveries/%d/attempts", id), nil, nil); err != nil {
		return fmt.Errorf("redelivering %d: %w", id, err)
	}
	return nil
}

// nextCursor is the cursor of the link to the next page, "" when there is none: <https://…?cursor=…>; rel="next", <…>; …
func nextCursor(header http.Header) string {
	for _, link := range strings.Split(strings.Join(header.Values("Link"), ","), ",") {
		target, params, ok := strings.Cut(link, ">")
		if _, rest, open := strings.Cut(target, "<"); ok && open && strings.Contains(params, `rel="next"`) {
			if u, err := url.Parse(rest); err == nil {
				return u.Query().Get("cursor")
			}
		}
	}
	return ""
}
