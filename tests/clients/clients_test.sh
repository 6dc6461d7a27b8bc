#!/bin/sh
# SPDX-License-Identifier: MIT
# Unmodified QEMU on Guestward: firmware, a boot loader, Debian's kernel, then a guest that says what it found. TAP on standard
# output; one row a machine. Each row is ended after LIMIT seconds.
# Usage: clients_test.sh GUESTWARD CACHE TESTS [quick|all]: the rows of the file matrix, or every one that matrix.awk allows.
# QEMU in the environment is another qemu-system-x86_64, with options that it always needs, such as -L DIRECTORY; ROWS is a
# pattern: only the rows and checks that have it. With DONE, a file, rows that passed are noted there and left out by the next
# run, which so goes on where this one was ended; when none is left and none failed the file goes. MANY: that many rows, and
# nothing else.
# All rows come in an order that is always the same and has no system: the first hundred are a sample of the rest.
set -u
QEMU=${QEMU:-qemu-system-x86_64}
gw=$1 cache=$2 here=$3 suite=${4:-quick}
k=$cache/linux-image-cloud-amd64
generic=$cache/linux-image-amd64
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
n_failed=0
say() { # NAME FAILED: FAILED is a sentence, or empty
	n=$((n + 1))
	now=$(date +%s)
	took=$((now - started)) started=$now
	if [ -z "$2" ]; then echo "ok $n - $1"; echo "# $took s"; return; fi
	n_failed=$((n_failed + 1))
	echo "not ok $n - $1"
	echo "# $2"
	tail -n 25 "$dir/out" | tr -d '\r\033' | sed 's/^/# /'
	[ -s "$dir/log" ] && tail -n 10 "$dir/log" | sed 's/^/# log: /'
}
n_skipped=0
skip() { n=$((n + 1)) n_skipped=$((n_skipped + 1)); echo "ok $n - $1 # SKIP $2"; }

# shellcheck disable=SC2086
version=$($QEMU --version | sed -n 's/.*version \([0-9.]*\).*/\1/p')
major=${version%%.*}
: "${major:=0}"

# ---- what the guests boot --------------------------------------------------------------------------------------------------

# make_initrd FILE KERNEL-DIRECTORY MODULE...: with these modules, loaded in this order
make_initrd() {
	out=$1 from=$2
	shift 2
	echo "$@" >"$dir/order"
	for m; do
		shift
		f=$(find "$from/modules/kernel" -name "$m.ko" | head -n 1)
		[ -n "$f" ] && set -- "$@" "--file=$f:/lib/test/$m.ko"
	done
	"$gw" boot --kernel="$from/kernel" --modules="$from/modules" "$@" --file="$dir/order:/lib/test/order" \
		--file="$here/guest.sh:/test.sh" --file="$here/dhcp.sh:/lib/test/dhcp.sh" --save-initrd="$out" -- sh /test.sh ||
		{ echo 'Bail out! no initrd'; exit 1; }
}
pci='virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net'
# shellcheck disable=SC2086
make_initrd "$dir/initrd" "$k" $pci virtio_mmio virtio_blk
ahci='scsi_common scsi_mod libata libahci ahci crct10dif_common crc-t10dif crc64 crc64-rocksoft t10-pi sd_mod'
# shellcheck disable=SC2086
[ -e "$generic/kernel" ] && make_initrd "$dir/initrd-ahci" "$generic" $pci $ahci crc16 mbcache jbd2 crc32c_generic ext4

