/* outcomes.c - what leaves a merge, once it is decided what wins.
 *
 * The diffs leave in the order in which they came: upstream that of the request, downstream that of
 * the log. A diff whose fields all leave keeps its text. If only some do, a new object is printed
 * with their original texts.
 *
 * The caller who asks the rules must know about every value that is written. An edit that was
 * folded into a create has no outcome of its own, and a known diff may say something else than the
 * log has under its id. So a diff is marked (written) if something of it goes upstream that the log
 * does not have under its id.
 *
 * Does not: decide anything.
 */
#include "arena.h"
#include "json.h"
#include "merge.h"

/* ---- printing json_data -------------------------------------------------------------------- */

typedef bool (*member_goes)(const step *s, const field *f, const mb_member *member);

/* Prints the fields of a diff that are sent: all of them in their text, or a new object with some.
 *
 * some   out: false if no field is sent
 */
static mb_status select_fields(mb_arena *arena, const step *s, member_goes goes, mb_text *json_data,
                               bool *some)
{
    const mb_diff *diff = s->diff;
    size_t going = 0, lost = 0;
    for (size_t i = 0; i < diff->member_count; i++) {
        if (s->fields[i] == NULL)
            continue;
        if (goes(s, s->fields[i], &s->members[i]))
            going++;
        else
            lost++;
    }
    *some = going != 0;
    *json_data = diff->json_data;
    if (lost == 0 || going == 0)
        return MB_OK;

    const mb_member **chosen = mb_arena_get_items(arena, going + 1, sizeof *chosen);
    if (chosen == NULL)
        return MB_NO_MEMORY;
    size_t count = 0;
    for (size_t i = 0; i < diff->member_count; i++) {
        const mb_member *member = &s->members[i];
        if (s->fields[i] != NULL ? goes(s, s->fields[i], member) : member == s->id)
            chosen[count++] = member;
    }
    return mb_json_print_object(chosen, count, arena, json_data);
}

/* Prints a create with the device's later edits in it: its own fields in their order, then new
 * ones. Marks those edits as written, if the log does not have what is folded. */
static mb_status print_create(mb_arena *arena, const step *s, bool *written, mb_text *json_data)
{
    const mb_diff *create = s->diff;
    bool changed = false;
    size_t going = 1; /* the id */
    for (const field *f = s->object->fields; f != NULL; f = f->next) {
        if (!device_wrote(f))
            continue;
        going++;
        written[f->device.step->source] |= !is_logged(f);
        changed |= f->device.step != s;
    }
    if (!changed) {
        *json_data = create->json_data;
        return MB_OK;
    }

    const mb_member **members = mb_arena_get_array(arena, going, sizeof *members);
    if (members == NULL)
        return MB_NO_MEMORY;
    size_t count = 0;
    for (size_t i = 0; i < create->member_count; i++) {
        if (&s->members[i] == s->id)
            members[count++] = s->id;
        else if (s->fields[i] != NULL) {
            s->fields[i]->in_create = true;
            members[count++] = s->fields[i]->device.member;
        }
    }
    for (const field *f = s->object->fields; f != NULL; f = f->next)
        if (device_wrote(f) && !f->in_create)
            members[count++] = f->device.member;
    return mb_json_print_object(members, count, arena, json_data);
}

/* ---- what leaves --------------------------------------------------------------------------- */

static bool wins_upstream(const step *s, const field *f, const mb_member *member)
{
    (void)s;
    return f->device.member == member && f->verdict == DEVICE_WINS;
}

/* A field of a diff goes downstream if no later diff wrote it, and the device neither won it nor
 * has it. Of a foreign diff, the device has the fields that it wrote itself with the same text. Of
 * a known diff, it has what its own fold contains. That is all of it, unless edits were folded into
 * a create and the device was since restored from a backup without them. */
static bool goes_downstream(const step *s, const field *f, const mb_member *member)
{
    if (f->server.member != member || f->verdict == DEVICE_WINS)
        return false;
    if (!s->diff->known)
        return f->verdict != SAME_ON_BOTH;
    return !(device_wrote(f) && mb_text_equal(f->device.member->value, member->value));
}

static void add(mb_outcomes *list, size_t source, mb_type type, int64_t time, mb_text json_data)
{
    list->items[list->count++] =
        (mb_outcome){.source = source, .type = type, .utc_timestamp = time, .json_data = json_data};
}

