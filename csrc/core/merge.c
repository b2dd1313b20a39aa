/* merge.c - which edits win.
 *
 * Two devices made edits while apart. The server has the edits of one of them (the window); the
 * other now sends its edits (the request). Each object is merged separately, so the whole merge is
 * one walk:
 *
 *     window   --fold-->  what the server says of it  --.
 *                                                        >-- decide -->  upstream, downstream
 *     request  --fold-->  what the device did to it   --'
 *
 * After folding, deciding is simple: on each side an object is dead or alive, and each of its
 * fields has one last writer.
 *
 * A diff of the request is *known* if the window has its id too: the server accepted it, and the
 * reply was lost. A diff of the window that is not known is *foreign*. An *incarnation* is one life
 * of an object, from create to delete; an id can be used again (a favourite switched off and on).
 * An incarnation was *born elsewhere* if its create is in the window and no diff of it is known:
 * the device cannot have seen it.
 *
 * The rules, in the order in which decide() checks them:
 *
 *     dead on the server      A create of the device's own lives if it is later than the delete
 *                             and belongs to a life that is not in the log.
 *                             Otherwise the delete wins over all edits, whoever made them.
 *     deleted by the device   The delete goes upstream and wins over concurrent edits, unless the
 *                             object that lives now was born elsewhere: then it was another life.
 *     new on the server       The create goes upstream, with later edits of the device folded in.
 *     alive on both sides     Field by field. What only one side wrote stands. If both wrote a
 *                             field, the later timestamp wins; with equal ones the device wins.
 *
 * Times decide only between edits that had not seen each other. The order of one device's edits,
 * and the order of the log, never change: an edit counts as at least as late as what it replaced
 * (`time` below), so a clock that jumps back cannot reverse them.
 *
 * If a device starts over (mb_merge_behind), the server cannot know what its rows are: the device
 * or the server was restored from a backup. Its edits are merged with the whole log. If the create
 * of an incarnation is older than the device's clock, the device had pulled it, so its edits and
 * its delete count. Any other incarnation was born elsewhere. What the log does not have is dead,
 * and only a create brings it back. The device pulls from 0 afterwards, so nothing goes downstream.
 *
 * Everything is looked up by hash: an object by model and id, a field by object and name. When an
 * object dies, its fields are not cleared one by one. Each write remembers the life in which it was
 * made, and a write of an earlier life does not count (life, floor). So the walk stays linear.
 *
 * The caller who asks the rules must know about every value that is written. An edit that was
 * folded into a create has no outcome of its own, and a known diff may say something else than the
 * log has under its id. So a diff is marked (written) if something of it goes upstream that the log
 * does not have under its id.
 *
 * Most diffs of a long window are the only diff of their object there, and the request has none of
 * it. There is nothing to decide about them. They are found first, and leave unchanged.
 *
 * Does not: interpret a value, look at the log before the window, or change its input.
 */
#include "arena.h"
#include "json.h"
#include "log.h"
#include "names.h"
#include "text.h"

#ifndef MB_LONG_WINDOW
#define MB_LONG_WINDOW 1000 /* with fewer diffs find_alone() is not called */
#endif

typedef struct object object;
typedef struct step step;

/* The last write of a field, on one side. */
typedef struct {
    const step *step;
    const mb_member *member; /* of its diff; NULL: nobody wrote it */
    int64_t time;            /* milliseconds; at least that of what it replaced */
    size_t life;             /* of the object on that side */
} field_write;

typedef enum { NOT_COMPARED, DEVICE_WINS, SAME_ON_BOTH, SERVER_WINS, FOLDED_BEFORE } verdict;

typedef struct field {
    mb_field_name name;
    const object *of;
    field_write server;
    field_write device;
    verdict verdict;
    const mb_member
        *created;            /* what the server's create has of it, if the create is the device's */
    const mb_member *so_far; /* what the request had made of it, on the walk through its steps */
    const step *logged_in; /* the last known diff that was compared with the log's, and what that */
    const mb_member *logged; /* has of it */
    bool in_create;          /* print_create() has placed it */
    const step *in_step;     /* the last diff that has it, and where: finds duplicate members */
    size_t at_member;
    struct field *next; /* of the same object */
} field;

