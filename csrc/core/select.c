/* select.c - merges a part of the objects.
 *
 * Each object is merged separately, so some objects can be merged now and the others later. This is
 * used in three cases.
 *
 * A long window is sent to the device in pages. All pages except the last contain only objects
 * without a diff in the request. For those, a page is a sync of a device that sends nothing, and
 * its clock moves from page to page. Objects with diffs in the request wait for the last page, and
 * are merged there with the whole window, as if there were no pages. So no page has to undo what an
 * earlier page said about an object.
 *
 * A device at clock 0 has no rows, so it does not need objects that were dead when its pull began:
 * its download is limited by the number of live objects. It does need a later delete, because an
 * earlier page may have brought the object.
 *
 * If a refused diff is excluded from the merge, this can change what else of its object is written,
 * but not of other objects. So the rules are asked about the whole objects concerned.
 *
 * Does not: cut an object in two.
 */
#include "arena.h"
#include "log.h"
#include "names.h"
#include "text.h"

/* An object about which something is remembered. */
typedef struct {
    mb_object_name name;
    bool is_made;  /* the request has an unknown create of it */
    mb_diff *next; /* the diff of it that the walk met last */
} noted_object;

static mb_status note(mb_objects *objects, const mb_diff *diff, mb_arena *arena,
                      noted_object **noted)
{
    mb_slot *slot;
    if (mb_find_object(objects, diff, arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    if (slot->item == NULL) {
        noted_object *made = mb_arena_get_array(arena, 1, sizeof *made);
        if (made == NULL)
            return MB_NO_MEMORY;
        made->name = (mb_object_name){diff->model, diff->object_id, objects->table.item_count};
        mb_table_fill(&objects->table, slot, made);
    }
    *noted = slot->item;
    return MB_OK;
}

static bool has_object(const mb_diff *diff)
{
    return diff->model.size != 0 && diff->object_id.size != 0;
}

/* Records the objects of the request's diffs. */
static mb_status note_requested(mb_arena *arena, const mb_diffs *request, mb_objects *requested)
{
    noted_object *noted;
    if (mb_objects_init(requested, request->count, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++)
        if (has_object(&request->items[i]) &&
            note(requested, &request->items[i], arena, &noted) != MB_OK)
            return MB_NO_MEMORY;
    return MB_OK;
}

static mb_status is_noted(mb_objects *objects, const mb_diff *diff, mb_arena *arena, bool *noted)
{
    mb_slot *slot;
    if (mb_find_object(objects, diff, arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    *noted = slot->item != NULL;
    return MB_OK;
}

mb_status mb_link_objects(mb_arena *arena, mb_diffs *request)
{
    mb_objects objects;
    noted_object *object;
    if (mb_objects_init(&objects, request->count, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = request->count; i-- > 0;) {
        mb_diff *diff = &request->items[i];
        diff->next_of_object = NULL;
        if (!has_object(diff))
            continue;
        if (note(&objects, diff, arena, &object) != MB_OK)
            return MB_NO_MEMORY;
        diff->next_of_object = object->next;
        object->next = diff;
    }
    return MB_OK;
}

mb_status mb_select(mb_arena *arena, mb_diffs *window, mb_diffs *request,
                    const mb_selection *selection)
{
    mb_objects requested;
    bool is_requested;
    if (note_requested(arena, request, &requested) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < window->count; i++) {
        mb_diff *diff = &window->items[i];
        if (is_noted(&requested, diff, arena, &is_requested) != MB_OK)
            return MB_NO_MEMORY;
        const bool in_range = diff->logical_clock >= selection->others_from &&
                              diff->logical_clock < selection->others_before;
        diff->excluded |= !(is_requested ? selection->requested : in_range);
    }
    for (size_t i = 0; i < request->count; i++)
        request->items[i].excluded |= !selection->request;
    return MB_OK;
}

/* Records the objects of those diffs that are deletes and below pull_clock. */
static mb_status note_dead(mb_arena *arena, const mb_diffs *later, int64_t pull_clock,
                           mb_objects *dead)
{
    noted_object *noted;
    if (mb_objects_init(dead, 0, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < later->count; i++) {
        const mb_diff *diff = &later->items[i];
        if (diff->type == MB_DELETE && diff->logical_clock < pull_clock &&
            note(dead, diff, arena, &noted) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

static bool has_delete(const mb_diffs *diffs)
{
    for (size_t i = 0; i < diffs->count; i++)
        if (diffs->items[i].type == MB_DELETE)
            return true;
    return false;
}

mb_status mb_exclude_dead(mb_arena *arena, mb_diffs *window, const mb_diffs *request,
                          const mb_diffs *later, int64_t pull_clock)
{
    mb_objects requested, dead;
    noted_object *noted;
    bool is_requested, is_dead;
    const mb_diff **in_order;
    if (!has_delete(window) && !has_delete(later))
        return MB_OK;
    if (note_requested(arena, request, &requested) != MB_OK ||
        note_dead(arena, later, pull_clock, &dead) != MB_OK ||
        mb_log_order(window, arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = window->count; i-- > 0;) {
        mb_diff *diff = &window->items[in_order[i] - window->items];
        if (diff->logical_clock >= pull_clock)
            continue;
        if (is_noted(&requested, diff, arena, &is_requested) != MB_OK ||
            is_noted(&dead, diff, arena, &is_dead) != MB_OK)
            return MB_NO_MEMORY;
        if (is_requested)
            continue;
        if (diff->type == MB_DELETE && note(&dead, diff, arena, &noted) != MB_OK)
            return MB_NO_MEMORY;
        diff->excluded |= is_dead || diff->type == MB_DELETE;
    }
    return MB_OK;
}

/* ---- about what the rules are asked -------------------------------------------------------- */

static bool counts(const mb_diff *diff)
{
    return !diff->repeated && diff->malformed == NULL;
}

static bool is_new_as_a_whole(const mb_diffs *request)
{
    for (size_t i = 0; i < request->count; i++)
        if (request->items[i].known)
            return false;
    return true;
}

/* Records the objects of which something is written, and whether the device creates them. */
static mb_status note_written(mb_arena *arena, const mb_diffs *request, const bool *written,
                              mb_objects *objects)
{
    noted_object *object;
    mb_slot *slot;
    if (mb_objects_init(objects, 0, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++)
        if (written[i] && note(objects, &request->items[i], arena, &object) != MB_OK)
            return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (!counts(diff) || diff->known || diff->type != MB_CREATE)
            continue;
        if (mb_find_object(objects, diff, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item != NULL)
            ((noted_object *)slot->item)->is_made = true;
    }
    return MB_OK;
}

/* A known diff is written only by a new create into which it is folded. */
static mb_status find_of_written_objects(mb_arena *arena, const mb_diffs *request,
                                         const mb_merge_result *merged, bool *found)
{
    mb_objects objects;
    mb_slot *slot;
    if (note_written(arena, request, merged->written, &objects) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (!counts(diff) || !merged->unlogged[i])
            continue;
        if (mb_find_object(&objects, diff, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        const noted_object *object = slot->item;
        found[i] = object != NULL && (!diff->known || object->is_made);
    }
    return MB_OK;
}

mb_status mb_find_to_validate(mb_arena *arena, const mb_diffs *request,
                              const mb_merge_result *merged, bool may_exclude, bool **found)
{
    bool *made = mb_arena_get_array(arena, request->count, sizeof *made);
    if (made == NULL)
        return MB_NO_MEMORY;
    *found = made;
    const bool all = is_new_as_a_whole(request);
    if (!all && may_exclude)
        return find_of_written_objects(arena, request, merged, made);
    for (size_t i = 0; i < request->count; i++)
        made[i] = counts(&request->items[i]) && (all || merged->written[i]);
    return MB_OK;
}

/* ---- pages --------------------------------------------------------------------------------- */

/* The first diff that does not fit on the page; the window's count if all fit. Excluded diffs do
 * not count.
 *
 * first    out: the first diff of the page; the window's count if there is none
 */
static size_t first_without_room(const mb_diff *const *in_order, size_t count, size_t limit,
                                 size_t max_bytes, size_t *first)
{
    size_t diffs = 0, room = max_bytes;
    *first = count;
    for (size_t i = 0; i < count; i++) {
        const mb_diff *diff = in_order[i];
        const uint64_t bytes =
            (uint64_t)diff->id.size + diff->owner.size + diff->model.size + diff->json_data.size;
        if (diff->excluded)
            continue;
        if (*first == count)
            *first = i;
        if (diffs == limit || bytes > room)
            return i;
        diffs++;
        room -= (size_t)bytes;
    }
    return count;
}

mb_status mb_page_end(mb_arena *arena, const mb_diffs *window, size_t limit, size_t max_bytes,
                      int64_t *end)
{
    const mb_diff **in_order;
    size_t begin;
    *end = -1;
    if (mb_log_order(window, arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;
    const size_t past = first_without_room(in_order, window->count, limit, max_bytes, &begin);
    if (past == window->count)
        return MB_OK;
    const int64_t first = in_order[begin]->logical_clock;
    const int64_t next = in_order[past]->logical_clock;
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
        fingerprint = mb_text_fingerprint(request->items[i].id, fingerprint);
    return fingerprint;
}

uint64_t mb_request_content(const mb_diffs *request)
{
    uint64_t content = request->count;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        const int64_t numbers[3] = {diff->logical_clock, diff->utc_timestamp, diff->type};
        const mb_text texts[5] = {diff->id,
                                  diff->owner,
                                  diff->model,
                                  diff->json_data,
                                  {(const char *)numbers, sizeof numbers}};
        for (size_t n = 0; n < sizeof texts / sizeof *texts; n++)
            content = mb_text_fingerprint(texts[n], content);
    }
    return content;
}
