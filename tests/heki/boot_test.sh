#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian's own kernels, locked without their help: what must go on working, what a policy denies, and attacks from a module.
# The module needs the kernel's headers (tools/fetch-headers, or GW_KERNEL_HEADERS=DIR): without them a reported skip.
# Usage: boot_test.sh GUESTWARD CACHE PACKAGE ATTACK-SOURCE [all|quick|stress]     TAP on standard output.
# GUESTWARD_ENGINE chooses the engine, as always.
set -u
gw=$1 k=$2/$3 attack=$4 suite=${5:-all}
here=$(dirname "$0")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

ok() { n=$((n + 1)); echo "ok $n - $1"; }
not_ok() { n=$((n + 1)); echo "not ok $n - $1"; sed 's/^/# /' "$dir/out" | tail -n 30; }
check() { # NAME STATUS-WANTED STATUS PATTERN...: every pattern in the output; one that begins with ! in no line
	name=$1 want=$2 got=$3; shift 3
	if [ "$want" != "$got" ]; then echo "# exit status $got, wanted $want"; not_ok "$name"; return; fi
	for p in "$@"; do
		case $p in
		!*) ! grep -qE -- "${p#!}" "$dir/out" || { echo "# a line has: ${p#!}"; not_ok "$name"; return; } ;;
		*) grep -qE -- "$p" "$dir/out" || { echo "# no line has: $p"; not_ok "$name"; return; } ;;
		esac
	done
	ok "$name"
}
boot() { timeout -k 5 "${LIMIT:-240}" "$gw" boot --kernel="$k/kernel" --modules="$k/modules" "$@" </dev/null >"$dir/out" 2>&1; }

if [ ! -e "$k/kernel" ]; then
	echo "1..0 # SKIP no kernel in $k: tools/fetch-kernel needs the network once"
	exit 0
fi

# What busybox has not: without a static C library its rows say so.
tool=
${CC:-cc} -O1 -static -o "$dir/in_guest" "$here/in_guest.c" >/dev/null 2>&1 && tool="--file=$dir/in_guest:/in_guest"

life='t=/sys/kernel/tracing; mount -t tracefs t $t
for key in kernel/sched_schedstats kernel/bpf_stats_enabled; do echo 1 > /proc/sys/$key; echo 0 > /proc/sys/$key; done; echo static keys
echo 1 > $t/events/sched/sched_switch/enable; sleep 0.2; echo 0 > $t/events/sched/sched_switch/enable; grep -c sched_switch: $t/trace; echo tracepoint
echo do_sys_openat2 > $t/set_ftrace_filter; echo function > $t/current_tracer; cat /proc/uptime; grep -q do_sys_openat2 $t/trace && echo function tracer
echo nop > $t/current_tracer; : > $t/set_ftrace_filter
echo "p:x do_sys_openat2" > $t/kprobe_events; echo 1 > $t/events/kprobes/x/enable; cat /proc/uptime; echo 0 > $t/events/kprobes/x/enable
grep -q "x: (do_sys" $t/trace && echo kprobe
rmmod virtio_rng && insmod /lib/modules/virtio_rng.ko && echo module
if [ -e /in_guest ]; then /in_guest filter 20; else echo filters filter; fi
dmesg | grep -iE "oops|kernel bug|soft lockup"; echo alive'
# shellcheck disable=SC2086
boot --protect=heki $tool -- sh -c "$life"
check 'locked: static keys, tracepoints, function tracer, kprobe, modules and BPF filters work' 0 $? 'static keys' '^tracepoint' 'function tracer' \
	'^kprobe' '^module' 'filters filter' '^alive' 'kernel locked' 'denied: 0 writes, 0 executions' 'patched [1-9]' '!soft lockup|[Oo]ops'
