/* text.h - helpers for a pointer and a length. */
#ifndef MB_TEXT_H
#define MB_TEXT_H

#include "mobync.h"

#include <string.h>

/* A text of a string literal. */
#define MB_TEXT(literal) ((mb_text){"" literal, sizeof(literal) - 1})

static inline bool mb_text_equal(mb_text a, mb_text b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.at, b.at, a.size) == 0);
}

/* Copies a text to a place with enough room; returns the place after it. */
static inline char *mb_text_put(char *at, mb_text text)
{
    if (text.size != 0)
        memcpy(at, text.at, text.size);
    return at + text.size;
}

/* The bytes of a text of up to eight as a number, with zeros above them. */
static inline uint64_t mb_text_word(const char *at, size_t size)
{
    uint32_t first, last;
    if (size == 0)
        return 0;
    if (size < sizeof first) /* the first byte, one in the middle, and the last: all of them */
        return (uint64_t)(unsigned char)at[0] |
               (uint64_t)(unsigned char)at[size / 2] << 8 * (size / 2) |
               (uint64_t)(unsigned char)at[size - 1] << 8 * (size - 1);
    memcpy(&first, at, sizeof first);
    memcpy(&last, at + size - sizeof last, sizeof last);
    return first | (uint64_t)last << 8 * (size - sizeof last);
}

/* A hash of the bytes for tables. The key is secret; nobody is known to cause collisions without
 * it. */
uint64_t mb_text_hash(mb_text text, uint64_t key);

/* A hash that is the same in every version: SipHash-1-3 of the bytes with a 64-bit key. */
uint64_t mb_text_fingerprint(mb_text text, uint64_t key);

#endif
