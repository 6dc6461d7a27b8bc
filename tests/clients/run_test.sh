#!/bin/sh
# SPDX-License-Identifier: MIT
# `guestward run`: what it starts, what it refuses, and in how many words. TAP on standard output.
# Usage: run_test.sh GUESTWARD
set -u
gw=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0
check() { # NAME STATUS-WANTED STATUS [PATTERN]: and at most one line of complaint
	n=$((n + 1))
	if [ "$2" = "$3" ] && [ "$(wc -l <"$dir/err")" -le 1 ] && { [ $# -lt 4 ] || grep -q -- "$4" "$dir/out" "$dir/err"; }; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		echo "# status $3, wanted $2${4:+, and a line with: $4}"
		sed 's/^/# /' "$dir/out" "$dir/err"
	fi
}
run() { "$gw" run "$@" >"$dir/out" 2>"$dir/err"; }

run -- sh -c 'exit 5'; check "the program's status comes back" 5 $?
run sh -c 'echo "$0 $1"' a b; check 'its arguments are its own' 0 $? '^a b$'
run -- sh -c '[ -c /dev/kvm ] && [ -w /dev/kvm ] && echo there'; check 'it finds a device' 0 $? '^there$'
run -- sh -c 'sh -c "[ -c /dev/kvm ] && echo there"'; check 'and so do the programs it starts' 0 $? '^there$'
LD_PRELOAD=libm.so.6 run -- sh -c 'echo "$LD_PRELOAD"'; check 'another preloaded library stays' 0 $? 'shim.so:libm.so.6$'
run --log="$dir/log" --trace=all -- sh -c 'cd / && echo "$GUESTWARD_LOG $GUESTWARD_TRACE"'; check 'log and trace are passed on' 0 $? "^$dir/log all$"
run --cpuid=patch -- sh -c 'echo "$GUESTWARD_CPUID"'; check 'so is how CPUID is answered' 0 $? '^patch$'
"$gw" run --cpuid=no -- true >"$dir/out" 2>&1; st=$?; : >"$dir/err"; check 'a way of answering CPUID that there is not' 2 $st 'auto, fault, patch or off'
# In a /dev of its own, where the device is a file with a text.
if unshare -rm true 2>/dev/null; then
	# shellcheck disable=SC2016
	unshare -rm sh -c 'mount -t tmpfs none /dev && echo real >/dev/kvm && : >/dev/null && cat /dev/kvm && exec "$@"' sh \
		"$gw" run -- sh -c '[ -c /dev/kvm ] && ! cat /dev/kvm' >"$dir/out" 2>"$dir/err"
	check 'a device that the machine has loses' 0 $? '^real$'
	unshare -rm sh -c 'mount -t tmpfs none /dev && : >/dev/null && exec "$@"' sh "$gw" run -- sh -c '[ -c /dev/kvm ]' >"$dir/out" 2>"$dir/err"
	check 'and where there is none there is one' 0 $?
else
	echo "ok $((n += 1)) - a device that the machine has loses # SKIP no user namespaces"
fi
run -- no-such-program; check 'a program that is not there' 1 $? 'no-such-program'
run -- /etc/passwd; check 'a file that is no program' 1 $? 'passwd'
run; [ $? = 2 ]; st=$?; : >"$dir/err"; check 'no program at all is a mistake' 0 $st
if [ -x /bin/busybox ] && "$gw" run -- /bin/busybox true 2>"$dir/err"; then :; fi
if grep -q 'statically linked' "$dir/err"; then
	run -- /bin/busybox true; check 'a static program is refused' 1 $? 'statically linked'
	printf '#!/bin/busybox sh\nexit 0\n' >"$dir/script"; chmod +x "$dir/script"
	run -- "$dir/script"; check 'and so is a script for one' 1 $? 'statically linked'
	ln -sf /bin/busybox "$dir/busybox"
	printf '#!/usr/bin/env busybox\n' >"$dir/script"
	PATH=$dir:$PATH run -- "$dir/script"; check 'and a script for one that env finds' 1 $? 'statically linked'
fi
printf '#!%s\n' "$dir/script" >"$dir/script"; chmod +x "$dir/script"
run -- "$dir/script"; check 'a script that is its own interpreter' 1 $? 'levels of symbolic links\|ELOOP'
printf '#!/bin/sh\necho from a script\n' >"$dir/script"; chmod +x "$dir/script"
run -- "$dir/script"; check 'a script runs' 0 $? 'from a script'
cp /bin/true "$dir/theirs"; chmod 4755 "$dir/theirs"
if [ "$(id -u)" = 0 ] && chown 65534 "$dir/theirs" 2>/dev/null && chmod 4755 "$dir/theirs"; then
	run -- "$dir/theirs"; check 'a set-user-id program is refused' 1 $? "another user's rights"
fi
run --log="$dir/none/log" -- true; check 'a log that cannot be written is refused' 1 $? 'cannot write'
"$gw" help run >"$dir/out" 2>"$dir/err"; check 'help of a command is its --help' 0 $? '^Usage: guestward run '
"$gw" help nothing >"$dir/out" 2>"$dir/err"; check 'and there is none of what is not there' 2 $? "no command 'nothing'"
# What is missing is said with what it means; a low limit is the one that can be made here.
"$gw" check >"$dir/out" 2>"$dir/err"; check 'check finds that a VM can be made' 0 $? '^ok  *a VM with one CPU can be made$'
(ulimit -n 100 && "$gw" check) >"$dir/out" 2>"$dir/err"; check 'and that there are few files' 0 $? '^slower  *room.*ulimit'
GUESTWARD_ENGINE=interp "$gw" check >"$dir/out" 2>"$dir/err"; check 'and which engine is asked for' 0 $? '^engine   interpreter'
echo "1..$n"