/* What the window says about an object. */
typedef struct {
    bool seen;               /* the window has a diff of it */
    bool begins_with_create; /* and the first of them creates it */
    bool has_known;          /* a diff of the incarnation alive now is known */
    bool is_open;            /* the incarnation alive now has a diff in the window */
    bool foreign;            /* and one that is not the device's own */
    size_t life;             /* counts the deletes */
    const mb_diff *dead_by;  /* the delete that it is dead by, NULL while it is alive */
    const mb_diff *last_delete;
    const mb_diff *create; /* of the incarnation alive now, if it lies in the window */
    const step *create_step;
    bool was_pulled; /* a device that starts over had pulled the incarnation alive now */
} server_side;

/* What the request did to an object. */
typedef struct {
    bool seen;                     /* the request has a diff of it */
    bool has_unknown;              /* and one that is not known */
    bool dead;                     /* the last word is a delete */
    bool has_known;                /* a diff of the open incarnation is known */
    bool deleted;                  /* dead by a delete that was more than an own create undone */
    size_t life;                   /* counts the deletes */
    int64_t floor;                 /* time of the open create: older writes are not of its life */
    int64_t latest;                /* time of the last diff */
    int64_t incarnation_latest;    /* time of the last create or update */
    const mb_diff *create;         /* of the open incarnation, if the device made it */
    const mb_diff *unsent_create;  /* the same, unless the server has it */
    const mb_diff *pending_delete; /* what the server must still be told */
    step *first_step;
    step **steps_end;
} device_side;

struct object {
    mb_object_name name;
    server_side server;
    device_side device;
    field *fields;
    field **fields_end;
    object *next;

    /* The decision. */
    bool delete_goes_up;
    bool create_goes_up;
    bool fields_go_up;
    bool fields_go_down;
    bool row_is_replaced; /* the device's row goes, and comes again from the server's create */
    const mb_diff *delete_down; /* the foreign delete that goes first, or NULL */
    size_t conflicts;
};

/* A diff on its way through the merge. */
struct step {
    const mb_diff *diff;
    object *object;
    const mb_member *members;
    const int64_t *times; /* when each was written; NULL: at the diff's utc_timestamp */
    field **fields;      /* one for each member; NULL for "id" and for all but the last duplicate */
    const mb_member *id; /* the "id" that counts */
    size_t source;       /* its index in the list that it came from */
    const bool *logged;  /* of a known diff: which members the log's diff has in the same text; NULL
                          * of an unknown one: none */
    size_t life;
    int64_t time;
    bool ignored;
    bool unlogged; /* some member is not logged, or the diff is unknown */
    step *next;    /* of the same object in the request */
};

typedef struct {
    mb_arena *arena;
    mb_objects objects;
    mb_table fields; /* but for the first few of each object */
    object *first;
    object **last;
    const mb_diff **in_order; /* the window, excluded diffs too */
    bool *is_alone;           /* for each diff of the window, by index */
    uint64_t *hashes;         /* of the object of each, by index; NULL: not known */
    step *window;             /* those that are not alone */
    size_t window_count;
    step **window_at; /* the step of each diff of the window, by index; NULL: it has none */
    step *request;
    size_t request_count;
    field **next_fields; /* where the fields of the next step begin, in room for those of all */
    bool starts_over;
    int64_t device_clock; /* of a device that starts over: what it had pulled is below */
} merge;

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
        m->hashes[i] = mb_hash_object(last, diff->model, diff->object_id, m->arena);
        if (mb_table_find(diffs, m->hashes[i], is_of_object, diff, m->arena, &slot) != MB_OK)
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
    m->hashes = mb_arena_get_items(m->arena, window->count, sizeof *m->hashes);
    if (m->hashes == NULL || mb_table_init(&diffs, window->count, m->arena) != MB_OK ||
        mark_first(m, window, &last, &diffs) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        const uint64_t hash = mb_hash_object(&last, diff->model, diff->object_id, m->arena);
        if (mb_table_find(&diffs, hash, is_of_object, diff, m->arena, &slot) != MB_OK)
            return MB_NO_MEMORY;
        if (slot->item != NULL)
            m->is_alone[(const mb_diff *)slot->item - window->items] = false;
    }
    return MB_OK;
}

/* ---- looking things up --------------------------------------------------------------------- */

