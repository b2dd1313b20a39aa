/* quoted.h - JSON in C tests, written with ' for " so that it can be read. */
#ifndef MB_TEST_QUOTED_H
#define MB_TEST_QUOTED_H

#include "../../csrc/core/arena.h"
#include "frame.h"

/* A copy in arena, with each ' turned into ". */
static inline mb_text keep(mb_arena *arena, const char *text)
{
    const size_t size = strlen(text);
    char *kept = mb_arena_get(arena, size);
    CHECK(kept != NULL);
    for (size_t i = 0; i < size; i++)
        kept[i] = text[i] == '\'' ? '"' : text[i];
    return (mb_text){kept, size};
}

#endif
