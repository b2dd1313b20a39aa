/* mobync.h - the merge of offline edits, as a C library.
 *
 * A device logs each edit as a diff. When it syncs, its diffs (the request) are merged with the
 * diffs that the server has logged since the device's last sync (the window). The result is two
 * lists: upstream, which the server must apply, and downstream, which the device must apply.
 * Afterwards both have the same rows.
 *
 *     mb_arena *arena;
 *     mb_arena_new(NULL, seed, &arena);
 *     ... fill two arrays of mb_diff ...
 *     mb_diff_check(&diff, NULL, arena, &error);       each diff, both lists
 *     mb_recognize(arena, &window, &request, ...);     which diffs the server already has
 *     mb_merge(arena, &window, &request, &result);
 *     mb_arena_free(arena);                            frees everything
 *
 * The library reads nothing, writes nothing and keeps no state. One arena serves one merge and one
 * thread. Different arenas share nothing, with one exception: decoding an escaped string calls
 * cJSON's parser, which resets a process-wide error position that nobody here reads.
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

/* The kind of rule that was broken. */
typedef enum {
    MB_BAD_JSON,       /* the text is not JSON: the reason says why */
    MB_LONE_SURROGATE, /* half of a surrogate pair */
    MB_ZERO_CHARACTER, /* U+0000 */
    MB_NOT_AN_OBJECT,  /* a diff that is JSON, but not an object */
    MB_MISSING,        /* the field is not there */
    MB_NOT_A_STRING,
    MB_NOT_AN_INTEGER, /* not an integer from 0 to MB_MAX_INTEGER */
    MB_NOT_A_TYPE,
    MB_EMPTY,
    MB_TOO_LONG,      /* longer than MB_MAX_JSON_DATA */
    MB_NOT_UTF8,      /* or it contains U+0000 */
    MB_NO_OBJECT_ID,  /* json_data has no "id" */
    MB_BAD_OBJECT_ID, /* its "id" is not a string, or is empty */
    MB_OTHER_OBJECT,  /* the log has the diff's id for another model or object */

    /* What one caller does not allow. */
    MB_LOG_MODEL,
    MB_RESERVED_KEY,
    MB_TOO_MANY_DIFFS,
    MB_TOO_MANY_BYTES,
    MB_TOO_MANY_FIELDS,
    MB_TOO_DEEP,
    MB_TOO_MANY_EXTRA_BYTES,
    MB_EXTRA_TOO_DEEP,
    MB_CODES
} mb_code;

typedef struct {
    mb_code code;
    const char *field;   /* the name of the field, or NULL; static, or from the caller's rules */
    const char *reason;  /* for a person to read; static */
    bool of_whole_field; /* the reason is about the field as a whole, not about one byte */
    size_t offset;       /* otherwise: of the wrong byte, from the start of the text */
    const size_t *limit; /* the limit in the caller's rules that was exceeded, or NULL */
    mb_text diff_id;     /* of the wrong diff, if it was read from JSON and has an id */
} mb_error;

/* Fills in an error about a whole field, with the library's text for its code, so that a caller
 * that reads diffs from elsewhere uses the same text.
 *
 * code     any code except MB_BAD_JSON
 * field    static, or NULL
 *
 * Returns MB_INVALID.
 */
mb_status mb_refuse(mb_error *error, mb_code code, const char *field);

/* ---- memory ------------------------------------------------------------------------------- */

/* The allocator of an arena. allocate returns NULL if there is no memory. */
typedef struct {
    void *(*allocate)(void *context, size_t bytes);
    void (*release)(void *context, void *block);
    void *context;
} mb_allocator;

typedef struct mb_arena mb_arena;

/* Makes an arena: all memory of one merge, freed in one step.
 *
 * allocator   copied; NULL means malloc and free
 * hash_seed   the key of every hash table; if a sender of diffs cannot guess it, the merge stays
 *             linear on hostile input
 * arena       out: free it with mb_arena_free
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_arena_new(const mb_allocator *allocator, uint64_t hash_seed, mb_arena **arena);

/* Empties an arena for another merge. Everything that was made in it is gone.
 *
 * keep_bytes   how much memory may stay with it, so that the next merge does not ask for it again
 */
