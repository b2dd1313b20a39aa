/* select.c - merging a part of what there is.
 *
 * Each object is decided alone, so a part of the objects can be merged now and the rest later.  Four
 * things use that:
 *
 * A long window goes to the device in pages.  All pages but the last have only objects that the
 * request does not touch: for those, a page is a sync of a device with nothing to say, and its
 * clock moves from page to page.  What the request touches waits for the last page and is merged
 * there with the whole window, as if there had been no pages.  So no page can say of an object what
 * a later one would have to take back.
 *
 * A device that has never synced cannot hold what died before.  Of a compacted log such an object
 * has a delete left and nothing else; leaving it out bounds what a new device gets by what lives.
 *
 * A device whose edit was refused is told the true state of the object.  That is the merge of the
 * whole log with nothing, for the objects of the refused diffs alone.
 *
 * A refused diff that is left out of the merge changes what else of its object is written, and of no
 * other.  So who asks about what is written asks about all of the objects concerned.
 *
 * Does not: cut an object in two.
 */
#include "arena.h"
#include "log.h"
#include "names.h"
#include "text.h"

static mb_status note(mb_arena *arena, mb_table *objects, mb_slot *slot, const mb_diff *diff)
{
    mb_object_name *name = mb_arena_get_array(arena, 1, sizeof *name);
    if (name == NULL)
        return MB_NO_MEMORY;
    *name = (mb_object_name){diff->model, diff->object_id, objects->item_count};
    mb_table_fill(objects, slot, name);
    return MB_OK;
}

/* Notes the objects of the request's diffs.
 *
 * among   of those diffs alone, by index; NULL: of all
 */
static mb_status note_touched(mb_arena *arena, const mb_diffs *request, const bool *among,
                              mb_table *touched)
{
    mb_slot *slot;
    if (mb_table_init(touched, request->count, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (among != NULL && !among[i])
            continue;
        if (mb_find_object(touched, diff->model, diff->object_id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item == NULL && note(arena, touched, slot, diff) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

mb_status mb_select(mb_arena *arena, mb_diffs *window, mb_diffs *request,
                    const mb_selection *selection)
{
    mb_table touched;
    mb_slot *slot;
    if (note_touched(arena, request, NULL, &touched) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < window->count; i++) {
        mb_diff *diff = &window->items[i];
        if (mb_find_object(&touched, diff->model, diff->object_id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        const bool in_range = diff->logical_clock >= selection->untouched_from &&
                              diff->logical_clock < selection->untouched_before;
        diff->left_out = !(slot->item != NULL ? selection->touched : in_range);
    }
    for (size_t i = 0; i < request->count; i++)
        request->items[i].left_out = !selection->request;
    return MB_OK;
}

mb_status mb_leave_out_dead(mb_arena *arena, mb_diffs *window, const mb_diffs *request)
{
    mb_table seen;
    mb_slot *slot;
    const mb_diff **in_order;
    if (note_touched(arena, request, NULL, &seen) != MB_OK ||
        mb_log_order(window, arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < window->count; i++) {
        mb_diff *diff = &window->items[in_order[i] - window->items];
        if (mb_find_object(&seen, diff->model, diff->object_id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item != NULL)
            continue;
        if (diff->type == MB_DELETE)
            diff->left_out = true;
        else if (note(arena, &seen, slot, diff) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

mb_status mb_find_of_written_objects(const mb_diffs *request, const bool *written, mb_arena *arena,
                                     bool **found)
{
    mb_table objects;
    mb_slot *slot;
    bool *of_them = mb_arena_get_items(arena, request->count, sizeof *of_them);
    if (of_them == NULL || note_touched(arena, request, written, &objects) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (mb_find_object(&objects, diff->model, diff->object_id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        of_them[i] = slot->item != NULL;
    }
    *found = of_them;
    return MB_OK;
}

mb_status mb_page_end(mb_arena *arena, const mb_diffs *window, size_t limit, int64_t *end)
{
    const mb_diff **in_order;
    *end = -1;
    if (window->count <= limit)
        return MB_OK;
    if (mb_log_order(window, arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;
    const int64_t first = in_order[0]->logical_clock;
    const int64_t next = in_order[limit]->logical_clock;
    const int64_t last = in_order[window->count - 1]->logical_clock;
    if (next > first)
        *end = next;
    else if (last > first)
        *end = first + 1;
    return MB_OK;
}

uint64_t mb_request_fingerprint(const mb_diffs *request)
{
    uint64_t fingerprint = request->count;
    for (size_t i = 0; i < request->count; i++)
        fingerprint = mb_text_hash(request->items[i].id, fingerprint);
    return fingerprint;
}
