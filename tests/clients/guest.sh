# SPDX-License-Identifier: MIT
# Runs in the guest of the client tests: says what the machine is made of, in lines the test looks for. Variables of the
# kernel's command line (test.x=y) choose what else is done.
option() { sed -n "s/.*\btest\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

for m in virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net; do
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
if [ -b /dev/vda ]; then
	echo "GUEST disk=$(dd if=/dev/vda bs=16 count=1 2>/dev/null)"
	printf 'guest was here' | dd of=/dev/vda bs=512 seek=8 conv=notrunc,fsync 2>/dev/null && echo 'GUEST disk-written'
fi
if [ -e /sys/class/net/eth0 ]; then
	ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
	tftp -g -r file -l /tmp/file 10.0.2.2 && echo "GUEST net=$(cat /tmp/file)"
fi
case $(option then) in
reset) echo 'GUEST resets'; reboot -f ;;
count) echo 'GUEST counts'; i=0; while [ $i -lt "$(option to)" ]; do i=$((i + 1)); [ $((i % 20)) = 0 ] && echo "GUEST count=$i"; sleep 0.05; done ;;
text) printf '\033[H\033[2JGUEST on the screen\n' >/dev/tty0; echo 'GUEST waits'; while :; do sleep 1; done ;;
wait) echo 'GUEST waits'; while :; do sleep 1; done ;;
esac
echo 'GUEST done'
# The terminal hangs up when its session ends, and drops what it has not sent: setting it waits for that.
stty opost