void mb_arena_empty(mb_arena *arena, size_t keep_bytes);

/* Frees the arena and everything in it. NULL is allowed. */
void mb_arena_free(mb_arena *arena);

/* ---- diffs -------------------------------------------------------------------------------- */

/* The largest clock and timestamp: 2^53 - 1, which every JSON client can represent exactly. */
#define MB_MAX_INTEGER INT64_C(9007199254740991)

/* The largest json_data in bytes. */
#define MB_MAX_JSON_DATA ((size_t)256 * 1024 * 1024)

typedef enum { MB_CREATE, MB_UPDATE, MB_DELETE } mb_type;

/* A member of a JSON object: its name, and the exact text of its value. "1.50" stays "1.50". */
typedef struct {
    mb_text name;   /* decoded */
    mb_text quoted; /* the name as in the document, with quotes and escapes */
    mb_text value;  /* as in the document, without the white space around it */
} mb_member;

/* One edit of one object. The texts are borrowed and must outlive the results in the arena. A
 * window can have a million of these, so small members are next to each other. */
typedef struct mb_diff mb_diff;
struct mb_diff {
    mb_text id; /* unique for ever; made by the device */
    mb_text owner;
    mb_text model;
    mb_text json_data;     /* a JSON object with a non-empty string "id" */
    int64_t logical_clock; /* 0 ... MB_MAX_INTEGER */
    int64_t utc_timestamp; /* milliseconds since 1970, 0 ... MB_MAX_INTEGER */
    mb_type type;
    unsigned
        depth; /* set by mb_diff_check: levels of nesting in json_data, its own braces included */
    bool is_utf8; /* id, owner and model are known to be UTF-8 */

    /* Set if the diff was read from JSON, else empty; the same for is_whole. */
    mb_text text;             /* the whole diff as in the document; known to be UTF-8 */
    mb_text quoted_json_data; /* json_data as in the document, a JSON string */

    /* For a folded row of the log (mb_fold), else empty: a JSON object from field names to the
     * times when they were written, for fields whose time is not utc_timestamp. */
    mb_text field_times;

    /* Set by mb_diff_check and mb_log_row_check. */
    mb_text object_id;        /* decoded; with the model it names the object */
    const mb_member *members; /* of json_data, including "id", in their order; NULL after
                               * mb_log_row_check */
    size_t member_count;
    bool has_fields; /* json_data has a member beside the "id" */
    bool is_whole;   /* read from JSON with exactly the seven fields; cleared if one is changed */

    /* Set by mb_recognize. */
    bool known;    /* the other list has it too */
    bool repeated; /* the same id occurs earlier in the request, so this diff does not count */
    bool retried;  /* set by mb_know_all: the whole diff is known, whatever the log has */
    bool excluded; /* the merge passes over it; if the window has a diff of its id, that one stays
                    * known. Set by mb_select, mb_exclude_dead or the caller; cleared by
                    * mb_recognize unless it is malformed */
    const mb_diff *logged; /* of a known diff of the request: the window's diff of that id */

    /* Set by mb_request_read and mb_keep_malformed. */
    const mb_error *malformed; /* the rule that it breaks; NULL: none. If it is malformed, only the
                                * id, model and object_id mean something, each empty if unreadable */

    /* Set by mb_link_objects. */
    mb_diff *next_of_object; /* in the request; NULL: none */
};

typedef struct {
    mb_diff *items;
    size_t count;
} mb_diffs;

/* Makes a list of `count` zeroed diffs in arena. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_diffs_new(mb_arena *arena, size_t count, mb_diffs *diffs);

/* Reads "create", "update" or "delete".  Returns false on anything else. */
bool mb_type_read(mb_text name, mb_type *type);

/* The name of a type; static. */
mb_text mb_type_name(mb_type type);

/* What one caller allows in a request. Borrowed; an mb_error may point into it. A limit of SIZE_MAX
 * costs nothing. */
