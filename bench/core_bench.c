/* core_bench.c - the merge without Python: devices sync with one log, one after the other.
 *
 *     core_bench FILE REPEATS
 *
 * Each line of FILE is what one device sends, a JSON array of diffs; no device has seen anything
 * of the others.  So the window of a device is all that was accepted before it.  The file is
 * played REPEATS times; the fastest processor time of each device and phase counts.  Prints one
 * line of JSON for each device:
 *
 *     window, request, upstream, downstream     diffs
 *     tree_ns       the request and each json_data in it to cJSON trees, which nobody uses
 *     read_ns       the request's JSON array to diffs
 *     check_ns      the json_data of window and request
 *     recognize_ns  what both sides have
 *     merge_ns      the merge
 *     print_ns      the downstream diffs to JSON
 *     arena_bytes   what the arena held, which is kept from one device to the next
 */
#define _POSIX_C_SOURCE 200809L

#include "mobync.h"

#include <cJSON.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HASH_SEED 1 /* fixed, so that every run does the same work */

typedef enum { TREE, READ, CHECK, RECOGNIZE, MERGE, PRINT, PHASES } phase;

typedef struct {
    size_t window, request, upstream, downstream, arena_bytes;
    int64_t ns[PHASES];
} sync_cost;

/* An owner's log: what was accepted so far, each diff as it would be read from a database. */
typedef struct {
    mb_diff *items;
    size_t count, room;
    char **texts; /* json_data that the merge made */
    size_t text_count, text_room;
} server_log;

static void stop(const char *what)
{
    fprintf(stderr, "core_bench: %s\n", what);
    exit(1);
}

static void require(mb_status status, const char *what)
{
    if (status != MB_OK)
        stop(what);
}

