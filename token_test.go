package millrace_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
)

func TestSecret(t *testing.T) {
	t.Parallel()
	s := millrace.NewSecret(millrace.APITokenPrefix, nil)
	text := s.Reveal()
	if len(text) != len("mrat_")+38 || !strings.HasPrefix(text, "mrat_") {
		t.Fatalf("a secret of %d characters", len(text))
	}
	if hash, ok := millrace.HashSecret(millrace.APITokenPrefix, text); !ok || len(hash) != 32 {
		t.Error("a fresh secret is not recognised")
	}
	typo := text[:20] + string(text[20]^1) + text[21:]
	for _, bad := range []string{"", typo, text[:len(text)-1], text + "0", "mret_" + text[5:]} {
		if _, ok := millrace.HashSecret(millrace.APITokenPrefix, bad); ok {
			t.Errorf("accepted a secret of %d characters that was never made", len(bad))
		}
	}
	if _, ok := millrace.HashSecret(millrace.EnrollmentTokenPrefix, text); ok {
		t.Error("an API token passes as an enrollment token")
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	t.Parallel()
	s := millrace.NewSecret(millrace.APITokenPrefix, nil)
	inJSON, err := json.Marshal(map[string]any{"token": s})
	if err != nil {
		t.Fatal(err)
	}
	path := millrace.Redact("/sign-in/" + s.Reveal() + "/" + s.Reveal())
	if want := "/sign-in/mrat_[redacted]/mrat_[redacted]"; path != want {
		t.Errorf("a path with it is %q, want %q", path, want)
	}
	for _, printed := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), string(inJSON)} {
		if strings.Contains(printed, s.Reveal()[5:]) {
			t.Errorf("the secret stands in %q", printed)
		}
	}
}
