/* SPDX-License-Identifier: MIT */
/*
 * Random programs of one page, for the rig: single instructions as the differential test makes them, each mostly preceded by MOVs
 * that put its operand where it may lie, and branches, loops, calls and computed jumps around them. A program ends with HLT, which
 * is refused at CPL 3.
 */
#ifndef GW_TESTS_TRANSLATE_PROGRAM_H
#define GW_TESTS_TRANSLATE_PROGRAM_H

#include "rig.h"

/* Once: which instructions programs are made of. */
void program_forms(const bool *features);
/* Decisions come from @choice while there is any, then from @seed. */
void program_make(struct rig_program *p, uint64_t seed, const uint8_t *choice, size_t n_choice);
void program_print(const struct rig_program *p);

#endif