if [ "$suite" != quick ]; then
boot --protect=heki,mirrored $tool -- sh -c "$life"
check 'the same under mirrored' 0 $? '^alive' 'function tracer' '^module' 'denied: 0 writes, 0 executions'
boot --protect=heki --cpus=2 -- sh -c 'c=/sys/devices/system/cpu/cpu1/online; for i in 1 2; do echo 0 > $c; echo 1 > $c; done; echo cpus $(grep -c ^processor /proc/cpuinfo)'
check 'a CPU goes off and comes back while pins hold' 0 $? 'cpus 2' 'kernel locked' 'register writes' 'denied: 0 writes, 0 executions, 0 reads, 0 by walks, 0 by the hypervisor, 0 register'
fi
new='rmmod virtio_rng; insmod /lib/modules/virtio_rng.ko'
# shellcheck disable=SC2086
boot --protect=heki,frozen $tool -- sh -c "$life"
check 'frozen: what is there can be patched and traced; a kprobe and a module are refused, and nothing hangs' 0 $? 'static keys' '^tracepoint' \
	'Operation not permitted' 'filters filter' '^alive' '!^module|^kprobe' 'sealed 0,' '!soft lockup|[Oo]ops'
if [ "$suite" != quick ]; then
boot --protect=heki,frozen,lock-at=init -- sh -c 'lsmod; echo alive'
check 'frozen from the first program on: the modules of the initrd fail at once, not for ever' 0 $? 'Operation not permitted' '^alive' 'sealed 0,'
boot --protect=heki,frozen,lock-at=exec:/tmp/p -- sh -c "$new && echo before; cp /bin/busybox /tmp/p; /tmp/p x; $new || echo after"
check 'lock-at=exec: locked when that program starts' 0 $? '^before' '^after' 'Operation not permitted'
boot --protect=heki,frozen,lock-at=seconds:9999 -- sh -c "$new && echo loaded"
check 'lock-at=seconds: not before' 0 $? '^loaded' 'never ready'
boot --protect=heki,frozen --on-denial=stop -- sh -c "$new; echo alive"
check 'on-denial=stop ends the machine there' 3 $? 'stopped at a denied access' '!^alive'
boot -- sh -c 'echo alive'; check 'nothing is asked for, nothing is told' 0 $? '^alive' '!heki'
boot --protect=heki -- reboot -f; check 'a reset by the guest ends the machine as without protection' 4 $? 'the guest reset the machine' 'kernel locked'
if [ "$tool" ]; then
	boot --memory=768 "$tool" --file="$k/kernel:/vmlinuz" -- /in_guest kexec /vmlinuz 'console=ttyS0 panic=-1'
	check 'kexec starts another kernel without protection' 4 $? 'kexec: loaded' 'Unable to mount root'
	boot --memory=768 "$tool" --protect=heki --file="$k/kernel:/vmlinuz" -- /in_guest kexec /vmlinuz 'console=ttyS0 panic=-1'
	check 'and with it ends at the first pin: reported, no other kernel' 3 $? 'kexec: loaded' 'denied: CPU 0: write of [0-9a-f]* to CR0' '!Unable to mount'
	boot --memory=768 "$tool" --protect=heki,frozen --file="$k/kernel:/vmlinuz" -- /in_guest kexec /vmlinuz 'console=ttyS0 panic=-1'
	check 'under frozen at the first instruction of its own' 3 $? 'kexec: loaded' 'denied: CPU 0: execution' '!Unable to mount'
fi
boot --protect=heki,lock-at=exec: -- true; check 'a moment without a name is refused' 2 $? 'lock-at'
boot --protect=heki,nonsense -- true; check 'an unknown word is refused' 2 $? 'nonsense'
boot --protect=sgx -- true; check 'so is an unknown protection' 2 $? 'does not know'
fi

# Seen from beside it: the live log and the picture. The guest ends by itself.
"$gw" boot --kernel="$k/kernel" --modules="$k/modules" --protect=heki -- sh -c 'sleep 5' </dev/null >"$dir/guest" 2>&1 &
pid=$!
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	sleep 0.5
	"$gw" map --permissions $pid >"$dir/out" 2>&1 && grep -q '^locked' "$dir/out" && break
