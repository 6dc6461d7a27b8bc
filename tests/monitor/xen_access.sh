#!/bin/sh
# SPDX-License-Identifier: MIT
# The unmodified xen-access of Debian's xen-utils-4.17 in all its modes against one VM of `guestward boot`, one after the other: each
# says what it should, ends cleanly on SIGINT, and the guest runs on afterwards.
# Usage: xen_access.sh GUESTWARD LIBRARIES CACHE
set -u
guestward=$1
libraries=$2
cache=$3
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
: > "$dir/guest"
# shellcheck disable=SC2016
"$guestward" boot --kernel="$cache/kernel" --modules="$cache/modules" -- sh -c '
	i=0; while [ $i -lt 100000 ]; do i=$((i+1)); busybox true; [ $((i % 20)) = 0 ] && echo tick $i; done' > "$dir/guest" 2>&1 &
pid=$!
trap 'kill $pid 2> /dev/null; wait $pid 2> /dev/null; rm -rf "$dir"' EXIT

ticks() { grep -c '^tick' "$dir/guest"; }
runs_on() {
	before=$(ticks)
	for _ in $(seq 60); do
		sleep 0.25
		[ "$(ticks)" -gt "$before" ] && return 0
	done
	return 1
}

n=0
ok() { n=$((n+1)); echo "ok $n - $1"; }
not_ok() { n=$((n+1)); echo "not ok $n - $1"; tail -5 "$dir/out" | sed 's/^/# /'; }

echo "1..10"
runs_on || echo "# the guest has not started"
# mode, what a line must match (empty: the guest does not do it by itself), exit status: debug_control of the last of 32 vCPUs
# is the status of the altp2m modes, and this guest has one.
while read -r mode status pattern; do
	LD_LIBRARY_PATH=$libraries timeout -s INT "${SECONDS_A_MODE:-3}" stdbuf -oL "$tool" $((pid)) "$mode" > "$dir/out" 2>&1 < /dev/null &
	xa=$!
	wait $xa
	case $(grep -c 'xenaccess exit code' "$dir/out") in 0) not_ok "$mode: ends"; continue ;; esac
	if ! grep -q "xenaccess exit code $status" "$dir/out"; then
		not_ok "$mode: exit status"
	elif [ -n "$pattern" ] && ! grep -Eq "$pattern" "$dir/out"; then
		not_ok "$mode: sees $pattern"
	elif ! runs_on; then
		not_ok "$mode: the guest runs on"
	else
		echo "# $mode: $(grep -cE 'PAGE ACCESS|Singlestep|Breakpoint|CPUID|Debug|register|Descriptor' "$dir/out") events"
		ok "$mode"
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
