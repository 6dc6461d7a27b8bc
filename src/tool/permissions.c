/* SPDX-License-Identifier: MIT */
/*
 * `guestward map --permissions`: a picture of guest-physical memory by what kernel integrity lets the guest do there. Memory is cut
 * into cells of equal size; a cell shows the most closed of what lies in it.
 */
#include "watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <guestward/control.h>
#include <guestward/kvm.h>

#include "exit_codes.h"

#define COLUMNS		64u
#define ROWS		32u
#define CELLS		(COLUMNS * ROWS)
#define SVG_CELL	12u

/* In rising order of what wins in a cell. */
static const struct look { char mark; const char *name, *terminal, *svg; } looks[] = {
	{ '.', "data: writable, no kernel code", "2", "#d9d9d9" },
	{ '*', "everything allowed", "0", "#ffffff" },
	{ 'r', "constants: read only", "34", "#4f81bd" },
	{ 'p', "code that the kernel may patch by its vocabulary", "33", "#e0a030" },
	{ 'X', "code: read and execute", "32", "#4fa64f" },
	{ '-', "closed", "35", "#703070" },
	{ '!', "writable kernel code", "1;31", "#e02020" },
};
#define N_LOOKS (sizeof(looks) / sizeof(looks[0]))

static unsigned look_of(uint64_t a)
{
	bool x = !(a & (GW_HEKI_NX | GW_HEKI_NXS)), w = !(a & GW_HEKI_NW);

	if (a & GW_HEKI_NR)
		return 5;
	if (x && w)
		return a & (GW_HEKI_SEALED | GW_HEKI_POKE) ? 6 : 1;
	if (x)
		return a & GW_HEKI_POKE && !(a & GW_HEKI_IMMUTABLE) ? 3 : 4;
	return w ? 0 : 2;
}

struct picture { uint64_t cell, end; unsigned look[CELLS]; uint64_t bytes[N_LOOKS]; bool is_locked; };

/* Smallest power of two per cell that shows everything that has a permission of its own. */
static void size_up(struct picture *p, const char *text)
{
	uint64_t at, size, a, end = 16ull << 20;
	const char *line;

	for (line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n'))
		if (sscanf(line + 1, "%" SCNx64 " %" SCNx64 " %" SCNx64, &at, &size, &a) == 3 && at + size > end)
			end = at + size;
	for (p->cell = 4096; p->cell < (1ull << 52) && p->cell * CELLS < end; p->cell <<= 1)
		;
	p->end = end;
}

static bool draw(struct picture *p, const char *text)
{
	uint64_t at, size, a, standard;
	unsigned locked, base;
	const char *line;

	if (sscanf(text, "default %" SCNx64 " locked %u", &standard, &locked) != 2)
		return false;
	p->is_locked = locked;
	size_up(p, text);
	base = look_of(standard);
	for (unsigned i = 0; i < CELLS; i++)
		p->look[i] = base;
	for (line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
		unsigned look;

		if (sscanf(line + 1, "%" SCNx64 " %" SCNx64 " %" SCNx64, &at, &size, &a) != 3)
			continue;
		look = look_of(a);
		p->bytes[look] += size;
		for (uint64_t i = at / p->cell; size && i < CELLS && i <= (at + size - 1) / p->cell; i++)
			if (look > p->look[i])
				p->look[i] = look;
	}
	return true;
}

static void print_terminal(const struct picture *p)
{
	bool colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");

	printf("%s; a mark is %" PRIu64 " KiB, a line %" PRIu64 " KiB\n", p->is_locked ? "locked" : "not locked", p->cell >> 10, p->cell * COLUMNS >> 10);
	for (unsigned row = 0; row < ROWS && row * COLUMNS * p->cell < p->end; row++) {
		printf("%012" PRIx64 "  ", row * COLUMNS * p->cell);
		for (unsigned i = row * COLUMNS; i < (row + 1) * COLUMNS; i++) {
			const struct look *l = &looks[p->look[i]];

			printf(colour ? "\033[%sm%c\033[0m" : "%.0s%c", l->terminal, l->mark);
		}
		putchar('\n');
	}
	for (unsigned i = 0; i < N_LOOKS; i++)
		if (p->bytes[i])
			printf("%c  %-50s %8" PRIu64 " KiB\n", looks[i].mark, looks[i].name, p->bytes[i] >> 10);
}

static int write_svg(const struct picture *p, const char *path)
{
	unsigned rows = 0, y;
	FILE *f = fopen(path, "w");

	if (!f)
		return -1;
	while (rows < ROWS && rows * COLUMNS * p->cell < p->end)
		rows++;
	y = (rows + 2) * SVG_CELL;
	fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" font-family=\"monospace\" font-size=\"11\">\n"
		   "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", COLUMNS * SVG_CELL + 120, y + (unsigned)N_LOOKS * 16);
	for (unsigned i = 0; i < rows * COLUMNS; i++)
		fprintf(f, "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" fill=\"%s\"><title>%" PRIx64 ": %s</title></rect>\n",
			110 + i % COLUMNS * SVG_CELL, i / COLUMNS * SVG_CELL + 4, SVG_CELL - 1, SVG_CELL - 1, looks[p->look[i]].svg, i * p->cell,
			looks[p->look[i]].name);
	for (unsigned row = 0; row < rows; row++)
		fprintf(f, "<text x=\"4\" y=\"%u\">%012" PRIx64 "</text>\n", (row + 1) * SVG_CELL + 2, row * COLUMNS * p->cell);
	for (unsigned i = 0; i < N_LOOKS; i++)
		fprintf(f, "<rect x=\"110\" y=\"%u\" width=\"11\" height=\"11\" fill=\"%s\" stroke=\"#808080\"/><text x=\"128\" y=\"%u\">%s: %" PRIu64 " KiB</text>\n",
			y + i * 16, looks[i].svg, y + i * 16 + 10, looks[i].name, p->bytes[i] >> 10);
	fputs("</svg>\n", f);
	return fclose(f);
}

int map_permissions(int pid, unsigned vm, const char *svg)
{
	static struct picture p;	/* large */
	char request[GW_CONTROL_LINE], *text;
	bool ok;

	snprintf(request, sizeof(request), "heki-map vm=%u\n", vm);
	text = control_answer(pid, request);
	ok = text && draw(&p, text);
	free(text);
	if (!ok) {
		fprintf(stderr, "guestward: process %d has no VM to ask; 'guestward map' lists those that have\n", pid);
		return STATUS_FAILED;
	}
	if (!svg) {
		print_terminal(&p);
		return STATUS_OK;
	}
	if (write_svg(&p, svg)) {
		fprintf(stderr, "guestward: cannot write '%s': %s\n", svg, strerror(errno));
		return STATUS_FAILED;
	}
	return STATUS_OK;
}
