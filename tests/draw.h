/* SPDX-License-Identifier: MIT */
/*
 * draw.h - random numbers that are the same in every run: xorshift64 (Marsaglia, 2003).
 */
#ifndef DRAW_H
#define DRAW_H

#include <stdint.h>

static inline uint32_t
draw(uint64_t *state) /* from any number but 0 */
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 32);
}

#endif /* DRAW_H */
