/* arena.c - memory that is given back all at once.
 *
 * A merge makes many small things and drops all of them together.  So memory is cut from blocks,
 * each twice as large as the one before up to a mebibyte, and no piece is ever freed alone: no
 * ownership to track, no leak on an error path, and few calls of the allocator.
 *
 * Does not: shrink, reuse, or serve two threads.
 */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20 };

#define ALIGNMENT (_Alignof(max_align_t))

typedef struct block {
    struct block *previous;
    max_align_t memory[];
} block;

struct mb_arena {
    mb_allocator allocator;
    uint64_t hash_seed;
    block *last;
    char *next;        /* where the next piece begins */
    size_t left;       /* bytes behind it in the last block */
    size_t block_size; /* bytes of the next block */
};

static void *allocate_with_malloc(void *context, size_t bytes)
{
    (void)context;
    return malloc(bytes);
}

static void release_with_free(void *context, void *memory)
{
    (void)context;
    free(memory);
}

mb_status mb_arena_new(const mb_allocator *allocator, uint64_t hash_seed, mb_arena **arena)
{
    static const mb_allocator standard = {allocate_with_malloc, release_with_free, NULL};
    if (allocator == NULL)
        allocator = &standard;

    mb_arena *made = allocator->allocate(allocator->context, sizeof *made);
    if (made == NULL)
        return MB_NO_MEMORY;
    *made = (mb_arena){.allocator = *allocator, .hash_seed = hash_seed, .block_size = FIRST_BLOCK};
    *arena = made;
    return MB_OK;
}

void mb_arena_free(mb_arena *arena)
{
    if (arena == NULL)
        return;
    const mb_allocator allocator = arena->allocator;
    for (block *b = arena->last; b != NULL;) {
        block *previous = b->previous;
        allocator.release(allocator.context, b);
        b = previous;
    }
    allocator.release(allocator.context, arena);
}

static bool add_block(mb_arena *arena, size_t at_least)
{
    size_t size = at_least > arena->block_size ? at_least : arena->block_size;
    if (size > SIZE_MAX - sizeof(block))
        return false;
    block *added = arena->allocator.allocate(arena->allocator.context, sizeof(block) + size);
    if (added == NULL)
        return false;
    added->previous = arena->last;
    arena->last = added;
    arena->next = (char *)added->memory;
    arena->left = size;
    if (arena->block_size < LARGEST_BLOCK)
        arena->block_size *= 2;
    return true;
}

void *mb_arena_get(mb_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGNMENT)
        return NULL;
    bytes = bytes == 0 ? ALIGNMENT : (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes > arena->left && !add_block(arena, bytes))
        return NULL;
    void *piece = arena->next;
    arena->next += bytes;
    arena->left -= bytes;
    return piece;
}

void *mb_arena_get_array(mb_arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    void *array = mb_arena_get(arena, count * size);
    if (array != NULL && count != 0)
        memset(array, 0, count * size);
    return array;
}

uint64_t mb_arena_hash_seed(const mb_arena *arena)
{
    return arena->hash_seed;
}