# make_iso FILE KERNEL INITRD: for both firmwares by GRUB, or for SeaBIOS by ISOLINUX. No root, no loop device.
make_iso() {
	mkdir -p "$dir/iso/boot/grub"
	cp "$2" "$dir/iso/boot/kernel" && cp "$3" "$dir/iso/boot/initrd"
	cat >"$dir/iso/boot/grub/grub.cfg" <<-END
		serial --unit=0 --speed=115200
		terminal_output serial
		set timeout=0
		menuentry guest {
			echo LOADER says hello
			linux /boot/kernel $line
			initrd /boot/initrd
		}
	END
	if command -v grub-mkrescue >/dev/null && command -v mformat >/dev/null; then
		grub-mkrescue -o "$1" "$dir/iso" --fonts= --locales= --themes= \
			--install-modules='normal linux serial terminal iso9660 echo part_gpt part_msdos all_video' >"$dir/mkrescue" 2>&1
	elif command -v xorriso >/dev/null && [ -e /usr/lib/ISOLINUX/isolinux.bin ]; then
		cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$dir/iso"
		printf 'SERIAL 0 115200\nSAY LOADER says hello\nDEFAULT guest\nLABEL guest\n KERNEL /boot/kernel\n INITRD /boot/initrd\n APPEND %s\n' \
			"$line" >"$dir/iso/isolinux.cfg"
		xorriso -as mkisofs -o "$1" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$dir/iso" \
			>"$dir/mkrescue" 2>&1
	fi
	rm -rf "$dir/iso"
}
line='console=ttyS0 quiet panic=-1'
make_iso "$dir/virtio.iso" "$k/kernel" "$dir/initrd"
[ -e "$dir/initrd-ahci" ] && make_iso "$dir/ahci.iso" "$generic/kernel" "$dir/initrd-ahci"

# The network of the guest is QEMU's: files by TFTP, a page by HTTP. Nothing leaves the machine.
mkdir "$dir/tftp"
echo 'from the host' >"$dir/tftp/file"
printf '#!/bin/sh\nread -r request\nprintf "HTTP/1.0 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\npage\\n"\n' >"$dir/http"
chmod +x "$dir/http"
# A file system with a file in it, made without root.
fresh_disk() {
	rm -rf "$dir/disk" "$dir/content"
	mkdir "$dir/content" && seq 1 20000 >"$dir/content/numbers"
	mke2fs -q -t ext4 -d "$dir/content" "$dir/disk" 16m >/dev/null || { echo 'Bail out! mke2fs'; exit 1; }
}
DISK_SUM=$(seq 1 20000 | md5sum | cut -c1-32)

# qemu OPTION...: to $dir/out. $append goes to the kernel's command line, $accel says more about the accelerator.
append= accel=
qemu() {
	# shellcheck disable=SC2086
	set -- -kernel "$k/kernel" -initrd "$dir/initrd" -append "$line $append" "$@"
	bare_qemu "$@"
}
bare_qemu() {
	: >"$dir/log"
	# shellcheck disable=SC2086
	timeout -k 3 "${LIMIT:-180}" "$gw" run --log="$dir/log" -- $QEMU -accel kvm$accel -nodefaults -m 256 -display none \
		-serial stdio "$@" </dev/null >"$dir/out" 2>&1
}
is_wanted() { case $1 in *${ROWS:-}*) return 0 ;; esac; return 1; }
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

drive="-drive if=none,id=d,format=raw,file=$dir/disk"
net="-netdev user,id=n,tftp=$dir/tftp,guestfwd=tcp:10.0.2.100:80-cmd:$dir/http"
ovmf='-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd'

# why_not FIRMWARE LOADER IRQCHIP DISK: why there is no such machine here; nothing if there is
why_not() {
	[ "$1" = ovmf ] && [ ! -e /usr/share/OVMF/OVMF_VARS.fd ] && echo 'no ovmf'
	[ "$2" = grub ] && [ ! -e "$dir/$4.iso" ] && echo 'no grub-mkrescue, xorriso and mtools'
	[ "$2$1" = grubovmf ] && [ ! -d /usr/lib/grub/x86_64-efi ] && echo 'no grub-efi-amd64-bin'
	[ "$3" = off ] && [ "$major" -ge 9 ] && echo 'this QEMU has no user-space LAPIC for KVM'
	[ "$4" = ahci ] && [ ! -e "$dir/initrd-ahci" ] && echo "no kernel in $generic"
}

