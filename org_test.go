package millrace_test

import (
	"strings"
	"testing"

	"github.com/millrace-ci/millrace"
)

func TestCheckSlug(t *testing.T) {
	t.Parallel()
	for _, slug := range []string{"a", "calm", "a-b", "7", strings.Repeat("x", 39)} {
		if err := millrace.CheckSlug(slug); err != nil {
			t.Errorf("%q: %v", slug, err)
		}
	}
	for _, slug := range []string{"", "-a", "a-", "A", "a b", "a/b", "ä", "a.b", strings.Repeat("x", 40)} {
		if err := millrace.CheckSlug(slug); millrace.CodeOf(err) != millrace.Invalid {
			t.Errorf("%q: %v", slug, err)
		}
	}
}
