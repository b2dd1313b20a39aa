/* names.c - objects and fields found by their names.
 *
 * An object is named by its model and its id, a field by its object and its decoded key. The hash
 * table does not know about this, so this file gives it what it needs: how to hash such a name, and
 * when two names are equal. Both hashes have a secret key, because ids and keys come from
 * strangers. The ordinal of an object is part of the key of its fields' hash, and is not just added
 * to it: the sender of the diffs also chooses their order.
 */
#include "names.h"

#include "arena.h"
#include "text.h"

static bool same_object(const void *item, const void *key)
{
    const mb_object_name *name = item;
    const mb_diff *diff = key;
    return mb_text_equal(name->id, diff->object_id) && mb_text_equal(name->model, diff->model);
}

uint64_t mb_hash_object(mb_last_model *last, const mb_diff *diff, const mb_arena *arena)
{
    if (last->name.at == NULL || !mb_text_equal(last->name, diff->model))
        *last = (mb_last_model){diff->model, mb_text_hash(diff->model, mb_arena_hash_seed(arena))};
    return mb_text_hash(diff->object_id, last->hash);
}

mb_status mb_objects_init(mb_objects *objects, size_t expected, mb_arena *arena)
{
    *objects = (mb_objects){.last = {.hash = 0}};
    return mb_table_init(&objects->table, expected, arena);
}

void mb_forget_model(mb_objects *objects)
{
    objects->last = (mb_last_model){.hash = 0};
}

mb_status mb_find_object(mb_objects *objects, const mb_diff *diff, mb_arena *arena, mb_slot **slot)
{
    const uint64_t hash = mb_hash_object(&objects->last, diff, arena);
    return mb_table_find(&objects->table, hash, same_object, diff, arena, slot);
}

static bool same_field(const void *item, const void *key)
{
    const mb_field_name *a = item, *b = key;
    return a->object == b->object && mb_text_equal(a->field, b->field);
}

mb_status mb_find_field(mb_table *fields, size_t object, mb_text field, mb_arena *arena,
                        mb_slot **slot)
{
    const mb_field_name key = {object, field};
    const uint64_t hash = mb_text_hash(field, mb_arena_hash_seed(arena) + object);
    return mb_table_find(fields, hash, same_field, &key, arena, slot);
}
