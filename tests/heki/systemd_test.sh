#!/bin/sh
# SPDX-License-Identifier: MIT
# A Debian user space with systemd on locked kernels: its units start, its BPF programs are loaded and its system-call filters hold.
# Usage: systemd_test.sh GUESTWARD CACHE ROW...     A row is PACKAGE:POLICY. TAP on standard output.
set -u
gw=$1 cache=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
[ -e "$cache/debian/disk" ] || { echo '1..0 # SKIP no disk: tools/fetch-debian needs the network once'; exit 0; }

# The first program: loads what the disk needs, leaves a unit that tells what there is and ends the machine.
cat >"$dir/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r m; do insmod "/lib/modules/$m.ko"; done </lib/modules/load.list
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt
cp /unit /mnt/etc/systemd/system/tell.service
mkdir -p /mnt/etc/systemd/system/multi-user.target.wants
ln -sf ../tell.service /mnt/etc/systemd/system/multi-user.target.wants/tell.service
umount /proc
exec switch_root /mnt /sbin/init
END
chmod +x "$dir/init"
# The filter forbids setting clocks, which date tries. The group may use the serial port and two devices more, by a BPF program.
cat >"$dir/unit" <<'END'
[Unit]
Description=tell and stop
After=multi-user.target
[Service]
Type=oneshot
DevicePolicy=closed
DeviceAllow=/dev/ttyS0 rw
IPAddressDeny=192.0.2.0/24
SystemCallFilter=~@clock
SystemCallErrorNumber=EPERM
ExecStart=/bin/sh -c 'c=0; head -c 1 /dev/vda >/dev/null 2>&1 && c=1; t=0; date -s 2030-01-01 >/dev/null 2>&1 && t=1; echo "GUEST $(uname -r) \
bpf=$(grep -l prog_type /proc/1/fdinfo/* | wc -l) compiled=$(grep -lE "prog_jited:.1" /proc/1/fdinfo/* | wc -l) disk=$c clock=$t \
filters=$(grep -l "Seccomp:.2" /proc/[0-9]*/status | wc -l) failed=$(systemctl --failed --no-legend | wc -l) state=$(systemctl is-system-running)." >/dev/ttyS0; \
systemctl --failed --no-legend >/dev/ttyS0; sync; echo o >/proc/sysrq-trigger; sleep 100'
END

n=0
for row; do
	k=$cache/${row%%:*} policy=${row#*:}
	n=$((n + 1))
	name="systemd on ${row%%:*} under $policy"
	[ -e "$k/kernel" ] || { echo "ok $n - $name # SKIP no kernel"; continue; }
	compiled='compiled=[1-9][0-9]* '
	case $policy in *frozen*) compiled='compiled=0 ' ;; esac
	cp --sparse=always "$cache/debian/disk" "$dir/disk"
	started=$(date +%s)
	timeout -k 5 "${LIMIT:-240}" "$gw" boot --kernel="$k/kernel" --modules="$k/modules" --disk="$dir/disk" --memory=512 --cpus=2 \
		--file="$dir/init:/first" --file="$dir/unit:/unit" --append='rdinit=/first loglevel=4 panic=-1' --protect="heki,$policy" \
		</dev/null >"$dir/out" 2>&1
	got=$?
	tr -s " " <"$dir/out" >"$dir/squeezed" && mv "$dir/squeezed" "$dir/out"
	bad=
	[ $got = 0 ] || bad="exit status $got"
	for p in 'GUEST [^ ]* bpf=[1-9][0-9]* ' "$compiled" 'disk=0 clock=0 filters=[1-9]' 'failed=0 ' 'kernel locked' \
		'denied: 0 writes, 0 executions, 0 reads, 0 by walks, 0 by the hypervisor, 0 register writes'; do
		grep -aqE -- "$p" "$dir/out" || bad="$bad; no line has: $p"
	done
	grep -aqE 'Oops|soft lockup|kernel BUG' "$dir/out" && bad="$bad; the kernel complains"
	if [ "$bad" ]; then
		echo "not ok $n - $name"
		echo "# ${bad#; }"
		tail -n 25 "$dir/out" | tr -d '\r\033' | sed 's/^/# /'
	else
		echo "ok $n - $name"
		grep -a GUEST "$dir/out" | tr -d '\r' | sed 's/^/# /'
		echo "# $(($(date +%s) - started)) s"
	fi
done
echo "1..$n"
