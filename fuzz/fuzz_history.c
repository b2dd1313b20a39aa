/* fuzz_history.c - histories of a few devices that edit the same objects and now and then sync.
 *
 * The input is a row of decisions: who edits what, whose clock is how wrong, who syncs, which reply
 * is lost, which request arrives a second time, who goes back to a backup.  Holds after each reply:
 * the device's rows are the server's, and the same request again changes nothing.  Holds of every
 * diff on either side: no create meets a row, no update misses one, and no edit is beaten by one
 * that its device had seen.  A device that never went back does not get its own diffs.  The log is
 * compacted and folded below the lowest clock that any device, or what may come of it, will ask from;
 * no device can tell, and below there is one row for each object.
 *
 * With TELL in the environment a history is printed as a story.
 */
#include "simulation.h"

enum { DEVICES = 3, MOST_SKEW_MS = 2 };

static mb_diffs diffs_of(const kept_diff *kept, size_t count, mb_arena *arena)
{
    mb_diffs diffs = {NULL, 0};
    mb_error error;
    HOLDS(mb_diffs_new(arena, count, &diffs) == MB_OK);
    for (size_t i = 0; i < count; i++) {
        diffs.items[i] =
            (mb_diff){.id = {kept[i].id, strlen(kept[i].id)},
                      .owner = {"o", 1},
                      .model = {"m", 1},
                      .json_data = {kept[i].json_data, strlen(kept[i].json_data)},
                      .field_times = {kept[i].field_times, strlen(kept[i].field_times)},
                      .logical_clock = kept[i].logical_clock,
                      .utc_timestamp = kept[i].utc_timestamp,
                      .type = kept[i].type};
        HOLDS(mb_diff_check(&diffs.items[i], NULL, arena, &error) == MB_OK);
    }
    return diffs;
}

static void write_upstream(server *s, const mb_outcome *outcome, const memory *from)
{
    kept_diff *logged = &s->log[s->log_count];
    *logged = from->outbox[outcome->source];
    HOLDS(outcome->json_data.size < sizeof logged->json_data);
    memcpy(logged->json_data, outcome->json_data.at, outcome->json_data.size);
    logged->json_data[outcome->json_data.size] = '\0';
    logged->type = outcome->type;
    logged->utc_timestamp = outcome->utc_timestamp;
    logged->logical_clock = s->next_clock++;
    s->log_count++;
    s->logged.has[atoi(logged->id)] = true;
    tell("    up   %s %s %s at %d\n", logged->id, type_names[logged->type], logged->json_data,
         (int)logged->utc_timestamp);
    change_row(s, s->rows, outcome->type, outcome->json_data);
}

static void apply_downstream(const server *s, const device *d, memory *to, const mb_diff *source,
                             const mb_outcome *outcome)
{
    tell("    down %.*s %s %.*s\n", (int)source->id.size, source->id.at, type_names[outcome->type],
         (int)outcome->json_data.size, outcome->json_data.at);
    HOLDS(!source->known || d->was_restored);
    change_row(s, to->rows, outcome->type, outcome->json_data);
}

typedef enum { SENT, LOST, REPEATED } request_fate;

/* One request of a device as it remembers itself: its reply comes, is lost, or has come before. */
static void sync_once(server *s, const device *d, memory *from, request_fate fate)
{
    mb_arena *arena = new_arena(s->log_count);
    size_t first = 0;
    while (first < s->log_count && s->log[first].logical_clock < from->logical_clock)
        first++;
    mb_diffs window = diffs_of(s->log + first, s->log_count - first, arena);
    mb_diffs request = diffs_of(from->outbox, from->outbox_count, arena);
    mb_merge_result result;
    mb_diffs_limit_skew(&request, s->now_ms, MOST_SKEW_MS);
    recognize(arena, &window, &request);
    HOLDS(mb_merge(arena, &window, &request, &result) == MB_OK);

    tell("device %d syncs from %d%s\n", d->number, (int)from->logical_clock,
         fate == SENT   ? ""
         : fate == LOST ? ", no reply"
                        : " once more");
    bool may_change[OBJECTS];
    for (unsigned object = 0; object < OBJECTS; object++)
        may_change[object] = fate != REPEATED || delete_looks_new(s, from, object);
    for (size_t i = 0; i < result.upstream.count; i++) {
        const mb_outcome *outcome = &result.upstream.items[i];
        HOLDS(may_change[from->outbox[outcome->source].object]);
        write_upstream(s, outcome, from);
    }
    for (size_t i = 0; fate != LOST && i < result.downstream.count; i++) {
        const mb_outcome *outcome = &result.downstream.items[i];
        apply_downstream(s, d, from, &window.items[outcome->source], outcome);
    }
    mb_arena_free(arena);
}