# row MACHINE FIRMWARE LOADER IRQCHIP CPU CPUS DISK ENGINE
# shellcheck disable=SC2086
row() {
	name="$1, $2, $3, irqchip $4, -cpu $5, $6 CPUs, $7, $8"
	is_wanted "$name" || return
	[ -z "${DONE:-}" ] || ! grep -qxF "$version $name" "$DONE" || return
	[ $((n - n_skipped)) -lt "${MANY:-1000000}" ] || return
	why=$(why_not "$2" "$3" "$4" "$7" | head -n 1)
	[ -z "$why" ] || { skip "$name" "$why"; return; }
	kernel=$k/kernel initrd=$dir/initrd
	case $7 in
	ahci) set -- "$@" $drive -device ich9-ahci,id=ahci -device ide-hd,drive=d,bus=ahci.0 $net -device virtio-net-pci,netdev=n,romfile=
		kernel=$generic/kernel initrd=$dir/initrd-ahci ;;
	virtio) case $1 in
		microvm) set -- "$@" $drive -device virtio-blk-device,drive=d $net -device virtio-net-device,netdev=n ;;
		*) set -- "$@" $drive -device virtio-blk-pci,drive=d $net -device virtio-net-pci,netdev=n,romfile= ;;
		esac ;;
	esac
	case $2 in ovmf)
		cp /usr/share/OVMF/OVMF_VARS.fd "$dir/vars"
		set -- "$@" $ovmf -drive "if=pflash,format=raw,file=$dir/vars" ;;
	esac
	case $3 in
	grub) set -- "$@" -cdrom "$dir/$7.iso" ;;
	kernel) set -- "$@" -kernel "$kernel" -initrd "$initrd" -append "$line" ;;
	esac
	fresh_disk
	# With the kernel's IOAPIC, QEMU gives microvm a second one of its own, and never hears that its interrupts have ended.
	machine=$1,kernel-irqchip=$4
	case $machine in microvm,*=on) machine=$machine,ioapic2=off ;; esac
	# GRUB under UEFI keeps a quarter of the memory for itself.
	[ "$2" = ovmf ] && memory=512 || memory=256
	loader=$3 cpu=$5 cpus=$6 GUESTWARD_ENGINE=$8
	export GUESTWARD_ENGINE
	shift 8
	bare_qemu -m "$memory" -machine "$machine" -cpu "$cpu" -smp "$cpus" -no-reboot "$@"
	status=$?
	unset GUESTWARD_ENGINE
	if [ $status != 0 ]; then say "$name" "exit status $status"; return; fi
	bad=$(missing "GUEST cpus=$cpus" 'GUEST hypervisor=KVM' "GUEST sums=1,$SUM" "GUEST disk=$DISK_SUM" 'GUEST disk-written' \
		'GUEST address=10.0.2.15' 'GUEST tftp=from the host' 'GUEST http=page' 'GUEST done')
	[ "$loader" = grub ] && bad=${bad:-$(missing 'LOADER says hello')}
	[ -z "$bad" ] && [ "$(debugfs -R 'cat /written' "$dir/disk" 2>/dev/null)" != 'by the guest' ] &&
		bad='what the guest wrote is not in the file system'
	say "$name" "$bad"
	[ -n "$bad" ] || [ -z "${DONE:-}" ] || echo "$version $name" >>"$DONE"
}

all_rows() {
	while read -r machine firmware loader irqchip cpu cpus disk engine; do
		case $machine in '#'*) continue ;; esac
		row "$machine" "$firmware" "$loader" "$irqchip" "$cpu" "$cpus" "$disk" "$engine"
	done
}

# progress ROWS: how far it is, and how long the rest will take at this pace; shown with the results, while they come
progress() {
	began=$(date +%s) total=$1 past=0 broken=0
	[ -z "${DONE:-}" ] || total=$((total - $(grep -c "^$version " "$DONE")))
	[ "$total" -lt "${MANY:-$total}" ] || total=${MANY:-$total}
	while IFS= read -r result; do
		printf '%s\n' "$result"
		case $result in 'not ok '*) broken=$((broken + 1)) ;; 'ok '*) ;; *) continue ;; esac
		past=$((past + 1))
		[ $past -le "$total" ] || continue
		left=$((($(date +%s) - began) * (total - past) / past / 60))
		echo "# $past of $total, $broken failed, $((left / 60)) h $((left % 60)) min to go"
	done
	[ $broken = 0 ]
}

# ---- a running machine, by its monitor -------------------------------------------------------------------------------------

