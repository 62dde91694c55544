package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// spread is the median, the maximum and the number of durations.
func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "n 0"
	}
	slices.Sort(list)
	return fmt.Sprintf("p50 %s, max %s, n %d", round(list[len(list)/2]), round(maximum(list)), len(list))
}

func maximum(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return slices.Max(list)
}

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
