#!/bin/sh
# SPDX-License-Identifier: MIT
# Long life under a lock: a thousand rounds of modules, static keys, tracepoints, kprobes, the function tracer, BPF programs and CPUs that go
# and come, on both kernels under each policy; systemd on both; attacks on both engines. Under frozen a module and
# the function tracer, which needs new code, are refused each time.
# Usage: stress.sh GUESTWARD CACHE SOURCE [ROUNDS]     SOURCE: the checkout. TAP on standard output.
set -u
gw=$1 cache=$2 source=$3 rounds=${4:-1000}
here=$source/tests/heki
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0
cc -O1 -static -o "$dir/in_guest" "$here/in_guest.c" || { echo 'Bail out! no static C library'; exit 1; }
cat >"$dir/life.sh" <<'END'
t=/sys/kernel/tracing c=/sys/devices/system/cpu/cpu1/online loaded=0 refused=0 traced=0 probed=0
mount -t tracefs t $t
echo do_sys_openat2 >$t/set_ftrace_filter
i=0
while [ $i -lt $1 ]; do
	i=$((i + 1))
	rmmod virtio_rng 2>/dev/null
	if insmod /lib/modules/virtio_rng.ko 2>/dev/null; then loaded=$((loaded + 1)); else refused=$((refused + 1)); fi
	for key in kernel/sched_schedstats kernel/bpf_stats_enabled; do echo 1 >/proc/sys/$key; echo 0 >/proc/sys/$key; done
	/in_guest filter 4 >/dev/null || { echo "round $i: a filter does not"; exit 1; }
	[ $((i % 10)) = 0 ] || continue
	echo 1 >$t/events/sched/sched_switch/enable
	echo function >$t/current_tracer
	cat /proc/uptime >/dev/null
	grep -q do_sys_openat2 $t/trace && traced=$((traced + 1))
	echo nop >$t/current_tracer
	echo 0 >$t/events/sched/sched_switch/enable
	echo 'p:x do_sys_openat2' >$t/kprobe_events && echo 1 >$t/events/kprobes/x/enable
	cat /proc/uptime >/dev/null
	grep -q 'x: (do_sys' $t/trace && probed=$((probed + 1))
	echo 0 >$t/events/kprobes/x/enable
	echo >$t/kprobe_events
	echo >$t/trace
	[ $((i % 50)) = 0 ] && echo 0 >$c && echo 1 >$c
done 2>/dev/null
dmesg | grep -iE 'oops|kernel bug|soft lockup|rcu.*stall'
echo "alive rounds=$i loaded=$loaded refused=$refused traced=$traced probed=$probed cpus=$(grep -c ^processor /proc/cpuinfo)"
END
life() { # PACKAGE POLICY LOADED TRACED
	kernel=$cache/$1
	n=$((n + 1))
	name="$rounds rounds on $1 under $2"
	[ -e "$kernel/kernel" ] || { echo "ok $n - $name # SKIP no kernel: tools/fetch-kernel"; return; }
	timeout -k 5 "${LIMIT:-3600}" "$gw" boot --kernel="$kernel/kernel" --modules="$kernel/modules" --cpus=2 --protect="heki,$2" --file="$dir/life.sh:/life.sh" \
		--file="$dir/in_guest:/in_guest" -- sh /life.sh "$rounds" </dev/null >"$dir/out" 2>&1
	got=$?
	if [ $got = 0 ] && grep -qE "^alive rounds=$rounds loaded=$3 .*traced=$4 .*cpus=2" "$dir/out" && grep -q 'kernel locked' "$dir/out" &&
		! grep -qiE 'oops|kernel bug|soft lockup|rcu.*stall' "$dir/out"; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		echo "# exit status $got"
	fi
	tail -n 6 "$dir/out" | tr -d '\r' | cut -c1-200 | sed 's/^/# /'
}
for k in linux-image-cloud-amd64 linux-image-6.12-cloud-amd64; do
	life $k sealed-once "$rounds" $((rounds / 10))
	life $k mirrored "$rounds" $((rounds / 10))
	life $k frozen 0 0
done
"$here/systemd_test.sh" "$gw" "$cache" linux-image-cloud-amd64:frozen,lock-at=exec:/sbin/init linux-image-6.12-cloud-amd64:sealed-once \
	linux-image-6.12-cloud-amd64:frozen,lock-at=exec:/sbin/init linux-image-6.12-cloud-amd64:mirrored >"$dir/tap"
n=$((n + 1))
if grep -q '^not ok' "$dir/tap"; then echo "not ok $n - systemd under the other policies"; else echo "ok $n - systemd under the other policies"; fi
sed 's/^/# /' "$dir/tap"
for engine in interp translate; do
	n=$((n + 1))
	LIMIT=300 GUESTWARD_ENGINE=$engine "$here/s3_test.sh" "$gw" "$cache" "$source/guest/heki/attack" linux-image-cloud-amd64:sealed-once:pc:1:3 \
		linux-image-cloud-amd64:shield:q35:4:1 linux-image-cloud-amd64:mirrored:pc,smm=off:2:2 linux-image-amd64:sealed-once:q35:2:1 \
		linux-image-6.12-cloud-amd64:frozen:pc:4:2 linux-image-6.12-cloud-amd64:sealed-once:q35:2:1 \
		linux-image-cloud-amd64:frozen,clear-on-reset:pc:4:reboots linux-image-6.12-cloud-amd64:shield,clear-on-reset:q35:2:reboots >"$dir/tap"
	if grep -q '^not ok' "$dir/tap"; then echo "not ok $n - suspend to memory, $engine"; else echo "ok $n - suspend to memory, $engine"; fi
	sed 's/^/# /' "$dir/tap"
done
for k in linux-image-cloud-amd64 linux-image-6.12-cloud-amd64; do
	for engine in interp translate; do
		n=$((n + 1))
		GUESTWARD_ENGINE=$engine sh "$here/boot_test.sh" "$gw" "$cache" $k "$source/guest/heki/attack" stress >"$dir/tap"
		if grep -q '^not ok' "$dir/tap"; then echo "not ok $n - boot_test on $k, $engine"; else echo "ok $n - boot_test on $k, $engine"; fi
		sed 's/^/# /' "$dir/tap"
	done
done
echo "1..$n"
