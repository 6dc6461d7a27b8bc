# SPDX-License-Identifier: MIT
# The machines QEMU can be asked for, and which of them there are. With what=all: every row; with what=missing: each pair of two
# columns' values that some machine has and no row of the input does.
function is_allowed(v) {
	# microvm has its own firmware, no loader that reads a disk, and no PCI.
	if ((v[1] == "microvm") != (v[2] == "qboot"))
		return 0
	if (v[1] == "microvm" && (v[3] != "kernel" || v[7] != "virtio"))
		return 0
	# 7.2 never starts a second CPU with a LAPIC of its own: it forgets to take back the start-up request.
	if (v[4] == "off" && v[6] != 1)
		return 0
	return 1
}
function visit(v,   i, j, line) {
	if (!is_allowed(v))
		return
	line = v[1]
	for (j = 2; j <= n; j++)
		line = line " " v[j]
	if (what == "all")
		print line
	for (i = 1; i <= n; i++)
		for (j = 1; j < i; j++)
			wanted[j " " v[j] ", " i " " v[i]] = names[j] " " v[j] " with " names[i] " " v[i]
}
function walk(v, column,   i, k, list) {
	if (column > n) {
		visit(v)
		return
	}
	k = split(values[column], list, " ")
	for (i = 1; i <= k; i++) {
		v[column] = list[i]
		walk(v, column + 1)
	}
}
BEGIN {
	n = split("machine firmware loader irqchip cpu cpus disk engine", names, " ")
	values[1] = "pc q35 microvm"
	values[2] = "seabios ovmf qboot"
	values[3] = "kernel grub"
	values[4] = "on split off"
	values[5] = "host qemu64 max Haswell-v4"
	values[6] = "1 2 3 4"
	values[7] = "virtio ahci"
	values[8] = "translate interp"
	walk(v, 1)
	if (what == "all")
		exit
}
/^#/ { next }
{
	for (i = 1; i <= n; i++)
		v[i] = $i
	if (NF != n || !is_allowed(v))
		print "row " NR " is no machine: " $0
	for (i = 1; i <= n; i++)
		for (j = 1; j < i; j++)
			delete wanted[j " " $j ", " i " " $i]
}
END {
	if (what == "missing")
		for (pair in wanted)
			print "no row has " wanted[pair]
}
