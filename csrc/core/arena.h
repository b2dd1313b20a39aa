/* arena.h - memory that is freed in one step. */
#ifndef MB_ARENA_H
#define MB_ARENA_H

#include "mobync.h"

/* Returns `bytes` of memory aligned for any type, or NULL. For 0 bytes it never returns NULL. The
 * memory lives as long as the arena. */
void *mb_arena_get(mb_arena *arena, size_t bytes);

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
