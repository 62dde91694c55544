#!/usr/bin/env bash
# Prepares what VMs boot, for each architecture: Debian's cloud kernel with the modules a guest needs, a static busybox, and
# the two programs of ours that run inside. Quick when all of it is there. Fetched parts live outside the checkout, in
# $MILLRACE_GUEST_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
guests=${MILLRACE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/guest}
native=$(dpkg --print-architecture 2>/dev/null || true)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# Everything below is of one architecture: a subshell's own.
prepare() (
	arch=$1
	out=$guests/$arch
	work=$work/$arch
	mkdir -p "guest/bin/$arch" "$work"
	for program in millrace-init:./cmd/millrace-init testrunner:./guest/testrunner/main; do
		CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -ldflags "-s -w" -o "guest/bin/$arch/${program%%:*}" "${program#*:}"
	done
	[ ! -f "$out/complete" ] || return 0
	if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
		echo "The guest kernel comes from Debian's packages, and there is no apt-get here: VMs can't boot on this machine." >&2
		return 0
	fi
	echo "Fetching the $arch guest's kernel …"
	[ "$arch" = "$native" ] || foreign
	package=$(apt-cache "${apt[@]}" depends "linux-image-cloud-$arch" 2>/dev/null | awk '/Depends: linux-image-/ {print $2; exit}' || true)
	if [ -z "$package" ]; then # Ubuntu's small kernel
		package=$(apt-cache "${apt[@]}" depends linux-image-virtual 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}' || true)
	fi
	if [ -z "$package" ] || ! get "$package" || ! get busybox-static; then
		[ ! -f "$work/log" ] || tail -n 5 "$work/log" >&2
		echo "Could not fetch a guest kernel and busybox (${package:-none found; try apt-get update}); $arch VMs can't boot on this machine." >&2
		return 0
	fi
	version=$(basename "$work"/root/boot/vmlinuz-* | sed 's/^vmlinuz-//')
	if [ ! -d "$work/root/lib/modules" ] && [ ! -d "$work/root/usr/lib/modules" ]; then # Ubuntu's are a package of their own
		get "linux-modules-$version" || mkdir -p "$work/root/lib/modules/$version"
	fi
	modules=$work/root/lib/modules
	[ -d "$modules" ] || modules=$work/root/usr/lib/modules
	PATH=$PATH:/sbin:/usr/sbin depmod -b "$(dirname "$(dirname "$modules")")" "$version"

	rm -rf "$out"
	mkdir -p "$out/modules/early" "$out/modules/late"
	cp "$work/root/boot/vmlinuz-$version" "$out/vmlinuz"
	for m in virtio_mmio virtio_console; do take early $m; done
	for m in virtio_blk virtio_net; do take late $m; done
	cp "$(find "$work/root" -path '*/bin/busybox' -type f)" "$out/busybox"
	echo "$version" >"$out/version"
	touch "$out/complete"
	echo "The $arch guest's kernel $version is in $out."
)

# foreign has apt look at another architecture's packages, with lists of its own: the machine's are left as they are. apt
# checks them by the same keys.
apt=()
foreign() {
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
	apt=(-o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
		-o Dir::State::status=/dev/null -o Acquire::Languages=none)
	if grep -qs '^ID=ubuntu' /etc/os-release && [ "$arch" != amd64 ]; then # which has them elsewhere
		local codename
		codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
		for suite in "$codename" "$codename-updates" "$codename-security"; do
			echo "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://ports.ubuntu.com/ubuntu-ports $suite main universe"
		done >"$work/sources.list"
		apt+=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null)
	fi
	apt-get "${apt[@]}" update -q >"$work/log" 2>&1 || true # a source of others may lack it
}

# get downloads a package and unpacks it into $work/root.
get() {
	local dir=$work/debs/$1
	mkdir -p "$dir"
	(cd "$dir" && apt-get "${apt[@]}" download "$1" >/dev/null 2>"$work/log") && dpkg -x "$dir"/*.deb "$work/root"
}

# A module after all that it depends on; their numbers keep the order. What the channel to the host needs comes first.
n=0
declare -A done
take() { # folder, module
	local dir=$1 name=$2 line file dep
	line=$(grep -E "(^|/)${name//_/[-_]}\.ko[^:]*:" "$modules/$version/modules.dep" || true)
	[ -n "$line" ] || return 0 # built in
	file=${line%%:*}
	for dep in $(printf '%s\n' ${line#*:} | tac); do
		take_file "$dir" "$dep"
	done
	take_file "$dir" "$file"
}
take_file() {
	local dir=$1 file=$2 to
	[ -z "${done[$file]:-}" ] || return 0
	done[$file]=1
	n=$((n + 1))
	to=$out/modules/$dir/$(printf '%02d' $n)-$(basename "${file%%.ko*}").ko
	case $file in
	*.xz) xz -dc "$modules/$version/$file" >"$to" ;;
	*.zst) zstd -qdc "$modules/$version/$file" >"$to" ;;
	*) cp "$modules/$version/$file" "$to" ;;
	esac
}

for arch in amd64 arm64; do prepare $arch; done
