/* written.c - whose edits a merge writes.
 *
 * What goes upstream is the diff that it comes from, but a create is more: the device's later edits
 * of the object are in it.  Whoever asks whether the edits of a request are allowed must know all of
 * those.  They are found from the end of the request: the last edit of a field is the one that the
 * create has.
 *
 * A client's sort can move an edit before its create.  It counts there if it is of the same time as
 * the create, as merge.c reckons time: no edit counts as earlier than the one before it.
 *
 * Does not: decide anything.  Which creates go up is known by then.
 */
#include "arena.h"
#include "names.h"
#include "text.h"

/* A create that goes upstream; the name comes first, for mb_find_object. */
typedef struct {
    mb_object_name name;
    size_t source;
    size_t first;   /* the first diff of the request that is of its time or later */
    int64_t latest; /* timestamp of the object's diffs so far, for finding it */
} sent_create;

typedef struct {
    const mb_diffs *request;
    mb_arena *arena;
    mb_table creates;
    mb_table fields;
    bool *written;
} finding;

static mb_status note_create(finding *f, size_t source)
{
    const mb_diff *diff = &f->request->items[source];
    sent_create *create = mb_arena_get_array(f->arena, 1, sizeof *create);
    mb_slot *slot;
    if (create == NULL ||
        mb_find_object(&f->creates, diff->model, diff->object_id, f->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    *create = (sent_create){.name = {diff->model, diff->object_id, f->creates.item_count},
                            .source = source};
    mb_table_fill(&f->creates, slot, create);
    return MB_OK;
}

/* The create of a diff's object, if one goes up and the diff counts at all. */
static mb_status find_create(finding *f, const mb_diff *diff, sent_create **create)
{
    mb_slot *slot;
    *create = NULL;
    if (diff->repeated || diff->left_out)
        return MB_OK;
    if (mb_find_object(&f->creates, diff->model, diff->object_id, f->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    *create = slot->item;
    return MB_OK;
}

/* Finds where each create's time begins.  Between a delete and the create, nothing counts. */
static mb_status find_firsts(finding *f)
{
    for (size_t i = 0; i < f->request->count; i++) {
        const mb_diff *diff = &f->request->items[i];
        sent_create *create;
        if (find_create(f, diff, &create) != MB_OK)
            return MB_NO_MEMORY;
        if (create == NULL || i < create->first || i > create->source)
            continue;
        if (diff->type == MB_DELETE) {
            create->first = create->source;
        } else if (diff->utc_timestamp > create->latest) {
            create->latest = diff->utc_timestamp;
            create->first = i;
        }
    }
    return MB_OK;
}

/* Takes the fields of an edit that no later one has taken. */
static mb_status take_fields(finding *f, const mb_diff *diff, const sent_create *create, bool *some)
{
    for (size_t i = 0; i < diff->member_count; i++) {
        const mb_text name = diff->members[i].name;
        mb_slot *slot;
        if (mb_is_id(&diff->members[i]))
            continue;
        if (mb_find_field(&f->fields, create->name.ordinal, name, f->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item != NULL)
            continue;
        mb_field_name *taken = mb_arena_get_array(f->arena, 1, sizeof *taken);
        if (taken == NULL)
            return MB_NO_MEMORY;
        *taken = (mb_field_name){create->name.ordinal, name};
        mb_table_fill(&f->fields, slot, taken);
        *some = true;
    }
    return MB_OK;
}

static mb_status mark_folded_edits(finding *f)
{
    for (size_t i = f->request->count; i-- > 0;) {
        const mb_diff *diff = &f->request->items[i];
        sent_create *create;
        if (find_create(f, diff, &create) != MB_OK)
            return MB_NO_MEMORY;
        if (create == NULL || i == create->source || i < create->first || diff->type == MB_DELETE)
            continue;
        if (take_fields(f, diff, create, &f->written[i]) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

mb_status mb_find_written(const mb_diffs *request, const mb_outcomes *upstream, mb_arena *arena,
                          bool **written)
{
    finding f = {.request = request, .arena = arena};
    f.written = mb_arena_get_array(arena, request->count, sizeof *f.written);
    if (f.written == NULL || mb_table_init(&f.creates, upstream->count, arena) != MB_OK ||
        mb_table_init(&f.fields, upstream->count, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < upstream->count; i++) {
        const mb_outcome *outcome = &upstream->items[i];
        f.written[outcome->source] = true;
        if (outcome->type == MB_CREATE && note_create(&f, outcome->source) != MB_OK)
            return MB_NO_MEMORY;
    }
    if (f.creates.item_count != 0 && (find_firsts(&f) != MB_OK || mark_folded_edits(&f) != MB_OK))
        return MB_NO_MEMORY;
    *written = f.written;
    return MB_OK;
}

/* ---- whole objects ------------------------------------------------------------------------- */

static mb_status note_object(mb_table *objects, const mb_diff *diff, mb_arena *arena)
{
    mb_slot *slot;
    if (mb_find_object(objects, diff->model, diff->object_id, arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    if (slot->item != NULL)
        return MB_OK;
    mb_object_name *name = mb_arena_get_array(arena, 1, sizeof *name);
    if (name == NULL)
        return MB_NO_MEMORY;
    *name = (mb_object_name){diff->model, diff->object_id, objects->item_count};
    mb_table_fill(objects, slot, name);
    return MB_OK;
}

mb_status mb_find_of_written_objects(const mb_diffs *request, const mb_outcomes *upstream,
                                     mb_arena *arena, bool **found)
{
    mb_table objects;
    mb_slot *slot;
    bool *marks = mb_arena_get_array(arena, request->count, sizeof *marks);
    if (marks == NULL || mb_table_init(&objects, upstream->count, arena) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < upstream->count; i++)
        if (note_object(&objects, &request->items[upstream->items[i].source], arena) != MB_OK)
            return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (mb_find_object(&objects, diff->model, diff->object_id, arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        marks[i] = slot->item != NULL;
    }
    *found = marks;
    return MB_OK;
}
