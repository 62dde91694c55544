package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/caarlos0/env/v11"
)

// Config is all that `millraced serve` and `millraced migrate` read from their environment. docs/configuration.md lists
// the same variables, and a test compares the two. A secret VAR may be given as VAR_FILE, the path of a file.
type Config struct {
	URL           string `env:"MILLRACE_URL" envDefault:"http://localhost:8080"`
	Listen        string `env:"MILLRACE_LISTEN" envDefault:":8080"`
	MetricsListen string `env:"MILLRACE_METRICS_LISTEN" envDefault:"127.0.0.1:9090"`

	TrustedProxies []netip.Prefix `env:"MILLRACE_TRUSTED_PROXIES"` // whose X-Forwarded-For is believed

	DatabaseURL        string `env:"MILLRACE_DATABASE_URL"`
	DatabaseSystemURL  string `env:"MILLRACE_DATABASE_SYSTEM_URL"`
	DatabaseMigrateURL string `env:"MILLRACE_DATABASE_MIGRATE_URL"`
	BlobURL            string `env:"MILLRACE_BLOB_URL" envDefault:"file:///var/lib/millrace/blobs"`

	LabelPrefixes []string `env:"MILLRACE_LABEL_PREFIXES" envDefault:"millrace"`

	GitHubURL           string   `env:"MILLRACE_GITHUB_URL" envDefault:"https://github.com"`
	GitHubAPIURL        string   `env:"MILLRACE_GITHUB_API_URL" envDefault:"https://api.github.com/"`
	GitHubAppID         int64    `env:"MILLRACE_GITHUB_APP_ID"`
	GitHubPrivateKey    string   `env:"MILLRACE_GITHUB_PRIVATE_KEY"`
	GitHubWebhookSecret []string `env:"MILLRACE_GITHUB_WEBHOOK_SECRET"` // several while rotating
	GitHubClientID      string   `env:"MILLRACE_GITHUB_CLIENT_ID"`      // "": nobody signs in with GitHub
	GitHubClientSecret  string   `env:"MILLRACE_GITHUB_CLIENT_SECRET"`
	GitHubAppSlug       string   `env:"MILLRACE_GITHUB_APP_SLUG" envDefault:"millrace"` // of its page at GitHub
}

// readConfig reads the environment given as KEY=value pairs.
func readConfig(environ []string) (Config, error) {
	vars := env.ToMap(environ)
	for key, path := range vars {
		name, isFile := strings.CutSuffix(key, "_FILE")
		if !isFile || !strings.HasPrefix(key, "MILLRACE_") || path == "" {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return Config{}, fmt.Errorf("%s: %w", key, err)
		}
		vars[name] = strings.TrimRight(string(content), "\r\n")
	}
	var cfg Config
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: vars}); err != nil {
		return Config{}, fmt.Errorf("reading the environment: %w", err)
	}
	return cfg, nil
}

// forServing checks what serve cannot do without, naming every missing variable at once.
func (c Config) forServing() error {
	var missing []string
	for name, given := range map[string]bool{
		"MILLRACE_DATABASE_URL":          c.DatabaseURL != "",
		"MILLRACE_DATABASE_SYSTEM_URL":   c.DatabaseSystemURL != "",
		"MILLRACE_GITHUB_APP_ID":         c.GitHubAppID != 0,
		"MILLRACE_GITHUB_PRIVATE_KEY":    c.GitHubPrivateKey != "",
		"MILLRACE_GITHUB_WEBHOOK_SECRET": len(c.GitHubWebhookSecret) > 0,
	} {
		if !given {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing in the environment: %s (docs/configuration.md says what they are; `millraced dev` needs none)", sorted(missing))
}
