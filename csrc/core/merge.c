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
 * Times decide only between edits that had not seen each other (fold.c keeps the order of the rest).
 *
 * If a device starts over (mb_merge_behind), the server cannot know what its rows are: the device
 * or the server was restored from a backup. Its edits are merged with the whole log. If the create
 * of an incarnation is older than the device's clock, the device had pulled it, so its edits and
 * its delete count. Any other incarnation was born elsewhere. What the log does not have is dead,
 * and only a create brings it back. The device pulls from 0 afterwards, so nothing goes downstream.
 *
 * Does not: interpret a value, look at the log before the window, or change its input.
 */
#include "merge.h"

/* ---- what a side can know ---------------------------------------------------------------- */

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

/* ---- dead on the server ------------------------------------------------------------------ */

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

/* ---- edits that an earlier try folded into its create ------------------------------------ */

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

/* ---- alive on both sides ----------------------------------------------------------------- */

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

/* ---- each object ------------------------------------------------------------------------- */

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

/* ---- the whole --------------------------------------------------------------------------- */

static mb_status merge_lists(merge *m, const mb_diffs *window, const mb_diffs *request,
                             mb_merge_result *result)
{
    if (mb_fold_lists(m, window, request) != MB_OK)
        return MB_NO_MEMORY;
    for (object *o = m->first; o != NULL; o = o->next)
        decide(m, o);
    return mb_make_outcomes(m, window, request, result);
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