static void *grown(void *block, size_t items, size_t item_size)
{
    block = realloc(block, items * item_size);
    if (block == NULL)
        stop("no memory");
    return block;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Adds the time since *since to a phase and sets *since to now. */
static void count_phase(sync_cost *cost, phase which, int64_t *since)
{
    const int64_t now = now_ns();
    cost->ns[which] += now - *since;
    *since = now;
}

/* ---- memory -------------------------------------------------------------------------------- */

typedef union {
    size_t bytes;
    max_align_t alignment;
} block_head;

/* context: the bytes that are held. */
static void *allocate_counted(void *context, size_t bytes)
{
    block_head *head = malloc(sizeof *head + bytes);
    if (head == NULL)
        return NULL;
    head->bytes = bytes;
    *(size_t *)context += bytes;
    return head + 1;
}

static void release_counted(void *context, void *block)
{
    block_head *head = (block_head *)block - 1;
    *(size_t *)context -= head->bytes;
    free(head);
}

/* ---- the log ------------------------------------------------------------------------------- */

static mb_text keep_text(server_log *log, mb_text text)
{
    if (log->text_count == log->text_room) {
        log->text_room = log->text_room * 2 + 64;
        log->texts = grown(log->texts, log->text_room, sizeof *log->texts);
    }
    char *copy = grown(NULL, text.size, 1);
    memcpy(copy, text.at, text.size);
    log->texts[log->text_count++] = copy;
    return (mb_text){copy, text.size};
}

/* Copies the json_data.  The other texts stay where they are, in the file's line: the workload
 * escapes nothing in them. */
static void append(server_log *log, const mb_diff *source, const mb_outcome *outcome)
{
    if (log->count == log->room) {
        log->room = log->room * 2 + 1024;
        log->items = grown(log->items, log->room, sizeof *log->items);
    }
    log->items[log->count] = (mb_diff){
        .id = source->id,
        .owner = source->owner,
        .model = source->model,
        .json_data = keep_text(log, outcome->json_data),
        .logical_clock = (int64_t)log->count,
        .utc_timestamp = outcome->utc_timestamp,
        .type = outcome->type,
    };
    log->count++;
}

static void empty(server_log *log)
{
    for (size_t i = 0; i < log->text_count; i++)
        free(log->texts[i]);
    free(log->texts);
    free(log->items);
    *log = (server_log){.items = NULL};
}

/* ---- one sync ------------------------------------------------------------------------------ */

static void check_all(mb_diffs *diffs, mb_arena *arena)
{
    mb_error error;
    for (size_t i = 0; i < diffs->count; i++)
        require(mb_diff_check(&diffs->items[i], NULL, arena, &error), "a diff is malformed");
}

static void print_reply(const mb_outcomes *downstream, const mb_diffs *window)
{
    char *reply = malloc(mb_reply_most_bytes(window, downstream));
    require(reply != NULL ? MB_OK : MB_NO_MEMORY, "no memory to print");
    (void)mb_reply_put(window, downstream, 0, reply);
    free(reply);
}

/* What reading a request would cost if cJSON did it all. */
static void plant_trees(mb_text line)
{
    cJSON *request = cJSON_ParseWithLength(line.at, line.size);
    const cJSON *diff;
    cJSON_ArrayForEach(diff, request)
    {
        const cJSON *json_data = cJSON_GetObjectItemCaseSensitive(diff, "json_data");
        cJSON *members = cJSON_Parse(cJSON_GetStringValue(json_data));
        if (members == NULL)
            stop("cJSON cannot read a line");
        cJSON_Delete(members);
    }
    cJSON_Delete(request);
}

static sync_cost sync_device(server_log *log, mb_text line, mb_arena *arena)
{
    sync_cost cost = {.window = log->count};
    int64_t since = now_ns();
    plant_trees(line);
    count_phase(&cost, TREE, &since);
    mb_diffs request;
    size_t index;
    mb_error error;
    require(mb_diffs_read(line, arena, &request, &index, &error), "a line is no array of diffs");
    cost.request = request.count;
    count_phase(&cost, READ, &since);

    mb_diffs window;
    require(mb_diffs_new(arena, log->count, &window), "no memory for the window");
    if (log->count > 0)
        memcpy(window.items, log->items, log->count * sizeof *log->items);
    since = now_ns();
    check_all(&window, arena);
    check_all(&request, arena);
    count_phase(&cost, CHECK, &since);

    require(mb_recognize(arena, &window, &request, false, &index, &error),
            "no memory to recognize");
    count_phase(&cost, RECOGNIZE, &since);

    mb_merge_result result;
    require(mb_merge(arena, &window, &request, &result), "no memory to merge");
    count_phase(&cost, MERGE, &since);
    cost.upstream = result.upstream.count;
    cost.downstream = result.downstream.count;

    print_reply(&result.downstream, &window);
    count_phase(&cost, PRINT, &since);

    for (size_t i = 0; i < result.upstream.count; i++) {
        const mb_outcome *outcome = &result.upstream.items[i];
        append(log, &request.items[outcome->source], outcome);
    }
    return cost;
}

/* ---- all devices --------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        stop("cannot open the file");
    char *at = NULL;
    size_t room = 0, got;
    *size = 0;
    do {
        room = room * 2 + 65536;
        at = grown(at, room, 1);
        got = fread(at + *size, 1, room - *size, file);
        *size += got;
    } while (*size == room);
    fclose(file);
    return at;
}

/* Of two plays of one device, the faster time of each phase. */
static sync_cost faster(sync_cost a, sync_cost b)
{
    for (int i = 0; i < PHASES; i++)
        if (b.ns[i] < a.ns[i])
            a.ns[i] = b.ns[i];
    return a;
}

/* Lets all devices sync, in one arena as the extension does.  Returns how many they are. */
static size_t play(mb_text file, sync_cost *costs, size_t room, bool first_time)
{
    enum { KEPT_BYTES = 8 << 20 };
    size_t held = 0;
    const mb_allocator counted = {allocate_counted, release_counted, &held};
    mb_arena *arena;
    require(mb_arena_new(&counted, HASH_SEED, &arena), "no arena");
    server_log log = {.items = NULL};
    size_t devices = 0;
    const char *end = file.at + file.size;
    for (const char *at = file.at; at < end; devices++) {
        if (devices == room)
            stop("too many lines");
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *line_end = newline != NULL ? newline : end;
        sync_cost cost = sync_device(&log, (mb_text){at, (size_t)(line_end - at)}, arena);
        cost.arena_bytes = held;
        mb_arena_empty(arena, KEPT_BYTES);
        costs[devices] = first_time ? cost : faster(cost, costs[devices]);
        at = line_end + 1;
    }
    empty(&log);
    mb_arena_free(arena);
    return devices;
}

int main(int argc, char **argv)
{
    enum { ROOM = 10000 };
    static sync_cost costs[ROOM];
    if (argc != 3)
        stop("usage: core_bench FILE REPEATS");
    size_t size;
    char *lines = read_file(argv[1], &size);
    const long repeats = strtol(argv[2], NULL, 10);
    size_t devices = 0;
    for (long i = 0; i < repeats; i++)
        devices = play((mb_text){lines, size}, costs, ROOM, i == 0);
    free(lines);

    for (size_t i = 0; i < devices; i++) {
        const sync_cost *cost = &costs[i];
        printf("{\"window\": %zu, \"request\": %zu, \"upstream\": %zu, \"downstream\": %zu, "
               "\"tree_ns\": %" PRId64 ", \"read_ns\": %" PRId64 ", \"check_ns\": %" PRId64
               ", \"recognize_ns\": %" PRId64 ", \"merge_ns\": %" PRId64 ", \"print_ns\": %" PRId64
               ", \"arena_bytes\": %zu}\n",
               cost->window, cost->request, cost->upstream, cost->downstream, cost->ns[TREE],
               cost->ns[READ], cost->ns[CHECK], cost->ns[RECOGNIZE], cost->ns[MERGE],
               cost->ns[PRINT], cost->arena_bytes);
    }
    return 0;
}
