#!/bin/sh
# SPDX-License-Identifier: MIT
# Unmodified QEMU on Guestward: firmware, then Debian's kernel, then a guest that says what it found. TAP on standard output;
# one row a machine. Each row is ended after LIMIT seconds.
# Usage: clients_test.sh GUESTWARD CACHE TESTS [quick|all]
# QEMU in the environment is another qemu-system-x86_64, with options that it always needs, such as -L DIRECTORY.
set -u
QEMU=${QEMU:-qemu-system-x86_64}
gw=$1 cache=$2 here=$3 suite=${4:-quick}
k=$cache/linux-image-cloud-amd64
dir=$(mktemp -d)
pids=
# A machine that ended early must not end the test with it.
trap '' PIPE
trap 'kill $pids 2>/dev/null; rm -rf "$dir"' EXIT
n=0
SUM=$(seq 1 3000 | md5sum | cut -c1-32)

skip_all() { echo "1..0 # SKIP $1"; exit 0; }
# shellcheck disable=SC2086
command -v ${QEMU%% *} >/dev/null || skip_all 'no qemu-system-x86_64: tools/install-deps qemu-system-x86 seabios ovmf'
[ -e "$k/kernel" ] || skip_all "no kernel in $k: tools/fetch-kernel needs the network once"

started=$(date +%s)
say() { # NAME FAILED: FAILED is a sentence, or empty
	n=$((n + 1))
	now=$(date +%s)
	took=$((now - started)) started=$now
	if [ -z "$2" ]; then echo "ok $n - $1"; echo "# $took s"; return; fi
	echo "not ok $n - $1"
	echo "# $2"
	tail -n 25 "$dir/out" | tr -d '\r\033' | sed 's/^/# /'
	[ -s "$dir/log" ] && tail -n 10 "$dir/log" | sed 's/^/# log: /'
}
skip() { n=$((n + 1)); echo "ok $n - $1 # SKIP $2"; }

# shellcheck disable=SC2086
major=$($QEMU --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
: "${major:=0}"

# ---- what the guests boot --------------------------------------------------------------------------------------------------

set --
for m in virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci net/net_failover net/virtio_net; do
	set -- "$@" "--file=$k/modules/kernel/drivers/$m.ko:/lib/test/${m##*/}.ko"
done
"$gw" boot --kernel="$k/kernel" --modules="$k/modules" "$@" --file="$k/modules/kernel/net/core/failover.ko:/lib/test/failover.ko" \
	--file="$here/guest.sh:/test.sh" --disk=/dev/null --save-initrd="$dir/initrd" -- sh /test.sh || { echo 'Bail out! no initrd'; exit 1; }
mkdir "$dir/tftp"
echo 'from the host' >"$dir/tftp/file"
fresh_disk() {
	dd if=/dev/zero of="$dir/disk" bs=1M count=2 2>/dev/null
	printf 'host disk bytes!' | dd of="$dir/disk" conv=notrunc 2>/dev/null
}

# qemu OPTION...: to $dir/out. $append goes to the kernel's command line.
append=
qemu() {
	: >"$dir/log"
	# shellcheck disable=SC2086
	timeout -k 3 "${LIMIT:-60}" "$gw" run --log="$dir/log" -- $QEMU -accel kvm -nodefaults -m 192 -display none \
		-serial stdio -kernel "$k/kernel" -initrd "$dir/initrd" -append "console=ttyS0 quiet panic=-1 $append" "$@" \
		</dev/null >"$dir/out" 2>&1
}
has() { grep -aq -- "$1" "$dir/out"; }
# wait_for TEXT SECONDS
wait_for() {
	for i in $(seq 1 $(($2 * 10))); do
		has "$1" && return 0
		sleep 0.1
	done
	return 1
}
# missing PATTERN...: the first one that is not in the output, as a sentence
missing() {
	for p in "$@"; do
		has "$p" || { echo "no line has: $p"; return; }
	done
}

# ---- machines ----------------------------------------------------------------------------------------------------------------

devices="-drive if=none,id=d,format=raw,file=$dir/disk -netdev user,id=n,tftp=$dir/tftp"
pci="$devices -device virtio-blk-pci,drive=d -device virtio-net-pci,netdev=n,romfile="
mmio="$devices -device virtio-blk-device,drive=d -device virtio-net-device,netdev=n"
ovmf='-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd'

# row MACHINE IRQCHIP CPU CPUS FIRMWARE
row() {
	name="$1, irqchip $2, -cpu $3, $4 CPUs, $5"
	extra=$pci
	case $1 in microvm) extra=$mmio ;; esac
	case $5 in
	ovmf)
		[ -e /usr/share/OVMF/OVMF_VARS.fd ] || { skip "$name" 'no ovmf'; return; }
		cp /usr/share/OVMF/OVMF_VARS.fd "$dir/vars"
		extra="$extra $ovmf -drive if=pflash,format=raw,file=$dir/vars" ;;
	esac
	fresh_disk
	# shellcheck disable=SC2086
	qemu -machine "$1,kernel-irqchip=$2" -cpu "$3" -smp "$4" -no-reboot $extra
	status=$?
	if [ $status != 0 ]; then say "$name" "exit status $status"; return; fi
	bad=$(missing "GUEST cpus=$4" 'GUEST hypervisor=KVM' "GUEST sums=1,$SUM" 'GUEST disk=host disk bytes!' 'GUEST disk-written' \
		'GUEST net=from the host' 'GUEST done')
	if [ -z "$bad" ] && [ "$(dd if="$dir/disk" bs=512 skip=8 count=1 2>/dev/null | head -c 14)" != 'guest was here' ]; then
		bad='what the guest wrote is not in the disk image'
	fi
	say "$name" "$bad"
}

