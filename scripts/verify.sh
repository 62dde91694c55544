#!/usr/bin/env bash
# Makes the generated files anew and fails when that changes one of them.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory generate
if [ -n "$(git status --porcelain -- '*_templ.go' web docs/states.md docs/waiting.md api/openapi.json store/testdata)" ]; then
	git --no-pager diff --stat -- '*_templ.go' web docs/states.md docs/waiting.md api/openapi.json store/testdata
	git status --porcelain -- '*_templ.go' web docs/states.md docs/waiting.md api/openapi.json store/testdata
	echo "Generated files are stale: run make generate and commit." >&2
	exit 1
fi
