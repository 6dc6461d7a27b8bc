#!/bin/sh
# SPDX-License-Identifier: MIT
# Suspend to memory of a stock guest that is locked unassisted, under QEMU with its SeaBIOS: the guest suspends, the monitor wakes
# it, and after that the lock still holds and what a policy allows still works. Before it suspends, an attack on the
# firmware's variables in the shadow area. The attacks need the kernel's headers (tools/fetch-headers, or GW_KERNEL_HEADERS=DIR).
# Usage: s3_test.sh GUESTWARD CACHE ATTACK-SOURCE PACKAGE:POLICY:MACHINE:CPUS:ROUNDS...     TAP on standard output.
# ROUNDS `reboots`: the guest restarts the machine instead, and each of its kernels must be locked.
# QEMU chooses the program, GUESTWARD_ENGINE the engine.
set -u
gw=$1 cache=$2 attack=$3
shift 3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap '' PIPE
n=0
qemu=${QEMU:-qemu-system-x86_64}

if ! command -v "$qemu" >/dev/null; then
	echo "1..0 # SKIP no $qemu"
	exit 0
fi

cat >"$dir/start" <<'END'
echo 0 >/proc/sys/kernel/kptr_restrict
attack() { insmod /attack.ko what=$1 target=0x$2 room=$3 && rmmod attack; }
symbol() { awk -v s=$1 '$3 == s { print $1; exit }' /proc/kallsyms; }
new() { rmmod virtio_rng; insmod /lib/modules/virtio_rng.ko && echo "module loaded"; }
cat /sys/power/mem_sleep
if grep -q la57 /proc/cpuinfo; then direct=ff11000000; else direct=ffff888000; fi
[ -e /attack.ko ] && attack flip-pte ${direct}0e9000 1024 && dmesg | grep 'attack flip-pte:' && dmesg -c >/dev/null
i=0
while [ $i -lt ROUNDS ]; do
	i=$((i + 1))
	echo "sleeps $i"
	echo mem >/sys/power/state && echo "woke $i" || echo "did not sleep"
done
echo "cpus $(cat /sys/devices/system/cpu/online)"
t=/sys/kernel/tracing
mount -t tracefs t $t
for key in kernel/sched_schedstats kernel/bpf_stats_enabled; do echo 1 >/proc/sys/$key; echo 0 >/proc/sys/$key; done && echo "static keys"
echo 1 >$t/events/sched/sched_switch/enable; sleep 0.2; echo 0 >$t/events/sched/sched_switch/enable
grep -q sched_switch: $t/trace && echo tracepoint
new
dmesg | grep -iE 'oops|kernel bug|soft lockup|general protection'
if [ -e /attack.ko ]; then
	for s in linux_banner __x64_sys_swapon; do attack flip-pte $(symbol $s) 8; done
	insmod /attack.ko what=clear-wp
	dmesg | grep 'attack '
fi
echo "end of the test"
reboot -f
END

