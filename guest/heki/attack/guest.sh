# SPDX-License-Identifier: MIT
# In the guest: every attack once, at random places. $1: the kernel's functions are written to this disk, for names outside.
echo 0 >/proc/sys/kernel/kptr_restrict
f() { awk -v n="$1" '$3 == n { print "0x" $1; exit }' /proc/kallsyms; }
# A function that nobody calls here, and how large it is.
grep -v '\[' /proc/kallsyms >/tmp/names
text=$(f __do_sys_swapon) next=$(awk '$2 ~ /[tT]/ { print $1 }' /tmp/names | sort | awk -v t="${text#0x}" 'found { print; exit } $1 == t { found = 1 }')
[ "$text" ] && [ "$next" ] || { text=$(f __x64_sys_swapon) next=$(printf %x $((text + 2048))); }
room=$((0x$next - text - 512))
banner=$(f linux_banner)
[ "${1:-}" ] && grep -i ' [trd] ' /tmp/names >"$1"
[ -e /sys/devices/system/cpu/cpu1/online ] && echo 0 >/sys/devices/system/cpu/cpu1/online
for a in flip-pte direct-map port-input disk-read wall-clock init-sipi clear-wp clear-smep make-exec exec-data user-jump; do
	t=$text r=$room
	[ $a = flip-pte ] && t=$banner r=64
	insmod /attack.ko what=$a target=$t room=$r helper=$(f set_memory_x) disk=/dev/vdb
	rmmod attack
	gpa=$(dmesg | sed -n "s/.*attack $a: gpa=\([0-9a-f]*\) .*/\1/p" | tail -n 1)
	[ "$gpa" ] && devmem 0xd0100010 32 0x$gpa
done
dmesg | sed -n 's/.*\(attack [a-z-]*: \)/\1/p'
echo 1 >/sys/devices/system/cpu/cpu1/online && echo cpus $(grep -c ^processor /proc/cpuinfo)
echo still here
