#!/bin/sh
# SPDX-License-Identifier: MIT
# Boots Debian's kernel and looks at what comes out. TAP on standard output; one row a behaviour.
# Usage: boot_test.sh GUESTWARD CACHE [SUITE]   SUITE: quick (default), all; generic, 6.12: other kernels, a few rows;
#        interp: a few rows with the interpreter. GUESTWARD_ENGINE chooses the engine of the others, as always.
set -u
gw=$1 cache=$2 suite=${3:-quick}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0
k=$cache/linux-image-cloud-amd64
[ "$suite" = generic ] && k=$cache/linux-image-amd64
# Where the machine's package sources have a 6.12: tools/fetch-kernel linux-image-6.12...-cloud-amd64
[ "$suite" = 6.12 ] && k=$(ls -d "$cache"/linux-image-6.12* 2>/dev/null | head -n 1)

ok() { n=$((n + 1)); echo "ok $n - $1"; }
not_ok() { n=$((n + 1)); echo "not ok $n - $1"; sed 's/^/# /' "$dir/out" | tail -n 40; }
check() { # NAME STATUS-WANTED STATUS [GREP-PATTERN...]: every pattern must be in the output
	name=$1 want=$2 got=$3; shift 3
	if [ "$want" != "$got" ]; then echo "# exit status $got, wanted $want"; not_ok "$name"; return; fi
	for p in "$@"; do
		grep -q -- "$p" "$dir/out" || { echo "# no line has: $p"; not_ok "$name"; return; }
	done
	ok "$name"
}
boot() { timeout -k 5 "${LIMIT:-240}" "$gw" boot $engine --kernel="$k/kernel" --modules="$k/modules" "$@" </dev/null >"$dir/out" 2>&1; }

if [ ! -e "$k/kernel" ]; then
	echo "1..0 # SKIP no kernel for '$suite' in $cache: see tools/fetch-kernel"
	exit 0
fi

[ "$suite" = interp ] && engine=--engine=interp || engine=

boot; check 'the default guest shows itself and powers off' 0 $? 'Linux' 'Power down'
if [ "$suite" = generic ] || [ "$suite" = 6.12 ] || [ "$suite" = interp ]; then
	boot --cpus=2 -- sh -c 'uname -r; nproc; exit 3'; check "two CPUs, and a command's exit status comes back" 3 $? 'amd64' '^2'
	echo "1..$n"
	exit 0
fi
boot --stats -- sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7'; st=$?
share=$(sed -n 's/.*engine: .*: \([0-9.]*\) % translated.*/\1/p' "$dir/out")
check "--stats says how much ran translated (${share:-nothing} %)" 7 $st 'engine: translate' '% translated'
awk -v s="$share" 'BEGIN { exit !(s > 99) }'; st=$?; check 'and it is more than 99 %' 0 $st
grep -q 'pv_eois [1-9]' "$dir/out"; st=$?; check 'the stock kernel ends interrupts by clearing its byte (PV EOI)' 0 $st
# The map for perf has the name that perf looks for; what stands there is replaced, a link never followed.
echo precious >"$dir/victim"
GUESTWARD_ENGINE=perf timeout -k 5 240 sh -c 'echo $$ >"$0/pid"; ln -s "$0/victim" /tmp/perf-$$.map; exec "$@"' "$dir" \
	"$gw" boot --kernel="$k/kernel" --modules="$k/modules" -- true </dev/null >"$dir/out" 2>&1; st=$?
map=/tmp/perf-$(cat "$dir/pid").map
{ cat "$dir/victim"; stat -c %a "$map"; grep -c '^[0-9a-f]* [0-9a-f]* guest_kernel_ffffffff[0-9a-f]*$' "$map"; head -n 1 "$map"; } >"$dir/out" 2>&1
rm -f "$map"
check 'translated code is named for perf' 0 $st '^precious$' '^600$' '^[0-9]\{4,\}$' guestward_routines
boot -- sh -c 'echo from the guest; exit 7'; check "a command's exit status comes back" 7 $? 'from the guest'
boot --cpus=2 -- sh -c 'echo cpus=$(grep -c ^processor /proc/cpuinfo); exit $(grep -c ^processor /proc/cpuinfo)'
check 'two CPUs come up' 2 $? 'cpus=2'
want=$(seq 1 20000 | md5sum | cut -d' ' -f1)
boot --cpus=4 -- sh -c 'for i in 1 2 3 4 5 6 7 8; do (seq 1 20000 | md5sum) & done; wait'
st=$?
count=$(grep -c "$want" "$dir/out")
[ "$count" = 8 ] || echo "# $count of 8 sums are right"
if [ $st = 0 ] && [ "$count" = 8 ]; then ok 'four CPUs compute the same sums as the host'; else not_ok 'four CPUs compute the same sums as the host'; fi
boot --memory=128 -- sh -c 'awk "/MemTotal/ { exit !(\$2 > 80000 && \$2 < 132000) }" /proc/meminfo'
check '128 MiB are seen as such' 0 $?

dd if=/dev/zero of="$dir/disk" bs=1M count=4 2>/dev/null
printf 'host was here' | dd of="$dir/disk" conv=notrunc 2>/dev/null
boot --disk="$dir/disk" -- sh -c 'dd if=/dev/vda bs=13 count=1 2>/dev/null; echo; printf guest | dd of=/dev/vda bs=1 seek=1048576 conv=notrunc,fsync 2>/dev/null'
check 'a disk is read' 0 $? 'host was here'
dd if="$dir/disk" bs=1 skip=1048576 count=5 2>/dev/null > "$dir/out"; check 'and what the guest wrote is in the file' 0 0 guest
boot --disk="$dir/disk,ro" -- sh -c 'printf x | dd of=/dev/vda bs=1 conv=notrunc,fsync 2>/dev/null && exit 1; exit 0'
check 'a read-only disk refuses to be written' 0 $?

