package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// docs/configuration.md lists exactly the variables that are read, with their defaults.
func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(doc)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[1], "`MILLRACE_") {
			rows[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `–")
		}
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		name := field.Tag.Get("env")
		documented, ok := rows[name]
		if !ok || documented != field.Tag.Get("envDefault") {
			t.Errorf("%s: documented %v with the default %q, and it is %q", name, ok, documented, field.Tag.Get("envDefault"))
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("%s is documented and not read", name)
	}
}

func TestReadConfig(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := readConfig([]string{"MILLRACE_GITHUB_PRIVATE_KEY_FILE=" + secret, "MILLRACE_GITHUB_WEBHOOK_SECRET=new,old", "MILLRACE_GITHUB_APP_ID=7"})
	if err != nil || cfg.GitHubPrivateKey != "from a file" || len(cfg.GitHubWebhookSecret) != 2 || cfg.Listen != ":8080" {
		t.Errorf("config %+v, %v", cfg, err)
	}
	if _, err := readConfig([]string{"MILLRACE_GITHUB_PRIVATE_KEY_FILE=/nowhere"}); err == nil || !strings.Contains(err.Error(), "MILLRACE_GITHUB_PRIVATE_KEY_FILE") {
		t.Errorf("a file that isn't there: %v", err)
	}
	err = cfg.forServing()
	if err == nil || !strings.Contains(err.Error(), "MILLRACE_DATABASE_SYSTEM_URL, MILLRACE_DATABASE_URL (") || strings.Contains(err.Error(), "APP_ID") {
		t.Errorf("what is missing: %v", err)
	}
}
