/* arena.h - memory that is freed in one step. */
#ifndef MB_ARENA_H
#define MB_ARENA_H

#include "mobync.h"

typedef struct mb_arena_block mb_arena_block;

/* Here, and not in arena.c, only so that cutting a piece takes no call. */
struct mb_arena {
    char *next;  /* where the next piece begins */
    size_t left; /* bytes behind it in the last block */
    mb_allocator allocator;
    uint64_t hash_seed;
    mb_arena_block *last;
    mb_arena_block *spare; /* kept by mb_arena_empty for the next merge */
    size_t block_size;     /* bytes of the next block */
};

/* Adds a block with room for so many bytes.  Returns false if there is no memory. */
bool mb_arena_add_block(mb_arena *arena, size_t bytes);

/* The place of the next piece, with room for `bytes`, at least 1. It is not taken yet: the next
 * mb_arena_get of no more than that returns it. NULL if there is no memory for so many. */
static inline void *mb_arena_next(mb_arena *arena, size_t bytes)
{
    return bytes <= arena->left || mb_arena_add_block(arena, bytes) ? arena->next : NULL;
}

/* Returns `bytes` of memory aligned for any type, or NULL. For 0 bytes it never returns NULL. The
 * memory lives as long as the arena. */
static inline void *mb_arena_get(mb_arena *arena, size_t bytes)
{
    const size_t alignment = _Alignof(max_align_t);
    if (bytes == 0)
        bytes = 1;
    void *piece = mb_arena_next(arena, bytes);
    if (piece == NULL)
        return NULL;
    const size_t taken = (bytes + alignment - 1) / alignment * alignment; /* so is a block's size */
    arena->next += taken;
    arena->left -= taken;
    return piece;
}

/* Like mb_arena_get for `count` items of `size` bytes, uninitialized. NULL also if the product
 * overflows. */
void *mb_arena_get_items(mb_arena *arena, size_t count, size_t size);

/* Like mb_arena_get for `count` items of `size` bytes, zeroed. NULL also if the product overflows.
 */
void *mb_arena_get_array(mb_arena *arena, size_t count, size_t size);

/* Copies a text into the arena.  Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_arena_keep(mb_arena *arena, mb_text text, mb_text *kept);

uint64_t mb_arena_hash_seed(const mb_arena *arena);

#endif
