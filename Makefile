# SPDX-License-Identifier: MIT
# Thin: meson and ninja build, scripts do the rest. `make run` and `make test` need nothing but Debian's packages.

BUILD ?= build
KERNEL_PACKAGE ?= linux-image-cloud-amd64
CACHE ?= cache

GUESTWARD = $(BUILD)/src/tool/guestward

.PHONY: all run test stress hunts matrix bench presubmit install clean

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	tools/install-deps
	meson setup $(BUILD)

# Boots Debian's own kernel to a shell script that shows the machine and powers it off. Options: make run ARGS='--cpus=2'
# Then attacks the same kernel from a module of its own, without protection and with it: two columns (PROTECT=heki,frozen).
PROTECT ?= heki
run: all
	tools/fetch-kernel $(KERNEL_PACKAGE)
	$(GUESTWARD) boot --kernel=$(CACHE)/$(KERNEL_PACKAGE)/kernel --modules=$(CACHE)/$(KERNEL_PACKAGE)/modules $(ARGS)
	-tools/fetch-headers $(KERNEL_PACKAGE)
	tests/heki/attack.sh $(GUESTWARD) $(CACHE)/$(KERNEL_PACKAGE) guest/heki/attack $(PROTECT) || [ $$? = 77 ]

# The tests that boot a kernel want it there, and those with real clients want QEMU and Xen's xen-access; without a network they
# are skipped, and say so.
CLIENT_PACKAGES = qemu-system-x86 seabios ovmf e2fsprogs grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools \
	xen-utils-4.17 libxen-dev mmdebstrap
test: all
	-tools/install-deps $(CLIENT_PACKAGES)
	-tools/fetch-kernel linux-image-cloud-amd64
	-tools/fetch-kernel linux-image-amd64
	-tools/fetch-headers linux-image-cloud-amd64
	-tools/fetch-debian
	meson test -C $(BUILD) --print-errorlogs

# The long hunts: every stress-* target of the build, then the client matrix. Hours on two CPUs.
stress: hunts
	$(MAKE) matrix

hunts: all
	tools/install-deps $(CLIENT_PACKAGES)
	tools/fetch-kernel linux-image-cloud-amd64
	tools/fetch-kernel linux-image-amd64
	-tools/fetch-kernel linux-image-6.12-cloud-amd64
	-tools/fetch-headers linux-image-cloud-amd64
	-tools/fetch-headers linux-image-6.12-cloud-amd64
	-tools/fetch-debian
	ninja -C $(BUILD) -j1 $$(ninja -C $(BUILD) -t targets all | sed -n 's/^\(stress-[a-z]*\):.*/\1/p')

# Every machine type, firmware, interrupt controller, CPU model, disk and engine QEMU can be asked for. What was ended half-way goes
# on where it was: what has passed is in the file DONE. QEMU=... takes another QEMU.
DONE ?= $(BUILD)/matrix.done
matrix: all
	tools/install-deps $(CLIENT_PACKAGES)
	tools/fetch-kernel linux-image-cloud-amd64
	tools/fetch-kernel linux-image-amd64
	DONE=$(abspath $(DONE)) tests/clients/clients_test.sh $(abspath $(GUESTWARD)) $(abspath $(CACHE)) $(abspath tests/clients) all

bench: all
	$(BUILD)/bench/bench-exits
	$(BUILD)/bench/bench-monitor
	$(BUILD)/bench/bench-private
	bench/run
	bench/heki

presubmit:
	tools/presubmit

install: all
	meson install -C $(BUILD)

clean:
	rm -rf $(BUILD)
