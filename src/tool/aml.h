/* SPDX-License-Identifier: MIT */
/*
 * Writes AML, the byte code of ACPI's DSDT: just the objects a machine description needs (scopes, devices, names, packages,
 * resource templates); no methods. Errors (out of memory, a package too long) are kept in `failed` and asked for once.
 *
 * Names are written as ASL writes them: "\\_SB_", "COM1", "\\_SB_.VD00"; every part has exactly four characters.
 */
#ifndef TOOL_AML_H
#define TOOL_AML_H

#include <stdbool.h>

#include "blob.h"

struct aml {
	struct blob out;
	bool failed;
};

/* begin returns what end wants: where the object's length goes. Objects nest. */
size_t aml_begin_scope(struct aml *aml, const char *name);
size_t aml_begin_device(struct aml *aml, const char *name);
size_t aml_begin_package(struct aml *aml, unsigned elements);
size_t aml_begin_resources(struct aml *aml);
void aml_end(struct aml *aml, size_t mark);
void aml_end_resources(struct aml *aml, size_t mark);

/* Name (name, ...): the value follows. */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* EISAID ("PNP0501") */
void aml_eisaid(struct aml *aml, const char *id);

/* Inside a resource template. */
void aml_io(struct aml *aml, uint16_t port, uint8_t length);
void aml_irq(struct aml *aml, unsigned irq);				/* edge, active high: ISA */
void aml_memory(struct aml *aml, uint32_t start, uint32_t length);	/* read-write */
void aml_interrupt(struct aml *aml, uint32_t gsi);			/* level, active high, exclusive */

#endif
