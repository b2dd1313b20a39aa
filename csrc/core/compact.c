/* compact.c - which parts of a log no device can need.
 *
 * A log grows with every edit, but devices do not need all of it. A device that pulls gets each
 * field once, from the diff that wrote it last. So a field that was written again can be removed
 * from the earlier diff. The last delete of an object makes everything before it unnecessary.
 *
 * The log is read from its end. Then it is known for each diff what came later: which fields of
 * this life of the object were written again, and whether a delete follows. So one walk backwards
 * decides. It remembers one entry for each object and for each of its fields, however long the log
 * is:
 *
 *     create x {a,b}  update x {a,b}  update x {a}  delete y  update y {c}   (earlier ... later)
 *     kept            left: {b}       kept          kept      kept
 *
 * These cannot be removed: a field of a create (a device without the row must make the whole row),
 * the last delete (a device with the row must remove it), and an update that would be folded into
 * an older create (a device between the two would miss it).
 *
 * Does not: read or write the log; the caller passes one piece after the other.
 */
#include "arena.h"
#include "json.h"
#include "log.h"
#include "names.h"
#include "text.h"

typedef struct {
    mb_object_name name;
    bool deleted_later;
} later_object;

typedef struct {
    mb_field_name name;
} later_field;

struct mb_compaction {
    mb_arena *arena;
    mb_objects objects;
    mb_table fields; /* those that a later diff of the same life writes */
    bool begun;
};

mb_status mb_compaction_new(mb_arena *arena, mb_compaction **compaction)
{
    mb_compaction *made = mb_arena_get_array(arena, 1, sizeof *made);
    if (made == NULL || mb_objects_init(&made->objects, 0, arena) != MB_OK ||
        mb_table_init(&made->fields, 0, arena) != MB_OK)
        return MB_NO_MEMORY;
    made->arena = arena;
    *compaction = made;
    return MB_OK;
}

static mb_status find_object(mb_compaction *c, const mb_diff *diff, later_object **found)
{
    mb_slot *slot;
    if (mb_find_object(&c->objects, diff, c->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    if (slot->item == NULL) {
        later_object *o = mb_arena_get_array(c->arena, 1, sizeof *o);
        if (o == NULL || mb_arena_keep(c->arena, diff->model, &o->name.model) != MB_OK ||
            mb_arena_keep(c->arena, diff->object_id, &o->name.id) != MB_OK)
            return MB_NO_MEMORY;
        o->name.ordinal = c->objects.table.item_count;
        mb_table_fill(&c->objects.table, slot, o);
    }
    *found = slot->item;
    return MB_OK;
}

/* Records that a diff writes a field. new: out, false if a later diff writes it too. */
static mb_status note_field(mb_compaction *c, const later_object *o, mb_text name, bool *new)
{
    mb_slot *slot;
    if (mb_find_field(&c->fields, o->name.ordinal, name, c->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    *new = slot->item == NULL;
    if (*new) {
        later_field *f = mb_arena_get_array(c->arena, 1, sizeof *f);
        if (f == NULL || mb_arena_keep(c->arena, name, &f->name.field) != MB_OK)
            return MB_NO_MEMORY;
        f->name.object = o->name.ordinal;
        mb_table_fill(&c->fields, slot, f);
    }
    return MB_OK;
}

/* Goes through an update's members from the last to the first, so that the last duplicate stays. */
static mb_status trim_update(mb_compaction *c, const later_object *o, const mb_diff *diff,
                             mb_arena *arena, mb_compacted *fate)
{
    const size_t count = diff->member_count;
    const mb_member **left = mb_arena_get_array(arena, count, sizeof *left);
    if (left == NULL)
        return MB_NO_MEMORY;

    size_t first = count;
    bool has_id = false;
    for (size_t i = count; i-- > 0;) {
        const mb_member *member = &diff->members[i];
        bool stays = mb_is_id(member) && !has_id;
        if (stays)
            has_id = true;
        else if (!mb_is_id(member) && note_field(c, o, member->name, &stays) != MB_OK)
            return MB_NO_MEMORY;
        if (stays)
            left[--first] = member;
    }

    const size_t left_count = count - first;
    if (left_count == count && left_count > 1)
        return MB_OK;
    fate->fate = left_count > 1 ? MB_TRIMMED : MB_DROPPED;
    return left_count > 1 ? mb_json_print_object(left + first, left_count, arena, &fate->json_data)
                          : MB_OK;
}

static mb_status compact_diff(mb_compaction *c, const mb_diff *diff, mb_arena *arena,
                              mb_compacted *fate)
{
    later_object *o;
    if (find_object(c, diff, &o) != MB_OK)
        return MB_NO_MEMORY;
    const bool holds_clock = !c->begun;
    c->begun = true;

    if (o->deleted_later)
        fate->fate = MB_DROPPED;
    else if (diff->type == MB_DELETE)
        o->deleted_later = true;
    else if (diff->type == MB_UPDATE && trim_update(c, o, diff, arena, fate) != MB_OK)
        return MB_NO_MEMORY;

    if (holds_clock)
        fate->fate = MB_KEPT;
    return MB_OK;
}

mb_status mb_compact(mb_compaction *compaction, const mb_diffs *piece, mb_arena *arena,
                     mb_compacted **fates)
{
    const mb_diff **in_order;
    mb_compacted *made = mb_arena_get_array(arena, piece->count, sizeof *made);
    mb_forget_model(&compaction->objects);
    if (made == NULL || mb_log_order(piece, arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = piece->count; i-- > 0;) {
        mb_compacted *fate = &made[in_order[i] - piece->items];
        if (compact_diff(compaction, in_order[i], arena, fate) != MB_OK)
            return MB_NO_MEMORY;
    }
    *fates = made;
    return MB_OK;
}
