#!/bin/sh
# SPDX-License-Identifier: MIT
# Ten thousand VMs under a sanitizer, in a build of its own beside the given one. The thread sanitizer sees the interpreter: code
# that the translator makes is not instrumented. It also runs handlers of signals late, with a copy of their context, so that KVM_RUN
# cannot defer signals the way it does for clients of gw_sigaction(): that is for the address sanitizer only. Takes half an hour
# on two processors.
# Usage: sanitize.sh thread|address SOURCE BUILD [VMS]
set -eu
kind=$1 source=$2 build=$3/sanitize-$1 vms=${4:-10000}
[ -e "$build/build.ninja" ] || meson setup "$build" "$source" -Db_sanitize="$kind" -Db_lundef=false >"$3/sanitize-$kind.log" 2>&1
ninja -C "$build" tests/stress/vm-stress >>"$3/sanitize-$kind.log" 2>&1 || { tail -n 20 "$3/sanitize-$kind.log"; exit 1; }
case $kind in
thread) GUESTWARD_ENGINE=interp; export GUESTWARD_ENGINE ;;
esac
TSAN_OPTIONS=suppressions=$source/tests/stress/tsan.supp; export TSAN_OPTIONS
"$build/tests/stress/vm-stress" "$vms" 3 "$$"
[ "$kind" = thread ] || "$build/tests/stress/vm-stress" "$vms" 3 "$$" own
