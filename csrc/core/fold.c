/* fold.c - what two lists of diffs say of each object.
 *
 * The object of each diff and its fields are looked up first. Then both lists are folded, each in its
 * order. Afterwards, an object is dead or alive on each side, and each of its fields has one last
 * writer on each side. merge.c compares the two.
 *
 * The order of one device's edits, and the order of the log, never change: an edit counts as at
 * least as late as what it replaced (`time` below), so a clock that jumps back cannot reverse them.
 *
 * Everything is looked up by hash: an object by model and id, a field by object and name. When an
 * object dies, its fields are not cleared one by one. Each write remembers the life in which it was
 * made, and a write of an earlier life does not count (life, floor). So the walk stays linear.
 *
 * Most diffs of a long window are the only diff of their object there, and the request has none of
 * it. There is nothing to decide about them. They are found first, and leave unchanged.
 *
 * Does not: compare what the sides say, except a known diff with the log's diff of its id.
 */
#include "arena.h"
#include "json.h"
#include "log.h"
#include "merge.h"

#ifndef MB_LONG_WINDOW
#define MB_LONG_WINDOW 1000 /* with fewer diffs find_alone() is not called */
#endif

/* ---- what leaves unchanged ----------------------------------------------------------------- */

static bool is_of_object(const void *item, const void *key)
{
    const mb_diff *a = item, *b = key;
    return mb_text_equal(a->object_id, b->object_id) && mb_text_equal(a->model, b->model);
}