static void sync_device(server *s, device *d)
{
    d->delivered = d->now;
    sync_once(s, d, &d->now, SENT);
    expect_same_rows(d->now.rows, s->rows);
    memory retried = d->delivered;
    sync_once(s, d, &retried, REPEATED);
    expect_same_rows(retried.rows, s->rows);

    d->now = retried;
    d->now.outbox_count = 0;
    d->now.logical_clock = s->next_clock;
    for (size_t i = 0; i < EDITS; i++)
        d->now.seen.has[i] |= s->logged.has[i];
}

/* Compacts the log in two pieces, the later one first. */
static void compact(server *s, size_t middle)
{
    mb_arena *arena = new_arena(s->log_count);
    mb_compaction *compaction;
    mb_compacted *fates[2];
    const mb_diffs pieces[2] = {diffs_of(s->log, middle, arena),
                                diffs_of(s->log + middle, s->log_count - middle, arena)};
    HOLDS(mb_compaction_new(arena, &compaction) == MB_OK);
    HOLDS(mb_compact(compaction, &pieces[1], arena, &fates[1]) == MB_OK);
    HOLDS(mb_compact(compaction, &pieces[0], arena, &fates[0]) == MB_OK);
    size_t left = 0;
    for (size_t i = 0; i < s->log_count; i++) {
        const mb_compacted *fate = i < middle ? &fates[0][i] : &fates[1][i - middle];
        if (fate->fate == MB_DROPPED)
            continue;
        kept_diff kept = s->log[i];
        if (fate->fate == MB_TRIMMED)
            (void)snprintf(kept.json_data, sizeof kept.json_data, "%.*s", (int)fate->json_data.size,
                           fate->json_data.at);
        s->log[left++] = kept;
    }
    tell("the log is compacted from %zu to %zu\n", s->log_count, left);
    s->log_count = left;
    s->was_compacted = true;
    mb_arena_free(arena);
}

/* The clock below which nobody asks, neither a device nor its backup nor a request under way. */
static int64_t horizon_of(const server *s, const device *devices)
{
    int64_t horizon = s->next_clock;
    for (int i = 0; i < DEVICES; i++) {
        const device *d = &devices[i];
        const int64_t clocks[] = {d->now.logical_clock, d->backup.logical_clock,
                                  d->delivered.logical_clock};
        for (size_t c = 0; c < sizeof clocks / sizeof *clocks; c++)
            horizon = clocks[c] < horizon ? clocks[c] : horizon;
    }
    return horizon;
}

static void write_create(server *s, const mb_folded *create)
{
    for (size_t i = 0; i < s->log_count; i++) {
        kept_diff *kept = &s->log[i];
        if (strlen(kept->id) != create->id.size ||
            memcmp(kept->id, create->id.at, create->id.size) != 0)
            continue;
        HOLDS(kept->type == MB_CREATE);
        HOLDS(create->json_data.size < sizeof kept->json_data);
        HOLDS(create->field_times.size < sizeof kept->field_times);
        kept->utc_timestamp = create->utc_timestamp;
        mb_text_put(kept->json_data, create->json_data)[0] = '\0';
        mb_text_put(kept->field_times, create->field_times)[0] = '\0';
    }
}

