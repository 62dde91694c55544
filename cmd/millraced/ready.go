package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Ready is what --ready-file holds: where everything is, and the credentials of the two tenants.
type Ready struct {
	URL           string `json:"url"`
	GitHubURL     string `json:"github_url"` // the stand-in
	Org           string `json:"org"`
	Owner         string `json:"owner"` // the org's GitHub owner
	APIToken      string `json:"api_token"`
	OtherOrg      string `json:"other_org"` // a second tenant, to check isolation with
	OtherAPIToken string `json:"other_api_token"`
	SignInURL     string `json:"sign_in_url"` // works once
	WebhookSecret string `json:"webhook_secret"`
	DatabaseURL   string `json:"database_url"` // a superuser's, for checks only
	MetricsURL    string `json:"metrics_url"`
	PID           int    `json:"pid"`
}

// write puts r into the file at path at once: whoever sees the file sees all of it.
func (r Ready) write(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ready-*") // 0600: it holds tokens
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(append(content, '\n')); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func (r Ready) print(w io.Writer, machines machines, took time.Duration) {
	if machines.warning != "" {
		fmt.Fprintf(w, "\n  !!! %s\n", machines.warning)
	}
	fmt.Fprintf(w, `
  Millrace runs (ready after %.1f s; VMs by %s).

  Dashboard        %s     (works once)
  Stand-in GitHub  %s      (queue a workflow here)
  API              %s/docs/api
  API token        %s

  Ctrl-C stops everything.

`, took.Seconds(), machines.driver.Name(), r.SignInURL, r.GitHubURL, r.URL, r.APIToken)
}