/* Marks the diffs of the window that are the only one of their object there. */
static mb_status mark_first(merge *m, const mb_diffs *window, mb_last_model *last, mb_table *diffs)
{
    mb_slot *slot;
    for (size_t i = 0; i < window->count; i++) {
        mb_diff *diff = &window->items[i];
        if (diff->excluded)
            continue;
        const uint64_t hash = mb_hash_object(last, diff, m->arena);
        if (mb_table_find(diffs, hash, is_of_object, diff, m->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        m->is_alone[i] = slot->item == NULL;
        if (slot->item == NULL)
            mb_table_fill(diffs, slot, diff);
        else
            m->is_alone[(const mb_diff *)slot->item - window->items] = false;
    }
    return MB_OK;
}

/* Finds the diffs whose object has no other diff, in both lists. This is worth its time only in a
 * long window, and not if the request is about as long, because then most would not be alone. */
static mb_status find_alone(merge *m, const mb_diffs *window, const mb_diffs *request)
{
    mb_table diffs;
    mb_slot *slot;
    mb_last_model last = {.hash = 0};
    m->is_alone = mb_arena_get_array(m->arena, window->count, sizeof *m->is_alone);
    if (m->is_alone == NULL)
        return MB_NO_MEMORY;
    if (window->count < MB_LONG_WINDOW || request->count > window->count / 4)
        return MB_OK;
    if (mb_table_init(&diffs, window->count, m->arena) != MB_OK ||
        mark_first(m, window, &last, &diffs) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        const uint64_t hash = mb_hash_object(&last, diff, m->arena);
        if (mb_table_find(&diffs, hash, is_of_object, diff, m->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item != NULL)
            m->is_alone[(const mb_diff *)slot->item - window->items] = false;
    }
    return MB_OK;
}

/* ---- looking things up --------------------------------------------------------------------- */

static mb_status find_object(merge *m, step *s)
{
    const mb_diff *diff = s->diff;
    mb_slot *slot;
    if (mb_find_object(&m->objects, diff, m->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    if (slot->item == NULL) {
        object *o = mb_arena_get(m->arena, sizeof *o);
        if (o == NULL)
            return MB_NO_MEMORY;
        *o = (object){.name = {diff->model, diff->object_id, m->objects.table.item_count}};
        o->fields_end = &o->fields;
        o->device.steps_end = &o->device.first_step;
        *m->last = o;
        m->last = &o->next;
        mb_table_fill(&m->objects.table, slot, o);
    }
    s->object = slot->item;
    return MB_OK;
}

static mb_status add_field(merge *m, object *o, mb_text name, field **added)
{
    field *f = mb_arena_get(m->arena, sizeof *f);
    if (f == NULL)
        return MB_NO_MEMORY;
    *f = (field){.name = {o->name.ordinal, name}, .of = o};
    *o->fields_end = f;
    o->fields_end = &f->next;
    *added = f;
    return MB_OK;
}

/* The first few fields of an object are searched one by one, which takes less time than one hash.
 * Only the others are in the table. */
static mb_status find_field(merge *m, object *o, mb_text name, field **found)
{
    enum { FEW = 8 };
    size_t passed = 0;
    for (field *f = o->fields; f != NULL && passed < FEW; f = f->next, passed++) {
        if (mb_text_equal(f->name.field, name)) {
            *found = f;
            return MB_OK;
        }
    }
    if (passed < FEW)
        return add_field(m, o, name, found);

    mb_slot *slot;
    if (mb_find_field(&m->fields, o->name.ordinal, name, m->arena, &slot) != MB_OK)
        return MB_NO_MEMORY;
    *found = slot->item;
    if (slot->item != NULL)
        return MB_OK;
    if (add_field(m, o, name, found) != MB_OK)
        return MB_NO_MEMORY;
    mb_table_fill(&m->fields, slot, *found);
    return MB_OK;
}

/* The last of duplicate members counts, so the others get no field. */
static void take_place(field *f, step *s, size_t at_member)
{
    if (f->in_step == s)
        s->fields[f->at_member] = NULL;
    f->in_step = s;
    f->at_member = at_member;
    s->fields[at_member] = f;
}

/* Reads the members of a row of the log again; it was checked before. */
static mb_status take_members(merge *m, step *s)
{
    mb_error error;
    mb_json_object read;
    s->members = s->diff->members;
    if (s->members != NULL || s->diff->member_count == 0)
        return MB_OK;
    const mb_text json_data = s->diff->json_data;
    if (mb_json_read_object(json_data, SIZE_MAX, m->arena, &read, &error) != MB_OK)
        return MB_NO_MEMORY;
    s->members = read.members;
    return MB_OK;
}

static mb_status find_fields(merge *m, step *s)
{
    const mb_diff *diff = s->diff;
    if (take_members(m, s) != MB_OK)
        return MB_NO_MEMORY;
    if (diff->field_times.size != 0 &&
        mb_read_times(diff, s->members, m->arena, &s->times) != MB_OK)
        return MB_NO_MEMORY;
    const size_t count = diff->member_count;
    s->fields = m->next_fields;
    m->next_fields += count;
    for (size_t i = 0; i < count; i++) {
        const mb_member *member = &s->members[i];
        field *f;
        if (mb_is_id(member)) {
            s->id = member;
            s->fields[i] = NULL;
            continue;
        }
        if (find_field(m, s->object, member->name, &f) != MB_OK)
            return MB_NO_MEMORY;
        take_place(f, s, i);
    }
    return MB_OK;
}

/* Finds the object of each step, and the field of each of its members. */
static mb_status look_up(merge *m, step *steps, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (find_object(m, &steps[i]) != MB_OK || find_fields(m, &steps[i]) != MB_OK)
            return MB_NO_MEMORY;
    return MB_OK;
}

/* ---- both lists as steps ------------------------------------------------------------------- */

static mb_status make_window_steps(merge *m, const mb_diffs *window)
{
    size_t count = 0;
    for (size_t i = 0; i < window->count; i++)
        count += !window->items[i].excluded && !m->is_alone[i];
    m->window = mb_arena_get_items(m->arena, count, sizeof *m->window);
    m->window_at =
        mb_arena_get_array(m->arena, count == 0 ? 0 : window->count, sizeof *m->window_at);
    if (m->window == NULL || m->window_at == NULL)
        return MB_NO_MEMORY;
    for (size_t i = 0; count != 0 && i < window->count; i++) {
        const size_t source = (size_t)(m->in_order[i] - window->items);
        if (m->in_order[i]->excluded || m->is_alone[source])
            continue;
        step *s = &m->window[m->window_count++];
        *s = (step){.diff = m->in_order[i], .source = source};
        m->window_at[source] = s;
        m->member_count += s->diff->member_count;
    }
    return MB_OK;
}

static mb_status make_request_steps(merge *m, const mb_diffs *request)
{
    m->request = mb_arena_get_items(m->arena, request->count, sizeof *m->request);
    if (m->request == NULL)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        if (diff->repeated || diff->excluded)
            continue;
        m->request[m->request_count++] =
            (step){.diff = diff, .source = i, .unlogged = !diff->known};
        m->member_count += diff->member_count;
    }
    return MB_OK;
}

static mb_status make_room_for_fields(merge *m)
{
    m->next_fields = mb_arena_get_items(m->arena, m->member_count, sizeof *m->next_fields);
    return m->next_fields == NULL ? MB_NO_MEMORY : MB_OK;
}

/* ---- what a known diff says beyond the log ------------------------------------------------- */

/* Compares a known diff with the log's diff of its id: the ids are the same, but the sender may
 * have put anything into it. In a retry everything counts as logged (mb_know_all), whatever the log
 * still has. */
static mb_status compare_with_logged(merge *m, step *s, const mb_diffs *window)
{
    const mb_diff *diff = s->diff;
    bool *same = mb_arena_get_array(m->arena, diff->member_count, sizeof *same);
    if (same == NULL)
        return MB_NO_MEMORY;
    s->logged = same;
    if (diff->retried) {
        memset(same, true, diff->member_count * sizeof *same);
        return MB_OK;
    }
    const step *logged = m->window_at[diff->logged - window->items];
    for (size_t i = 0; logged != NULL && i < logged->diff->member_count; i++) {
        field *f = logged->fields[i];
        if (f == NULL)
            continue;
        f->logged_in = s;
        f->logged = &logged->members[i];
    }
    for (size_t i = 0; i < diff->member_count; i++) {
        const field *f = s->fields[i];
        if (f == NULL)
            continue;
        same[i] = f->logged_in == s && same_value(f->logged, &s->members[i]);
        s->unlogged |= !same[i];
    }
    return MB_OK;
}

/* ---- folding ------------------------------------------------------------------------------- */

static void fold_window_step(step *s)
{
    const mb_diff *diff = s->diff;
    server_side *server = &s->object->server;
    if (!server->seen)
        server->begins_with_create = diff->type == MB_CREATE;
    server->seen = true;

    if (diff->type == MB_DELETE) {
        server->dead_by = server->last_delete = diff;
        server->create = NULL;
        server->is_open = server->foreign = server->has_known = false;
        server->life++;
        return;
    }
    if (diff->type == MB_CREATE)
        server->dead_by = NULL;
    if (server->dead_by != NULL) { /* an update of a row that was gone */
        s->ignored = true;
        return;
    }
    if (diff->type == MB_CREATE && !server->is_open) {
        server->create = diff;
        server->create_step = s;
    }
    server->is_open = true;
    server->has_known |= diff->known;
    server->foreign |= !diff->known;

    s->life = server->life;
    for (size_t i = 0; i < diff->member_count; i++) {
        field *f = s->fields[i];
        if (f == NULL)
            continue;
        const int64_t replaced = server_wrote(f) ? f->server.time : 0;
        const int64_t written = s->times == NULL ? diff->utc_timestamp : s->times[i];
        const int64_t time = written > replaced ? written : replaced;
        f->server =
            (field_write){.step = s, .member = &s->members[i], .time = time, .life = server->life};
    }
}

/* The device's writes of fields. A create does not replace a write that is not older: a sort by
 * timestamp may have moved an update before the create of the same millisecond. */
static void write_device_fields(const step *s, bool only_where_unwritten)
{
    const mb_diff *diff = s->diff;
    for (size_t i = 0; i < diff->member_count; i++) {
        field *f = s->fields[i];
        if (f == NULL)
            continue;
        if (only_where_unwritten && device_wrote(f))
            continue;
        f->device = (field_write){
            .step = s, .member = &s->members[i], .time = s->time, .life = s->object->device.life};
    }
}

static void fold_request_step(step *s)
{
    const mb_diff *diff = s->diff;
    device_side *device = &s->object->device;
    *device->steps_end = s;
    device->steps_end = &s->next;
    device->seen = true;
    device->has_unknown |= !diff->known;
    if (diff->utc_timestamp > device->latest)
        device->latest = diff->utc_timestamp;
    s->time = device->latest;
    s->life = device->life;

    if (diff->type == MB_DELETE) {
        const bool cancels_create = device->create != NULL && !device->has_known;
        if (!cancels_create)
            device->pending_delete = diff;
        device->create = NULL;
        device->has_known = false;
        device->dead = true;
        device->life++;
        return;
    }

    const bool begins = diff->type == MB_CREATE && device->create == NULL;
    if (device->dead && !begins) { /* an update of a row that the device had deleted */
        s->ignored = true;
        return;
    }
    if (begins) {
        if (diff->known)
            device->pending_delete = NULL;
        device->create = diff;
        device->dead = false;
        device->floor = s->time;
    }
    device->has_known |= diff->known;
    device->incarnation_latest = s->time;
    write_device_fields(s, begins);
}

static mb_status fold(merge *m, const mb_diffs *window)
{
    if (look_up(m, m->window, m->window_count) != MB_OK ||
        look_up(m, m->request, m->request_count) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < m->window_count; i++)
        fold_window_step(&m->window[i]);
    for (size_t i = 0; i < m->request_count; i++) {
        step *s = &m->request[i];
        if (s->diff->known && compare_with_logged(m, s, window) != MB_OK)
            return MB_NO_MEMORY;
        fold_request_step(s);
    }
    return MB_OK;
}

mb_status mb_fold_lists(merge *m, const mb_diffs *window, const mb_diffs *request)
{
    m->last = &m->first;
    if (mb_log_order(window, m->arena, &m->in_order) != MB_OK ||
        find_alone(m, window, request) != MB_OK || make_window_steps(m, window) != MB_OK ||
        make_request_steps(m, request) != MB_OK || make_room_for_fields(m) != MB_OK ||
        mb_objects_init(&m->objects, m->window_count + m->request_count, m->arena) != MB_OK ||
        mb_table_init(&m->fields, 0, m->arena) != MB_OK)
        return MB_NO_MEMORY;
    return fold(m, window);
}