static void add_upstream(mb_merge_result *made, const step *s, mb_type type, int64_t time,
                         mb_text json_data)
{
    made->written[s->source] = true;
    add(&made->upstream, s->source, type, time, json_data);
}

static mb_status send_up(mb_arena *arena, const step *s, mb_merge_result *made)
{
    const object *o = s->object;
    const mb_diff *diff = s->diff;
    mb_text json_data;

    if (diff == o->device.pending_delete) {
        if (o->delete_goes_up)
            add_upstream(made, s, MB_DELETE, s->time, diff->json_data);
        return MB_OK;
    }
    if (o->create_goes_up && diff == o->device.unsent_create) {
        if (print_create(arena, s, made->written, &json_data) != MB_OK)
            return MB_NO_MEMORY;
        add_upstream(made, s, MB_CREATE, o->device.incarnation_latest, json_data);
        return MB_OK;
    }
    if (!o->fields_go_up || s->ignored || diff->type == MB_DELETE || s->life != o->device.life)
        return MB_OK;

    bool some;
    if (select_fields(arena, s, wins_upstream, &json_data, &some) != MB_OK)
        return MB_NO_MEMORY;
    if (some)
        add_upstream(made, s, MB_UPDATE, s->time, json_data);
    return MB_OK;
}

static mb_status send_down(mb_arena *arena, const step *s, mb_outcomes *downstream)
{
    const object *o = s->object;
    const mb_diff *diff = s->diff;

    if (diff == o->delete_down) {
        add(downstream, s->source, MB_DELETE, diff->utc_timestamp, diff->json_data);
        return MB_OK;
    }
    if (!o->fields_go_down || s->ignored || diff->type == MB_DELETE || s->life != o->server.life)
        return MB_OK;

    const bool device_lacks_row = o->device.create == NULL || o->row_is_replaced;
    if (diff == o->server.create && !diff->known && device_lacks_row) {
        add(downstream, s->source, MB_CREATE, diff->utc_timestamp, diff->json_data);
        return MB_OK;
    }
    mb_text json_data;
    bool some;
    if (select_fields(arena, s, goes_downstream, &json_data, &some) != MB_OK)
        return MB_NO_MEMORY;
    if (some)
        add(downstream, s->source, MB_UPDATE, diff->utc_timestamp, json_data);
    return MB_OK;
}

/* For an object with no diff in the request, and no other diff in the window. */
static void send_alone_down(const mb_diff *diff, size_t source, mb_outcomes *downstream)
{
    if (diff->type != MB_UPDATE || diff->has_fields)
        add(downstream, source, diff->type, diff->utc_timestamp, diff->json_data);
}

static mb_status send_window_down(merge *m, const mb_diffs *window, mb_outcomes *downstream)
{
    const step *next = m->window;
    for (size_t i = 0; i < window->count; i++) {
        const mb_diff *diff = m->in_order[i];
        const size_t source = (size_t)(diff - window->items);
        if (diff->excluded)
            continue;
        if (m->is_alone[source])
            send_alone_down(diff, source, downstream);
        else if (send_down(m->arena, next++, downstream) != MB_OK)
            return MB_NO_MEMORY;
    }
    return MB_OK;
}

mb_status mb_make_outcomes(merge *m, const mb_diffs *window, const mb_diffs *request,
                           mb_merge_result *result)
{
    mb_merge_result made = {.conflicts = 0};
    made.upstream.items =
        mb_arena_get_items(m->arena, m->request_count, sizeof *made.upstream.items);
    made.downstream.items =
        mb_arena_get_items(m->arena, window->count, sizeof *made.downstream.items);
    made.written = mb_arena_get_array(m->arena, request->count, sizeof *made.written);
    made.unlogged = mb_arena_get_array(m->arena, request->count, sizeof *made.unlogged);
    if (made.upstream.items == NULL || made.downstream.items == NULL || made.written == NULL ||
        made.unlogged == NULL)
        return MB_NO_MEMORY;

    for (size_t i = 0; i < m->request_count; i++) {
        const step *s = &m->request[i];
        made.unlogged[s->source] = s->unlogged;
        if (send_up(m->arena, s, &made) != MB_OK)
            return MB_NO_MEMORY;
    }
    if (send_window_down(m, window, &made.downstream) != MB_OK)
        return MB_NO_MEMORY;
    for (const object *o = m->first; o != NULL; o = o->next)
        made.conflicts += o->conflicts;
    *result = made;
    return MB_OK;
}
