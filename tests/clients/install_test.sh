#!/bin/sh
# SPDX-License-Identifier: MIT
# What is installed works where it lies: the program, the manual pages, and a client built with what pkg-config says. TAP on
# standard output. Usage: install_test.sh BUILD SOURCE
set -u
build=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0
check() { # NAME STATUS
	n=$((n + 1))
	if [ "$2" = 0 ]; then echo "ok $n - $1"; return; fi
	echo "not ok $n - $1"
	sed 's/^/# /' "$dir/out"
}
# A build with sanitizers wants its run-time library first of all, which no preloaded library can be.
if grep 'src/tool/main.c' "$build/compile_commands.json" 2>/dev/null | grep -q -- -fsanitize; then echo '1..0 # SKIP a build with sanitizers'; exit 0; fi
DESTDIR=$dir/root meson install -C "$build" --no-rebuild >"$dir/out" 2>&1; st=$?
check 'it installs into a directory' $st
[ $st = 0 ] || { echo "1..$n"; exit 0; }
program=$(find "$dir/root" -type f -path '*/bin/guestward')
pc=$(find "$dir/root" -name guestward.pc)
version=$(sed -n "s/^[[:space:]]*version: '\\([^']*\\)'.*/\\1/p" "$source/meson.build" | head -n 1)
"$program" --version >"$dir/out" 2>&1 && grep -q "$version" "$dir/out"; check 'the program says its version' $?
"$program" run -- sh -c '[ -c /dev/kvm ]' >"$dir/out" 2>&1; check 'it finds the preload library where it was installed' $?
for page in guestward.1 guestward-shim.7; do
	find "$dir/root" -name "$page*" | grep . >"$dir/out"; check "$page is there" $?
done
if command -v pkg-config >/dev/null; then
	export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$dir/root"
	[ "$(pkg-config --modversion guestward)" = "$version" ]; check 'pkg-config says the same' $?
	# shellcheck disable=SC2046
	${CC:-cc} "$source/examples/minimal.c" $(pkg-config --cflags --libs guestward) -o "$dir/minimal" >"$dir/out" 2>&1
	check 'an example is built with what it says' $?
	lib=$(find "$dir/root" -name 'libguestward.so.*' | head -n 1)
	LD_LIBRARY_PATH="${lib%/*}" "$dir/minimal" >"$dir/out" 2>&1; st=$?
	[ $st = 0 ] && [ "$(cat "$dir/out")" = 4 ]; check 'and adds two and two' $?
fi
echo "1..$n"
