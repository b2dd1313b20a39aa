/* fuzz_diffs.c - a JSON array of diffs: read, checked, printed, read again.
 *
 * The input is the JSON text itself.  Holds: an error points into the input; the members of a
 * json_data are spans of it, in order; what is read, printed (with json_data as it was quoted and,
 * where it is good, quoted anew) and read again is the same diff, with the same verdict of
 * mb_diff_check; and printing is a fixed point.
 */
#include "oracle.h"

static void expect_members_in_order(const mb_diff *diff)
{
    const char *behind = diff->json_data.at;
    for (size_t i = 0; i < diff->member_count; i++) {
        const mb_member *member = &diff->members[i];
        HOLDS(lies_inside(member->quoted, diff->json_data));
        HOLDS(lies_inside(member->value, diff->json_data));
        HOLDS(member->quoted.at > behind);
        HOLDS(member->value.at > member->quoted.at + member->quoted.size - 1);
        HOLDS(member->value.size != 0);
        behind = member->value.at + member->value.size;
    }
}

static mb_text print(const mb_diff *diff, mb_arena *arena)
{
    const mb_outcome outcome = {
        .type = diff->type, .utc_timestamp = diff->utc_timestamp, .json_data = diff->json_data};
    const size_t most = mb_log_row_most_bytes(diff, &outcome, diff->owner);
    char *at = mb_arena_get(arena, most);
    const mb_text printed = {at,
                             mb_log_row_put(diff, &outcome, diff->owner, diff->logical_clock, at)};
    HOLDS(printed.size <= most);
    return printed;
}

static void expect_same_when_read_again(mb_diff *diff, mb_text printed, mb_arena *arena)
{
    mb_diffs again = {NULL, 0};
    mb_error error;
    size_t index;
    char *array = malloc(printed.size + 2);
    HOLDS(array != NULL);
    array[0] = '[';
    memcpy(array + 1, printed.at, printed.size);
    array[printed.size + 1] = ']';
    HOLDS(mb_diffs_read((mb_text){array, printed.size + 2}, arena, &again, &index, &error) ==
          MB_OK);

    HOLDS(again.count == 1);
    mb_diff *same = &again.items[0];
    HOLDS(mb_text_equal(same->id, diff->id) && mb_text_equal(same->owner, diff->owner) &&
          mb_text_equal(same->model, diff->model) &&
          mb_text_equal(same->json_data, diff->json_data));
    HOLDS(same->logical_clock == diff->logical_clock && same->type == diff->type &&
          same->utc_timestamp == diff->utc_timestamp);
    HOLDS(mb_text_equal(printed, print(same, arena)));

    const mb_status status = mb_diff_check(diff, NULL, arena, &error);
    HOLDS(status != MB_NO_MEMORY && mb_diff_check(same, NULL, arena, &error) == status);
    HOLDS(status == MB_OK || error.reason != NULL);
    if (status == MB_OK)
        expect_members_in_order(diff);
    free(array);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    mb_arena *arena = new_arena(1);
    mb_diffs diffs = {NULL, 0};
    mb_error error;
    size_t index;
    const mb_text input = {(const char *)bytes, size};
    const mb_status status = mb_diffs_read(input, arena, &diffs, &index, &error);
    HOLDS(status != MB_NO_MEMORY);
    HOLDS(status == MB_OK || (error.reason != NULL && error.offset <= size));
    for (size_t i = 0; i < diffs.count; i++) {
        mb_diff *diff = &diffs.items[i];
        HOLDS(lies_inside(diff->text, input) && lies_inside(diff->quoted_json_data, diff->text));
        expect_same_when_read_again(diff, print(diff, arena), arena);
        if (mb_diff_check(diff, NULL, arena, &error) != MB_OK)
            continue;
        diff->quoted_json_data = (mb_text){NULL, 0};
        expect_same_when_read_again(diff, print(diff, arena), arena);
    }
    mb_arena_free(arena);
    return 0;
}
