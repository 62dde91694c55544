#!/bin/sh
url={{.URL}}
sum_amd64={{.AMD64}}
sum_arm64={{.ARM64}}
state=/var/lib/millrace-agent
parts=/usr/local/lib/millrace

say() {
	printf 'millrace: %s\n' "$*"
}

fail() {
	printf 'millrace: %s\n' "$*" >&2
	exit 1
}

has() {
	command -v "$1" >/dev/null 2>&1
}

fetch() {
	if has curl; then
		curl -fsSL --retry 3 -o "$2" "$1"
	else
		wget -q -O "$2" "$1"
	fi
}

packages() {
	missing=
	has "$qemu" || missing="$missing $1"
	has qemu-img || missing="$missing $2"
	has mke2fs || [ -x /sbin/mke2fs ] || [ -x /usr/sbin/mke2fs ] || missing="$missing e2fsprogs"
	printf '%s' "$missing"
}

requirements() {
	if has apt-get; then
		case $arch in amd64) need=$(packages qemu-system-x86 qemu-utils) ;; *) need=$(packages qemu-system-arm qemu-utils) ;; esac
		[ -z "$need" ] && return
		say "Installing$need …"
		export DEBIAN_FRONTEND=noninteractive
		{ apt-get update -q && apt-get install -q -y --no-install-recommends $need; } >"$work/log" 2>&1 ||
			{ tail -n 20 "$work/log" >&2; fail "Could not install$need."; }
	elif has dnf; then
		need=$(packages qemu-kvm-core qemu-img)
		[ -z "$need" ] && return
		say "Installing$need …"
		dnf install -q -y $need >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "Could not install$need."; }
	else
		need=$(packages "$qemu" qemu-img)
		[ -z "$need" ] || fail "Please install$need, then run this again."
	fi
}

replace() {
	rm -rf "$2.new"
	cp -R "$1" "$2.new"
	rm -rf "$2.old"
	[ ! -e "$2" ] || mv "$2" "$2.old"
	mv "$2.new" "$2"
	rm -rf "$2.old"
}

main() {
	# Makes this machine a host of a Millrace org. The enrollment token comes first, as a line MILLRACE_ENROLL_TOKEN=mret_… of the
	# same input, or in the environment; it is in no argument and no address. On a machine that is a host already the agent is
	# brought up to date. All is in functions that the last line calls: a part of this file does nothing; and with "exit 1" after
	# it, it fails: neither is a comment to swallow that, nor a command to take it for arguments.
	set -eu
	token=${MILLRACE_ENROLL_TOKEN:-}
	unset MILLRACE_ENROLL_TOKEN
	[ "$(uname -s)" = Linux ] || fail "A host is a Linux machine, and this is $(uname -s)."
	[ "$(id -u)" = 0 ] || fail "Run this as root: … | sudo sh"
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 sum=$sum_amd64 qemu=qemu-system-x86_64 ;;
	aarch64 | arm64) arch=arm64 sum=$sum_arm64 qemu=qemu-system-aarch64 ;;
	*) fail "A host is amd64 or arm64, and this is $(uname -m)." ;;
	esac
	[ -n "$sum" ] || fail "The server has no agent for $arch. Whoever runs it can build it with one: make deps, then build again."
	for tool in tar gzip sha256sum useradd systemctl; do
		has "$tool" || fail "There is no $tool here, and it is needed."
	done
	has curl || has wget || fail "There is neither curl nor wget here, and one is needed."
	[ -n "$token" ] || [ -e "$state/identity.json" ] || fail "There is no enrollment token. Copy the whole command from your org's Hosts page."

	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	requirements
	has "$qemu" || fail "There is no $qemu here, and this system's packages bring none, as on RHEL and its likes. Debian, Ubuntu and Fedora have it. Nothing of Millrace was installed."
	say "Fetching the agent …"
	fetch "$url/agent/v1/bundles/linux-$arch.tar.gz" "$work/bundle" || fail "Could not fetch the agent from $url."
	echo "$sum  $work/bundle" | sha256sum -c - >/dev/null 2>&1 ||
		fail "What came from $url is not what was announced: its SHA-256 is another. Nothing was installed."
	mkdir "$work/bundle.d"
	tar -xzf "$work/bundle" -C "$work/bundle.d"

	id millrace >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin millrace ||
		fail "Could not make the user millrace, which the agent runs as."
	mkdir -p "$parts/guest" /usr/local/bin /etc/systemd/system
	replace "$work/bundle.d/guest/$arch" "$parts/guest/$arch" # a guest that this machine emulates stays
	cp "$work/bundle.d/millrace-agent" /usr/local/bin/.millrace-agent.new
	chmod 755 /usr/local/bin/.millrace-agent.new
	mv -f /usr/local/bin/.millrace-agent.new /usr/local/bin/millrace-agent
	cp "$work/bundle.d/millrace-agent.service" "$work/bundle.d/millrace-launcher.service" /etc/systemd/system/

	if [ -n "$token" ]; then
		printf '%s\n' "$token" | MILLRACE_GUEST_DIR=$parts/guest millrace-agent enroll --if-needed --url "$url" || fail "This machine could not be enrolled; the agent is installed, and the command can be run again."
	fi
	chown -R millrace: "$state"
	systemctl daemon-reload
	systemctl restart millrace-launcher millrace-agent
	systemctl enable -q millrace-launcher millrace-agent # last: its link says that all is done
	say "The agent runs. What it found of this machine:"
	MILLRACE_GUEST_DIR=$parts/guest millrace-agent doctor || say "Something keeps this machine from running jobs; what to do is above. Then run: systemctl restart millrace-launcher millrace-agent"
	! systemctl is-failed -q millrace-agent || fail "The agent has ended; journalctl -u millrace-agent says why. If its host was removed, run the same once more."
}

main "$@"
