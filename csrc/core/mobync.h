/* mobync.h - the merge of offline edits, as a C library.
 *
 * A device logs each edit as a diff.  When it syncs, the diffs that it made (its request) meet the
 * diffs that the server logged since the device's last sync (the window), and two lists come out:
 * upstream, what the server must apply, and downstream, what the device must apply.  After that
 * both hold the same rows.
 *
 *     mb_arena *arena;
 *     mb_arena_new(NULL, seed, &arena);
 *     ... fill two arrays of mb_diff ...
 *     mb_diff_check(&diff, arena, &error);             each diff, both lists
 *     mb_recognize(arena, &window, &request);          which diffs the server has already
 *     mb_merge(arena, &window, &request, &result);
 *     mb_arena_free(arena);                            gives back all of it at once
 *
 * The library reads nothing, writes nothing and keeps no state.  One arena serves one merge and
 * one thread; different arenas do not touch each other, but for one thing: decoding an escaped
 * string calls cJSON's parser, which resets a process-wide error position that nobody here reads.
 */
#ifndef MOBYNC_H
#define MOBYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    MB_OK,
    MB_INVALID,  /* the input breaks a rule: mb_error says which and where */
    MB_NO_MEMORY /* the allocator returned NULL */
} mb_status;

/* UTF-8 with a length; not terminated, never owned.  {NULL, 0} is an empty text. */
typedef struct {
    const char *at;
    size_t size; /* bytes */
} mb_text;

typedef struct {
    const char *field;   /* what of a diff or a request, or NULL; static or the caller's rules' */
    const char *reason;  /* for a person to read; static */
    bool of_whole_field; /* no byte is at fault: the reason says what the field must be or is */
    size_t offset;       /* else bytes from the start of the text in which it was found */
    const size_t *limit; /* the one of the caller's rules that was passed, or NULL */
    mb_text diff_id;     /* of the diff at fault, where one was read from JSON and has an id */
} mb_error;

/* ---- memory ------------------------------------------------------------------------------- */

/* Where an arena gets its memory.  allocate returns NULL when there is none. */
typedef struct {
    void *(*allocate)(void *context, size_t bytes);
    void (*release)(void *context, void *block);
    void *context;
} mb_allocator;

typedef struct mb_arena mb_arena;

/* Makes an arena: all memory of one merge, given back at once.
 *
 * allocator   copied; NULL means malloc and free
 * hash_seed   keys every hash table made here; something a sender of diffs cannot guess keeps
 *             the merge linear on hostile input
 * arena       out: free it with mb_arena_free
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_arena_new(const mb_allocator *allocator, uint64_t hash_seed, mb_arena **arena);

/* Makes an arena as good as new for another merge.  Everything that was made in it is gone.
 *
 * keep_bytes   memory that may stay with it, so that the next merge need not ask for it again
 */
void mb_arena_empty(mb_arena *arena, size_t keep_bytes);

/* Frees the arena and everything that was made in it.  NULL is allowed. */
void mb_arena_free(mb_arena *arena);

/* ---- diffs -------------------------------------------------------------------------------- */

/* The largest clock and timestamp: 2^53 - 1, what every JSON client can hold exactly. */
#define MB_MAX_INTEGER INT64_C(9007199254740991)

/* The largest json_data in bytes. */
#define MB_MAX_JSON_DATA ((size_t)256 * 1024 * 1024)

typedef enum { MB_CREATE, MB_UPDATE, MB_DELETE } mb_type;

/* A member of a JSON object: its name, and the exact text of its value.  "1.50" stays "1.50". */
typedef struct {
    mb_text name;   /* decoded */
    mb_text quoted; /* the name as it stood, with quotes and escapes */
    mb_text value;  /* as it stood, without the white space around it */
} mb_member;

/* One edit of one object.  The texts are borrowed and must outlive the arena's results. */
typedef struct {
    mb_text id; /* unique for ever; made by the device */
    mb_text owner;
    mb_text model;
    mb_text json_data;     /* a JSON object with a non-empty string "id" */
    int64_t logical_clock; /* 0 ... MB_MAX_INTEGER */
    int64_t utc_timestamp; /* milliseconds since 1970, 0 ... MB_MAX_INTEGER */
    mb_type type;

    /* Set where the diff is read from JSON, else empty. */
    mb_text text;             /* the whole diff as it stood: its texts are known to be UTF-8 */
    mb_text quoted_json_data; /* json_data as it stood, a JSON string */
    bool is_whole;            /* the fields above are all that it had; who changes one clears it */

    /* Set by mb_diff_check. */
    mb_text object_id;        /* decoded; with the model it names the object */
    const mb_member *members; /* of json_data, "id" included, in the order in which they stand */
    size_t member_count;
    unsigned depth; /* levels of nesting in json_data, its own braces included */

    /* Set by mb_recognize. */
    bool known;    /* the other list has it too */
    bool repeated; /* the same id stood earlier in the request: does not count */

    /* Set by mb_select, mb_leave_out_dead or the caller, cleared by mb_recognize. */
    bool left_out; /* the merge passes over it */
} mb_diff;