typedef struct {
    const char *const *reserved; /* keys that no diff may have; the last is NULL */
    mb_text log_model;           /* the model that no diff may have; empty: all are allowed */
    size_t diffs;                /* how many a request may have */
    size_t json_data_bytes;      /* of one diff, like the next two */
    size_t fields;               /* members of json_data, including "id" and duplicates */
    size_t depth;                /* levels of nesting of json_data */

    /* For the members of a diff, read from JSON, beyond its seven fields. */
    size_t extra_bytes; /* of names and values, as in the document */
    size_t extra_depth; /* levels of nesting of one such value */
} mb_request_rules;

/* Checks the form of one diff and reads its json_data.
 *
 * diff    in: everything that this does not set; out: object_id, members and depth, in arena
 * rules   checked too, except for the reserved keys and the members beyond the seven fields; or NULL
 * error   out on MB_INVALID: the field, the reason and, within json_data, the byte
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_diff_check(mb_diff *diff, const mb_request_rules *rules, mb_arena *arena,
                        mb_error *error);

/* Checks the form of one row of a log, and keeps no members of its json_data: most rows of a window
 * leave unchanged, and the merge reads the others again.
 *
 * diff    in: everything that this does not set; out: object_id, in arena or borrowed, and what
 *         mb_diff_check sets; members is NULL
 * error   out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_log_row_check(mb_diff *diff, mb_arena *arena, mb_error *error);

/* Keeps a malformed diff in its list, so that it does not end the request.
 *
 * diff    in: id, model and json_data as far as they could be read, else empty; out: malformed,
 *         excluded, and object_id as far as json_data is readable
 * error   copied
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_keep_malformed(mb_diff *diff, const mb_error *error, mb_arena *arena);

/* Reads one diff, a JSON object. It skips members other than the seven fields, except for the
 * field_times of a row of the log: an object, the text of one, or null.
 *
 * text    borrowed: the diff's texts point into it or into arena
 * diff    out: not yet checked by mb_diff_check
 * error   out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_diff_read(mb_text text, mb_arena *arena, mb_diff *diff, mb_error *error);

/* Reads a JSON array of diff objects, each like mb_diff_read.
 *
 * text    borrowed: the diffs' texts point into it or into arena
 * diffs   out: not yet checked by mb_diff_check
 * index   out on MB_INVALID: which diff, or SIZE_MAX if the array itself is malformed
 * error   out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_diffs_read(mb_text text, mb_arena *arena, mb_diffs *diffs, size_t *index,
                        mb_error *error);

/* A sync request as it came in JSON. */
typedef struct {
    mb_text logical_clock; /* the value's text; for a string, its content */
    mb_text limit;         /* likewise; empty if it is missing or null */
    mb_text cursor;
    mb_text device; /* this and the next two: only from a device that names itself */
    mb_text number; /* the member "request" */
    mb_text mark;
    mb_text part;       /* this and the next two: only in a request in parts */
    mb_text more_diffs; /* as in the document; a string with its quotes */
    mb_text upload;
    mb_text diffs_text; /* the array as in the document */
    mb_diffs diffs;
} mb_request;

/* Reads the body of a sync request, a JSON object with logical_clock and diffs. Each diff is
 * checked against the rules before the next is read.
 *
 * body              borrowed: the texts of the request point into it or into arena
 * keep_malformed    a diff that is JSON but breaks a rule does not end the request: it stays in the
 *                   list as malformed, with its id and object as far as they are readable
 * request           out
 * index             out on MB_INVALID: which diff, or SIZE_MAX if the rest of the body is malformed
 * error             out on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_request_read(mb_text body, const mb_request_rules *rules, bool keep_malformed,
                          mb_arena *arena, mb_request *request, size_t *index, mb_error *error);

/* Finds a member of a JSON object whose value is a string.
 *
 * name     the name of the member; the last duplicate counts
 * found    out: the content of the string, in arena or borrowed from json; .at is NULL if there is no
 *          such member, if its value is not a string, or if json is not an object
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_json_text_member(mb_text json, mb_text name, mb_arena *arena, mb_text *found);

/* Replaces each utc_timestamp that is more than max_skew_ms ahead of now_ms by now_ms. The diffs
 * are checked; both arguments are from 0 to MB_MAX_INTEGER. */
