/* table.h - a hash table of pointers, for items that know their own key. */
#ifndef MB_TABLE_H
#define MB_TABLE_H

#include "mobync.h"

typedef struct {
    uint64_t hash;
    void *item; /* NULL: the slot is free */
} mb_slot;

typedef struct {
    mb_slot *slots;
    size_t slot_count; /* a power of two */
    size_t item_count;
} mb_table;

/* Whether `item` has the key that is searched for. */
typedef bool (*mb_match)(const void *item, const void *key);

/* Makes a table that holds `expected` items before it first grows.
 * Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_table_init(mb_table *table, size_t expected, mb_arena *arena);

/* Makes room for more items: the slots move.  Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_table_grow(mb_table *table, mb_arena *arena);

/* Finds the slot of a key, or the free slot for an item with that key.
 *
 * hash   the hash of the key; equal keys have equal hashes
 * slot   out: valid until the next call; if slot->item is NULL, mb_table_fill may fill it
 *
 * Returns MB_OK or MB_NO_MEMORY (the table may have to grow).
 */
static inline mb_status mb_table_find(mb_table *table, uint64_t hash, mb_match match,
                                      const void *key, mb_arena *arena, mb_slot **slot)
{
    if (table->item_count >= table->slot_count / 4 * 3 && mb_table_grow(table, arena) != MB_OK)
        return MB_NO_MEMORY;

    mb_slot *const slots = table->slots;
    const size_t last = table->slot_count - 1;
    size_t at = (size_t)hash & last;
    while (slots[at].item != NULL && !(slots[at].hash == hash && match(slots[at].item, key)))
        at = (at + 1) & last;
    *slot = &slots[at];
    (*slot)->hash = hash;
    return MB_OK;
}

/* Fills the free slot that mb_table_find returned. */
static inline void mb_table_fill(mb_table *table, mb_slot *slot, void *item)
{
    slot->item = item;
    table->item_count++;
}

#endif