/* Folds the piece of the log that ends before `end`; what is dropped stays, marked by a clock of -1. */
static void fold_piece(server *s, mb_folding *folding, size_t first, size_t end, mb_arena *arena)
{
    const mb_diffs piece = diffs_of(s->log + first, end - first, arena);
    mb_fold_result fold;
    HOLDS(mb_fold(folding, &piece, -1, arena, &fold) == MB_OK);
    HOLDS(fold.unfolded == 0);
    for (size_t i = 0; i < piece.count; i++)
        if (fold.dropped[i])
            s->log[first + i].logical_clock = -1;
    for (size_t i = 0; i < fold.create_count; i++)
        write_create(s, &fold.creates[i]);
}

/* Folds a compacted log below a clock, in two pieces. */
static void fold_below(server *s, int64_t horizon, unsigned cut)
{
    mb_arena *arena = new_arena(s->log_count);
    mb_folding *folding;
    size_t below = 0, left = 0;
    bool met[OBJECTS] = {false};
    while (below < s->log_count && s->log[below].logical_clock < horizon)
        below++;
    const mb_diffs all = diffs_of(s->log, below, arena);
    HOLDS(mb_folding_new(true, arena, &folding) == MB_OK);
    for (size_t i = 0; i < all.count; i++)
        if (all.items[i].type != MB_CREATE)
            HOLDS(mb_folding_expect(folding, &all.items[i]) == MB_OK);
    const size_t middle = below == 0 ? 0 : cut % below;
    fold_piece(s, folding, 0, middle, arena);
    fold_piece(s, folding, middle, below, arena);
    for (size_t i = 0; i < s->log_count; i++) {
        if (s->log[i].logical_clock < 0)
            continue;
        HOLDS(i >= below || (s->log[i].type == MB_CREATE && !met[s->log[i].object]));
        met[s->log[i].object] |= i < below;
        s->log[left++] = s->log[i];
    }
    tell("and folded below %d to %zu\n", (int)horizon, left);
    s->log_count = left;
    mb_arena_free(arena);
}

/* A device that has nothing gets the server's rows. */
static void check_new_device(server *s)
{
    static device fresh;
    memset(&fresh, 0, sizeof fresh);
    fresh.was_restored = true;
    sync_once(s, &fresh, &fresh.now, SENT);
    expect_same_rows(fresh.now.rows, s->rows);
}

static void do_step(server *s, device *d, decisions *from, unsigned step)
{
    enum { EDIT, EDIT_TOO, SYNC, LOSE_REPLY, ARRIVE_LATE, SET_CLOCK, WAIT, SAVE, RESTORE, COMPACT };
    if (step <= EDIT_TOO) {
        edit(s, d, from);
    } else if (step == SYNC) {
        sync_device(s, d);
    } else if (step == LOSE_REPLY) {
        d->delivered = d->now;
        sync_once(s, d, &d->now, LOST);
    } else if (step == ARRIVE_LATE) {
        sync_once(s, d, &d->delivered, LOST);
    } else if (step == SET_CLOCK) {
        d->skew_ms = (int64_t)choose(from, 9) - 4;
        d->clock_was_set = true;
    } else if (step == WAIT) {
        s->now_ms++;
    } else if (step == SAVE) {
        d->backup = d->now;
    } else if (step == RESTORE) {
        tell("device %d goes back to its backup\n", d->number);
        d->now = d->backup;
        d->was_restored = true;
    } else if (step == COMPACT) {
        compact(s, choose(from, (unsigned)s->log_count + 1));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    enum { STEPS = 10 };
    static server s;
    static device devices[DEVICES];
    memset(&s, 0, sizeof s);
    memset(devices, 0, sizeof devices);
    s.now_ms = 10;
    for (int i = 0; i < DEVICES; i++)
        devices[i].number = i;

    decisions d = {bytes, bytes + size};
    while (d.at < d.end && s.log_count + 2 * OUTBOX < LOG) {
        const unsigned step = choose(&d, STEPS);
        do_step(&s, &devices[choose(&d, DEVICES)], &d, step);
        if (step == STEPS - 1) { /* the log was compacted */
            fold_below(&s, horizon_of(&s, devices), choose(&d, LOG));
            check_new_device(&s);
        }
    }
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < DEVICES; i++)
            sync_device(&s, &devices[i]);
    for (int i = 0; i < DEVICES; i++)
        expect_same_rows(devices[i].now.rows, s.rows);
    return 0;
}