void mb_diffs_limit_skew(mb_diffs *diffs, int64_t now_ms, int64_t max_skew_ms);

/* ---- the merge ---------------------------------------------------------------------------- */

/* Marks which diffs the two lists have in common (known, on both sides; logged) and which ids occur
 * twice in the request (repeated).
 *
 * A diff is known if the window has its id, for the same model and object, even if its content
 * differs. A diff whose id the window has for another object is invalid. A malformed diff is not
 * known.
 *
 * keep_malformed    an invalid diff becomes malformed (until the next mb_recognize), and this does
 *                   not return MB_INVALID
 * index, error      out on MB_INVALID: which diff of the request
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_recognize(mb_arena *arena, mb_diffs *window, mb_diffs *request, bool keep_malformed,
                       size_t *index, mb_error *error);

/* Marks everything in a recognized request as known: it is the retry of a request that was done,
 * and the log does not have to have its diffs any more. Malformed and excluded diffs stay so. */
void mb_know_all(mb_diffs *request);

/* Links the diffs of each object of a request in their order (next_of_object), including malformed
 * ones whose object is known. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_link_objects(mb_arena *arena, mb_diffs *request);

/* Which diffs a merge uses. An object is requested if the request has a diff of it. */
typedef struct {
    bool request;          /* those of the request */
    bool requested;        /* those of the window, of requested objects */
    int64_t others_from;   /* and of the other objects, with a logical clock from this */
    int64_t others_before; /* to before this */
} mb_selection;

/* Excludes diffs that are not selected from two checked and recognized lists. Excluded diffs stay
 * so. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_select(mb_arena *arena, mb_diffs *window, mb_diffs *request,
                    const mb_selection *selection);

/* Excludes what a device without rows does not need: for objects without a diff in the request,
 * each diff of the window that is a delete or comes before a delete of its object. What remains
 * below pull_clock are the incarnations that lived then.
 *
 * later         diffs of the log after the window, if the window is a page; only their deletes
 *               count
 * pull_clock    the owner's logical clock when the device began its pull; diffs of both lists at or
 *               above it do not count, and stay
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_exclude_dead(mb_arena *arena, mb_diffs *window, const mb_diffs *request,
                          const mb_diffs *later, int64_t pull_clock);

/* Finds where a page of the window ends, so that all diffs with the same clock are on the same
 * page. Excluded diffs do not count.
 *
 * limit        how many diffs a page should have, at least 1
 * max_bytes    how many bytes of ids, owners, models and json_data it should have; it always has at
 *              least one clock
 * end          out: the logical clock with which the next page begins; -1 if everything fits
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_page_end(mb_arena *arena, const mb_diffs *window, size_t limit, size_t max_bytes,
                      int64_t *end);

/* A fingerprint of a request: of the ids of its diffs and their order. It is the same in every
 * process on machines with the same byte order. It is not safe against someone who wants two
 * requests to have the same fingerprint. */
uint64_t mb_request_fingerprint(const mb_diffs *request);

/* The same for the whole content of the diffs, except members beyond their seven fields. */
uint64_t mb_request_content(const mb_diffs *request);

/* A diff that leaves the merge: a diff of one of the lists, with these values instead of its own.
 */
typedef struct {
    size_t source; /* index in the list that it came from */
    mb_type type;
    int64_t utc_timestamp;
    mb_text json_data; /* points to the text of the source if nothing was changed */
} mb_outcome;

typedef struct {
    mb_outcome *items;
    size_t count;
} mb_outcomes;

typedef struct {
    mb_outcomes upstream;   /* from the request, in its order */
    mb_outcomes downstream; /* from the window, in log order */
    bool *unlogged;   /* for each diff of the request, by index: whether the log lacks some of its
                     * values in exactly that text, as it does for each unknown diff */
    bool *written;    /* likewise: whether such a value goes upstream, alone or in a create */
    size_t conflicts; /* fields that both sides wrote, and objects that one side deleted and the
                       * other edited */
} mb_merge_result;