static uint64_t hash_object(merge *m, const mb_diff *diff)
{
    return mb_hash_object(&m->objects.last, diff->model, diff->object_id, m->arena);
}

static mb_status find_object(merge *m, const mb_diff *diff, uint64_t hash, object **found)
{
    mb_slot *slot;
    if (mb_find_hashed_object(&m->objects, hash, diff->model, diff->object_id, m->arena, &slot) !=
        MB_OK)
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
    *found = slot->item;
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
    size_t count;
    mb_error error;
    s->members = s->diff->members;
    if (s->members != NULL || s->diff->member_count == 0)
        return MB_OK;
    mb_json json = mb_json_begin(s->diff->json_data, &error);
    return mb_json_read_object(&json, SIZE_MAX, m->arena, &s->members, &count);
}

static mb_status find_fields(merge *m, step *s)
{
    const mb_diff *diff = s->diff;
    if (take_members(m, s) != MB_OK ||
        mb_read_times(diff, s->members, m->arena, &s->times) != MB_OK)
        return MB_NO_MEMORY;
    s->fields = m->next_fields;
    m->next_fields += diff->member_count;
    for (size_t i = 0; i < diff->member_count; i++) {
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
        if (!diff->repeated && !diff->excluded)
            m->request[m->request_count++] =
                (step){.diff = diff, .source = i, .unlogged = !diff->known};
    }
    return MB_OK;
}

static size_t member_count(const step *steps, size_t count)
{
    size_t members = 0;
    for (size_t i = 0; i < count; i++)
        members += steps[i].diff->member_count;
    return members;
}

static mb_status make_room_for_fields(merge *m)
{
    const size_t members =
        member_count(m->window, m->window_count) + member_count(m->request, m->request_count);
    m->next_fields = mb_arena_get_items(m->arena, members, sizeof *m->next_fields);
    return m->next_fields == NULL ? MB_NO_MEMORY : MB_OK;
}

/* ---- what a known diff says beyond the log ------------------------------------------------- */

static bool same_value(const mb_member *a, const mb_member *b)
{
    return a == NULL || b == NULL ? a == b : mb_text_equal(a->value, b->value);
}

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

/* Whether the device's last write of a field is in the log with exactly that text, under the id of
 * its diff. */
static bool is_logged(const field *f)
{
    const step *s = f->device.step;
    return s->logged != NULL && s->logged[f->device.member - s->members];
}

/* ---- folding ------------------------------------------------------------------------------- */

static bool server_wrote(const field *f)
{
    return f->server.member != NULL && f->server.life == f->of->server.life;
}

static bool device_wrote(const field *f)
{
    const device_side *device = &f->of->device;
    return f->device.member != NULL && f->device.life == device->life &&
           f->device.time >= device->floor;
}

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

/* Folds the whole request first, then drops what is known. Otherwise an unknown update that a known
 * one replaced could come back. */
static void drop_known(device_side *device)
{
    device->deleted = device->dead && device->pending_delete != NULL;
    if (device->pending_delete != NULL && device->pending_delete->known)
        device->pending_delete = NULL;
    if (device->create != NULL && !device->create->known)
        device->unsent_create = device->create;
}

static mb_status fold(merge *m, const mb_diffs *window)
{
    for (size_t i = 0; i < m->window_count; i++) {
        step *s = &m->window[i];
        const uint64_t hash = m->hashes != NULL ? m->hashes[s->source] : hash_object(m, s->diff);
        if (find_object(m, s->diff, hash, &s->object) != MB_OK || find_fields(m, s) != MB_OK)
            return MB_NO_MEMORY;
        fold_window_step(s);
    }
    for (size_t i = 0; i < m->request_count; i++) {
        step *s = &m->request[i];
        if (find_object(m, s->diff, hash_object(m, s->diff), &s->object) != MB_OK ||
            find_fields(m, s) != MB_OK)
            return MB_NO_MEMORY;
        if (s->diff->known && compare_with_logged(m, s, window) != MB_OK)
            return MB_NO_MEMORY;
        fold_request_step(s);
    }
    return MB_OK;
}

/* ---- deciding ------------------------------------------------------------------------------ */

static bool born_elsewhere(const object *o)
{
    return o->server.create != NULL && !o->server.has_known && !o->server.was_pulled;
}