# start OPTION...: in the background, its monitor on fifos, its output in $dir/out
starter=
start() {
	rm -f "$dir/mon.in" "$dir/mon.out"
	mkfifo "$dir/mon.in" "$dir/mon.out"
	: >"$dir/out"
	cat "$dir/mon.out" >"$dir/monitor" &
	pids="$pids $!"
	${starter:-qemu} -chardev "pipe,id=mon,path=$dir/mon" -mon chardev=mon "$@" &
	running=$!
	exec 3>"$dir/mon.in"
}
monitor() { printf '%s\n' "$@" >&3; }
# stop: asks it to quit; a sentence if it does not
stop() {
	monitor quit
	exec 3>&-
	wait "$running"
	status=$?
	[ $status = 0 ] || echo "exit status $status after quit"
}
counted() { grep -a 'GUEST count=' "$dir/out" | tail -n 1 | tr -d '\r' | sed 's/.*=//'; }

# disk_of MACHINE: which device a disk is
disk_of() { [ "$1" = microvm ] && echo virtio-blk-device || echo virtio-blk-pci; }

reset_on() { # MACHINE
	append='test.then=wait'
	start -machine "$1" -cpu host -smp 2
	bad=
	wait_for 'GUEST waits' 60 || bad='the guest did not come up'
	monitor system_reset
	for i in $(seq 1 600); do [ "$(grep -ac 'GUEST waits' "$dir/out")" = 2 ] && break; sleep 0.1; done
	[ "$(grep -ac 'GUEST waits' "$dir/out")" = 2 ] || bad=${bad:-'the guest did not come up again'}
	stop >"$dir/end"
	say "system_reset starts the guest again, $1" "${bad:-$(cat "$dir/end")}"
	append=
}

check_reset() {
	for m in pc q35 microvm; do reset_on $m; done
	append='test.then=reset'
	qemu -machine q35 -cpu host -no-reboot
	status=$?
	[ $status = 0 ] && bad=$(missing 'GUEST resets') || bad="exit status $status"
	say 'a guest that resets itself ends QEMU with -no-reboot' "$bad"
	append=
}

snapshot_on() { # MACHINE
	fresh_disk
	append='test.then=count test.to=2000'
	start -machine "$1" -cpu host -smp 2 -drive "if=none,id=d,format=raw,file=$dir/disk,snapshot=on" -device "$(disk_of "$1"),drive=d"
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
	say "savevm and loadvm go back in time, $1" "${bad:-$(cat "$dir/end")}"
	append=
}
check_snapshot() { for m in pc q35 microvm; do snapshot_on $m; done; }

migrate_on() { # MACHINE ACCELERATOR-OPTION...: dirty pages are told by bitmaps, or by rings of that size
	append='test.then=count test.to=2000' accel=${2:-}
	start -machine "$1" -cpu host -smp 2
	bad=
	wait_for 'GUEST count=20' 60 || bad='the guest did not come up'
	rm -f "$dir/mon2.in" "$dir/mon2.out" "$dir/out2" "$dir/migrate"
	mkfifo "$dir/mon2.in" "$dir/mon2.out"
	cat "$dir/mon2.out" >"$dir/monitor2" &
	pids="$pids $!"
	# shellcheck disable=SC2086
	timeout -k 3 "${LIMIT:-180}" "$gw" run --log="$dir/log2" -- $QEMU -accel kvm$accel -nodefaults -m 256 -display none \
		-kernel "$k/kernel" -initrd "$dir/initrd" -append "$line $append" -machine "$1" -cpu host -smp 2 \
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
	say "a guest moves to a second QEMU through a unix socket, $1${2:-}" "${bad:-$(cat "$dir/end")}"
	append= accel=
}
check_migration() {
	for m in pc q35 microvm; do migrate_on $m; done
	migrate_on q35 ,dirty-ring-size=4096
}