typedef struct {
    mb_diff *items;
    size_t count;
} mb_diffs;

/* Makes a list of `count` zeroed diffs in arena.  Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_diffs_new(mb_arena *arena, size_t count, mb_diffs *diffs);

/* Reads "create", "update" or "delete".  Returns false on anything else. */
bool mb_type_read(mb_text name, mb_type *type);

/* The name of a type; static. */
mb_text mb_type_name(mb_type type);

/* Checks the form of one diff and reads its json_data.
 *
 * diff    in: all but what this sets; out: object_id, members and depth, in arena
 * error   out on MB_INVALID: the field, the reason and, within json_data, the byte
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_diff_check(mb_diff *diff, mb_arena *arena, mb_error *error);

/* Reads one diff, a JSON object; other members than the seven are passed over.
 *
 * text    borrowed: the diff's texts point into it or into arena
 * diff    out: not yet checked by mb_diff_check
 * error   out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_diff_read(mb_text text, mb_arena *arena, mb_diff *diff, mb_error *error);

/* Reads a JSON array of diff objects; other members than the seven are passed over.
 *
 * text    borrowed: the diffs' texts point into it or into arena
 * diffs   out: not yet checked by mb_diff_check
 * index   out on MB_INVALID: which diff, or SIZE_MAX where the array itself is at fault
 * error   out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_diffs_read(mb_text text, mb_arena *arena, mb_diffs *diffs, size_t *index,
                        mb_error *error);

/* What one caller allows of a request.  Borrowed; an mb_error may point into it. */
typedef struct {
    const char *const *reserved; /* keys that no diff may have; the last is NULL */
    mb_text log_model;           /* the model that no diff may have; empty: all are allowed */
    size_t diffs;                /* as many at most; so the next two */
    size_t json_data_bytes;      /* of one diff */
    size_t depth;                /* of one diff's json_data */
} mb_request_rules;

/* Checks one diff, which mb_diff_check has passed, against all of the rules that are about a diff
 * but the reserved keys.  Returns MB_OK, or MB_INVALID with error. */
mb_status mb_diff_check_rules(const mb_diff *diff, const mb_request_rules *rules, mb_error *error);

/* A sync request as it came in JSON. */
typedef struct {
    mb_text logical_clock; /* the value's text; of a string, what is in it */
    mb_text limit;         /* likewise; empty where there is none, or null */
    mb_text cursor;
    mb_diffs diffs;
} mb_request;

/* Reads the body of a sync request, a JSON object with logical_clock and diffs.  Each diff is
 * checked, as by mb_diff_check and then against the rules, before the next is read.
 *
 * body        borrowed: the texts of the request point into it or into arena
 * request     out
 * index       out on MB_INVALID: which diff, or SIZE_MAX where the rest of the body is at fault
 * error       out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_request_read(mb_text body, const mb_request_rules *rules, mb_arena *arena,
                          mb_request *request, size_t *index, mb_error *error);

/* Finds a member of a JSON object whose value is a string.
 *
 * name     of the member; of duplicates the last counts
 * found    out: what is in the string, in arena or borrowed from json; .at NULL if there is no such
 *          member, if its value is no string, or if json is no object
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_json_text_member(mb_text json, mb_text name, mb_arena *arena, mb_text *found);

/* Lowers each utc_timestamp to now_ms that is more than max_skew_ms ahead of it.  The diffs are
 * checked; both arguments are of 0 ... MB_MAX_INTEGER. */
void mb_diffs_limit_skew(mb_diffs *diffs, int64_t now_ms, int64_t max_skew_ms);

/* ---- the merge ---------------------------------------------------------------------------- */

/* Marks what the two lists have in common (known, on both sides) and what stands twice in the
 * request (repeated).  Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_recognize(mb_arena *arena, mb_diffs *window, mb_diffs *request);

/* Which diffs a merge looks at.  An object is touched if the request has a diff of it. */
typedef struct {
    bool request;             /* those of the request */
    bool touched;             /* those of the window, of touched objects */
    int64_t untouched_from;   /* and of the others, with a logical clock from this */
    int64_t untouched_before; /* to before this */
} mb_selection;

/* Leaves out what is not selected, of two lists that are checked and recognized.
 * Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_select(mb_arena *arena, mb_diffs *window, mb_diffs *request,
                    const mb_selection *selection);

/* Leaves out, of a window that begins with the log, the deletes with which objects begin that the
 * request does not touch: a device that has seen nothing of the log cannot hold those.
 * Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_leave_out_dead(mb_arena *arena, mb_diffs *window, const mb_diffs *request);

/* Finds where a page of the window ends, so that all diffs of one clock are on one page.
 *
 * limit    diffs that a page should have, 1 or more
 * end      out: the logical clock with which the next page begins; -1 if all fits on this one
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_page_end(mb_arena *arena, const mb_diffs *window, size_t limit, int64_t *end);

/* A number that tells requests apart by the ids of their diffs and the order of them; the same in
 * every process of machines of one byte order.  It resists nobody who wants two requests to have the same. */
