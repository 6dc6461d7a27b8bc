#!/bin/sh
# SPDX-License-Identifier: MIT
# Attacks on a stock kernel by a module it has loaded: without protection and with it, in two columns. What a word of memory is
# afterwards is read from outside. Exits 0 when all succeed without and none with it; 77 when the module cannot be built.
# Usage: attack.sh GUESTWARD CACHE/PACKAGE ATTACK-SOURCE [WORDS]    WORDS: of --protect, default heki
set -u
gw=$1 k=$2 source=$3 words=${4:-heki}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
headers=${GW_KERNEL_HEADERS:-$k/build}
mkdir "$dir/module"
if ! cp "$source"/attack.c "$source"/Makefile "$dir/module" || ! [ -e "$headers/Makefile" ] ||
	! make -s -C "$headers" M="$dir/module" CONFIG_DEBUG_INFO_BTF_MODULES= modules >"$dir/make" 2>&1; then
	echo "attacks: no headers that build the module (tools/fetch-headers), or no compiler: skipped"
	exit 77
fi
dd if=/dev/zero of="$dir/names" bs=1M count=6 2>/dev/null
yes disk | head -c 4096 >"$dir/disk"
boot() { # OUT OPTION...
	out=$1; shift
	timeout -k 5 "${LIMIT:-120}" "$gw" boot --kernel="$k/kernel" --modules="$k/modules" --cpus=2 --file="$dir/module/attack.ko:/attack.ko" \
		--file="$source/guest.sh:/attack.sh" --disk="$dir/names" --disk="$dir/disk,ro" "$@" </dev/null >"$out" 2>"$out.err"
}
boot "$dir/bare" -- sh /attack.sh /dev/vda; bare=$?
boot "$dir/safe" --verbose --append=loglevel=3 --protect="$words" --symbols="$dir/names" -- sh /attack.sh; safe=$?

# result FILE ATTACK: CHANGED or unchanged, by what was seen from outside where it is memory
result() {
	line=$(grep "^attack $2: " "$1" | tail -n 1)
	gpa=$(echo "$line" | sed -n 's/.*gpa=\([0-9a-f]*\) .*/\1/p')
	[ "$gpa" ] || { echo "${line##*: }" | tr -d '\r'; return; }
	case $line in *spare=works*) ;; *) echo 'does not work at all'; return ;; esac
	seen=$(sed -n "s/.*memory at \(0x\)*$(printf %x $((0x$gpa & ~7))): \([0-9a-f]*\).*/\2/p" "$1.err" | tail -n 1)
	case $line in
	*"before=$seen "*) echo unchanged ;;
	*) echo CHANGED ;;
	esac
}
bad=0
printf '\n%-50s %-18s %s\n' 'attack from a kernel module' 'unprotected' "--protect=$words"
row() { # ATTACK DESCRIPTION WITHOUT WITH
	a=$(result "$dir/bare" "$1") b=$(result "$dir/safe" "$1") mark=
	: "${a:=no answer}" "${b:=no answer}"
	[ "$a" = "$3" ] && [ "$b" = "$4" ] || { bad=1 mark="   <- expected $3, $4"; }
	printf '%-50s %-18s %s%s\n' "$2" "$a" "$b" "$mark"
}
# Under sealed-once new code runs, but sealed: hashed and reported. Frozen does not even load the module.
new=RAN off=unchanged not='did not run'
case $words in *frozen*) new='no answer' off='no answer' not='no answer' ;; esac
row flip-pte 'flip the PTE of rodata, store' CHANGED "$off"
row direct-map 'store to text through the direct map' CHANGED "$off"
row port-input 'REP INS into text' CHANGED "$off"
row disk-read 'read a disk into text' CHANGED "$off"
row wall-clock 'have the hypervisor write a clock into text' CHANGED "$off"
row init-sipi 'INIT-SIPI into low memory' CHANGED "$off"
row clear-wp 'clear CR0.WP' CHANGED "$off"
row clear-smep 'clear CR4.SMEP' CHANGED "$off"
row make-exec 'set_memory_x on data, call it' RAN "$new"
row exec-data 'make data executable in its PTE, call it' RAN "$new"
row user-jump 'kernel jump to a user page' RAN "$not"
echo
grep -h '^guestward: denied:' "$dir/safe.err" | tr -d '\r' | sed 's/^guestward: //'
tr -d '\r' <"$dir/safe.err" | sed -n "s/^heki: vcpu \([0-9]*\) denied paravirtual \([a-z]*\) at gva [0-9a-f]* gpa \([0-9a-f]*\) from rip \([0-9a-f]*\).*/denied: CPU \1: \2 by the hypervisor (physical \3), asked for by code at \4/p"
# The last code that was sealed: the two attacks that made data executable.
grep -h '^heki: sealed' "$dir/safe.err" | tail -n 3 | awk '{ print "sealed: new code at " $8 ", SHA-256 " $NF }'
grep -h 'heki: kernel locked' "$dir/safe.err" | sed 's/^guestward: //'
case $words in *frozen*) ;; *) grep -q 'sealed [1-9]' "$dir/safe.err" || { echo 'new code was not reported'; bad=1; } ;; esac
for what in 'denied: CPU . write at .*linux_banner' 'denied: CPU . write at .*swapon' 'denied: device: write' 'denied paravirtual write' 'denied: CPU 1: execution' 'to CR0' 'to CR4'; do
	case $words in *frozen*) break ;; esac
	[ "$(grep -cE "$(echo "$what" | sed 's/CPU \./CPU .:/')" "$dir/safe.err")" -ge 1 ] || { echo "not reported: $what"; bad=1; }
done
[ $bare = 0 ] && [ $safe = 0 ] && grep -q 'still here' "$dir/safe" && grep -q 'cpus 2' "$dir/safe" || {
	bad=1
	echo "exit status $bare without, $safe with protection; the protected guest's last lines:"
	tail -n 15 "$dir/safe" "$dir/safe.err" "$dir/bare"
}
exit $bad
