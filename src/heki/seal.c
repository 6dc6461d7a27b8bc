/* SPDX-License-Identifier: MIT */
/* Unassisted mode. */
#include "heki/heki_private.h"

void heki_try_lock(struct heki *h, const struct acc_cpu *cpu) { }
void heki_dynamic(struct heki *h, const struct acc_cpu *cpu, const struct acc_request *rq) { }
bool heki_is_dynamic(struct heki *h, const struct acc_request *rq, uint8_t attributes) { return false; }
void heki_seals_free(struct heki *h) { }
