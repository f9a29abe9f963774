/* Inside the library: what the segments of rollouts are made of; rollouts.c has the format.
 *
 * A field of a segment is a matrix of differences: a line for each element of a row (a step of an
 * environment), and in it a column for each row. Lines begin `pitch` numbers apart. */
#ifndef PENSTOCK_ROLLOUTS_H
#define PENSTOCK_ROLLOUTS_H

#include "kernels.h"

/* Bytes that vectors may reach beyond an end. */
enum { PS_PAD = 64 };

/* Numbers from one line to the next: vectors may run over the end of one. */
PS_INLINE int64_t ps_pitch(int64_t columns) { return (columns + 15) / 16 * 16; }

/* Column r of the matrix becomes rows[r] minus before[r], in zigzag order. Numbers beyond `columns`
 * are 0. */
void ps_rows_to_lines(int level, int64_t item, const uint8_t *const *rows,
                      const uint8_t *const *before, int64_t columns, int64_t elements,
                      uint8_t *lines);

/* Back: rows[r] becomes before[r] plus column r; before[r] may be rows[r - 1]. */
void ps_lines_to_rows(int level, int64_t item, const uint8_t *lines, int64_t columns,
                      int64_t elements, const uint8_t *const *before, uint8_t *const *rows);

/* For each line which distance to an earlier one finds most numbers again, from 1 on; 0 for none.
 * Returns how many lines have one. */
int64_t ps_choose_distances(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, uint8_t *chosen);

/* Takes the lines apart: a bit for each number that is kept in `numbers`, a bit for each that
 * equals that of the earlier line, for lines that chose one; what is neither is 0. Returns how many
 * are kept. `numbers` has room for all and PS_PAD bytes. */
int64_t ps_lines_to_numbers(int level, int64_t item, const uint8_t *lines, int64_t columns,
                            int64_t elements, const int64_t *distances, const uint8_t *chosen,
                            uint8_t *kept, uint8_t *same, uint8_t *numbers);

/* Back; the caller has checked that `kept` has as many bits as there are numbers, that PS_PAD bytes
 * follow them, and that distances lead to an earlier line. */
void ps_numbers_to_lines(int level, int64_t item, const uint8_t *numbers, int64_t columns,
                         int64_t elements, const int64_t *distances, const uint8_t *chosen,
                         const uint8_t *kept, const uint8_t *same, uint8_t *lines);

#endif
