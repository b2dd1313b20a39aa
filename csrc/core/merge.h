/* merge.h - what a merge knows: shared by fold.c, merge.c and outcomes.c.
 *
 *     mb_fold_lists       fold.c       what each list says of each object and of each of its fields
 *     decide()            merge.c      what wins
 *     mb_make_outcomes    outcomes.c   what goes upstream and downstream
 *
 * A step is a diff on its way through the merge. It points to its object, and for each of its members
 * to the field. An object and a field have one half for each side.
 */
#ifndef MB_MERGE_H
#define MB_MERGE_H

#include "names.h"
#include "text.h"

typedef struct object object;
typedef struct step step;

/* The last write of a field, on one side. */
typedef struct {
    const step *step;
    const mb_member *member; /* the member of that diff; NULL: nobody wrote the field */
    int64_t time;            /* milliseconds; not less than that of the write before */
    size_t life;             /* the life of the object, on that side */
} field_write;

typedef enum { NOT_COMPARED, DEVICE_WINS, SAME_ON_BOTH, SERVER_WINS, FOLDED_BEFORE } verdict;

typedef struct field {
    mb_field_name name;
    const object *of;
    struct field *next; /* of the same object */

    field_write server;
    field_write device;
    verdict verdict;

    /* fold.c: the last step that has the field, and at which member; finds duplicate members. */
    const step *in_step;
    size_t at_member;

    /* fold.c: the last known diff that was compared with the log's diff, and the value of the
     * field in the log's diff. */
    const step *logged_in;
    const mb_member *logged;

    /* merge.c, if the server's create came from the device: the value of the field in that create,
     * and its value after the steps of the request so far. */
    const mb_member *created;
    const mb_member *so_far;

    bool in_create; /* outcomes.c: print_create() has placed it */
} field;

/* What the window says about an object. */
typedef struct {
    bool seen;               /* the window has a diff of it */
    bool begins_with_create; /* and the first such diff is a create */
    bool has_known;          /* a diff of the incarnation alive now is known */
    bool is_open;            /* the incarnation alive now has a diff in the window */
    bool foreign;            /* the incarnation alive now has a foreign diff there */
    size_t life;             /* counts the deletes */
    const mb_diff *dead_by;  /* the delete that ended it; NULL if it is alive */
    const mb_diff *last_delete;
    const mb_diff *create; /* of the incarnation alive now, if the window has it */
    const step *create_step;
    bool was_pulled; /* a device that starts over had pulled the incarnation alive now */
} server_side;

/* What the request did to an object. */
typedef struct {
    bool seen;        /* the request has a diff of it */
    bool has_unknown; /* and the request has one that is not known */
    bool dead;        /* the last diff that counts is a delete */
    bool has_known;   /* a diff of the open incarnation is known */
    bool deleted;     /* by a delete that did more than undo the device's own create */
    size_t life;      /* counts the deletes */
    int64_t floor;    /* time of the open create: older writes belong to an earlier life */
    int64_t latest;   /* time of the last diff */
    int64_t incarnation_latest;    /* time of the last create or update */
    const mb_diff *create;         /* of the open incarnation, if the device made it */
    const mb_diff *unsent_create;  /* the same, unless the server has it */
    const mb_diff *pending_delete; /* a delete that the server does not know yet */
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
    bool row_is_replaced; /* the device's row is deleted, and made again from the server's create */
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
                          * for an unknown diff */
    size_t life;
    int64_t time;
    bool ignored;
    bool unlogged; /* the diff is unknown, or one of its members is not in the log */
    step *next;    /* of the same object in the request */
};

typedef struct {
    mb_arena *arena;
    mb_objects objects;
    mb_table fields; /* without the first few fields of each object */
    object *first;
    object **last;
    const mb_diff **in_order; /* the window, excluded diffs too */
    bool *is_alone;           /* for each diff of the window, by index */
    step *window;             /* those that are not alone */
    size_t window_count;
    step **window_at; /* the step of each diff of the window, by index; NULL: it has none */
    step *request;
    size_t request_count;
    size_t member_count; /* of all steps */
    field **next_fields; /* the place for those of the next step; there is room for all members */
    bool starts_over;
    int64_t device_clock; /* of a device that starts over: it had pulled everything below */
} merge;

/* ---- the three parts ----------------------------------------------------------------------- */

/* Makes the steps of both lists, finds their objects and fields, and folds them.
 *
 * m    in: arena, starts_over and device_clock; out: the rest
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_fold_lists(merge *m, const mb_diffs *window, const mb_diffs *request);

/* Makes the two lists of a merge whose objects are decided. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_make_outcomes(merge *m, const mb_diffs *window, const mb_diffs *request,
                           mb_merge_result *result);

/* ---- what all of them ask ------------------------------------------------------------------ */

static inline bool same_value(const mb_member *a, const mb_member *b)
{
    return a == NULL || b == NULL ? a == b : mb_text_equal(a->value, b->value);
}

static inline bool server_wrote(const field *f)
{
    return f->server.member != NULL && f->server.life == f->of->server.life;
}

static inline bool device_wrote(const field *f)
{
    const device_side *device = &f->of->device;
    return f->device.member != NULL && f->device.life == device->life &&
           f->device.time >= device->floor;
}

/* Whether the device's last write of a field is in the log with exactly that text, under the id of
 * its diff. */
static inline bool is_logged(const field *f)
{
    const step *s = f->device.step;
    return s->logged != NULL && s->logged[f->device.member - s->members];
}

#endif
