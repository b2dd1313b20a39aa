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

/* Fewer than eight bytes as a number: the first four, then two, then one, each read in the machine's
 * own order, with zeros above them. */
static inline uint64_t mb_text_word(const char *at, size_t size)
{
    uint64_t word = 0;
    uint32_t four;
    uint16_t two;
    if ((size & 4) != 0) {
        memcpy(&four, at, sizeof four);
        word = four;
    }
    if ((size & 2) != 0) {
        memcpy(&two, at + (size & 4), sizeof two);
        word |= (uint64_t)two << 8 * (size & 4);
    }
    if ((size & 1) != 0)
        word |= (uint64_t)(unsigned char)at[size - 1] << 8 * (size - 1);
    return word;
}

/* A hash of the bytes for tables. The key is secret; nobody is known to cause collisions without
 * it. */
uint64_t mb_text_hash(mb_text text, uint64_t key);

/* A hash that is the same in every version: SipHash-1-3 of the bytes with a 64-bit key. */
uint64_t mb_text_fingerprint(mb_text text, uint64_t key);

#endif
