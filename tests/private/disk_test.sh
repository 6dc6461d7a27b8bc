#!/bin/sh
# SPDX-License-Identifier: MIT
# A stock kernel whose memory is all private, with disks: through the guest module that shares one block of memory by hypercall.
# Usage: disk_test.sh GUESTWARD CACHE BUILD-GUEST-MODULE. TAP on standard output.
set -u
gw=$1 cache=$2 build=$3
k=$cache/linux-image-cloud-amd64
n=0
[ -e "$k/kernel" ] || { echo "1..0 # SKIP no kernel in $cache: see tools/fetch-kernel"; exit 0; }
GUESTWARD_CACHE=$cache "$build" >/dev/null 2>&1; st=$?
[ $st != 77 ] || { echo "1..0 # SKIP no kernel headers here to build the guest module with"; exit 0; }
[ $st = 0 ] || { echo "1..1"; echo "not ok 1 - the guest module builds"; exit 1; }
dir=$(mktemp -d)
pid=
trap 'rm -rf "$dir"; [ -z "$pid" ] || kill "$pid" 2>/dev/null' EXIT

check() { # NAME STATUS-WANTED STATUS [PATTERN...]: every pattern must be in the output
	name=$1 want=$2 got=$3; shift 3
	n=$((n + 1))
	for p in "$@"; do
		grep -q -- "$p" "$dir/out" || { echo "# no line has: $p"; want=none; }
	done
	if [ "$want" = "$got" ]; then echo "ok $n - $name"; return; fi
	echo "not ok $n - $name"
	echo "# exit status $got, wanted $want"
	tail -n 30 "$dir/out" | sed 's/^/# /'
}
boot() { timeout -k 5 240 "$gw" boot --private --kernel="$k/kernel" --modules="$k/modules" "$@" </dev/null >"$dir/out" 2>&1; }

dd if=/dev/urandom of="$dir/disk" bs=1M count=8 2>/dev/null
want=$(dd if="$dir/disk" bs=1M count=4 2>/dev/null | md5sum | cut -d' ' -f1)
boot --cpus=2 --share-module="$k/gw_share.ko" --disk="$dir/disk" -- sh -c 'dd if=/dev/vda bs=256k count=16 2>/dev/null | md5sum
	seq 1 100000 >/tmp/numbers; md5sum </tmp/numbers; dd if=/tmp/numbers of=/dev/vda bs=64k seek=64 conv=notrunc,fsync 2>/dev/null
	head -c 16 /dev/hwrng | wc -c; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; exit 5'
check 'a private guest reads a disk, and takes random numbers from a device' 5 $? "^$want" '^16$' '^tsc'
numbers=$(seq 1 100000 | md5sum | cut -d' ' -f1)
dd if="$dir/disk" bs=64k skip=64 2>/dev/null | head -c "$(seq 1 100000 | wc -c)" | md5sum >"$dir/out"
check 'and what it wrote is in the file' 0 0 "^$numbers"

# Its file system, while others are at it: requests that do not fit into the block are put off, not lost.
if command -v mkfs.ext4 >/dev/null; then
	truncate -s 32M "$dir/ext4" && mkfs.ext4 -q -F "$dir/ext4"
	boot --cpus=2 --share-module="$k/gw_share.ko" --disk="$dir/ext4" -- sh -c 'mount -t ext4 /dev/vda /mnt || exit 1
		for i in 1 2 3 4; do (seq $i 60000 >/mnt/$i; sync; echo 3 >/proc/sys/vm/drop_caches) & done; wait
		for i in 1 2 3 4; do cmp /mnt/$i - <<-END || exit 2
		$(seq $i 60000)
		END
		done; umount /mnt; exit 6'
	check 'a file system on it holds what four writers wrote' 6 $?
fi

# What the host sees meanwhile: the block is shared, nothing else, and no page is there twice.
"$gw" boot --private --kernel="$k/kernel" --modules="$k/modules" --share-module="$k/gw_share.ko" --disk="$dir/disk" \
	-- sh -c 'echo spinning; while :; do :; done' </dev/null >"$dir/spin" 2>&1 &
pid=$!
for i in $(seq 1 400); do grep -qs spinning "$dir/spin" && break; kill -0 $pid 2>/dev/null || break; sleep 0.2; done
"$gw" map $pid >"$dir/out" 2>&1; check 'map shows the shared block, and no page present twice' 0 $? ' shared=1024 ' ' both=0$'
kill $pid; wait $pid 2>/dev/null; pid=

boot --disk="$dir/disk"; check 'without the module a disk is refused' 2 $? 'cannot reach'
boot --share-module="$dir/disk"; st=$?; check 'what is no module is refused in one line' 1 $st 'is not a kernel module'
echo "1..$n"
