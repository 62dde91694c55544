#!/usr/bin/env bash
# Installs the packages that dev and test need, where it can: Debian and Ubuntu, as root or with sudo. Elsewhere it says
# what to install and goes on: what is missing is then done without, loudly.
set -euo pipefail

missing=()
need() { # package, and how to see that it is here
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}
have_postgres() { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; }

need postgresql have_postgres
need qemu-system-x86 command -v qemu-system-x86_64
need qemu-system-arm command -v qemu-system-aarch64 # emulated arm64 VMs: their test, and hosts that offer them
need qemu-utils command -v qemu-img
need busybox-static test -x /bin/busybox -o -x /usr/bin/busybox
need e2fsprogs test -x /sbin/mke2fs -o -x /usr/sbin/mke2fs
need curl command -v curl
need kmod test -x /sbin/depmod -o -x /usr/sbin/depmod
grep -qs '^ID=ubuntu' /etc/os-release && need zstd command -v zstd # its kernel modules are packed with it
need chromium command -v chromium
need systemd command -v systemd-analyze # looks at the units; nothing is started

[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(uname -s)" != Linux ] || ! command -v apt-get >/dev/null; then
	echo "Please install what these Debian packages hold: ${missing[*]}. Going on without." >&2
	exit 0
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
	if ! sudo -n true 2>/dev/null; then
		echo "Not root, and sudo asks for a password. Please run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
		echo "Going on without." >&2
		exit 0
	fi
	sudo="sudo -n"
fi
echo "Installing ${missing[*]} …"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { $sudo apt-get update -q && $sudo apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "Could not install ${missing[*]}; going on without." >&2
fi
rm -f "$log"
