/* table.c - a hash table of pointers.
 *
 * Open addressing with linear probing, at most three quarters full. A slot has the hash beside the
 * pointer, so growing never reads an item, and a probe rarely does. Nothing is ever removed. When
 * the table grows, the old slots stay in the arena; altogether they are smaller than the new ones.
 */
#include "table.h"

#include "arena.h"

static mb_status make_slots(size_t slot_count, mb_arena *arena, mb_slot **slots)
{
    *slots = mb_arena_get_array(arena, slot_count, sizeof **slots);
    return *slots == NULL ? MB_NO_MEMORY : MB_OK;
}

mb_status mb_table_init(mb_table *table, size_t expected, mb_arena *arena)
{
    size_t slot_count = 8;
    while (slot_count / 4 * 3 < expected && slot_count <= SIZE_MAX / 2)
        slot_count *= 2;
    *table = (mb_table){.slot_count = slot_count};
    return make_slots(slot_count, arena, &table->slots);
}

mb_status mb_table_grow(mb_table *table, mb_arena *arena)
{
    mb_slot *slots;
    const size_t slot_count = table->slot_count * 2;
    if (make_slots(slot_count, arena, &slots) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < table->slot_count; i++) {
        if (table->slots[i].item == NULL)
            continue;
        size_t at = (size_t)table->slots[i].hash & (slot_count - 1);
        while (slots[at].item != NULL)
            at = (at + 1) & (slot_count - 1);
        slots[at] = table->slots[i];
    }
    table->slots = slots;
    table->slot_count = slot_count;
    return MB_OK;
}
