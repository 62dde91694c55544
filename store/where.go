package store

import (
	"strconv"
	"strings"
)

// where gathers the conditions of a list and their arguments.
type where struct {
	sql  strings.Builder
	args []any
}

// and adds a condition; each ? stands for one of values. Conditions are constants of ours, values are anybody's.
func (w *where) and(condition string, values ...any) {
	if w.sql.Len() > 0 {
		w.sql.WriteString(" AND ")
	}
	for _, v := range values {
		w.args = append(w.args, v)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(w.args)), 1)
	}
	w.sql.WriteString(condition)
}
