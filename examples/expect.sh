#!/bin/sh
# SPDX-License-Identifier: MIT
# Usage: expect.sh PROGRAM TEXT. The program succeeds and prints exactly that.
out=$("$1") || exit 1
[ "$out" = "$2" ] || { echo "printed '$out', wanted '$2'" >&2; exit 1; }
