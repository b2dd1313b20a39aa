/* recognize.c - which diffs of a request the server already has.
 *
 * A reply can be lost, so a device sends edits again if it does not know that they arrived. Each
 * diff has its own id for ever. So if the id of a diff in the request is in the window, an earlier
 * sync accepted that diff. Only the id decides, not the content. The merge can turn a create into
 * an update and drop fields, so the log may differ from what the device says. But the merge never
 * moves a diff to another object, so an id that comes with another object names two things.
 *
 * Nearly every id of a long window is not in the request, and this should be found out with a few
 * instructions. So the ids of the request are in chains, chosen by the last bytes of an id. A sender
 * who knows this can put all ids into one chain. Where a chain gets long, all are put in again by a
 * hash with a secret key.
 *
 * Does not: compare the content; merge.c does that, field by field.
 */
#include "arena.h"
#include "error.h"
#include "names.h"
#include "text.h"

/* ---- the ids of the request ---------------------------------------------------------------- */

/* In first and next, a diff is its index in the request and 1; 0 is none. */
typedef struct {
    const mb_diffs *request;
    size_t *first;       /* of each chain */
    size_t *next;        /* of each diff: the one behind it in its chain */
    size_t chain_count;  /* a power of two */
    const uint64_t *key; /* of the hash; NULL: the last bytes choose the chain */
} id_chains;

static uint64_t last_bytes(mb_text id)
{
    uint64_t bytes = 0;
    if (id.size >= sizeof bytes)
        memcpy(&bytes, id.at + id.size - sizeof bytes, sizeof bytes);
    else if (id.size != 0)
        memcpy(&bytes, id.at, id.size);
    return bytes;
}

static size_t *chain_of(const id_chains *chains, mb_text id)
{
    const uint64_t hash = chains->key != NULL ? mb_text_hash(id, *chains->key)
                                              : last_bytes(id) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    return &chains->first[hash & (chains->chain_count - 1)];
}

/* The diff of the request with that id; NULL if there is none.
 *
 * passed    out: how many others are before it in its chain
 */
static mb_diff *find_in_chain(const id_chains *chains, size_t first, mb_text id, size_t *passed)
{
    *passed = 0;
    for (size_t at = first; at != 0; at = chains->next[at - 1], ++*passed)
        if (mb_text_equal(chains->request->items[at - 1].id, id))
            return &chains->request->items[at - 1];
    return NULL;
}

/* Puts in all ids.  The first diff with an id counts, even a malformed one; the others are marked.
 *
 * is_fair    out: false if a chain got long, and not all are in
 */
static void fill_chains(id_chains *chains, bool *is_fair)
{
    enum { LONG = 16 };
    size_t passed;
    *is_fair = true;
    memset(chains->first, 0, chains->chain_count * sizeof *chains->first);
    for (size_t i = 0; i < chains->request->count; i++) {
        mb_diff *diff = &chains->request->items[i];
        if (diff->id.size == 0)
            continue;
        size_t *first = chain_of(chains, diff->id);
        diff->repeated = find_in_chain(chains, *first, diff->id, &passed) != NULL;
        if (!diff->repeated) {
            chains->next[i] = *first;
            *first = i + 1;
        }
        if (passed == LONG && chains->key == NULL) {
            *is_fair = false;
            return;
        }
    }
}

static mb_status make_chains(const mb_diffs *request, const uint64_t *key, mb_arena *arena,
                             id_chains *made)
{
    size_t count = 8;
    while (count / 4 < request->count && count <= SIZE_MAX / 2)
        count *= 2;
    *made = (id_chains){.request = request, .chain_count = count};
    made->first = mb_arena_get_items(arena, count, sizeof *made->first);
    made->next = mb_arena_get_items(arena, request->count, sizeof *made->next);
    if (made->first == NULL || made->next == NULL)
        return MB_NO_MEMORY;
    bool is_fair;
    fill_chains(made, &is_fair);
    if (!is_fair) {
        made->key = key;
        fill_chains(made, &is_fair);
    }
    return MB_OK;
}

/* ---- what both lists have ------------------------------------------------------------------ */

static void clear_marks(mb_diff *diff)
{
    if (diff->malformed == &mb_other_object)
        diff->malformed = NULL;
    diff->known = diff->repeated = diff->retried = false;
    diff->logged = NULL;
    diff->excluded = diff->malformed != NULL;
}

/* Marks both of a diff and the window's diff with its id, if they are of one object. */
static bool mark_known(mb_diff *logged, mb_diff *diff)
{
    if (diff->malformed != NULL)
        return true;
    if (!mb_text_equal(diff->model, logged->model) ||
        !mb_text_equal(diff->object_id, logged->object_id))
        return false;
    diff->known = logged->known = true;
    diff->logged = logged;
    return true;
}

mb_status mb_recognize(mb_arena *arena, mb_diffs *window, mb_diffs *request, bool keep_malformed,
                       size_t *index, mb_error *error)
{
    const uint64_t key = mb_arena_hash_seed(arena);
    id_chains chains;
    size_t passed;
    for (size_t i = 0; i < window->count; i++)
        clear_marks(&window->items[i]);
    for (size_t i = 0; i < request->count; i++)
        clear_marks(&request->items[i]);
    if (request->count == 0) /* a pull: nothing to look up */
        return MB_OK;
    if (make_chains(request, &key, arena, &chains) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < window->count; i++) {
        mb_diff *logged = &window->items[i];
        const size_t first = *chain_of(&chains, logged->id);
        mb_diff *diff = first == 0 ? NULL : find_in_chain(&chains, first, logged->id, &passed);
        if (diff == NULL || mark_known(logged, diff))
            continue;
        if (!keep_malformed) {
            *index = (size_t)(diff - request->items);
            *error = mb_other_object;
            error->diff_id = diff->id;
            return MB_INVALID;
        }
        diff->malformed = &mb_other_object;
        diff->excluded = true;
    }
    return MB_OK;
}

void mb_know_all(mb_diffs *request)
{
    for (size_t i = 0; i < request->count; i++) {
        mb_diff *diff = &request->items[i];
        if (!diff->excluded)
            diff->known = diff->retried = true;
    }
}
