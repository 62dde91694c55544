package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
)

// table is a list with a header. People get columns, programs tab-separated values with the same header.
func (c *cli) table(header []string, rows [][]string) error {
	w := c.Stdout
	if c.Terminal {
		tw := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
		defer tw.Flush()
		w = tw
		for i, h := range header {
			header[i] = strings.ToUpper(h)
		}
	}
	for _, row := range append([][]string{header}, rows...) {
		if err := line(w, row); err != nil {
			return err
		}
	}
	return nil
}

func line(w io.Writer, cells []string) error {
	clean := make([]string, len(cells))
	for i, cell := range cells {
		clean[i] = plain(cell)
	}
	_, err := fmt.Fprintln(w, strings.Join(clean, "\t"))
	return err
}

// printJSON prints v as the API gave it. encoding/json escapes C0 control characters; the other hostile ones are
// escaped here.
func (c *cli) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range string(data) {
		if r == '\n' || !hostile(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	_, err = fmt.Fprintln(c.Stdout, b.String())
	return err
}

// plain is s without what a terminal would obey instead of show: control characters (C0, C1 and with them every escape
// sequence's beginning) and those that reorder or hide text.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case hostile(r) || r == unicode.ReplacementChar:
			return -1
		default:
			return r
		}
	}, s)
}

// hostile are the categories Cc (control) and Cf (format: bidirectional marks, zero-width characters, tags) and the
// line and paragraph separators.
func hostile(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// clock is a time for people; "-" when there is none.
func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// ms is a duration for people.
func ms(n int64) string {
	return (time.Duration(n) * time.Millisecond).String()
}

// or is s, or "-" when there is none: a table has no empty cells.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
