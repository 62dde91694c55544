package millrace_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace-ci/millrace"
)

func TestPlainText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain\ttext\n":                         "plain\ttext\n",
		"\x1b[1;31mred\x1b[0m\r\n":              "red\n",
		"\x1b]0;title\x07after":                 "after",
		"\x1b]8;;https://e.example\x1b\\link":   "link",
		"\x1b]never ends\nnext":                 "never ends\nnext",
		"10 %\r50 %\r100 %\nend":                "100 %\nend",
		"a\x00b\x7fc\u0085d\u202Ee\u2066f":      "abcdef",
		"bad \xff utf-8":                        "bad \uFFFD utf-8",
		"\x1b(Bcharset\x1b7\x1b=":               "charset",
		"<script>stays text, templ escapes it>": "<script>stays text, templ escapes it>",
	} {
		if got := millrace.PlainText([]byte(in), false); got != want {
			t.Errorf("PlainText(%q) = %q, want %q", in, got, want)
		}
	}
	if got := millrace.PlainText([]byte("half a line\nwhole\n"), true); got != "whole\n" {
		t.Errorf("cut: %q", got)
	}
}

func FuzzPlainText(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]0;t\x07\r\n\u202e"))
	f.Fuzz(func(t *testing.T, console []byte) {
		text := millrace.PlainText(console, false)
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\x00\r\u202e\u009b") {
			t.Errorf("PlainText(%q) = %q", console, text)
		}
	})
}
