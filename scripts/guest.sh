#!/usr/bin/env bash
# Prepares what VMs boot: Debian's cloud kernel with the modules a guest needs, a static busybox, and the two programs of
# ours that run inside. Quick when all of it is there. Fetched parts live outside the checkout, in $MILLRACE_GUEST_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
arch=amd64
out=${MILLRACE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace/guest}/$arch

mkdir -p "guest/bin/$arch"
CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -ldflags "-s -w" -o "guest/bin/$arch/millrace-init" ./cmd/millrace-init
CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -ldflags "-s -w" -o "guest/bin/$arch/testrunner" ./guest/testrunner/main

[ -f "$out/complete" ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
	echo "The guest kernel comes from Debian's packages, and there is no apt-get here: VMs can't boot on this machine." >&2
	exit 0
fi
echo "Fetching the guest kernel …"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
package=$(apt-cache depends linux-image-cloud-$arch 2>/dev/null | awk '/Depends: linux-image-/ {print $2; exit}')
if [ -z "$package" ]; then # Ubuntu's small kernel
	package=$(apt-cache depends linux-image-virtual 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
fi
if [ -z "$package" ] || ! (cd "$work" && apt-get download "$package" >/dev/null 2>"$work/log"); then
	cat "$work/log" 2>/dev/null >&2 || true
	echo "Could not fetch a guest kernel (${package:-none found; try apt-get update}); VMs can't boot on this machine." >&2
	exit 0
fi
dpkg -x "$work"/*.deb "$work/root"
version=$(basename "$work"/root/boot/vmlinuz-* | sed 's/^vmlinuz-//')
if [ ! -d "$work/root/lib/modules" ] && [ ! -d "$work/root/usr/lib/modules" ]; then # Ubuntu's are a package of their own
	(cd "$work" && apt-get download "linux-modules-$version" >/dev/null 2>&1 && dpkg -x linux-modules-*.deb root) || mkdir -p "$work/root/lib/modules/$version"
fi
modules=$work/root/lib/modules
[ -d "$modules" ] || modules=$work/root/usr/lib/modules
PATH=$PATH:/sbin:/usr/sbin depmod -b "$(dirname "$(dirname "$modules")")" "$version"

rm -rf "$out"
mkdir -p "$out/modules/early" "$out/modules/late"
cp "$work/root/boot/vmlinuz-$version" "$out/vmlinuz"
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
for m in virtio_mmio virtio_console; do take early $m; done
for m in virtio_blk virtio_net; do take late $m; done
cp "$(command -v busybox)" "$out/busybox"
echo "$version" >"$out/version"
touch "$out/complete"
echo "Guest kernel $version is in $out."
