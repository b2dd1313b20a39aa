/* recognize.c - which diffs of a request the server already has.
 *
 * A reply can be lost, so a device sends edits again if it does not know that they arrived. Each
 * diff has its own id for ever. So if the id of a diff in the request is in the window, an earlier
 * sync accepted that diff. Only the id decides, not the content. The merge can turn a create into
 * an update and drop fields, so the log may differ from what the device says. But the merge never
 * moves a diff to another object, so an id that comes with another object names two things.
 *
 * Does not: compare the content; merge.c does that, field by field.
 */
#include "arena.h"
#include "error.h"
#include "names.h"
#include "text.h"

static bool diff_has_id(const void *item, const void *key)
{
    return mb_text_equal(((const mb_diff *)item)->id, *(const mb_text *)key);
}

static mb_status find_id(mb_table *ids, mb_text id, mb_arena *arena, mb_slot **slot)
{
    const uint64_t hash = mb_text_hash(id, mb_arena_hash_seed(arena));
    return mb_table_find(ids, hash, diff_has_id, &id, arena, slot);
}

static void clear_marks(mb_diff *diff)
{
    if (diff->malformed == &mb_other_object)
        diff->malformed = NULL;
    diff->known = diff->repeated = diff->retried = false;
    diff->logged = NULL;
    diff->excluded = diff->malformed != NULL;
}

/* Clears the marks of an earlier window. The first diff with an id counts, even a malformed one. */
static mb_status find_repeated(mb_diffs *request, mb_arena *arena, mb_table *ids)
{
    mb_slot *slot;
    for (size_t i = 0; i < request->count; i++) {
        mb_diff *diff = &request->items[i];
        clear_marks(diff);
        if (diff->id.size == 0)
            continue;
        if (find_id(ids, diff->id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        diff->repeated = slot->item != NULL;
        if (slot->item == NULL)
            mb_table_fill(ids, slot, diff);
    }
    return MB_OK;
}

/* Marks a diff of the request and the window's diff with its id, if both are of one object. */
static bool match(mb_diff *logged, mb_diff *diff)
{
    if (diff->malformed != NULL)
        return true;
    if (!mb_text_equal(diff->model, logged->model) ||
        !mb_text_equal(diff->object_id, logged->object_id))
        return false;
    diff->known = logged->known = true;
    diff->logged = logged;
    return true;
}

mb_status mb_recognize(mb_arena *arena, mb_diffs *window, mb_diffs *request, bool keep_malformed,
                       size_t *index, mb_error *error)
{
    mb_table ids;
    mb_slot *slot;
    for (size_t i = 0; i < window->count; i++)
        clear_marks(&window->items[i]);
    if (request->count == 0) /* a pull: nothing to look up */
        return MB_OK;
    if (mb_table_init(&ids, request->count, arena) != MB_OK ||
        find_repeated(request, arena, &ids) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < window->count; i++) {
        mb_diff *logged = &window->items[i];
        if (find_id(&ids, logged->id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        mb_diff *diff = slot->item;
        if (diff == NULL || match(logged, diff))
            continue;
        if (!keep_malformed) {
            *index = (size_t)(diff - request->items);
            *error = mb_other_object;
            error->diff_id = diff->id;
            return MB_INVALID;
        }
        diff->malformed = &mb_other_object;
        diff->excluded = true;
    }
    return MB_OK;
}

void mb_know_all(mb_diffs *request)
{
    for (size_t i = 0; i < request->count; i++) {
        mb_diff *diff = &request->items[i];
        if (!diff->excluded)
            diff->known = diff->retried = true;
    }
}