uint64_t mb_request_fingerprint(const mb_diffs *request);

/* What leaves the merge: a diff of one of the lists, with these in place of its own. */
typedef struct {
    size_t source; /* index in the list that it came from */
    mb_type type;
    int64_t utc_timestamp;
    mb_text json_data; /* points to the source's own where nothing was changed */
} mb_outcome;

typedef struct {
    mb_outcome *items;
    size_t count;
} mb_outcomes;

typedef struct {
    mb_outcomes upstream;   /* from the request, in its order */
    mb_outcomes downstream; /* from the window, in log order */
    bool *written;    /* for each diff of the request, by index: something of it goes upstream, by
                       * itself or folded into a create */
    size_t conflicts; /* fields that both sides wrote, and objects that one side deleted and the
                       * other edited */
} mb_merge_result;

/* Merges a request with the window: what docs/protocol.md describes and merge.c explains.
 *
 * window, request   checked and recognized; the window in any order; neither is changed; what is
 *                   left out of them counts as not there
 * result            out: in arena
 *
 * Takes time linear in the bytes of both lists (the window is sorted first if it is not yet in
 * log order).  Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_merge(mb_arena *arena, const mb_diffs *window, const mb_diffs *request,
                   mb_merge_result *result);

/* Finds all diffs of a merged request that are of an object of which something goes upstream.
 *
 * written   which diffs of the request something goes upstream of, by index: mb_merge's result
 * found     out: by index; in arena
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_find_of_written_objects(const mb_diffs *request, const bool *written, mb_arena *arena,
                                     bool **found);

/* ---- printing ----------------------------------------------------------------------------- */

/* Bytes that mb_log_row_put needs for a checked diff, at most; SIZE_MAX if memory has not so many. */
size_t mb_log_row_most_bytes(const mb_diff *diff, const mb_outcome *outcome, mb_text owner);

/* Prints what is stored of a diff that goes upstream: a JSON object of the seven fields.
 *
 * diff             checked
 * outcome          what the merge made of it
 * owner            who was authenticated, whoever the diff says; UTF-8 without U+0000
 * logical_clock    the server's, 0 or more
 * at               room for mb_log_row_most_bytes; nothing is terminated
 *
 * Returns the bytes that were printed.
 */
size_t mb_log_row_put(const mb_diff *diff, const mb_outcome *outcome, mb_text owner,
                      int64_t logical_clock, char *at);

/* Bytes that mb_reply_put needs for checked diffs, at most; SIZE_MAX if memory has not so many. */
size_t mb_reply_most_bytes(const mb_diffs *window, const mb_outcomes *downstream);

/* Prints the reply to a sync request: success, message, logical_clock and the downstream diffs, as
 * JSON.  A diff that was read from JSON, had the seven fields and no more, and leaves unchanged is
 * printed byte for byte.
 *
 * logical_clock    0 or more
 * at               room for mb_reply_most_bytes; nothing is terminated
 *
 * Returns the bytes that were printed.
 */
size_t mb_reply_put(const mb_diffs *window, const mb_outcomes *downstream, int64_t logical_clock,
                    char *at);

/* ---- compaction --------------------------------------------------------------------------- */

/* What is known of the later part of a log while its earlier part is compacted. */
typedef struct mb_compaction mb_compaction;

/* Begins to compact an owner's log from its end.
 *
 * arena         lives as long as the compaction; grows with the objects and fields of the log, not
 *               with its length
 * compaction    out: in arena
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_compaction_new(mb_arena *arena, mb_compaction **compaction);

/* What compaction does to one diff. */
typedef enum { MB_KEPT, MB_TRIMMED, MB_DROPPED } mb_fate;

typedef struct {
    mb_fate fate;
    mb_text json_data; /* of a trimmed diff, what is left */
} mb_compacted;

/* Compacts one piece of the log, the one before the piece of the last call.
 *
 * piece    checked, in any order; all earlier than every diff seen so far
 * arena    owns the result; may be freed before the compaction goes on
 * fates    out: one for each diff of the piece, by index
 *
 * Drops from each update the fields that a later diff of its incarnation writes again, an update
 * that has none left, and everything before an object's last delete.  Creates stay whole, and so
 * does the log's last diff: it holds the owner's logical clock.
 *
 * Returns MB_OK or MB_NO_MEMORY; after MB_NO_MEMORY the compaction is good for nothing but to be
 * freed with its arena.
 */
mb_status mb_compact(mb_compaction *compaction, const mb_diffs *piece, mb_arena *arena,
                     mb_compacted **fates);

#endif
