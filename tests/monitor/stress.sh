#!/bin/sh
# SPDX-License-Identifier: MIT
# The monitor's tests of several threads once more, on the interpreter, in a build of their own with the thread sanitizer: the ring and
# the channel with 108,000 events each, 1.1 million round trips of sides that sleep and look by turns, sessions that die, answers of every
# kind. Usage: stress.sh SOURCE BUILD
set -eu
source=$1
build=$2/tsan
tests='ring session matrix event look'
targets=
for t in $tests; do targets="$targets tests/monitor/monitor-$t"; done
[ -e "$build/build.ninja" ] || meson setup "$build" "$source" -Db_sanitize=thread -Db_lundef=false
# shellcheck disable=SC2086
ninja -C "$build" $targets
export GUESTWARD_ENGINE=interp GUESTWARD_TEST_ROUNDS=250000 CMOCKA_MESSAGE_OUTPUT=STDOUT TSAN_OPTIONS="suppressions=$source/tests/stress/tsan.supp exitcode=66"
for t in $tests; do
	echo "# monitor-$t"
	timeout 1800 "$build/tests/monitor/monitor-$t"
done