/* Whether the device may have a row that died in the window. It does not if it deleted the row too,
 * or if the row was created and deleted between two syncs and the request has nothing of it. */
static bool may_hold_dead_row(const object *o)
{
    return !o->device.deleted && !(o->server.begins_with_create && !o->device.seen);
}

static void decide_dead(object *o)
{
    const mb_diff *delete = o->server.dead_by;
    const device_side *device = &o->device;
    o->conflicts = !delete->known && device->has_unknown && !device->deleted;
    /* If the log has edits of this life, its delete was made by someone who had seen them. */
    const bool is_concurrent = !device->has_known;
    const bool is_later = device->incarnation_latest > delete->utc_timestamp;
    if (device->unsent_create != NULL && (delete->known || (is_concurrent && is_later)))
        o->create_goes_up = true;
    else if (!delete->known && may_hold_dead_row(o))
        o->delete_down = delete;
}

static verdict compare(const field *f)
{
    if (!server_wrote(f))
        return DEVICE_WINS;
    if (mb_text_equal(f->server.member->value, f->device.member->value))
        return SAME_ON_BOTH;
    return f->server.time > f->device.time ? SERVER_WINS : DEVICE_WINS;
}

static void decide_field(object *o, field *f)
{
    f->verdict = compare(f);
    const bool both_wrote = server_wrote(f) && !f->server.step->diff->known;
    if (f->verdict == SERVER_WINS || (f->verdict == DEVICE_WINS && both_wrote))
        o->conflicts++;
}

/* Whether the device's own row would keep a field that the server's new incarnation never had and
 * that does not go upstream. Updates cannot remove a field, so such a row must be replaced. */
static bool row_has_leftovers(const object *o, bool edits_count)
{
    for (const field *f = o->fields; f != NULL; f = f->next)
        if (device_wrote(f) && !server_wrote(f) && (!edits_count || f->device.step->diff->known))
            return true;
    return false;
}

/* Advances so_far by one step. Returns in how many fields it then differs from the create. */
static size_t follow(const step *s, bool is_create, size_t unlike)
{
    const mb_diff *diff = s->diff;
    for (size_t i = 0; i < diff->member_count; i++) {
        field *f = s->fields[i];
        if (f == NULL || (is_create && f->so_far != NULL))
            continue;
        const bool was_like = same_value(f->so_far, f->created);
        f->so_far = &s->members[i];
        const bool is_like = same_value(f->so_far, f->created);
        unlike = unlike + (was_like && !is_like) - (!was_like && is_like);
    }
    return unlike;
}

/* Finds the last step of the try that made the server's create, NULL if there was none.
 *
 * That try was the beginning of this request. So the device's steps are followed until they make
 * exactly the fields of the create. The create has the time of the try's last edit; if the server
 * limited that for skew, it has an earlier one. If several steps match, the last one counts: a
 * request that comes again unchanged must be known as a whole.
 */
static const step *last_step_folded_before(const object *o)
{
    const mb_diff *create = o->server.create;
    const device_side *device = &o->device;
    size_t unlike = 0;
    for (size_t i = 0; i < create->member_count; i++) {
        field *f = o->server.create_step->fields[i];
        if (f != NULL) {
            f->created = &o->server.create_step->members[i];
            unlike++;
        }
    }
    const step *at_its_time = NULL, *limited = NULL;
    for (const step *s = device->first_step; s != NULL; s = s->next) {
        const bool is_create = s->diff == device->create;
        if (s->ignored || s->life != device->life || s->time < device->floor)
            continue;
        if (s->diff->known && !is_create)
            break;
        unlike = follow(s, is_create, unlike);
        if (unlike == 0 && s->time == create->utc_timestamp)
            at_its_time = s;
        else if (unlike == 0 && s->time > create->utc_timestamp)
            limited = s;
    }
    return at_its_time != NULL ? at_its_time : limited;
}

/* Marks the edits that an earlier try of this request folded into the create that the server now
 * has. They have no id in the log, but they are known all the same. Without this, one of them could
 * win over an edit that was made after seeing it. */
