package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

// A console is followed in whole lines until its VM is gone.
func TestFollow(t *testing.T) {
	t.Parallel()
	const console = "a line\nhalf\xe2\x82\xac of another\nno end"
	cuts := []int{0, 9, 13, 13, len(console)} // within a line, within a character; once it says nothing
	asked, shown := 0, 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/console") {
			shown++
			vm := failed()
			if asked < len(cuts) {
				vm.State = millrace.VMBusy
			}
			_ = json.NewEncoder(w).Encode(vm)
			return
		}
		asked++
		from, _ := strconv.Atoi(r.URL.Query().Get("after"))
		to := cuts[min(asked, len(cuts)-1)]
		w.Header().Set(client.LogPositionHeader, strconv.Itoa(to))
		_, _ = io.WriteString(w, console[from:to])
	}))
	t.Cleanup(srv.Close)
	code, out, errs := run(t, srv.URL, "mrat_good", false, "vms", "console", "-f", failed().ID.String())
	if want := "a line\nhalf€ of another\nno end\n"; code != exitOK || out != want {
		t.Errorf("exit %d: %q %s", code, out, errs)
	}
	if asked != 6 || shown != 2 {
		t.Errorf("the console was asked for %d times, the VM %d times", asked, shown)
	}
}