has_attack=
build() { # KERNEL
	headers=${GW_KERNEL_HEADERS:-$1/build}
	has_attack=
	mkdir -p "$dir/module"
	[ -e "$headers/Makefile" ] && cp "$attack"/*.c "$attack"/Makefile "$dir/module" &&
		make -s -C "$headers" M="$dir/module" CONFIG_DEBUG_INFO_BTF_MODULES= modules >"$dir/make" 2>&1 && has_attack=yes
}

# Awake again as soon as it sleeps; asked at other times the monitor says no.
machine() { # KERNEL POLICY MACHINE CPUS
	rm -f "$dir"/m.*
	mkfifo "$dir/m.in" "$dir/m.out"
	GUESTWARD_HEKI="unassisted,$2" timeout -k 3 "${LIMIT:-100}" "$gw" run --log="$dir/log" -- "$qemu" -accel kvm -machine "$3" -cpu max -nodefaults -m 192 \
		-smp "$4" -display none -serial stdio -no-reboot -chardev pipe,id=m,path="$dir/m" -mon m -kernel "$1/kernel" -initrd "$dir/initrd" \
		-append 'console=ttyS0 quiet panic=-1 nokaslr' </dev/null >"$dir/out" 2>&1 &
	pid=$!
	cat "$dir/m.out" >/dev/null &
	(exec 3>"$dir/m.in"; while kill -0 $pid 2>/dev/null; do sleep 0.3; echo system_wakeup >&3; done) 2>/dev/null &
	wait $pid
	got=$?
	wait
	cat "$dir/log" >>"$dir/out"
	return $got
}

has() { grep -qE -- "$1" "$dir/out" || { echo "# no line has: $1"; bad=1; }; }
has_not() { ! grep -qE -- "$1" "$dir/out" || { echo "# a line has: $1"; bad=1; }; }
row() { # PACKAGE POLICY MACHINE CPUS ROUNDS
	n=$((n + 1)) bad=0 kernel=$cache/$1
	name="$1 under $2 sleeps and wakes, $3, $4 CPUs; the lock holds afterwards"
	[ -e "$kernel/kernel" ] || { echo "ok $n - $name # SKIP no kernel: tools/fetch-kernel"; return; }
	build "$kernel"
	sed "s/ROUNDS/$5/" "$dir/start" >"$dir/script"
	rm -f "$dir/log" "$dir/initrd"
	"$gw" boot --kernel="$kernel/kernel" --modules="$kernel/modules" ${has_attack:+--file="$dir/module/attack.ko:/attack.ko"} --file="$dir/script:/script" \
		--save-initrd="$dir/initrd" -- sh /script >"$dir/out" 2>&1
	machine "$kernel" "$2" "$3" "$4" || { echo "# exit status $?"; bad=1; }
	has 'locked the guest kernel'
	has '\[deep\]'
	for i in $(seq "$5"); do has "^woke $i"; done
	[ "$(grep -c 'firmware went on to gpa 9[0-9a-f]*$' "$dir/out")" = "$5" ] || { echo "# not woken by firmware $5 times"; bad=1; }
	if [ "$4" = 1 ]; then has '^cpus 0'; else has "^cpus 0-$(($4 - 1))"; fi
	has '^static keys'
	has '^tracepoint'
	has '^end of the test'
	has_not '[Oo]ops|kernel BUG|soft lockup|general protection|did not sleep'
	case $2 in
	*frozen*) has_not '^module loaded' ;;
	*) has '^module loaded' ;;
	esac
	if [ "$has_attack" ] && [ "${2#*frozen}" = "$2" ]; then
		[ "$(grep -c 'attack flip-pte: .*spare=works.*unchanged' "$dir/out")" = 3 ] || { echo '# not three attacks that change nothing'; bad=1; }
		has 'attack clear-wp: .*WP is 1'
		has 'denied write .* gpa e9[0-9a-f]{3} '
		has 'Blocked CR0'
		has_not ': CHANGED'
	fi
	if [ $bad = 0 ]; then echo "ok $n - $name"; else echo "not ok $n - $name"; tail -n 40 "$dir/out" | tr -d '\r' | sed 's/^/# /'; fi
}
reboots() { # PACKAGE POLICY MACHINE CPUS
	n=$((n + 1)) bad=0 kernel=$cache/$1
	name="$1 under $2 restarts, $3, $4 CPUs; each kernel is locked"
	[ -e "$kernel/kernel" ] || { echo "ok $n - $name # SKIP no kernel: tools/fetch-kernel"; return; }
	rm -f "$dir/log" "$dir/initrd"
	echo 'echo up; reboot -f' >"$dir/script"
	"$gw" boot --kernel="$kernel/kernel" --modules="$kernel/modules" --file="$dir/script:/script" --save-initrd="$dir/initrd" -- sh /script >"$dir/out" 2>&1
	: >"$dir/out"
	GUESTWARD_HEKI="unassisted,$2" timeout -k 3 60 "$gw" run --log="$dir/log" -- "$qemu" -accel kvm -machine "$3" -cpu max -nodefaults -m 192 -smp "$4" \
		-display none -serial stdio -kernel "$kernel/boot/"vmlinuz* -initrd "$dir/initrd" -append 'console=ttyS0 quiet panic=-1' \
		</dev/null >"$dir/out" 2>&1 &
	pid=$!
	while kill -0 $pid 2>/dev/null && [ "$(grep -c '^up' "$dir/out")" -lt 3 ]; do sleep 0.2; done
	kill $pid 2>/dev/null
	wait $pid
	cat "$dir/log" >>"$dir/out"
	[ "$(grep -c '^up' "$dir/out")" -ge 3 ] || { echo '# not three kernels'; bad=1; }
	[ "$(grep -c 'locked the guest kernel' "$dir/out")" -ge 3 ] || { echo '# not three locks'; bad=1; }
	if [ $bad = 0 ]; then echo "ok $n - $name"; else echo "not ok $n - $name"; tail -n 40 "$dir/out" | tr -d '\r' | sed 's/^/# /'; fi
}

for r in "$@"; do
	IFS=:
	# shellcheck disable=SC2086
	set -- $r
	unset IFS
	if [ "$5" = reboots ]; then reboots "$@"; else row "$@"; fi
done
echo "1..$n"