static void recognize_folded_edits(object *o)
{
    const mb_diff *create = o->server.create;
    const mb_diff *own_create = o->device.create;
    if (create == NULL || own_create == NULL || !mb_text_equal(create->id, own_create->id))
        return;
    const step *last = last_step_folded_before(o);
    if (last == NULL)
        return;
    for (field *f = o->fields; f != NULL; f = f->next)
        if (device_wrote(f) && f->device.step <= last) /* steps of one request, in its order */
            f->verdict = FOLDED_BEFORE;
}

static void decide_fields(object *o)
{
    const device_side *device = &o->device;
    const bool foreign_life = born_elsewhere(o);
    const bool reborn = o->server.last_delete != NULL && o->server.create != NULL &&
                        !o->server.create->known && !o->server.was_pulled;
    const bool owns_row = device->create != NULL;
    bool edits_count = !device->dead && !(foreign_life && device->unsent_create == NULL);

    if (reborn && !o->server.last_delete->known && may_hold_dead_row(o)) {
        o->row_is_replaced = !owns_row || row_has_leftovers(o, edits_count);
        if (o->row_is_replaced) {
            o->delete_down = o->server.last_delete;
            edits_count = false;
        }
    }

    if (edits_count) {
        recognize_folded_edits(o);
        for (field *f = o->fields; f != NULL; f = f->next)
            if (device_wrote(f) && !f->device.step->diff->known && f->verdict != FOLDED_BEFORE)
                decide_field(o, f);
    }
    o->fields_go_up = edits_count;
    o->fields_go_down = true;
}

static void decide(const merge *m, object *o)
{
    const mb_diff *born = o->server.create;
    drop_known(&o->device);
    o->server.was_pulled = m->starts_over && born != NULL && born->logical_clock < m->device_clock;
    if (m->starts_over && !o->server.seen) {
        o->create_goes_up = o->device.unsent_create != NULL;
    } else if (o->server.dead_by != NULL) {
        decide_dead(o);
    } else if (o->device.pending_delete != NULL && !born_elsewhere(o)) {
        o->delete_goes_up = true;
        o->conflicts = o->server.foreign;
        o->create_goes_up = o->device.unsent_create != NULL;
    } else if (o->device.unsent_create != NULL && !o->server.seen) {
        o->create_goes_up = true;
    } else {
        decide_fields(o);
    }
}

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

static mb_status make_outcomes(merge *m, const mb_diffs *window, const mb_diffs *request,
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

    for (size_t i = 0; i < m->request_count; i++)
        made.unlogged[m->request[i].source] = m->request[i].unlogged;
    for (size_t i = 0; i < m->request_count; i++)
        if (send_up(m->arena, &m->request[i], &made) != MB_OK)
            return MB_NO_MEMORY;
    if (send_window_down(m, window, &made.downstream) != MB_OK)
        return MB_NO_MEMORY;
    for (const object *o = m->first; o != NULL; o = o->next)
        made.conflicts += o->conflicts;
    *result = made;
    return MB_OK;
}

static mb_status merge_lists(merge *m, const mb_diffs *window, const mb_diffs *request,
                             mb_merge_result *result)
{
    m->last = &m->first;
    if (mb_log_order(window, m->arena, &m->in_order) != MB_OK ||
        find_alone(m, window, request) != MB_OK || make_window_steps(m, window) != MB_OK ||
        make_request_steps(m, request) != MB_OK || make_room_for_fields(m) != MB_OK ||
        mb_objects_init(&m->objects, m->window_count + m->request_count, m->arena) != MB_OK ||
        mb_table_init(&m->fields, 0, m->arena) != MB_OK || fold(m, window) != MB_OK)
        return MB_NO_MEMORY;
    for (object *o = m->first; o != NULL; o = o->next)
        decide(m, o);
    return make_outcomes(m, window, request, result);
}

mb_status mb_merge(mb_arena *arena, const mb_diffs *window, const mb_diffs *request,
                   mb_merge_result *result)
{
    merge m = {.arena = arena};
    return merge_lists(&m, window, request, result);
}

mb_status mb_merge_behind(mb_arena *arena, const mb_diffs *log, const mb_diffs *request,
                          int64_t device_clock, mb_merge_result *result)
{
    merge m = {.arena = arena, .starts_over = true, .device_clock = device_clock};
    const mb_status status = merge_lists(&m, log, request, result);
    if (status == MB_OK)
        result->downstream.count = 0;
    return status;
}
