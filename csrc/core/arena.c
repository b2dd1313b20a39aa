/* arena.c - memory that is freed in one step.
 *
 * A merge makes many small things and drops all of them together. So memory is cut from blocks.
 * Each block is twice as large as the one before, up to a mebibyte, and no piece is ever freed
 * alone. There is no ownership to track, no leak on an error path, and there are few calls of the
 * allocator. An emptied arena keeps its blocks, because new pages from the system cost more than
 * the work that is done in them.
 *
 * Does not: shrink, reuse a piece, or serve two threads.
 */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20 };

#define ALIGNMENT (_Alignof(max_align_t))

struct mb_arena_block {
    mb_arena_block *previous;
    size_t size; /* bytes of memory, a multiple of ALIGNMENT */
    max_align_t memory[];
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

/* Moves blocks to the spare ones as long as there is room for them, and frees the others. */
static void keep_blocks(mb_arena *arena, mb_arena_block *blocks, size_t *room)
{
    while (blocks != NULL) {
        mb_arena_block *b = blocks;
        blocks = b->previous;
        if (b->size > *room) {
            arena->allocator.release(arena->allocator.context, b);
            continue;
        }
        *room -= b->size;
        b->previous = arena->spare;
        arena->spare = b;
    }
}

void mb_arena_empty(mb_arena *arena, size_t keep_bytes)
{
    mb_arena_block *spare = arena->spare;
    arena->spare = NULL;
    keep_blocks(arena, spare, &keep_bytes);
    keep_blocks(arena, arena->last, &keep_bytes);
    arena->last = NULL;
    arena->next = NULL;
    arena->left = 0;
    arena->block_size = FIRST_BLOCK;
}

void mb_arena_free(mb_arena *arena)
{
    if (arena == NULL)
        return;
    const mb_allocator allocator = arena->allocator;
    mb_arena_empty(arena, 0);
    allocator.release(allocator.context, arena);
}

/* A spare block, or a new one. */
static mb_arena_block *get_block(mb_arena *arena, size_t at_least)
{
    mb_arena_block **place = &arena->spare;
    while (*place != NULL && (*place)->size < at_least)
        place = &(*place)->previous;
    mb_arena_block *found = *place;
    if (found != NULL) {
        *place = found->previous;
        return found;
    }
    const size_t size = at_least > arena->block_size ? at_least : arena->block_size;
    if (size > SIZE_MAX - sizeof(mb_arena_block))
        return NULL;
    found = arena->allocator.allocate(arena->allocator.context, sizeof(mb_arena_block) + size);
    if (found == NULL)
        return NULL;
    found->size = size;
    if (arena->block_size < LARGEST_BLOCK)
        arena->block_size *= 2;
    return found;
}

bool mb_arena_add_block(mb_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGNMENT)
        return false;
    mb_arena_block *added = get_block(arena, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (added == NULL)
        return false;
    added->previous = arena->last;
    arena->last = added;
    arena->next = (char *)added->memory;
    arena->left = added->size;
    return true;
}

void *mb_arena_get_items(mb_arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    return mb_arena_get(arena, count * size);
}

void *mb_arena_get_array(mb_arena *arena, size_t count, size_t size)
{
    void *array = mb_arena_get_items(arena, count, size);
    if (array != NULL && count != 0)
        memset(array, 0, count * size);
    return array;
}

mb_status mb_arena_keep(mb_arena *arena, mb_text text, mb_text *kept)
{
    char *copy = mb_arena_get(arena, text.size);
    if (copy == NULL)
        return MB_NO_MEMORY;
    if (text.size != 0)
        memcpy(copy, text.at, text.size);
    *kept = (mb_text){copy, text.size};
    return MB_OK;
}

uint64_t mb_arena_hash_seed(const mb_arena *arena)
{
    return arena->hash_seed;
}
