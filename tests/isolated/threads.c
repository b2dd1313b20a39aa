/* threads.c - several threads, each with an arena of its own, do everything that the core offers.
 *
 * For ThreadSanitizer and helgrind (run_tsan.sh): they say whether the core shares anything.  Each
 * thread also checks that it gets what the first one got.
 */
#include "../../csrc/core/mobync.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8 };

static const char window_json[] =
    "[{\"id\":\"s1\",\"owner\":\"o\",\"logical_clock\":3,\"utc_timestamp\":10,\"type\":\"create\","
    "\"model\":\"t\\u00e9\",\"json_data\":\"{\\\"id\\\":\\\"x\\\",\\\"\\\\u0061\\\":1,\\\"b\\\":2}"
    "\"},"
    "{\"id\":\"s2\",\"owner\":\"o\",\"logical_clock\":5,\"utc_timestamp\":30,\"type\":\"update\","
    "\"model\":\"t\\u00e9\",\"json_data\":\"{\\\"id\\\":\\\"y\\\",\\\"a\\\":\\\"\\\\n\\\","
    "\\\"b\\\":2}\"},"
    "{\"id\":\"s3\",\"owner\":\"o\",\"logical_clock\":4,\"utc_timestamp\":20,\"type\":\"update\","
    "\"model\":\"t\\u00e9\",\"json_data\":\"{\\\"id\\\":\\\"x\\\",\\\"a\\\":3}\"}]";
static const char body_json[] =
    "{\"logical_clock\":\"3\",\"diffs\":["
    "{\"id\":\"l1\",\"owner\":\"o\",\"logical_clock\":0,\"utc_timestamp\":15,\"type\":\"update\","
    "\"model\":\"t\\u00e9\",\"json_data\":\"{\\\"id\\\":\\\"y\\\",\\\"a\\\":1,\\\"c\\\":[1.0]}\"},"
    "{\"id\":\"l2\",\"owner\":\"o\",\"logical_clock\":0,\"utc_timestamp\":16,\"type\":\"create\","
    "\"model\":\"t\\u00e9\",\"json_data\":\"{\\\"id\\\":\\\"\\\\u007a\\\",\\\"a\\\":1}\"}]}";

static void expect(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "threads.c: %s\n", what);
        abort();
    }
}

static void check_all(const mb_diffs *diffs, mb_arena *arena)
{
    mb_error error;
    for (size_t i = 0; i < diffs->count; i++)
        expect(mb_diff_check(&diffs->items[i], NULL, arena, &error) == MB_OK, "a diff is refused");
}

/* Everything once; writes what came of it, in as many bytes at the most as `told` has. */
static void play(char *told, size_t size)
{
    mb_arena *arena;
    mb_diffs window;
    mb_request request;
    mb_merge_result result;
    mb_compaction *compaction;
    mb_compacted *fates;
    static const char *const no_keys[] = {NULL};
    const mb_request_rules rules = {.reserved = no_keys,
                                    .diffs = SIZE_MAX,
                                    .json_data_bytes = SIZE_MAX,
                                    .fields = SIZE_MAX,
                                    .depth = SIZE_MAX,
                                    .extra_bytes = SIZE_MAX,
                                    .extra_depth = SIZE_MAX};
    mb_error error;
    size_t index;
    char reply[1024], row[1024];
    expect(mb_arena_new(NULL, 7, &arena) == MB_OK, "no arena");
    expect(mb_diffs_read((mb_text){window_json, sizeof window_json - 1}, arena, &window, &index,
                         &error) == MB_OK,
           "window");
    expect(mb_request_read((mb_text){body_json, sizeof body_json - 1}, &rules, false, arena,
                           &request, &index, &error) == MB_OK,
           "request");
    check_all(&window, arena);
    check_all(&request.diffs, arena);
    expect(mb_recognize(arena, &window, &request.diffs, false, &index, &error) == MB_OK,
           "recognize");
    expect(mb_merge(arena, &window, &request.diffs, &result) == MB_OK, "merge");
    expect(mb_reply_most_bytes(&window, &result.downstream) < sizeof reply, "reply");
    reply[mb_reply_put(&window, &result.downstream, 6, reply)] = '\0';
    const mb_outcome *up = &result.upstream.items[0];
    const mb_diff *diff = &request.diffs.items[up->source];
    expect(result.upstream.count > 0 && mb_log_row_most_bytes(diff, up, diff->owner) < sizeof row,
           "row");
    row[mb_log_row_put(diff, up, diff->owner, 9, row)] = '\0';
    expect(mb_compaction_new(arena, &compaction) == MB_OK, "compaction");
    expect(mb_compact(compaction, &window, arena, &fates) == MB_OK, "compact");
    (void)snprintf(told, size, "%zu up, %s, %s, %d", result.upstream.count, reply, row,
                   (int)fates[0].fate);
    mb_arena_free(arena);
}

typedef struct {
    int rounds;
    char first[2048]; /* what the first to play got */
} stage;

static void *thread_main(void *context)
{
    const stage *s = context;
    for (int i = 0; i < s->rounds; i++) {
        char told[sizeof s->first];
        play(told, sizeof told);
        expect(strcmp(told, s->first) == 0, "threads disagree");
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static stage s;
    pthread_t threads[THREADS];
    s.rounds = argc > 1 ? atoi(argv[1]) : 1000;
    play(s.first, sizeof s.first);
    for (int i = 0; i < THREADS; i++)
        expect(pthread_create(&threads[i], NULL, thread_main, &s) == 0, "no thread");
    for (int i = 0; i < THREADS; i++)
        expect(pthread_join(threads[i], NULL) == 0, "a thread is lost");
    printf("%d threads, %d rounds each: %d passed, 0 failed\n", THREADS, s.rounds, THREADS);
    return 0;
}
