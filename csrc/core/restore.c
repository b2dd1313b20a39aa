/* restore.c - back to the server's state.
 *
 * A diff was refused, and the rest of the request was merged. The device still has the refused
 * edit, and perhaps other edits on top of it, so its row of that object differs from what the merge
 * assumes. No window says what to do, because the device may lack what is before the window. So the
 * result of the merge for this object is not sent. The object's whole true state is sent instead,
 * which is what the whole log says to a device that has nothing:
 *
 *     dead                          a delete, made here
 *     alive, and the device has     updates, with each field that the row has
 *     this very row
 *     alive otherwise               a delete, made here, and the create with its updates: the
 *                                   device's row may have fields that no update can remove
 *
 * The device has this very row if it had seen the create and set no field that the row never had.
 *
 * Clients sort a reply by clock and timestamp. So a delete that is made here has the clock of the diff
 * after it, and time 0, which the following diffs cannot have then. If nothing follows, it is at the
 * end, and the object of the first refused diff is last: a child is made after its parent.
 *
 * Does not: decide what is refused, or give a delete its id.
 */
#include "arena.h"
#include "json.h"
#include "log.h"
#include "names.h"
#include "text.h"

typedef struct refused_object refused_object;

struct refused_object {
    mb_object_name name;
    const mb_outcome *first; /* of its true state; NULL: it is dead */
    bool updates_suffice;
    bool is_sent;         /* the request has the first diff of the true state */
    refused_object *next; /* the one noted before */
};

typedef struct {
    mb_arena *arena;
    mb_diffs *history;
    const mb_refused_sync *sync;
    mb_objects objects;
    mb_table fields; /* that the objects have, by their ordinal */
    refused_object *last;
    mb_outcomes state; /* the true one of all objects, from the history */
    mb_diffs made;
} restoring;