quick_rows() {
	row pc on host 1 seabios
	row q35 split qemu64 2 seabios
	row microvm split max 4 qboot
	[ $major -lt 9 ] && row pc off host 1 seabios
	row q35 on Haswell-v4 2 ovmf
}

# 7.2 never starts a second CPU with its own LAPIC: it forgets to take back the start-up request. 9 has none for KVM.
all_rows() {
	for machine in pc q35 microvm; do
		for irqchip in on split off; do
			for cpu in host qemu64 max Haswell-v4 EPYC; do
				for cpus in 1 2 4; do
					[ "$irqchip" = off ] && { [ "$cpus" != 1 ] || [ $major -ge 9 ]; } && continue
					case $machine in microvm) row $machine $irqchip $cpu $cpus qboot; continue ;; esac
					row $machine $irqchip $cpu $cpus seabios
					[ $machine = q35 ] && row $machine $irqchip $cpu $cpus ovmf
				done
			done
		done
	done
}

# ---- a running machine, by its monitor -------------------------------------------------------------------------------------

# start NAME OPTION...: in the background, its monitor on fifos, its output in $dir/out
start() {
	rm -f "$dir/mon.in" "$dir/mon.out"
	mkfifo "$dir/mon.in" "$dir/mon.out"
	: >"$dir/out"
	cat "$dir/mon.out" >"$dir/monitor" &
	pids="$pids $!"
	qemu -chardev "pipe,id=mon,path=$dir/mon" -mon chardev=mon "$@" &
	machine=$!
	exec 3>"$dir/mon.in"
}
monitor() { printf '%s\n' "$@" >&3; }
# stop: asks it to quit; a sentence if it does not
stop() {
	monitor quit
	exec 3>&-
	wait $machine
	status=$?
	[ $status = 0 ] || echo "exit status $status after quit"
}
counted() { grep -a 'GUEST count=' "$dir/out" | tail -n 1 | tr -d '\r' | sed 's/.*=//'; }

check_reset() {
	append='test.then=wait'
	start -machine pc -cpu host -smp 2
	bad=
	wait_for 'GUEST waits' 60 || bad='the guest did not come up'
	monitor system_reset
	for i in $(seq 1 600); do [ "$(grep -ac 'GUEST waits' "$dir/out")" = 2 ] && break; sleep 0.1; done
	[ "$(grep -ac 'GUEST waits' "$dir/out")" = 2 ] || bad=${bad:-'the guest did not come up again'}
	stop >"$dir/end"
	say 'system_reset starts the guest again' "${bad:-$(cat "$dir/end")}"
	append='test.then=reset'
	qemu -machine q35 -cpu host -no-reboot
	status=$?
	[ $status = 0 ] && bad=$(missing 'GUEST resets') || bad="exit status $status"
	say 'a guest that resets itself ends QEMU with -no-reboot' "$bad"
	append=
}

