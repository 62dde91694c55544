// Package assets holds the dashboard's built CSS and JavaScript. They are made from frontend/ by `make generate` and
// committed, so that a Go toolchain alone builds the server. Each is served under a name with its content's hash, which
// lets browsers keep it for ever.
package assets

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

// Prefix is the path under which [Handler] serves.
const Prefix = "/assets/"

var (
	paths = map[string]string{} // name → path with hash
	files = map[string][]byte{} // path with hash → content
)

func init() {
	err := fs.WalkDir(dist, "dist", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		base, ext := path.Base(name), path.Ext(name)
		hashed := Prefix + strings.TrimSuffix(base, ext) + "." + hex.EncodeToString(sum[:6]) + ext
		paths[base], files[hashed] = hashed, content
		return nil
	})
	if err != nil {
		panic("assets: " + err.Error()) // embedded files can always be read
	}
}

// Path is the path of the asset with this name, e.g. "app.css". It panics when there is none: a page would be broken.
func Path(name string) string {
	p, ok := paths[name]
	if !ok {
		panic("assets: there is no " + name)
	}
	return p
}

// Handler serves assets by the paths that [Path] gives.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		http.ServeContent(w, r, r.URL.Path, time.Time{}, strings.NewReader(string(content)))
	})
}
