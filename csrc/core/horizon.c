/* horizon.c - folds a log below its horizon.
 *
 * The horizon of an owner is a logical clock that every device has passed. No device will ask for a
 * window that begins below it; a device that comes back from there starts over. So below the
 * horizon nobody needs single edits any more. There a live object becomes one create, and a dead
 * one nothing:
 *
 *     create x {a,b}  update x {b}  delete y  update x {c}  |  update x {a}
 *     create x {a,b,c}                                      |  update x {a}
 *                                                        horizon
 *
 * The create keeps its id, its clock and its place in the log, because the clock of an
 * incarnation's create says who has seen it. Its time is the latest time of one of its fields. The
 * times of the others are stored beside it (field_times), so that a device that starts over is
 * still compared field by field.
 *
 * The log is read from its beginning, one piece after the other. An update must be folded into a
 * create that may be many pieces earlier. So the creates of objects with later updates are
 * remembered as a whole. Compaction has just read the log from its end, and knows which objects
 * those are (mb_folding_expect); all others cost nothing. Each piece leaves a correct log: the
 * caller writes the creates and drops the updates in one transaction, which also moves the horizon
 * to the end of the piece.
 *
 * If the log has updates of an object but no create (its rows were never adopted), the object stays
 * as it is. So does an object whose fields have different times, if the log has no room for the
 * times.
 *
 * Does not: read or write the log, or know where the horizon is; the caller ends the pieces there.
 */
#include "arena.h"
#include "json.h"
#include "log.h"
#include "names.h"
#include "text.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct folded_field {
    mb_field_name name; /* first: found by it */
    mb_text quoted;
    mb_text value;
    int64_t time;
    size_t life;               /* of the object: what was written in an earlier one is gone */
    struct folded_field *next; /* of the same life, in the order in which they came */
} folded_field;

typedef struct folded_object {
    mb_object_name name; /* first: found by it */
    size_t life;
    bool is_dead;
    mb_text create_id; /* of this life; empty: the log has not shown it */
    mb_text quoted_id; /* the member "id" of that create */
    mb_text id_value;
    int64_t created_at;
    size_t bytes; /* of its json_data and field_times, as the log has them */
    folded_field *fields;
    folded_field **fields_end;
    size_t field_count;
    bool changed; /* in this piece */
    bool stays;   /* cannot be folded: its times differ */
    struct folded_object *next_changed;
} folded_object;

struct mb_folding {
    mb_arena *arena;
    mb_objects objects;
    mb_table fields;
    bool keeps_times;
};

mb_status mb_folding_new(bool keeps_times, mb_arena *arena, mb_folding **folding)
{
    mb_folding *made = mb_arena_get_array(arena, 1, sizeof *made);
    if (made == NULL || mb_objects_init(&made->objects, 0, arena) != MB_OK ||
        mb_table_init(&made->fields, 0, arena) != MB_OK)
        return MB_NO_MEMORY;
    made->arena = arena;
    made->keeps_times = keeps_times;
    *folding = made;
    return MB_OK;
}