# Firmware that keeps its variables by SMM, and does not start without. With the vendors' keys it refuses what nobody signed.
secure='-machine q35,smm=on -global driver=cfi.pflash01,property=secure,value=on -m 512 -smp 2'
secure_qemu() { # VARIABLES OPTION...
	cp "/usr/share/OVMF/$1" "$dir/vars"
	shift
	# shellcheck disable=SC2086
	bare_qemu $secure -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd \
		-drive "if=pflash,format=raw,file=$dir/vars" "$@"
}
check_secure() {
	name='OVMF with SMM starts a guest'
	if [ ! -e /usr/share/OVMF/OVMF_CODE_4M.secboot.fd ] || [ ! -e "$dir/virtio.iso" ]; then skip "$name" 'no ovmf or no GRUB'; return; fi
	secure_qemu OVMF_VARS_4M.fd -no-reboot -kernel "$k/kernel" -initrd "$dir/initrd" -append "$line"
	status=$?
	[ $status = 0 ] && bad=$(missing 'GUEST cpus=2' 'GUEST done') || bad="exit status $status"
	say "$name" "$bad"
	starter='secure_qemu OVMF_VARS_4M.ms.fd'
	start -cdrom "$dir/virtio.iso"
	starter= bad=
	wait_for 'Access Denied' 90 || bad='unsigned GRUB was not refused'
	has LOADER && bad='unsigned GRUB was started'
	stop >"$dir/end"
	say 'OVMF with the keys of vendors refuses a loader without a signature' "${bad:-$(cat "$dir/end")}"
}

# cell COLUMN: the 9 x 16 points of a character in the first line of a 720 x 400 picture
cell() {
	for y in $(seq 0 15); do
		dd if="$dir/screen.ppm" bs=1 skip=$((15 + (y * 720 + $1 * 9) * 3)) count=27 2>/dev/null
	done | md5sum
}
screen_size() { wc -c <"$dir/screen.ppm"; }
# The guest writes ABAB at the top left: the same letters look the same, others do not, and there is nothing behind them.
check_screen() {
	append='test.then=text vga=normal'
	start -machine pc -cpu host -vga std
	bad=
	wait_for 'GUEST waits' 60 || bad='the guest did not come up'
	sleep 0.5
	monitor "screendump $dir/screen.ppm"
	for i in $(seq 1 50); do [ "$(screen_size 2>/dev/null)" = 864015 ] && break; sleep 0.1; done
	[ "$(head -n 2 "$dir/screen.ppm" 2>/dev/null | tail -n 1)" = '720 400' ] || bad=${bad:-'there is no picture of 80 x 25 characters'}
	if [ -z "$bad" ]; then
		[ "$(cell 0)" = "$(cell 2)" ] && [ "$(cell 1)" = "$(cell 3)" ] || bad='the same letters look different'
		[ "$(cell 0)" != "$(cell 1)" ] && [ "$(cell 0)" != "$(cell 5)" ] || bad=${bad:-'different letters look the same'}
		[ "$(cell 5)" = "$(cell 6)" ] || bad=${bad:-'blanks look different'}
	fi
	[ -z "${SCREEN:-}" ] || cp "$dir/screen.ppm" "$SCREEN"
	stop >"$dir/end"
	say 'a VGA text screen shows letters' "${bad:-$(cat "$dir/end")}"
	append=
}

# Each under a number made of its own bytes.
shuffled() { while read -r r; do printf '%s %s\n' "$(printf %s "$r" | cksum | cut -d' ' -f1)" "$r"; done | sort -n | cut -d' ' -f2-; }
checks() {
	[ -z "${MANY:-}" ] || return
	for check in reset snapshot migration screen secure; do is_wanted "check $check" && check_$check; done
}
ending() {
	echo "# $n with QEMU $version: $((n - n_failed - n_skipped)) passed, $n_failed failed, $n_skipped skipped"
	[ $n_failed = 0 ] && [ -n "${DONE:-}" ] && [ -z "${ROWS:-}${MANY:-}" ] && rm -f "$DONE"
	echo "1..$n"
}
case $suite in
quick) all_rows <"$here/matrix"; checks; ending ;;
all)
	[ -z "${DONE:-}" ] || touch "$DONE"
	awk -v what=all -f "$here/matrix.awk" </dev/null | shuffled >"$dir/rows"
	{ all_rows <"$dir/rows"; checks; ending; } | progress "$(wc -l <"$dir/rows")"
	;;
esac
