#!/bin/sh
# SPDX-License-Identifier: MIT
# The rows of the client matrix have every pair of values that some machine has; without one of them they do not. TAP on
# standard output. Usage: matrix_test.sh MATRIX.AWK MATRIX
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
awk -v what=missing -f "$1" "$2" >"$dir/missing"
if [ ! -s "$dir/missing" ]; then echo 'ok 1 - every pair of values is in some row'; else
	echo 'not ok 1 - every pair of values is in some row'
	sed 's/^/# /' "$dir/missing"
fi
if sed '$d' "$2" | awk -v what=missing -f "$1" | grep -q 'no row has'; then echo 'ok 2 - a row less, and a pair is missed'; else
	echo 'not ok 2 - a row less, and a pair is missed'
fi
echo '1..2'