done
check 'map --permissions shows what is sealed' 0 $? '^locked' 'XXXX' 'X  code: read and execute +[1-9]' 'r  constants: read only +[1-9]'
"$gw" map --svg="$dir/map.svg" $pid >"$dir/out" 2>&1 && grep -c '<rect' "$dir/map.svg" >"$dir/out" && tail -n 1 "$dir/map.svg" >>"$dir/out"
check 'and as a file' 0 $? '^[0-9][0-9]+$' '^</svg>$'
"$gw" watch --once $pid >"$dir/out" 2>&1; check 'watch shows the log' 0 $? 'locked +cpu 0 [0-9]+ pages of text'
"$gw" watch --once --json $pid >"$dir/out" 2>&1; check 'also as JSON' 0 $? '^\{"seq":1,"kind":"' '"sha256":"[0-9a-f]*"\}$'
wait $pid
"$gw" watch --once $pid >"$dir/out" 2>&1; check 'a process that has ended cannot be watched' 1 $? 'no VM to watch'

attacks() { # NAME [WORDS]
	GW_KERNEL_HEADERS="${GW_KERNEL_HEADERS:-$k/build}" sh "$here/attack.sh" "$gw" "$k" "$attack" ${2:-heki} >"$dir/out" 2>&1
	got=$?
	if [ $got = 77 ]; then
		n=$((n + 1))
		echo "ok $n - $1 # SKIP no headers that build the module: tools/fetch-headers"
	else
		check "$1" 0 $got
	fi
}
build() { # DIRECTORY NAME: $dir/NAME.ko
	mkdir -p "$dir/$2" && cp "$1"/*.c "$1"/Makefile "$dir/$2" &&
		make -s -C "${GW_KERNEL_HEADERS:-$k/build}" M="$dir/$2" CONFIG_DEBUG_INFO_BTF_MODULES= modules >"$dir/out" 2>&1 && mv "$dir/$2/$2.ko" "$dir"
}
store='echo 0 >/proc/sys/kernel/kptr_restrict; for s in linux_banner __x64_sys_swapon; do
insmod /attack.ko what=flip-pte target=0x$(awk -v s=$s "\$3 == s { print \$1; exit }" /proc/kallsyms) room=8; rmmod attack; done
insmod /attack.ko what=clear-wp; dmesg | grep -E "attack |heki:"; echo alive'
if [ -e "${GW_KERNEL_HEADERS:-$k/build}/Makefile" ] && build "$attack" attack && build "$attack/../assist" heki_assist; then
	boot --file="$dir/attack.ko:/attack.ko" --file="$dir/heki_assist.ko:/assist.ko" -- sh -c "insmod /assist.ko; rmmod heki_assist && echo unloaded; $store"
	check 'a module in the guest locks its kernel by hypercalls and stays' 0 $? 'heki: [1-9][0-9]+ pages of code and [1-9][0-9]+ of constants closed' \
		'spare=works .*unchanged' 'WP is 1' '^alive' '!CHANGED|^unloaded'
	if [ "$suite" != quick ] && command -v qemu-system-x86_64 >/dev/null; then
		"$gw" boot --kernel="$k/kernel" --modules="$k/modules" --file="$dir/attack.ko:/attack.ko" --save-initrd="$dir/initrd" -- sh -c "$store; poweroff -f"
		GUESTWARD_HEKI=unassisted timeout 100 "$gw" run --log="$dir/log" -- qemu-system-x86_64 -accel kvm -cpu max -nodefaults -m 192 -display none \
			-serial stdio -no-reboot -kernel "$k/kernel" -initrd "$dir/initrd" -append 'console=ttyS0 quiet panic=-1' </dev/null >"$dir/out" 2>&1
		got=$?
		cat "$dir/log" >>"$dir/out"
		check 'GUESTWARD_HEKI locks the guest of an unmodified QEMU, with KASLR' 0 $got 'locked the guest kernel' 'spare=works .*unchanged' 'WP is 1' \
			'alive' 'Blocked CR0' 'denied write' '!CHANGED'
	fi
else
	n=$((n + 1))
	echo "ok $n - modules in the guest # SKIP no headers that build them: tools/fetch-headers"
fi
attacks 'attacks from a module: all succeed without protection, none with it'
[ "$suite" = stress ] && attacks 'frozen does not load the module' heki,frozen
echo "1..$n"
