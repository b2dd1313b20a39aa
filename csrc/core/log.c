/* log.c - the order of a log.
 *
 * A store may return rows in any order, and usually returns them in the right one. So this file
 * checks the order first, and sorts only if necessary. The sort is a merge sort from the bottom up.
 * It is stable, needs no recursion, and needs one more array as memory. qsort of the C library is
 * not stable, and may need more than n log n steps.
 *
 * Does not: look at what the diffs say.
 */
#include "log.h"

#include "arena.h"

static bool comes_before(const mb_diff *a, const mb_diff *b)
{
    if (a->logical_clock != b->logical_clock)
        return a->logical_clock < b->logical_clock;
    return a->utc_timestamp < b->utc_timestamp;
}

static bool is_in_order(const mb_diff **diffs, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (comes_before(diffs[i], diffs[i - 1]))
            return false;
    return true;
}

/* Merges the ordered runs [begin, middle) and [middle, end) of `from` into `to`; stable. */
static void merge_runs(const mb_diff **from, const mb_diff **to, size_t begin, size_t middle,
                       size_t end)
{
    size_t left = begin, right = middle;
    for (size_t i = begin; i < end; i++) {
        const bool take_right =
            left == middle || (right < end && comes_before(from[right], from[left]));
        to[i] = from[take_right ? right++ : left++];
    }
}

static mb_status sort(const mb_diff ***diffs, size_t count, mb_arena *arena)
{
    const mb_diff **from = *diffs;
    const mb_diff **to = mb_arena_get_items(arena, count, sizeof *to);
    if (to == NULL)
        return MB_NO_MEMORY;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t begin = 0; begin < count; begin += 2 * width) {
            const size_t middle = begin + width < count ? begin + width : count;
            const size_t end = middle + width < count ? middle + width : count;
            merge_runs(from, to, begin, middle, end);
        }
        const mb_diff **merged = to;
        to = from;
        from = merged;
    }
    *diffs = from;
    return MB_OK;
}

mb_status mb_log_order(const mb_diffs *diffs, mb_arena *arena, const mb_diff ***in_order)
{
    const mb_diff **given = mb_arena_get_items(arena, diffs->count, sizeof *given);
    if (given == NULL)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < diffs->count; i++)
        given[i] = &diffs->items[i];
    if (!is_in_order(given, diffs->count) && sort(&given, diffs->count, arena) != MB_OK)
        return MB_NO_MEMORY;
    *in_order = given;
    return MB_OK;
}
