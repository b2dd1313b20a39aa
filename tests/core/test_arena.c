/* test_arena.c - memory that is given back all at once. */
#include "scarcity.h"

#include <stdint.h>

static bool is_aligned(const void *piece)
{
    return (uintptr_t)piece % _Alignof(max_align_t) == 0;
}

static mb_arena *arena_on(scarce_memory *memory)
{
    const mb_allocator allocator = scarce_allocator(memory);
    mb_arena *arena;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    return arena;
}

TEST(every_piece_is_aligned_and_no_one_elses)
{
    enum { PIECES = 600 };
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    unsigned char *pieces[PIECES];

    for (size_t i = 0; i < PIECES; i++) {
        pieces[i] = mb_arena_get(arena, i);
        CHECK(is_aligned(pieces[i]));
        memset(pieces[i], (int)(i % 251), i);
    }
    for (size_t i = 0; i < PIECES; i++)
        for (size_t at = 0; at < i; at++)
            CHECK(pieces[i][at] == i % 251);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(a_piece_of_no_bytes_is_a_piece)
{
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    const void *first = mb_arena_get(arena, 0);
    const void *second = mb_arena_get(arena, 0);
    const void *none = mb_arena_get_array(arena, 0, 8);
    const void *of_nothing = mb_arena_get_array(arena, 8, 0);
    CHECK(first != NULL && second != NULL && none != NULL && of_nothing != NULL);
    CHECK(first != second && second != none && none != of_nothing);
    mb_arena_free(arena);
}

TEST(a_piece_may_be_larger_than_any_block)
{
    enum { LARGE = 5 * 1024 * 1024 + 1 };
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    unsigned char *before = mb_arena_get(arena, 16);
    unsigned char *large = mb_arena_get(arena, LARGE);
    unsigned char *after = mb_arena_get(arena, 16);
    CHECK(before != NULL && large != NULL && after != NULL);
    memset(before, 1, 16);
    memset(after, 3, 16);
    memset(large, 2, LARGE);
    CHECK(before[15] == 1 && after[0] == 3);
    CHECK(is_aligned(large) && is_aligned(after));
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(an_array_is_zeroed)
{
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    for (size_t count = 1; count < 200; count++) {
        const unsigned char *array = mb_arena_get_array(arena, count, 3);
        CHECK(array != NULL && is_aligned(array));
        for (size_t i = 0; i < count * 3; i++)
            CHECK(array[i] == 0);
    }
    mb_arena_free(arena);
}

TEST(a_size_that_overflows_is_refused_without_asking)
{
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    CHECK(mb_arena_get(arena, 1) != NULL);
    const size_t asked = memory.asked;
    for (size_t less = 0; less <= _Alignof(max_align_t); less++)
        CHECK(mb_arena_get(arena, SIZE_MAX - less) == NULL);
    CHECK(mb_arena_get_array(arena, SIZE_MAX, 2) == NULL);
    CHECK(mb_arena_get_array(arena, 2, SIZE_MAX) == NULL);
    CHECK(mb_arena_get_array(arena, SIZE_MAX / 8 + 1, 8) == NULL);
    CHECK(memory.asked == asked);

    CHECK(mb_arena_get(arena, 1) != NULL);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(an_arena_goes_on_after_a_refusal)
{
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    unsigned char *kept = mb_arena_get(arena, 100);
    memset(kept, 9, 100);

    memory.refused_at = memory.asked + 1;
    CHECK(mb_arena_get(arena, 100000) == NULL);
    unsigned char *next = mb_arena_get(arena, 100000);
    CHECK(next != NULL);
    memset(next, 1, 100000);
    CHECK(kept[0] == 9 && kept[99] == 9);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(an_arena_that_cannot_be_made_leaves_nothing_behind)
{
    scarce_memory memory = {.refused_at = 1};
    const mb_allocator allocator = scarce_allocator(&memory);
    mb_arena *arena = NULL;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_NO_MEMORY);
    CHECK(arena == NULL);
    CHECK(memory.live == 0);
}

TEST(the_allocator_is_copied)
{
    scarce_memory memory = {0};
    mb_allocator allocator = scarce_allocator(&memory);
    mb_arena *arena;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    memset(&allocator, 0, sizeof allocator);
    CHECK(mb_arena_get(arena, 10000) != NULL);
    mb_arena_free(arena);
    CHECK(memory.asked == 2);
    CHECK(memory.live == 0);
}

TEST(without_an_allocator_it_is_malloc)
{
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, UINT64_C(0xfeedfacecafebeef), &arena) == MB_OK);
    unsigned char *piece = mb_arena_get(arena, 5000);
    CHECK(piece != NULL);
    memset(piece, 1, 5000);
    CHECK(mb_arena_hash_seed(arena) == UINT64_C(0xfeedfacecafebeef));
    mb_arena_free(arena);
    mb_arena_free(NULL);
}

TEST(small_pieces_seldom_ask_the_allocator)
{
    enum { PIECES = 64 * 1024, SIZE = 16 };
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    for (size_t i = 0; i < PIECES; i++)
        CHECK(mb_arena_get(arena, SIZE) != NULL);
    CHECK(memory.asked < 16);
    CHECK(memory.bytes < 4 * PIECES * SIZE);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(an_emptied_arena_does_the_same_again_without_asking)
{
    enum { PIECES = 20000 };
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    size_t asked = 0;
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < PIECES; i++) {
            unsigned char *piece = mb_arena_get(arena, i % 90);
            CHECK(piece != NULL && is_aligned(piece));
            memset(piece, 1, i % 90);
        }
        CHECK(round == 0 || memory.asked == asked);
        asked = memory.asked;
        mb_arena_empty(arena, SIZE_MAX);
    }
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(an_emptied_arena_keeps_no_more_than_it_may)
{
    enum { ALONE = 1, KEPT = 100000 };
    scarce_memory memory = {0};
    mb_arena *arena = arena_on(&memory);
    CHECK(mb_arena_get(arena, KEPT) != NULL);
    CHECK(mb_arena_get(arena, KEPT * 2) != NULL);
    mb_arena_empty(arena, KEPT);
    CHECK(memory.live == ALONE + 1);
    mb_arena_empty(arena, KEPT - 1000);
    CHECK(memory.live == ALONE);
    CHECK(mb_arena_get(arena, KEPT) != NULL);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

int main(void)
{
    RUN(every_piece_is_aligned_and_no_one_elses);
    RUN(a_piece_of_no_bytes_is_a_piece);
    RUN(a_piece_may_be_larger_than_any_block);
    RUN(an_array_is_zeroed);
    RUN(a_size_that_overflows_is_refused_without_asking);
    RUN(an_arena_goes_on_after_a_refusal);
    RUN(an_arena_that_cannot_be_made_leaves_nothing_behind);
    RUN(the_allocator_is_copied);
    RUN(without_an_allocator_it_is_malloc);
    RUN(small_pieces_seldom_ask_the_allocator);
    RUN(an_emptied_arena_does_the_same_again_without_asking);
    RUN(an_emptied_arena_keeps_no_more_than_it_may);
    return tests_end();
}