check_snapshot() {
	fresh_disk
	append='test.then=count test.to=2000'
	start -machine pc -cpu host -smp 2 -drive "if=virtio,format=raw,file=$dir/disk,snapshot=on"
	bad=
	wait_for 'GUEST count=20' 60 || bad='the guest did not come up'
	monitor 'savevm one'
	wait_for 'GUEST count=100' 60 || bad=${bad:-'the guest did not go on after savevm'}
	before=$(counted)
	monitor 'loadvm one'
	sleep 1
	# It counts on from where it was saved.
	for i in $(seq 1 300); do [ "$(grep -ac 'GUEST count=100' "$dir/out")" = 2 ] && break; sleep 0.1; done
	[ "$(grep -ac 'GUEST count=100' "$dir/out")" = 2 ] || bad=${bad:-"after loadvm at $before the guest is at $(counted)"}
	stop >"$dir/end"
	say 'savevm and loadvm go back in time' "${bad:-$(cat "$dir/end")}"
	append=
}

check_migration() {
	append='test.then=count test.to=2000'
	start -machine q35 -cpu host -smp 2
	source=$machine
	bad=
	wait_for 'GUEST count=20' 60 || bad='the guest did not come up'
	mkfifo "$dir/mon2.in" "$dir/mon2.out"
	cat "$dir/mon2.out" >"$dir/monitor2" &
	pids="$pids $!"
	# shellcheck disable=SC2086
	timeout -k 3 60 "$gw" run --log="$dir/log2" -- $QEMU -accel kvm -nodefaults -m 192 -display none \
		-kernel "$k/kernel" -initrd "$dir/initrd" -append "console=ttyS0 quiet panic=-1 $append" -machine q35 -cpu host -smp 2 \
		-serial "file:$dir/out2" -chardev "pipe,id=mon,path=$dir/mon2" -mon chardev=mon -incoming "unix:$dir/migrate" \
		</dev/null >"$dir/err2" 2>&1 &
	target=$!
	exec 4>"$dir/mon2.in"
	for i in $(seq 1 100); do [ -S "$dir/migrate" ] && break; sleep 0.1; done
	monitor 'migrate_set_parameter max-bandwidth 1000000000' "migrate unix:$dir/migrate"
	sleep 2
	first=$(counted)
	for i in $(seq 1 300); do [ "$(grep -ac 'GUEST count=' "$dir/out2" 2>/dev/null)" -ge 3 ] 2>/dev/null && break; sleep 0.1; done
	second=$(grep -a 'GUEST count=' "$dir/out2" 2>/dev/null | head -n 1 | tr -d '\r' | sed 's/.*=//')
	[ -n "$second" ] || bad=${bad:-"nothing came out on the other side; $(tail -n 1 "$dir/err2" "$dir/log2")"}
	[ -z "$second" ] || [ "$second" -gt "${first:-0}" ] || bad=${bad:-"the source stopped at $first, the target began at $second"}
	monitor 'info migrate'
	printf 'quit\n' >&4
	exec 4>&-
	wait $target
	stop >"$dir/end"
	grep -q 'Migration status: completed' "$dir/monitor" || bad=${bad:-"the source did not complete: $(grep -a Migration "$dir/monitor")"}
	say 'a guest moves to a second QEMU through a unix socket' "${bad:-$(cat "$dir/end")}"
	append=
}

# The screen of a text console is black with grey letters: not all of one colour.
check_screen() {
	append='test.then=text'
	start -machine pc -cpu host -vga std
	bad=
	wait_for 'GUEST waits' 60 || bad='the guest did not come up'
	sleep 0.5
	monitor "screendump $dir/screen.ppm"
	for i in $(seq 1 50); do [ -s "$dir/screen.ppm" ] && break; sleep 0.1; done
	sleep 0.5
	colours=$(tail -c +16 "$dir/screen.ppm" 2>/dev/null | od -An -v -tx1 -w3 | sort -u | wc -l)
	[ "${colours:-0}" -ge 2 ] || bad=${bad:-"the picture has ${colours:-no} colours"}
	stop >"$dir/end"
	say 'a VGA text screen shows letters' "${bad:-$(cat "$dir/end")}"
	append=
}

case $suite in
quick) quick_rows ;;
all) all_rows ;;
esac
check_reset
check_snapshot
check_migration
check_screen
echo "1..$n"