/* Merges a request with the window, as docs/protocol.md describes and merge.c explains.
 *
 * window, request   checked and recognized; the window in any order; neither is changed; excluded
 *                   diffs do not count
 * result            out: in arena
 *
 * Takes time linear in the bytes of both lists (the window is sorted first if it is not yet in
 * log order).  Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_merge(mb_arena *arena, const mb_diffs *window, const mb_diffs *request,
                   mb_merge_result *result);

/* Merges the request of a device that starts over with the owner's whole log. The server cannot
 * know the rows of the device, so it accepts the edits, and the device pulls again from 0.
 *
 * log             the owner's whole log, checked and recognized, in any order; not changed
 * device_clock    the clock of the request: if the create of an incarnation is below it, the device had
 *                 pulled it
 * result          out: as in mb_merge; nothing goes downstream
 *
 * Takes time linear in the bytes of both lists.  Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_merge_behind(mb_arena *arena, const mb_diffs *log, const mb_diffs *request,
                          int64_t device_clock, mb_merge_result *result);

/* Finds the diffs of a merged request about which the app's rules must be asked. If the whole
 * request is new, these are all diffs. Otherwise they are the diffs that write something that is
 * not in the log. Repeated and malformed diffs are never among them.
 *
 * may_exclude    a refused diff will be excluded and the rest merged again, which can write other
 *                diffs of the same objects: everything that may then be written is found too
 * found          out: by index; in arena
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_find_to_validate(mb_arena *arena, const mb_diffs *request,
                              const mb_merge_result *merged, bool may_exclude, bool **found);

/* ---- restoring ---------------------------------------------------------------------------- */

/* A sync with refused diffs: those are excluded, and the rest is merged and written. */
typedef struct {
    const mb_diffs *window;
    const mb_diffs *request;
    const mb_merge_result *merged;
    mb_text owner;        /* who was authenticated */
    int64_t client_clock; /* the request's */
    int64_t reply_clock;  /* the owner's logical clock after the sync */
} mb_refused_sync;

/* Makes the downstream of a sync with refused diffs: their objects are restored to the server's
 * state.
 *
 * history       the owner's whole log after the sync, checked, in any order; the marks of its diffs
 *               (known, excluded ...) are overwritten
 * diffs         out: what goes downstream; in arena, in any order. A delete that is made here has
 *               an empty id, which the caller replaces with a new one
 * downstream    out: from `diffs`, in the order in which the device must apply it
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_restore(mb_arena *arena, mb_diffs *history, const mb_refused_sync *sync,
                     mb_diffs *diffs, mb_outcomes *downstream);

/* ---- printing ----------------------------------------------------------------------------- */

/* How many bytes mb_log_row_put needs at most for a checked diff; SIZE_MAX if that is more than
 * memory can have. */
size_t mb_log_row_most_bytes(const mb_diff *diff, const mb_outcome *outcome, mb_text owner);

/* Prints the stored form of a diff that goes upstream: a JSON object with the seven fields.
 *
 * diff             checked
 * outcome          the result of the merge for it
 * owner            the authenticated owner, whatever the diff says; UTF-8 without U+0000
 * logical_clock    the server's, 0 or more
 * at               has room for mb_log_row_most_bytes; nothing is terminated
 *
 * Returns how many bytes were printed.
 */
size_t mb_log_row_put(const mb_diff *diff, const mb_outcome *outcome, mb_text owner,
                      int64_t logical_clock, char *at);

/* How many bytes mb_reply_put needs at most for checked diffs; SIZE_MAX if that is more than memory
 * can have. */
size_t mb_reply_most_bytes(const mb_diffs *window, const mb_outcomes *downstream);

/* Prints the reply to a sync request: success, message, logical_clock and the downstream diffs, as
 * JSON. A diff that was read from JSON with exactly the seven fields, and that leaves unchanged, is
 * printed byte for byte.
 *
 * logical_clock    0 or more
 * at               has room for mb_reply_most_bytes; nothing is terminated
 *
 * Returns how many bytes were printed.
 */
