#!/bin/sh
# SPDX-License-Identifier: MIT
# The unmodified xen-access of Debian's xen-utils-4.17 in all its modes, one after the other, against a VM of `guestward boot` and
# against one of QEMU under `guestward run`: each says what it should, ends cleanly on SIGINT, and the guest runs on afterwards.
# Usage: xen_access.sh GUESTWARD CACHE
# QEMU in the environment is another qemu-system-x86_64, with options that it always needs; SECONDS_A_MODE how long each mode lasts;
# CPUS how many vCPUs QEMU has.
set -u
guestward=$1
cache=$2
QEMU=${QEMU:-qemu-system-x86_64}
tool=${XEN_ACCESS:-/usr/lib/xen-4.17/bin/xen-access}
export LC_ALL=C

if [ ! -x "$tool" ]; then
	echo "1..0 # SKIP no xen-access here: install xen-utils-4.17"
	exit 0
fi
if [ ! -e "$cache/kernel" ]; then
	echo "1..0 # SKIP no kernel: tools/fetch-kernel"
	exit 0
fi
dir=$(mktemp -d)
pid=
# shellcheck disable=SC2086,SC2317
leave() { [ -n "$pid" ] && kill $pid 2> /dev/null && wait $pid 2> /dev/null; pid=; }
trap 'leave; rm -rf "$dir"' EXIT
# shellcheck disable=SC2016
load='i=0; while [ $i -lt 100000 ]; do i=$((i+1)); busybox true; [ $((i % 20)) = 0 ] && echo tick $i; done'

ticks() { grep -ac '^tick' "$dir/guest"; }
runs_on() {
	before=$(ticks)
	for _ in $(seq 240); do
		sleep 0.25
		[ "$(ticks)" -gt "$before" ] && return 0
	done
	return 1
}

n=0
ok() { n=$((n+1)); echo "ok $n - $1"; }
not_ok() { n=$((n+1)); echo "not ok $n - $1"; for f in out guest; do tail -n 5 "$dir/$f" | sed 's/^/# /'; done; }

# mode, what a line must match (empty: the guest does not do it by itself), exit status: debug_control of the last of 32 vCPUs
# is the status of the altp2m modes, and this guest has fewer.
modes() { # NAME
	while read -r mode status pattern; do
		timeout -s INT "${SECONDS_A_MODE:-2}" "$guestward" xen -- stdbuf -oL "$tool" "$pid" "$mode" > "$dir/out" 2>&1 < /dev/null
		if ! grep -q 'xenaccess exit code' "$dir/out"; then
			not_ok "$1, $mode: ends"
		elif ! grep -q "xenaccess exit code $status" "$dir/out"; then
			not_ok "$1, $mode: exit status"
		elif [ -n "$pattern" ] && ! grep -Eq "$pattern" "$dir/out"; then
			not_ok "$1, $mode: sees $pattern"
		elif ! runs_on; then
			not_ok "$1, $mode: the guest runs on"
		else
			echo "# $mode: $(grep -cE 'PAGE ACCESS|Singlestep|Breakpoint|CPUID|Debug|register|Descriptor' "$dir/out") events"
			ok "$1, $mode"
		fi
	done <<'END'
write 0 PAGE ACCESS: rw- for GFN .*fault with gla: y
exec 0 PAGE ACCESS: --x for GFN
breakpoint 0
altp2m_write -1 Singlestep: rip=
altp2m_exec -1 PAGE ACCESS: --x for GFN .*altp2m view 1
altp2m_write_no_gpt -1 Singlestep: rip=
debug 0
cpuid 0 CPUID executed: rip=
desc_access 0
write_ctrlreg_cr4 0
END
}

: > "$dir/guest"
if command -v "${QEMU%% *}" > /dev/null; then echo 1..20; else echo 1..10; fi
"$guestward" boot --kernel="$cache/kernel" --modules="$cache/modules" -- sh -c "$load" > "$dir/guest" 2>&1 &
pid=$!
runs_on || echo "# the guest has not started"
modes boot
leave
command -v "${QEMU%% *}" > /dev/null || exit 0

printf '%s\n' "$load" > "$dir/load.sh"
"$guestward" boot --kernel="$cache/kernel" --modules="$cache/modules" --file="$dir/load.sh:/load.sh" --save-initrd="$dir/initrd" -- \
	sh /load.sh > /dev/null 2>&1 || { echo "Bail out! no initrd"; exit 1; }
: > "$dir/guest"
# shellcheck disable=SC2086
"$guestward" run -- $QEMU -accel kvm -nodefaults -m 256 -smp "${CPUS:-2}" -display none -serial stdio -no-reboot \
	-kernel "$cache/kernel" -initrd "$dir/initrd" -append 'console=ttyS0 quiet panic=-1' < /dev/null > "$dir/guest" 2>&1 &
# The domain is QEMU itself, below guestward run.
for _ in $(seq 100); do
	# shellcheck disable=SC2013
	for p in $(sed -n 's|.* @guestward/\([0-9]*\)$|\1|p' /proc/net/unix | sort -un); do
		grep -aq "$dir/initrd" "/proc/$p/cmdline" 2> /dev/null && pid=$p
	done
	[ -n "$pid" ] && break
	sleep 0.2
done
runs_on || { echo "# the guest under QEMU has not started"; tail -n 5 "$dir/guest" | sed 's/^/# /'; }
modes QEMU
