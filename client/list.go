package client

// List is one page of a list, newest first unless its route says otherwise.
type List[T any] struct {
	Data []T `json:"data"` // never null
	// NextCursor asks for the following page as ?cursor=…; null on the last one.
	NextCursor *string `json:"next_cursor"`
}

// NewList is a page of data; next is "" on the last page.
func NewList[T any](data []T, next string) List[T] {
	l := List[T]{Data: data}
	if l.Data == nil {
		l.Data = []T{}
	}
	if next != "" {
		l.NextCursor = &next
	}
	return l
}
