/* simulation.h - a server and a few devices, small enough to fuzz.
 *
 * Three objects of three fields.  Rows are plain structs that are changed by applying diffs one at
 * a time, so what a history leaves behind does not come from the merge that it judges.
 *
 * A value tells where it comes from.  Those below SHARED are anybody's; each other one is the number
 * of the edit that first wrote it, and `knew` says which edits the device had seen by then.  So
 * whenever a row changes one can ask whether an edit is beaten by one that it had seen.
 */
#ifndef MB_FUZZ_SIMULATION_H
#define MB_FUZZ_SIMULATION_H

#include "oracle.h"

enum { OBJECTS = 3, FIELDS = 3, SHARED = 4, EDITS = 256, OUTBOX = 40, LOG = 200, UNSET = -1 };

typedef struct {
    bool has[EDITS];
} edit_set;

typedef struct {
    bool alive;
    int value[FIELDS];
} row;

/* A diff as it is kept between two merges. */
typedef struct {
    char id[12];
    char json_data[64];
    char field_times[96]; /* of a folded row of the log */
    unsigned object;
    mb_type type;
    int64_t logical_clock;
    int64_t utc_timestamp;
} kept_diff;

/* What a device remembers: what a backup keeps, and what a request is made of. */
typedef struct {
    row rows[OBJECTS];
    kept_diff outbox[OUTBOX];
    size_t outbox_count;
    int64_t logical_clock;
    edit_set seen;
} memory;

typedef struct {
    int number;
    memory now;
    memory backup;
    memory delivered; /* as it was when its last request reached the server */
    bool was_restored;
    bool clock_was_set;
    int64_t skew_ms;
} device;

typedef struct {
    row rows[OBJECTS];
    kept_diff log[LOG];
    size_t log_count;
    int64_t next_clock;
    bool was_compacted;
    edit_set logged;
    edit_set knew[EDITS]; /* what the device had seen when it made the edit */
    int maker[EDITS];
    int64_t made_at[EDITS];
    bool clock_was_set[EDITS]; /* of the device, before it made the edit */
    int edit_count;
    int64_t now_ms;
} server;

static const char *const type_names[] = {"create", "update", "delete"};

/* Whether the edit `winner` may take the place of `loser`.  Not if `loser` was made with `winner` in
 * sight.  Of one device whose clock stood still, or was set, only the order in one request tells
 * which is later, and a backup or a late request has only the older one.  And a compacted log may
 * have forgotten that it took an edit whose reply was lost. */
static inline bool may_replace(const server *s, int loser, int winner)
{
    if (s->was_compacted || loser < SHARED || winner < SHARED || !s->knew[loser].has[winner])
        return true;
    return s->maker[loser] == s->maker[winner] &&
           (s->made_at[loser] <= s->made_at[winner] || s->clock_was_set[loser]);
}

/* Does to a row what a diff says, as a table with a primary key would: a create must find no row
 * and an update must find one. */
static inline void change_row(const server *s, row *rows, mb_type type, mb_text json_data)
{
    mb_arena *arena = new_arena(1);
    mb_error error;
    mb_diff diff = {.id = {"d", 1}, .owner = {"o", 1}, .model = {"m", 1}, .json_data = json_data};
    HOLDS(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
    HOLDS(diff.object_id.size == 1 && *diff.object_id.at >= 'x' && *diff.object_id.at <= 'z');

    row *changed = &rows[*diff.object_id.at - 'x'];
    HOLDS(type == MB_DELETE || changed->alive == (type == MB_UPDATE));
    if (type != MB_UPDATE)
        *changed = (row){type == MB_CREATE, {UNSET, UNSET, UNSET}};
    for (size_t i = 0; type != MB_DELETE && i < diff.member_count; i++) {
        const int field = *diff.members[i].name.at - 'a';
        if (field < 0 || field >= FIELDS)
            continue;
        const int before = changed->value[field];
        const int after = atoi(diff.members[i].value.at); /* the object's '}' ends it */
        HOLDS(may_replace(s, before, after));
        changed->value[field] = after;
    }
    mb_arena_free(arena);
}

static inline bool is_in_log(const server *s, const kept_diff *diff)
{
    for (size_t i = 0; i < s->log_count; i++)
        if (strcmp(s->log[i].id, diff->id) == 0)
            return true;
    return false;
}

/* Whether a retry may delete the object and create it once more: the request does both, and the log
 * has neither, since another device did the same and nothing of this create was left to log, or
 * since the log was compacted.  Two known limits of the protocol: "Its retry then looks as if the
 * delete were news" and "The retry then counts as new" (docs/protocol.md). */
static inline bool delete_looks_new(const server *s, const memory *from, unsigned object)
{
    bool deleted = false;
    for (size_t i = 0; i < from->outbox_count; i++) {
        const kept_diff *diff = &from->outbox[i];
        if (diff->object != object || diff->type == MB_UPDATE || is_in_log(s, diff))
            continue;
        if (deleted && diff->type == MB_CREATE)
            return true;
        deleted |= diff->type == MB_DELETE;
    }
    return false;
}

static inline void expect_same_rows(const row *a, const row *b)
{
    for (int object = 0; object < OBJECTS; object++) {
        HOLDS(a[object].alive == b[object].alive);
        for (int field = 0; a[object].alive && field < FIELDS; field++)
            HOLDS(a[object].value[field] == b[object].value[field]);
    }
}

/* An edit that the device's rows allow: an object is made once, and changed while it is there. */
static inline void edit(server *s, device *d, decisions *from)
{
    memory *now = &d->now;
    if (now->outbox_count == OUTBOX || s->edit_count == EDITS - SHARED)
        return;
    const unsigned object = choose(from, OBJECTS);
    const int number = SHARED + s->edit_count++;
    s->knew[number] = now->seen;
    s->maker[number] = d->number;
    s->made_at[number] = s->now_ms + d->skew_ms;
    s->clock_was_set[number] = d->clock_was_set;
    now->seen.has[number] = true;

    kept_diff *diff = &now->outbox[now->outbox_count++];
    *diff = (kept_diff){.object = object,
                        .utc_timestamp = s->made_at[number],
                        .logical_clock = now->logical_clock,
                        .type = !now->rows[object].alive ? MB_CREATE
                                : choose(from, 4) == 0   ? MB_DELETE
                                                         : MB_UPDATE};
    (void)snprintf(diff->id, sizeof diff->id, "%d", number);
    int size = snprintf(diff->json_data, sizeof diff->json_data, "{\"id\":\"%c\"", 'x' + object);
    const unsigned written = diff->type == MB_DELETE ? 0 : 1 + choose(from, (1 << FIELDS) - 1);
    for (unsigned field = 0; field < FIELDS; field++) {
        if (!(written >> field & 1))
            continue;
        const unsigned shared = choose(from, 2 * SHARED);
        size += snprintf(diff->json_data + size, sizeof diff->json_data - (size_t)size,
                         ",\"%c\":%d", 'a' + field, shared < SHARED ? (int)shared : number);
    }
    (void)snprintf(diff->json_data + size, sizeof diff->json_data - (size_t)size, "}");
    tell("device %d at %d: %s %s as diff %s\n", d->number, (int)diff->utc_timestamp,
         type_names[diff->type], diff->json_data, diff->id);
    change_row(s, now->rows, diff->type, (mb_text){diff->json_data, strlen(diff->json_data)});
}

#endif