static mb_status find(restoring *r, const mb_diff *diff, refused_object **found)
{
    mb_slot *slot;
    if (mb_find_object(&r->objects, diff, r->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    *found = slot->item;
    return MB_OK;
}

static mb_status note_refused(restoring *r, const mb_diff *diff)
{
    mb_slot *slot;
    if (mb_find_object(&r->objects, diff, r->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    if (slot->item != NULL)
        return MB_OK;
    refused_object *o = mb_arena_get_array(r->arena, 1, sizeof *o);
    if (o == NULL)
        return MB_NO_MEMORY;
    o->name = (mb_object_name){diff->model, diff->object_id, r->objects.table.item_count};
    o->updates_suffice = true;
    o->next = r->last;
    r->last = o;
    mb_table_fill(&r->objects.table, slot, o);
    return MB_OK;
}

static mb_status note_all_refused(restoring *r)
{
    const mb_diffs *request = r->sync->request;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        const bool has_object = diff->model.size != 0 && diff->object_id.size != 0;
        if (diff->excluded && !diff->repeated && has_object && note_refused(r, diff) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

/* ---- the true state ------------------------------------------------------------------------ */

/* Merges the history of the refused objects with an empty request. */
static mb_status read_true_state(restoring *r)
{
    static const mb_diffs nothing = {NULL, 0};
    mb_merge_result merged;
    refused_object *o;
    for (size_t i = 0; i < r->history->count; i++) {
        mb_diff *diff = &r->history->items[i];
        if (find(r, diff, &o) != MB_OK)
            return MB_NO_MEMORY;
        diff->known = diff->repeated = false;
        diff->excluded = o == NULL;
    }
    if (mb_merge(r->arena, r->history, &nothing, &merged) != MB_OK)
        return MB_NO_MEMORY;
    r->state = merged.downstream;
    return MB_OK;
}

/* Records the fields of a row; a diff of its life has those that it wrote, unless a later diff has
 * them. */
static mb_status note_fields(restoring *r, const refused_object *o, const mb_diff *diff)
{
    mb_slot *slot;
    for (size_t i = 0; i < diff->member_count; i++) {
        const mb_text name = diff->members[i].name;
        if (mb_find_field(&r->fields, o->name.ordinal, name, r->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item != NULL)
            continue;
        mb_field_name *field = mb_arena_get(r->arena, sizeof *field);
        if (field == NULL)
            return MB_NO_MEMORY;
        *field = (mb_field_name){o->name.ordinal, name};
        mb_table_fill(&r->fields, slot, field);
    }
    return MB_OK;
}

static mb_status note_rows(restoring *r)
{
    refused_object *o;
    for (size_t i = 0; i < r->state.count; i++) {
        const mb_outcome *outcome = &r->state.items[i];
        const mb_diff *diff = &r->history->items[outcome->source];
        if (outcome->type == MB_DELETE)
            continue;
        if (find(r, diff, &o) != MB_OK || note_fields(r, o, diff) != MB_OK)
            return MB_NO_MEMORY;
        if (o->first == NULL)
            o->first = outcome;
    }
    return MB_OK;
}

/* ---- whether updates suffice --------------------------------------------------------------- */

/* Whether a diff sets no field but those that the row has. */
static mb_status sets_what_is_there(restoring *r, const refused_object *o, const mb_diff *diff,
                                    bool *all)
{
    mb_slot *slot;
    *all = diff->malformed == NULL && diff->type != MB_DELETE;
    for (size_t i = 0; *all && i < diff->member_count; i++) {
        const mb_text name = diff->members[i].name;
        if (mb_find_field(&r->fields, o->name.ordinal, name, r->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        *all = slot->item != NULL;
    }
    return MB_OK;
}

/* Records what the device did to the objects, refused or not. */
static mb_status judge_request(restoring *r)
{
    const mb_diffs *request = r->sync->request;
    refused_object *o;
    bool all;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (find(r, diff, &o) != MB_OK)
            return MB_NO_MEMORY;
        if (o == NULL || o->first == NULL)
            continue;
        if (sets_what_is_there(r, o, diff, &all) != MB_OK)
            return MB_NO_MEMORY;
        const bool is_first = mb_text_equal(diff->id, r->history->items[o->first->source].id);
        o->is_sent |= is_first;
        o->updates_suffice &= all && (diff->type != MB_CREATE || is_first);
    }
    return MB_OK;
}

static bool device_has_row(const restoring *r, const refused_object *o)
{
    const mb_diff *first = &r->history->items[o->first->source];
    const bool is_seen = first->logical_clock < r->sync->client_clock;
    return o->updates_suffice && (is_seen || o->is_sent);
}

/* ---- what goes downstream ------------------------------------------------------------------ */

/* Adds an outcome as a separate diff: changes go there. */
static mb_diff *add_outcome(restoring *r, const mb_diff *diff, const mb_outcome *outcome)
{
    mb_diff *added = &r->made.items[r->made.count++];
    *added = *diff;
    added->is_whole &= outcome->type == diff->type &&
                       outcome->utc_timestamp == diff->utc_timestamp &&
                       outcome->json_data.at == diff->json_data.at;
    if (outcome->json_data.at != diff->json_data.at)
        added->quoted_json_data = (mb_text){NULL, 0};
    added->type = outcome->type;
    added->utc_timestamp = outcome->utc_timestamp;
    added->json_data = outcome->json_data;
    return added;
}

static mb_status add_delete(restoring *r, const refused_object *o, int64_t clock, int64_t time)
{
    const mb_text begin = MB_TEXT("{\"id\": "), end = MB_TEXT("}");
    if (o->name.id.size > (SIZE_MAX - 32) / 6)
        return MB_NO_MEMORY;
    char *printed =
        mb_arena_get(r->arena, begin.size + MB_STRING_ROOM + 6 * o->name.id.size + end.size);
    if (printed == NULL)
        return MB_NO_MEMORY;
    char *at = mb_json_put_string(mb_text_put(printed, begin), o->name.id);
    at = mb_text_put(at, end);
    r->made.items[r->made.count++] = (mb_diff){
        .owner = r->sync->owner,
        .model = o->name.model,
        .json_data = {printed, (size_t)(at - printed)},
        .object_id = o->name.id,
        .logical_clock = clock,
        .utc_timestamp = time,
        .type = MB_DELETE,
    };
    return MB_OK;
}

/* Adds what the merge sends downstream for the other objects. */
static mb_status add_others(restoring *r)
{
    const mb_outcomes *merged = &r->sync->merged->downstream;
    refused_object *o;
    for (size_t i = 0; i < merged->count; i++) {
        const mb_diff *diff = &r->sync->window->items[merged->items[i].source];
        if (find(r, diff, &o) != MB_OK)
            return MB_NO_MEMORY;
        if (o == NULL)
            add_outcome(r, diff, &merged->items[i]);
    }
    return MB_OK;
}

static mb_status add_deletes(restoring *r)
{
    const int64_t end = r->sync->reply_clock > 0 ? r->sync->reply_clock - 1 : 0;
    int64_t time = 0;
    for (const refused_object *o = r->last; o != NULL; o = o->next, time++) {
        mb_status status = MB_OK;
        if (o->first == NULL)
            status = add_delete(r, o, end, time);
        else if (!device_has_row(r, o))
            status = add_delete(r, o, r->history->items[o->first->source].logical_clock, 0);
        if (status != MB_OK)
            return status;
    }
    return MB_OK;
}

static mb_status add_rows(restoring *r)
{
    refused_object *o;
    for (size_t i = 0; i < r->state.count; i++) {
        mb_outcome outcome = r->state.items[i];
        const mb_diff *diff = &r->history->items[outcome.source];
        if (outcome.type == MB_DELETE)
            continue;
        if (find(r, diff, &o) != MB_OK)
            return MB_NO_MEMORY;
        if (device_has_row(r, o))
            outcome.type = MB_UPDATE;
        else if (outcome.utc_timestamp == 0)
            outcome.utc_timestamp = 1;
        add_outcome(r, diff, &outcome);
    }
    return MB_OK;
}

/* Room for everything: the other objects, a delete for each object, and the true state. */
static mb_status make_downstream(restoring *r, mb_outcomes *downstream)
{
    const mb_diff **in_order;
    const size_t most =
        r->sync->merged->downstream.count + r->objects.table.item_count + r->state.count;
    if (mb_diffs_new(r->arena, most, &r->made) != MB_OK)
        return MB_NO_MEMORY;
    r->made.count = 0;
    if (add_others(r) != MB_OK || add_deletes(r) != MB_OK || add_rows(r) != MB_OK ||
        mb_log_order(&r->made, r->arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;

    mb_outcome *items = mb_arena_get_items(r->arena, r->made.count, sizeof *items);
    if (items == NULL)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < r->made.count; i++) {
        const mb_diff *diff = in_order[i];
        items[i] = (mb_outcome){.source = (size_t)(diff - r->made.items),
                                .type = diff->type,
                                .utc_timestamp = diff->utc_timestamp,
                                .json_data = diff->json_data};
    }
    *downstream = (mb_outcomes){items, r->made.count};
    return MB_OK;
}

mb_status mb_restore(mb_arena *arena, mb_diffs *history, const mb_refused_sync *sync,
                     mb_diffs *diffs, mb_outcomes *downstream)
{
    restoring r = {.arena = arena, .history = history, .sync = sync};
    if (mb_objects_init(&r.objects, 0, arena) != MB_OK ||
        mb_table_init(&r.fields, 0, arena) != MB_OK || note_all_refused(&r) != MB_OK ||
        read_true_state(&r) != MB_OK || note_rows(&r) != MB_OK || judge_request(&r) != MB_OK ||
        make_downstream(&r, downstream) != MB_OK)
        return MB_NO_MEMORY;
    *diffs = r.made;
    return MB_OK;
}