size_t mb_reply_put(const mb_diffs *window, const mb_outcomes *downstream, int64_t logical_clock,
                    char *at);

/* Prints a piece of what mb_reply_put prints: the outcomes from `begin` to before `end`. The first
 * piece includes the head, the last one the tail. A caller that prints piece by piece can release
 * the texts of each piece. */
size_t mb_reply_put_piece(const mb_diffs *window, const mb_outcomes *downstream, size_t begin,
                          size_t end, int64_t logical_clock, char *at);

/* ---- compaction --------------------------------------------------------------------------- */

/* What is known about the later part of a log while its earlier part is compacted. */
typedef struct mb_compaction mb_compaction;

/* Begins to compact an owner's log from its end.
 *
 * arena         lives as long as the compaction; grows with the number of objects and fields of the
 *               log, not with its length
 * compaction    out: in arena
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_compaction_new(mb_arena *arena, mb_compaction **compaction);

/* The effect of compaction on one diff. */
typedef enum { MB_KEPT, MB_TRIMMED, MB_DROPPED } mb_fate;

typedef struct {
    mb_fate fate;
    mb_text json_data; /* of a trimmed diff, what is left */
} mb_compacted;

/* Compacts one piece of the log, the one before the piece of the last call.
 *
 * piece    checked, in any order; all earlier than every diff seen so far
 * arena    owns the result; may be freed before the compaction continues
 * fates    out: one for each diff of the piece, by index
 *
 * Drops from each update the fields that a later diff of its incarnation writes again, the update
 * itself if no field is left, and everything before the last delete of an object. Creates stay
 * whole, and so does the last diff of the log: it holds the owner's logical clock.
 *
 * Returns MB_OK or MB_NO_MEMORY. After MB_NO_MEMORY, the compaction can only be freed with its
 * arena.
 */
mb_status mb_compact(mb_compaction *compaction, const mb_diffs *piece, mb_arena *arena,
                     mb_compacted **fates);

/* ---- folding below the horizon ------------------------------------------------------------ */

/* What is known about the beginning of a log while it is folded up to its horizon. */
typedef struct mb_folding mb_folding;

/* Begins to fold an owner's log from its first diff on.
 *
 * keeps_times    whether the log has room for the times of single fields (field_times); if not, an
 *                object whose fields have different times stays as it is
 * arena          lives as long as the folding; grows with the number of expected objects
 * folding        out: in arena
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_folding_new(bool keeps_times, mb_arena *arena, mb_folding **folding);

/* Announces a diff below the horizon, so that its object is followed. The caller does this for each
 * diff that compaction leaves and that is not a create. An object without such a diff costs nothing
 * and stays as it is.
 *
 * Returns MB_OK or MB_NO_MEMORY. After MB_NO_MEMORY, the folding can only be freed with its arena.
 */
mb_status mb_folding_expect(mb_folding *folding, const mb_diff *diff);

/* The new form of a create of the log. */
typedef struct {
    mb_text id;            /* of the create */
    int64_t utc_timestamp; /* the latest time of its fields */
    mb_text json_data;
    mb_text field_times; /* JSON; empty: all fields have utc_timestamp */
    size_t bytes_before; /* of both texts, as the log has them */
} mb_folded;

typedef struct {
    bool *dropped; /* for each diff of the piece, by index */
    mb_folded *creates;
    size_t create_count;
    size_t unfolded; /* objects that stay as they are, because the times of their fields differ */
} mb_fold_result;

/* Folds one piece of the log, the one after the piece of the last call. The first piece begins at
 * clock 0.
 *
 * piece           checked and compacted, in any order; all later than every diff seen so far, and
 *                 below the horizon
 * holds_clock     the clock of the log's last diff, which is not dropped if nothing else stores the
 *                 owner's logical clock; -1: all diffs may be dropped
 * arena           owns the result; may be freed before the folding continues
 * result          out
 *
 * Returns MB_OK or MB_NO_MEMORY, like mb_folding_expect.
 */
mb_status mb_fold(mb_folding *folding, const mb_diffs *piece, int64_t holds_clock, mb_arena *arena,
                  mb_fold_result *result);

#endif
