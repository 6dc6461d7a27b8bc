#!/bin/sh
# SPDX-License-Identifier: MIT
# The example monitor against a stock kernel: it names the programs that the guest starts, goes away, and the guest runs on.
# Usage: watch_test.sh WATCH GUESTWARD CACHE
set -u
watch=$1
guestward=$2
cache=$3
if [ ! -e "$cache/kernel" ]; then
	echo "1..0 # SKIP no kernel: tools/fetch-kernel"
	exit 0
fi
dir=$(mktemp -d)
: > "$dir/guest"
# shellcheck disable=SC2016
"$guestward" boot --kernel="$cache/kernel" --modules="$cache/modules" --cpus=2 -- sh -c '
	i=0; while [ $i -lt 100000 ]; do i=$((i+1)); busybox true number $i; echo tick $i; done' > "$dir/guest" 2>&1 &
pid=$!
trap 'kill $pid 2> /dev/null; wait $pid 2> /dev/null; rm -rf "$dir"' EXIT

ticks() { grep -c '^tick' "$dir/guest"; }
runs_on() {
	before=$(ticks)
	for _ in $(seq 120); do
		sleep 0.25
		[ "$(ticks)" -gt "$before" ] && return 0
	done
	return 1
}
n=0
check() { # NAME STATUS
	n=$((n+1))
	[ "$2" = 0 ] && echo "ok $n - $1" && return
	echo "not ok $n - $1"
	for f in out guest; do tail -n 5 "$dir/$f" | sed "s/^/# /"; done
}

echo "1..9"
runs_on; check "the guest runs" $?
timeout 60 "$watch" $pid --exec --count=8 > "$dir/out" 2>&1; check "it has seen eight programs start, and leaves" $?
[ "$(grep -Ec 'execve .*busybox true number [0-9]+$' "$dir/out")" -ge 7 ]; check "their names and arguments are right" $?
runs_on; check "the guest runs on" $?
timeout 60 "$watch" $pid --syscalls --count=500 > "$dir/out" 2>&1 && [ "$(grep -c ' syscall ' "$dir/out")" -gt 300 ]
check "all system calls, a second time" $?
runs_on; check "and the guest runs on" $?
timeout 60 "$guestward" watch --exec --count=5 $pid > "$dir/out" 2>&1 && [ "$(grep -Ec 'execve .*busybox true number [0-9]+$' "$dir/out")" -ge 4 ]
check "guestward watch --exec names them too" $?
timeout 60 "$guestward" watch --exec --json --count=3 $pid > "$dir/out" 2>&1 &&
	[ "$(grep -Ec '^\{"cpu":[01],"cr3":"0x[0-9a-f]+","execve":"[^"]*","arguments":\[("[^"]*",?)*\]\}$' "$dir/out")" = 3 ]
check "and as JSON" $?
runs_on; check "and the guest still runs on" $?
