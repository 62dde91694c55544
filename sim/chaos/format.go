package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// sample is the first few of a list, each on a line of its own.
func sample(list []string) string {
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	shown := list[:min(5, len(list))]
	more := ""
	if n := len(list) - len(shown); n > 0 {
		more = fmt.Sprintf("\n    and %d more", n)
	}
	return "\n    " + strings.Join(shown, "\n    ") + more
}
