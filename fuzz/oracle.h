/* oracle.h - how a fuzz target says that something must hold, and takes its decisions from bytes.
 *
 * A target hands a text to the core in a block of exactly its size, so that AddressSanitizer sees a
 * read of the byte behind it.
 */
#ifndef MB_FUZZ_ORACLE_H
#define MB_FUZZ_ORACLE_H

#include "../csrc/core/arena.h"
#include "../csrc/core/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define HOLDS(...) ((__VA_ARGS__) ? (void)0 : broken(__FILE__, __LINE__, #__VA_ARGS__))

_Noreturn static inline void broken(const char *file, int line, const char *expression)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, expression);
    abort();
}

/* Prints, where the environment has TELL, a line of the story that an input stands for. */
__attribute__((format(printf, 1, 2))) static inline void tell(const char *format, ...)
{
    static int telling = -1;
    if (telling < 0)
        telling = getenv("TELL") != NULL;
    if (!telling)
        return;
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
}

/* Recognizes; an id that names two things makes its diff malformed. */
static inline void recognize(mb_arena *arena, mb_diffs *window, mb_diffs *request)
{
    size_t index;
    mb_error error;
    HOLDS(mb_recognize(arena, window, request, true, &index, &error) == MB_OK);
}

static inline mb_arena *new_arena(uint64_t hash_seed)
{
    mb_arena *arena = NULL;
    HOLDS(mb_arena_new(NULL, hash_seed, &arena) == MB_OK);
    return arena;
}

/* Whether a span lies wholly inside a text. */
static inline bool lies_inside(mb_text span, mb_text text)
{
    return span.at >= text.at && span.size <= text.size &&
           (size_t)(span.at - text.at) <= text.size - span.size;
}

/* cJSON copies a number into 63 characters and stumbles over what is left of a longer one. */
static inline bool has_long_number(mb_text text)
{
    size_t run = 0;
    for (size_t i = 0; i < text.size && run < 64; i++)
        run = strchr("0123456789+-.eE", text.at[i]) != NULL ? run + 1 : 0;
    return run == 64;
}

/* The input as a row of decisions; when it is used up, every decision is 0. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} decisions;

/* A decision of 0 ... choices - 1. */
static inline unsigned choose(decisions *d, unsigned choices)
{
    return d->at < d->end ? *d->at++ % choices : 0;
}

#endif
