package api

import (
	_ "embed"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/millrace-ci/millrace"
)

//go:embed docs.html
var docsHTML string

var docsTemplate = template.Must(template.New("docs").Parse(docsHTML))

type docsOperation struct {
	Method, Path, Summary, Description string
	Params                             []docsParam
}

type docsParam struct {
	Name, In, Type, Doc string
	Required            bool
}

// problemPage is what the type of a problem leads to.
func (s *Server) problemPage(w http.ResponseWriter, r *http.Request) error {
	code := millrace.Code(chi.URLParam(r, "code"))
	if code.Meaning() == "" {
		return millrace.Errorf(millrace.NotFound, "There is no problem of this type.")
	}
	return writeDocs(w, map[string]any{"Title": "Problem " + string(code), "Description": code.Meaning(), "Status": code.Status()})
}

func writeDocs(w http.ResponseWriter, data map[string]any) error {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	return docsTemplate.Execute(w, data)
}

// docsPage is the reference page, made from the OpenAPI document.
func docsPage(doc *huma.OpenAPI) handler {
	var operations []docsOperation
	for path, item := range doc.Paths {
		if item.Get == nil {
			continue
		}
		o := docsOperation{Method: http.MethodGet, Path: path, Summary: item.Get.Summary, Description: item.Get.Description}
		for _, p := range item.Get.Parameters {
			param := docsParam{Name: p.Name, In: p.In, Doc: p.Description, Required: p.Required}
			if p.Schema != nil {
				param.Type = strings.TrimSpace(p.Schema.Type + " " + p.Schema.Format)
			}
			o.Params = append(o.Params, param)
		}
		operations = append(operations, o)
	}
	slices.SortFunc(operations, func(a, b docsOperation) int { return strings.Compare(a.Path, b.Path) })
	return func(w http.ResponseWriter, _ *http.Request) error {
		return writeDocs(w, map[string]any{"Title": doc.Info.Title + " API", "Description": doc.Info.Description, "Operations": operations})
	}
}
