#!/bin/sh
# SPDX-License-Identifier: MIT
# What udhcpc in the guest runs: the address that QEMU's network gives, and its router.
[ "$1" = bound ] && ip addr add "$ip/${mask:-24}" dev "$interface" && ip route add default via "$router"
exit 0
