# SPDX-License-Identifier: MIT
# Runs in the guest of the client tests: says what the machine is made of, in lines the test looks for. Variables of the
# kernel's command line (test.x=y) choose what else is done.
option() { sed -n "s/.*\btest\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

for m in $(cat /lib/test/order); do
	[ -e /lib/test/$m.ko ] && insmod /lib/test/$m.ko 2>/dev/null
done
echo "GUEST cpus=$(grep -c ^processor /proc/cpuinfo)"
echo "GUEST model=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
echo "GUEST clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "GUEST hypervisor=$(dmesg | sed -n 's/.*Hypervisor detected: //p')"
n=$(grep -c ^processor /proc/cpuinfo)
for i in $(seq $n); do (seq 1 3000 | md5sum >/tmp/sum.$i) & done
wait
echo "GUEST sums=$(sort -u /tmp/sum.* | wc -l),$(cut -c1-32 /tmp/sum.1)"
disk=
for i in $(seq 50); do
	for d in vda sda; do [ -b /dev/$d ] && disk=/dev/$d; done
	[ -n "$disk" ] && break
	[ -n "$(option then)" ] && break
	sleep 0.1
done
if [ -n "$disk" ]; then
	mkdir -p /disk
	mount -t ext4 $disk /disk
	echo "GUEST disk=$(md5sum </disk/numbers | cut -c1-32)"
	echo 'by the guest' >/disk/written && umount /disk && echo 'GUEST disk-written'
fi
if [ -e /sys/class/net/eth0 ]; then
	ip link set eth0 up
	udhcpc -i eth0 -n -q -s /lib/test/dhcp.sh >/dev/null 2>&1
	echo "GUEST address=$(ip -4 addr show dev eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')"
	tftp -g -r file -l /tmp/file 10.0.2.2 && echo "GUEST tftp=$(cat /tmp/file)"
	echo "GUEST http=$(wget -q -O - http://10.0.2.100/)"
fi
case $(option then) in
reset) echo 'GUEST resets'; reboot -f ;;
count) echo 'GUEST counts'; i=0; while [ $i -lt "$(option to)" ]; do i=$((i + 1)); [ $((i % 20)) = 0 ] && echo "GUEST count=$i"; sleep 0.05; done ;;
text) printf '\033[H\033[2J\033[?25lABAB' >/dev/tty0; echo 'GUEST waits'; while :; do sleep 1; done ;;
wait) echo 'GUEST waits'; while :; do sleep 1; done ;;
esac
echo 'GUEST done'
# The terminal hangs up when its session ends, and drops what it has not sent: setting it waits for that.
stty opost
