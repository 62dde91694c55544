package millrace

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

// escapes are terminal control sequences (ECMA-48): CSI, the strings OSC, DCS, SOS, PM and APC with their end, and the
// two-character ones. A sequence that never ends takes only its introduction with it.
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[\\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\\\)|\x1b[ -/]*[0-~]?")

// PlainText is what a VM or an agent printed as text that is safe to show: no terminal sequences, no control characters, none
// that turn the direction of text. A carriage return writes a line anew, as a terminal does. cut says that the beginning is
// missing; what is left of the line it fell in is dropped.
func PlainText(console []byte, cut bool) string {
	if cut {
		if i := bytes.IndexByte(console, '\n'); i >= 0 {
			console = console[i+1:]
		}
	}
	text := escapes.ReplaceAllString(strings.ToValidUTF8(string(console), "\uFFFD"), "")
	var b strings.Builder
	b.Grow(len(text))
	for line := range strings.Lines(text) {
		body, end := strings.CutSuffix(line, "\n")
		body = strings.TrimRight(body, "\r")
		if i := strings.LastIndexByte(body, '\r'); i >= 0 {
			body = body[i+1:]
		}
		for _, c := range body {
			if c == '\t' || !unicode.IsControl(c) && !turns(c) {
				b.WriteRune(c)
			}
		}
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// turns reports whether c changes the direction of the text around it (Unicode TR 9), which can make a line read as
// something that it doesn't say.
func turns(c rune) bool {
	return c >= '\u202A' && c <= '\u202E' || c >= '\u2066' && c <= '\u2069' || c == '\u200E' || c == '\u200F' || c == '\u061C'
}