head -c 100000 /dev/urandom > "$dir/noise"
"$gw" boot --kernel="$dir/noise" </dev/null >"$dir/out" 2>&1; st=$?
if [ $st != 0 ] && [ "$(wc -l < "$dir/out")" = 1 ]; then ok 'noise is no kernel, said in one line'; else not_ok 'noise is no kernel, said in one line'; fi
head -c 3000000 "$k/kernel" > "$dir/short"
"$gw" boot --kernel="$dir/short" </dev/null >"$dir/out" 2>&1; st=$?
if [ $st != 0 ] && [ "$(wc -l < "$dir/out")" = 1 ]; then ok 'a kernel cut short is refused in one line'; else not_ok 'a kernel cut short is refused in one line'; fi
timeout 10 "$gw" boot --kernel="$k/kernel" --modules="$k/modules" --memory=8 </dev/null >"$dir/out" 2>&1; st=$?
if [ $st != 0 ] && [ $st != 124 ]; then ok 'too little memory is refused'; else not_ok 'too little memory is refused'; fi

# A guest that spins cannot hold the program against a signal.
"$gw" boot --kernel="$k/kernel" --modules="$k/modules" -- sh -c 'echo spinning; while :; do :; done' </dev/null >"$dir/out" 2>&1 &
pid=$!
for i in $(seq 1 200); do grep -q spinning "$dir/out" && break; sleep 0.2; done
"$gw" dump > "$dir/list" 2>&1
"$gw" dump "$pid" --walk=ffffffff81000000 > "$dir/dump" 2>&1; st=$?
mv "$dir/out" "$dir/spin"; mv "$dir/dump" "$dir/out"
check 'dump shows registers, code and a page walk of a running guest' 0 $st '^rip=' 'walk: PML4' 'translation: gva=ffffffff81000000'
rip=$(sed -n 's/^rip=\([0-9a-f]*\) .*/\1/p' "$dir/out")
"$gw" dump "$pid" --engine > "$dir/out" 2>&1; check 'dump shows how much ran translated' 0 $? 'engine: translate' '% translated'
# The guest spins: what is at RIP now is hot.
if "$gw" dump "$pid" --block="$rip" > "$dir/out" 2>&1; then
	grep -q 'no translated code' "$dir/out" && "$gw" dump "$pid" --block="$("$gw" dump "$pid" | sed -n 's/^rip=\([0-9a-f]*\) .*/\1/p')" > "$dir/out" 2>&1
	check 'dump shows the translation of the block that runs' 0 0 'block: unit' 'body:' 'tr_left'
else
	not_ok 'dump shows the translation of the block that runs'
fi
"$gw" dump "$pid" --block=1 > "$dir/out" 2>&1; check 'and says where there is none' 0 $? 'no translated code'
mv "$dir/list" "$dir/out"; check 'dump lists the process' 0 0 "process $pid" 'vm=0 cpu=0'
"$gw" dump 1 > "$dir/out" 2>&1; check 'a process without VMs is said to have none' 1 $? 'has no VM'
kill -TERM $pid
for i in $(seq 1 30); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done
if kill -0 $pid 2>/dev/null; then not_ok 'SIGTERM ends a spinning guest'; kill -9 $pid; else ok 'SIGTERM ends a spinning guest'; fi
wait $pid 2>/dev/null

boot --private -- sh -c 'cat /sys/devices/system/clocksource/clocksource0/current_clocksource; echo private; exit 9'
check 'a guest whose memory is all private boots and runs a command' 9 $? '^tsc' 'private'
boot --private --disk="$dir/disk"; check 'a disk for a private guest is refused' 2 $? 'cannot reach'
rm -f "$dir/spin"
timeout 90 "$gw" boot --private --kernel="$k/kernel" --modules="$k/modules" -- sh -c 'echo spinning; while :; do :; done' </dev/null >"$dir/spin" 2>&1 &
pid=$!
for i in $(seq 1 300); do grep -qs spinning "$dir/spin" && break; sleep 0.2; done
# A bare machine has no ps. The fourth field of stat is the parent; the second may hold spaces and ends with a parenthesis.
child=$(for f in /proc/[0-9]*/stat; do sed -n "s/^\([0-9]*\) .*) [A-Z] $pid .*/\1/p" $f 2>/dev/null; done | head -n 1)
"$gw" map "$child" > "$dir/out" 2>&1; check 'map shows that nothing of it is shared, and nothing there twice' 0 $? 'store=anonymous' ' shared=0 ' 'present_shared=0 both=0'
"$gw" dump "$child" > "$dir/out" 2>&1; check 'dump shows registers of a private guest, and no code' 0 $? '^rip=' 'is not in memory'
"$gw" map 1 > "$dir/out" 2>&1; check 'map of a process without VMs is refused' 1 $? 'has no VM'
kill -TERM $pid; wait $pid 2>/dev/null

for option in --no-chain --no-tlb; do
	boot $option -- sh -c 'echo $((6 * 7)); exit 4'; check "$option changes nothing but speed" 4 $? '^42'
done
"$gw" boot --engine=fast --kernel="$k/kernel" </dev/null >"$dir/out" 2>&1; check 'an engine that does not exist is refused' 2 $? fast
if [ "$suite" = all ]; then
	boot --decompress=guest -- sh -c 'exit 5'; check "the kernel's own decompressor works" 5 $?
	boot --protocol=pvh -- sh -c 'exit 6'; check 'the kernel enters by PVH' 6 $?
fi
echo "1..$n"
