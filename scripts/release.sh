#!/usr/bin/env bash
# Packs what hosts install, for each architecture whose guest there is: see package release. The same parts give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
guests=${MILLRACE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/guest}

for arch in amd64 arm64; do
	bundle=release/dist/linux-$arch.tar.gz
	if [ ! -f "$guests/$arch/complete" ] || [ ! -f "guest/bin/$arch/millrace-init" ]; then
		rm -f "$bundle" "$bundle.parts"
		continue
	fi
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/guest"
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/millrace-agent" ./cmd/millrace-agent
	cp release/*.service "$work/"
	cp -R "$guests/$arch" "$work/guest/$arch"
	parts=$(cd "$work" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
	if [ ! -f "$bundle" ] || [ "$(cat "$bundle.parts" 2>/dev/null)" != "$parts" ]; then
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -C "$work" -cf - . | gzip -n >"$bundle.new"
		mv "$bundle.new" "$bundle"
		echo "$parts" >"$bundle.parts"
	fi
	rm -rf "$work"
done
