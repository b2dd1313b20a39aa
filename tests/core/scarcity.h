/* scarcity.h - memory that counts what is asked of it and runs out on demand.
 *
 * Serves an arena and, through its hooks, cJSON (which asks for memory of its own when it decodes a
 * string).  Every block comes full of junk, so that what nobody wrote cannot pass for zero.
 */
#ifndef MB_TEST_SCARCITY_H
#define MB_TEST_SCARCITY_H

#include "../../csrc/core/arena.h"
#include "frame.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

typedef struct {
    size_t refused_at;  /* the one allocation that fails, counted from 1; 0: none */
    size_t asked;       /* allocations, with the one that was refused */
    size_t bytes;       /* asked for, altogether */
    size_t live;        /* blocks that were not given back */
    bool refused_cjson; /* it was cJSON that asked for the one that was refused */
} scarce_memory;

static inline void *scarce_allocate(void *context, size_t bytes)
{
    enum { JUNK = 0xa5 };
    scarce_memory *memory = context;
    memory->asked++;
    memory->bytes += bytes;
    if (memory->asked == memory->refused_at)
        return NULL;
    void *block = malloc(bytes);
    if (block != NULL) {
        memset(block, JUNK, bytes);
        memory->live++;
    }
    return block;
}

static inline void scarce_release(void *context, void *block)
{
    scarce_memory *memory = context;
    if (block != NULL)
        memory->live--;
    free(block);
}

static inline mb_allocator scarce_allocator(scarce_memory *memory)
{
    return (mb_allocator){scarce_allocate, scarce_release, memory};
}

/* cJSON's hooks take no context. */
static scarce_memory *cjson_memory;

static inline void *scarce_cjson_malloc(size_t bytes)
{
    void *block = scarce_allocate(cjson_memory, bytes);
    if (block == NULL)
        cjson_memory->refused_cjson = true;
    return block;
}

static inline void scarce_cjson_free(void *block)
{
    scarce_release(cjson_memory, block);
}

/* Lets cJSON live on this memory; NULL gives it malloc and free again. */
static inline void feed_cjson(scarce_memory *memory)
{
    cJSON_Hooks hooks = {scarce_cjson_malloc, scarce_cjson_free};
    cjson_memory = memory;
    cJSON_InitHooks(memory != NULL ? &hooks : NULL);
}

/* Something that takes memory from an arena and writes what came of it to `told`. */
typedef mb_status (*fallible)(void *context, mb_arena *arena, FILE *told);

typedef struct {
    mb_status status;
    scarce_memory memory; /* as it was left, the arena freed */
    char *told;           /* to be freed */
} attempt;

/* Runs `run` once in an arena of its own, of which `spent` bytes are gone beforehand. */
static inline attempt try_once(fallible run, void *context, size_t spent, size_t refused_at)
{
    attempt a = {.memory = {.refused_at = refused_at}};
    const mb_allocator allocator = scarce_allocator(&a.memory);
    mb_arena *arena = NULL;
    size_t told_size;
    FILE *told = open_memstream(&a.told, &told_size);

    feed_cjson(&a.memory);
    a.status = mb_arena_new(&allocator, 7, &arena);
    for (size_t gone = 0; a.status == MB_OK && gone < spent; gone += _Alignof(max_align_t))
        if (mb_arena_get(arena, 1) == NULL)
            a.status = MB_NO_MEMORY;
    if (a.status == MB_OK)
        a.status = run(context, arena, told);
    mb_arena_free(arena);
    feed_cjson(NULL);
    fclose(told);
    return a;
}

/* Checks that `run` survives the loss of any allocation: the 1st, the 2nd, ... until none is left
 * to refuse it says MB_NO_MEMORY and leaks nothing, and then tells what it told with enough memory.
 *
 * An arena asks for memory in blocks, so few of its pieces are the first of a block.  The whole is
 * therefore repeated with a little more of the first blocks spent, until every piece was.
 *
 * Returns how often it was cJSON that was refused. */
static inline size_t check_survives_scarcity(fallible run, void *context)
{
    enum { FIRST_BLOCKS = 3 * 4096 };
    size_t cjson_refusals = 0;
    attempt plenty = try_once(run, context, 0, 0);
    CHECK(plenty.status == MB_OK);
    CHECK(plenty.memory.live == 0);
    CHECK(plenty.told[0] != '\0');

    for (size_t spent = 0; spent <= FIRST_BLOCKS; spent += _Alignof(max_align_t)) {
        for (size_t nth = 1;; nth++) {
            attempt scarce = try_once(run, context, spent, nth);
            const bool refused = scarce.memory.asked >= nth;
            at_row("%zu bytes spent, allocation %zu refused", spent, nth);
            CHECK(scarce.memory.live == 0);
            CHECK(scarce.status == (refused ? MB_NO_MEMORY : MB_OK));
            cjson_refusals += scarce.memory.refused_cjson;
            if (!refused)
                CHECK_TEXT(scarce.told, plenty.told);
            free(scarce.told);
            if (!refused)
                break;
        }
    }
    free(plenty.told);
    return cjson_refusals;
}

#endif