mb_status mb_folding_expect(mb_folding *f, const mb_diff *diff)
{
    mb_slot *slot;
    mb_forget_model(&f->objects);
    if (mb_find_object(&f->objects, diff, f->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    if (slot->item != NULL)
        return MB_OK;
    folded_object *o = mb_arena_get_array(f->arena, 1, sizeof *o);
    if (o == NULL || mb_arena_keep(f->arena, diff->model, &o->name.model) != MB_OK ||
        mb_arena_keep(f->arena, diff->object_id, &o->name.id) != MB_OK)
        return MB_NO_MEMORY;
    o->name.ordinal = f->objects.table.item_count;
    o->fields_end = &o->fields;
    mb_table_fill(&f->objects.table, slot, o);
    return MB_OK;
}

/* ---- one diff ------------------------------------------------------------------------------ */

static void end_life(folded_object *o)
{
    o->life++;
    o->create_id = (mb_text){NULL, 0};
    o->fields = NULL;
    o->fields_end = &o->fields;
    o->field_count = 0;
}

static mb_status find_field(mb_folding *f, folded_object *o, const mb_member *member,
                            folded_field **found)
{
    mb_slot *slot;
    if (mb_find_field(&f->fields, o->name.ordinal, member->name, f->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    folded_field *field = slot->item;
    if (field == NULL) {
        field = mb_arena_get_array(f->arena, 1, sizeof *field);
        if (field == NULL || mb_arena_keep(f->arena, member->name, &field->name.field) != MB_OK ||
            mb_arena_keep(f->arena, member->quoted, &field->quoted) != MB_OK)
            return MB_NO_MEMORY;
        field->name.object = o->name.ordinal;
        field->life = SIZE_MAX;
        mb_table_fill(&f->fields, slot, field);
    }
    if (field->life != o->life) {
        field->life = o->life;
        field->time = 0;
        field->next = NULL;
        *o->fields_end = field;
        o->fields_end = &field->next;
        o->field_count++;
    }
    *found = field;
    return MB_OK;
}

/* Applies the fields of a diff. An edit counts as at least as late as what it replaces. */
static mb_status write_fields(mb_folding *f, folded_object *o, const mb_diff *diff, mb_arena *arena)
{
    const int64_t *times;
    if (mb_read_times(diff, diff->members, arena, &times) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < diff->member_count; i++) {
        const mb_member *member = &diff->members[i];
        folded_field *field;
        if (mb_is_id(member))
            continue;
        if (find_field(f, o, member, &field) != MB_OK ||
            mb_arena_keep(f->arena, member->value, &field->value) != MB_OK)
            return MB_NO_MEMORY;
        const int64_t time = times == NULL ? diff->utc_timestamp : times[i];
        if (time > field->time)
            field->time = time;
    }
    return MB_OK;
}

static mb_status open_life(mb_folding *f, folded_object *o, const mb_diff *create)
{
    const mb_member *id = &create->members[create->member_count - 1];
    while (!mb_is_id(id)) /* there is one, or the diff was not read; of two the last counts */
        id--;
    o->is_dead = false;
    o->created_at = create->utc_timestamp;
    o->bytes = create->json_data.size + create->field_times.size;
    if (mb_arena_keep(f->arena, create->id, &o->create_id) != MB_OK ||
        mb_arena_keep(f->arena, id->quoted, &o->quoted_id) != MB_OK)
        return MB_NO_MEMORY;
    return mb_arena_keep(f->arena, id->value, &o->id_value);
}

/* Folds a diff into its object.
 *
 * dropped    out: whether the diff is dropped, unless its object stays as it is
 */
static mb_status fold_diff(mb_folding *f, folded_object *o, const mb_diff *diff, mb_arena *arena,
                           bool *dropped)
{
    const bool is_open = o->create_id.size != 0;
    if (diff->type == MB_DELETE) {
        *dropped = !is_open; /* compaction leaves nothing before a delete */
        end_life(o);
        o->is_dead = true;
        return MB_OK;
    }
    if (diff->type == MB_CREATE && !is_open) {
        end_life(o);
        return open_life(f, o, diff) != MB_OK ? MB_NO_MEMORY : write_fields(f, o, diff, arena);
    }
    *dropped = is_open || o->is_dead;
    o->changed |= is_open;
    return is_open ? write_fields(f, o, diff, arena) : MB_OK;
}

/* ---- what a create becomes ----------------------------------------------------------------- */

static int64_t latest_time(const folded_object *o)
{
    int64_t latest = o->fields == NULL ? o->created_at : 0;
    for (const folded_field *field = o->fields; field != NULL; field = field->next)
        if (field->time > latest)
            latest = field->time;
    return latest;
}

static size_t count_other_times(const folded_object *o)
{
    const int64_t latest = latest_time(o);
    size_t count = 0;
    for (const folded_field *field = o->fields; field != NULL; field = field->next)
        count += field->time != latest;
    return count;
}

static mb_status print_row(const folded_object *o, mb_arena *arena, mb_text *json_data)
{
    mb_member *members = mb_arena_get_array(arena, o->field_count + 1, sizeof *members);
    const mb_member **printed = mb_arena_get_array(arena, o->field_count + 1, sizeof *printed);
    if (members == NULL || printed == NULL)
        return MB_NO_MEMORY;
    size_t count = 0;
    members[count++] = (mb_member){.quoted = o->quoted_id, .value = o->id_value};
    for (const folded_field *field = o->fields; field != NULL; field = field->next)
        members[count++] = (mb_member){.quoted = field->quoted, .value = field->value};
    for (size_t i = 0; i < count; i++)
        printed[i] = &members[i];
    return mb_json_print_object(printed, count, arena, json_data);
}

/* Prints the times of those fields whose time is not the latest. */
static mb_status print_times(const folded_object *o, size_t others, mb_arena *arena,
                             mb_text *field_times)
{
    enum { DIGITS = 20 };
    const int64_t latest = latest_time(o);
    mb_member *members = mb_arena_get_array(arena, others, sizeof *members);
    const mb_member **printed = mb_arena_get_array(arena, others, sizeof *printed);
    char *digits = mb_arena_get_array(arena, others, DIGITS);
    if (members == NULL || printed == NULL || digits == NULL)
        return MB_NO_MEMORY;
    size_t count = 0;
    for (const folded_field *field = o->fields; field != NULL; field = field->next) {
        if (field->time == latest)
            continue;
        const int size = snprintf(digits, DIGITS, "%" PRId64, field->time);
        members[count] = (mb_member){.quoted = field->quoted, .value = {digits, (size_t)size}};
        printed[count] = &members[count];
        digits += DIGITS;
        count++;
    }
    return mb_json_print_object(printed, count, arena, field_times);
}

static mb_status print_create(folded_object *o, mb_arena *arena, mb_folded *create)
{
    const size_t others = count_other_times(o);
    *create =
        (mb_folded){.id = o->create_id, .utc_timestamp = latest_time(o), .bytes_before = o->bytes};
    if (print_row(o, arena, &create->json_data) != MB_OK ||
        (others != 0 && print_times(o, others, arena, &create->field_times) != MB_OK))
        return MB_NO_MEMORY;
    o->bytes = create->json_data.size + create->field_times.size;
    return MB_OK;
}

/* ---- a piece ------------------------------------------------------------------------------- */

/* Folds all diffs of a piece into their objects.
 *
 * of         out: the object of each diff, by index; NULL: it is not followed
 * changed    out: the objects whose creates change, in the order in which they were found
 */
static mb_status fold_piece(mb_folding *f, const mb_diffs *piece, mb_arena *arena, bool *dropped,
                            folded_object **of, folded_object **changed)
{
    const mb_diff **in_order;
    folded_object **end = changed;
    *changed = NULL;
    if (mb_log_order(piece, arena, &in_order) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < piece->count; i++) {
        const mb_diff *diff = in_order[i];
        const size_t index = (size_t)(diff - piece->items);
        mb_slot *slot;
        if (mb_find_object(&f->objects, diff, f->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        folded_object *o = of[index] = slot->item;
        if (o == NULL)
            continue;
        const bool was_changed = o->changed;
        if (fold_diff(f, o, diff, arena, &dropped[index]) != MB_OK)
            return MB_NO_MEMORY;
        if (o->changed && !was_changed) {
            o->next_changed = NULL;
            *end = o;
            end = &o->next_changed;
        }
    }
    return MB_OK;
}

/* Returns the new creates of the objects that a piece has changed. */
static mb_status print_creates(mb_folding *f, folded_object *changed, mb_arena *arena,
                               mb_fold_result *result)
{
    size_t count = 0;
    for (const folded_object *o = changed; o != NULL; o = o->next_changed)
        count++;
    result->creates = mb_arena_get_array(arena, count, sizeof *result->creates);
    if (result->creates == NULL)
        return MB_NO_MEMORY;
    for (folded_object *o = changed; o != NULL; o = o->next_changed) {
        o->changed = false;
        o->stays = !f->keeps_times && count_other_times(o) > 0;
        result->unfolded += o->stays;
        if (o->stays || o->create_id.size == 0)
            continue;
        if (print_create(o, arena, &result->creates[result->create_count++]) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

mb_status mb_fold(mb_folding *f, const mb_diffs *piece, int64_t holds_clock, mb_arena *arena,
                  mb_fold_result *result)
{
    mb_fold_result made = {.create_count = 0};
    folded_object **of = mb_arena_get_array(arena, piece->count, sizeof *of);
    folded_object *changed;
    mb_forget_model(&f->objects);
    made.dropped = mb_arena_get_array(arena, piece->count, sizeof *made.dropped);
    if (of == NULL || made.dropped == NULL ||
        fold_piece(f, piece, arena, made.dropped, of, &changed) != MB_OK ||
        print_creates(f, changed, arena, &made) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < piece->count; i++) {
        const mb_diff *diff = &piece->items[i];
        const bool is_edit = diff->type != MB_DELETE;
        if (diff->logical_clock == holds_clock || (is_edit && of[i] != NULL && of[i]->stays))
            made.dropped[i] = false;
    }
    *result = made;
    return MB_OK;
}
