/* SPDX-License-Identifier: MIT */
/* See symbols.h. */
#include "symbols.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blob.h"

#define FILE_MAX	(64ull << 20)
#define NEAR		(1ull << 20)	/* no function is larger */

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int add(struct symbols *s, size_t *size, uint64_t address, const char *name)
{
	if (s->n == *size) {
		size_t more = *size * 2 + 4096;
		struct symbol *list = realloc(s->list, more * sizeof(*list));

		if (!list)
			return -1;
		s->list = list;
		*size = more;
	}
	s->list[s->n++] = (struct symbol){ address, name };
	return 0;
}

/* One line, cut into its words in place. False: not of the form; skipped. */
static bool parse_line(char *line, uint64_t *address, const char **name)
{
	char *end;

	*address = strtoull(line, &end, 16);
	if (end == line || *end != ' ' || !end[1] || end[2] != ' ' || !end[3])
		return false;
	*name = end + 3;
	end[3 + strcspn(end + 3, " \t")] = 0;
	return *address != 0;
}

int symbols_read(struct symbols *s, const char *path, struct err *err)
{
	struct blob file;
	size_t size = 0;
	char *line;

	*s = (struct symbols){ 0 };
	if (blob_read(&file, path, FILE_MAX, "symbols", err) < 0)
		return -1;
	s->text = calloc(1, file.size + 1);
	if (s->text)
		memcpy(s->text, file.data, file.size);
	blob_free(&file);
	for (line = s->text ? strtok(s->text, "\n") : NULL; line; line = strtok(NULL, "\n")) {
		const char *name;
		uint64_t address;

		if (parse_line(line, &address, &name) && add(s, &size, address, name) < 0)
			break;
	}
	if (!s->text || line) {
		symbols_free(s);
		return err_set(err, "out of memory for '%s'", path);
	}
	if (!s->n) {
		symbols_free(s);
		return err_set(err, "'%s' has no symbols: lines are \"address type name\"", path);
	}
	qsort(s->list, s->n, sizeof(*s->list), by_address);
	return 0;
}

void symbols_free(struct symbols *s)
{
	free(s->list);
	free(s->text);
	*s = (struct symbols){ 0 };
}

const char *symbols_name(const struct symbols *s, uint64_t address, char *buf, size_t size)
{
	size_t lo = 0, hi = s->n;

	buf[0] = 0;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (s->list[mid].address <= address)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo && address - s->list[lo - 1].address < NEAR)
		snprintf(buf, size, "%s+0x%" PRIx64, s->list[lo - 1].name, address - s->list[lo - 1].address);
	return buf;
}
