/* test_table.c - the hash table, and the hashes of a text. */
#include "../../csrc/core/table.h"
#include "../../csrc/core/text.h"
#include "scarcity.h"

#include <inttypes.h>

/* ---- the table ----------------------------------------------------------------------------- */

static size_t comparisons;

static bool is_number(const void *item, const void *key)
{
    comparisons++;
    return *(const uint64_t *)item == *(const uint64_t *)key;
}

static mb_arena *new_arena(scarce_memory *memory)
{
    const mb_allocator allocator = scarce_allocator(memory);
    mb_arena *arena;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    return arena;
}

static mb_slot *find(mb_table *table, uint64_t hash, const uint64_t *number, mb_arena *arena)
{
    mb_slot *slot = NULL;
    CHECK(mb_table_find(table, hash, is_number, number, arena, &slot) == MB_OK);
    CHECK(slot != NULL);
    return slot;
}

static void put(mb_table *table, uint64_t hash, uint64_t *number, mb_arena *arena)
{
    mb_slot *slot = find(table, hash, number, arena);
    CHECK(slot->item == NULL);
    mb_table_fill(table, slot, number);
}

TEST(what_was_put_in_is_found_and_nothing_else)
{
    enum { ITEMS = 5000 };
    static uint64_t numbers[ITEMS];
    scarce_memory memory = {0};
    mb_arena *arena = new_arena(&memory);
    mb_table table;
    CHECK(mb_table_init(&table, 0, arena) == MB_OK);

    for (uint64_t i = 0; i < ITEMS; i++) {
        numbers[i] = i * 3;
        put(&table, numbers[i], &numbers[i], arena);
    }
    CHECK(table.item_count == ITEMS);
    for (uint64_t wanted = 0; wanted < 3 * ITEMS; wanted++) {
        const mb_slot *slot = find(&table, wanted, &wanted, arena);
        CHECK(slot->item == (wanted % 3 == 0 ? &numbers[wanted / 3] : NULL));
    }
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(items_of_one_hash_are_told_apart_by_their_keys)
{
    enum { ITEMS = 100 };
    const uint64_t last_slot = UINT64_MAX; /* so that every probe wraps around */
    uint64_t numbers[ITEMS];
    uint64_t absent = ITEMS;
    scarce_memory memory = {0};
    mb_arena *arena = new_arena(&memory);
    mb_table table;
    CHECK(mb_table_init(&table, 0, arena) == MB_OK);
    for (uint64_t i = 0; i < ITEMS; i++) {
        numbers[i] = i;
        put(&table, last_slot, &numbers[i], arena);
    }
    for (uint64_t i = 0; i < ITEMS; i++)
        CHECK(find(&table, last_slot, &i, arena)->item == &numbers[i]);
    CHECK(find(&table, last_slot, &absent, arena)->item == NULL);
    mb_arena_free(arena);
}

TEST(items_of_other_hashes_are_not_looked_at)
{
    enum { ITEMS = 200 };
    uint64_t numbers[ITEMS];
    scarce_memory memory = {0};
    mb_arena *arena = new_arena(&memory);
    mb_table table;
    CHECK(mb_table_init(&table, 0, arena) == MB_OK);

    comparisons = 0;
    for (uint64_t i = 0; i < ITEMS; i++) {
        numbers[i] = i;
        put(&table, i << 32, &numbers[i], arena); /* one slot, but not one hash */
    }
    CHECK(comparisons == 0);
    for (uint64_t i = 0; i < ITEMS; i++)
        CHECK(find(&table, i << 32, &i, arena)->item == &numbers[i]);
    CHECK(comparisons == ITEMS);
    mb_arena_free(arena);
}

TEST(a_table_does_not_grow_before_it_holds_what_was_expected)
{
    static uint64_t numbers[400];
    for (size_t expected = 0; expected < 400; expected++) {
        scarce_memory memory = {0};
        mb_arena *arena = new_arena(&memory);
        mb_table table;
        at_row("%zu expected", expected);
        CHECK(mb_table_init(&table, expected, arena) == MB_OK);
        const mb_slot *slots = table.slots;
        for (uint64_t i = 0; i < expected; i++) {
            numbers[i] = i;
            put(&table, i, &numbers[i], arena);
        }
        CHECK(table.slots == slots);
        mb_arena_free(arena);
    }
}

TEST(there_is_always_a_free_slot_to_end_a_search)
{
    enum { ITEMS = 3000 };
    static uint64_t numbers[ITEMS];
    scarce_memory memory = {0};
    mb_arena *arena = new_arena(&memory);
    mb_table table;
    CHECK(mb_table_init(&table, 1, arena) == MB_OK);
    for (uint64_t i = 0; i < ITEMS; i++) {
        numbers[i] = i;
        put(&table, i, &numbers[i], arena);
        CHECK(table.item_count < table.slot_count);
    }
    mb_arena_free(arena);
}

TEST(a_table_that_could_not_grow_holds_what_it_held)
{
    uint64_t numbers[64];
    scarce_memory memory = {0};
    mb_arena *arena = new_arena(&memory);
    mb_table table;
    mb_slot *slot;
    uint64_t filled = 0;
    CHECK(mb_table_init(&table, 0, arena) == MB_OK);
    while (filled < table.slot_count / 4 * 3) {
        numbers[filled] = filled;
        put(&table, filled, &numbers[filled], arena);
        filled++;
    }

    mb_table before = table;
    uint64_t next = filled;
    while (memory.asked == 2) /* leave nothing in the arena's block */
        CHECK(mb_arena_get(arena, 16) != NULL);
    CHECK(mb_arena_get(arena, 8192 - 16) != NULL);
    memory.refused_at = memory.asked + 1;
    CHECK(mb_table_find(&table, next, is_number, &next, arena, &slot) == MB_NO_MEMORY);
    CHECK(memcmp(&before, &table, sizeof table) == 0);

    CHECK(find(&table, next, &next, arena)->item == NULL);
    for (uint64_t i = 0; i < filled; i++)
        CHECK(find(&table, i, &i, arena)->item == &numbers[i]);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

TEST(a_table_of_absurd_size_is_refused)
{
    scarce_memory memory = {0};
    mb_arena *arena = new_arena(&memory);
    const size_t asked = memory.asked;
    mb_table table;
    CHECK(mb_table_init(&table, SIZE_MAX, arena) == MB_NO_MEMORY);
    CHECK(mb_table_init(&table, SIZE_MAX / 2, arena) == MB_NO_MEMORY);
    CHECK(mb_table_init(&table, SIZE_MAX / sizeof(mb_slot), arena) == MB_NO_MEMORY);
    CHECK(memory.asked == asked);
    mb_arena_free(arena);
}

/* ---- the text ------------------------------------------------------------------------------ */

TEST(texts_are_equal_when_their_bytes_are)
{
    const char other[] = {'a', '\0', 'b'};
    CHECK(mb_text_equal(MB_TEXT("a\0b"), (mb_text){other, 3}));
    CHECK(!mb_text_equal(MB_TEXT("a\0b"), MB_TEXT("a\0c")));
    CHECK(!mb_text_equal(MB_TEXT("a"), MB_TEXT("ab")));
    CHECK(!mb_text_equal(MB_TEXT("ab"), MB_TEXT("a")));
    CHECK(mb_text_equal(MB_TEXT(""), (mb_text){NULL, 0}));
    CHECK(mb_text_equal((mb_text){NULL, 0}, (mb_text){NULL, 0}));
    CHECK(!mb_text_equal((mb_text){NULL, 0}, MB_TEXT("\0")));
    CHECK(mb_text_hash(MB_TEXT(""), 1) == mb_text_hash((mb_text){NULL, 0}, 1));
}

/* The text in memory that ends where it does, `shift` bytes behind an aligned address. */
static mb_text exactly(const char *text, size_t size, size_t shift)
{
    char *copy = malloc(shift + size);
    CHECK(copy != NULL);
    memcpy(copy + shift, text, size);
    return (mb_text){copy + shift, size};
}

TEST(a_hash_depends_on_the_bytes_alone)
{
    static const char text[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    for (size_t size = 1; size < sizeof text; size++) {
        const uint64_t wanted = mb_text_hash((mb_text){text, size}, 42);
        for (size_t shift = 0; shift < 8; shift++) {
            const mb_text moved = exactly(text, size, shift);
            CHECK(mb_text_hash(moved, 42) == wanted);
            free((char *)moved.at - shift);
        }
    }
}

static unsigned bits_of(uint64_t word)
{
    unsigned bits = 0;
    for (; word != 0; word &= word - 1)
        bits++;
    return bits;
}

TEST(every_bit_of_text_and_key_stirs_the_whole_hash)
{
    char text[19] = "an object's long id";
    const uint64_t key = UINT64_C(0x0123456789abcdef);
    for (size_t size = 1; size <= sizeof text; size++) {
        const uint64_t hash = mb_text_hash((mb_text){text, size}, key);
        for (size_t bit = 0; bit < size * 8; bit++) {
            at_row("bit %zu of %zu bytes", bit, size);
            text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
            const unsigned stirred = bits_of(hash ^ mb_text_hash((mb_text){text, size}, key));
            CHECK(stirred >= 8 && stirred <= 56);
            text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
        }
        for (unsigned bit = 0; bit < 64; bit++) {
            at_row("bit %u of the key, %zu bytes", bit, size);
            const uint64_t other = mb_text_hash((mb_text){text, size}, key ^ UINT64_C(1) << bit);
            CHECK(bits_of(hash ^ other) >= 8 && bits_of(hash ^ other) <= 56);
        }
    }
}

TEST(zeros_at_the_end_of_a_text_count)
{
    enum { LONGEST = 40 };
    static const char zeros[LONGEST];
    uint64_t hashes[LONGEST + 1];
    for (size_t size = 0; size <= LONGEST; size++) {
        hashes[size] = mb_text_hash((mb_text){zeros, size}, 0);
        for (size_t shorter = 0; shorter < size; shorter++)
            CHECK(hashes[shorter] != hashes[size]);
    }
}

typedef struct {
    uint64_t v0, v1, v2, v3;
} sip;

static uint64_t rotated(uint64_t word, unsigned bits)
{
    return word << bits | word >> (64 - bits);
}

static void stir(sip *s, unsigned rounds)
{
    while (rounds-- > 0) {
        s->v0 += s->v1, s->v2 += s->v3;
        s->v1 = rotated(s->v1, 13) ^ s->v0, s->v3 = rotated(s->v3, 16) ^ s->v2;
        s->v0 = rotated(s->v0, 32);
        s->v2 += s->v1, s->v0 += s->v3;
        s->v1 = rotated(s->v1, 17) ^ s->v2, s->v3 = rotated(s->v3, 21) ^ s->v0;
        s->v2 = rotated(s->v2, 32);
    }
}

/* Up to eight bytes as a number: in the order of the paper, or as the machine reads eight, or four, then
 * two, then one. */
static uint64_t word_of(const unsigned char *bytes, unsigned size, bool in_own_order)
{
    const uint16_t one = 1;
    const bool is_little_endian = *(const unsigned char *)&one == 1;
    uint64_t word = 0;
    for (unsigned at = 0, piece = 8; piece != 0; piece /= 2) {
        if ((size & piece) == 0)
            continue;
        for (unsigned i = 0; i < piece; i++) {
            const unsigned place = is_little_endian || !in_own_order ? i : piece - 1 - i;
            word |= (uint64_t)bytes[at + i] << 8 * (at + place);
        }
        at += piece;
    }
    return word;
}

/* SipHash as its paper gives it, with the numbers of rounds left open, and the order of bytes. */
static uint64_t siphash(unsigned rounds, unsigned last_rounds, const uint64_t key[2],
                        const unsigned char *text, size_t size, bool in_own_order)
{
    sip s = {key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
             key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573)};
    for (size_t at = 0; at <= size; at += 8) {
        const unsigned left = size - at < 8 ? (unsigned)(size - at) : 8;
        uint64_t word = word_of(text + at, left, in_own_order);
        if (left < 8)
            word ^= (uint64_t)size << 56;
        s.v3 ^= word;
        stir(&s, rounds);
        s.v0 ^= word;
    }
    s.v2 ^= 0xff;
    stir(&s, last_rounds);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

TEST(the_fingerprint_is_siphash_1_3)
{
    const uint64_t paper_key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    const uint64_t key = UINT64_C(0x0123456789abcdef), both[2] = {key, ~key};
    unsigned char bytes[64];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)i;
    CHECK(siphash(2, 4, paper_key, bytes, 15, false) ==
          UINT64_C(0xa129ca6149be45e5)); /* appendix A */

    for (size_t size = 0; size <= sizeof bytes; size++)
        CHECK(mb_text_fingerprint((mb_text){(const char *)bytes, size}, key) ==
              siphash(1, 3, both, bytes, size, true));
}

TEST(numbered_ids_spread_evenly_over_the_slots)
{
    enum { SLOTS = 1024, EACH = 16 };
    for (uint64_t key = 0; key < 4; key++) {
        unsigned load[SLOTS] = {0};
        unsigned fullest = 0;
        for (unsigned i = 0; i < SLOTS * EACH; i++) {
            char id[32];
            const int size = snprintf(id, sizeof id, "object-%u", i);
            const uint64_t hash = mb_text_hash((mb_text){id, (size_t)size}, key);
            const unsigned filled = ++load[hash % SLOTS];
            if (filled > fullest)
                fullest = filled;
        }
        at_row("key %" PRIu64 ", fullest slot %u", key, fullest);
        CHECK(fullest <= 3 * EACH);
    }
}

int main(void)
{
    RUN(what_was_put_in_is_found_and_nothing_else);
    RUN(items_of_one_hash_are_told_apart_by_their_keys);
    RUN(items_of_other_hashes_are_not_looked_at);
    RUN(a_table_does_not_grow_before_it_holds_what_was_expected);
    RUN(there_is_always_a_free_slot_to_end_a_search);
    RUN(a_table_that_could_not_grow_holds_what_it_held);
    RUN(a_table_of_absurd_size_is_refused);
    RUN(texts_are_equal_when_their_bytes_are);
    RUN(a_hash_depends_on_the_bytes_alone);
    RUN(every_bit_of_text_and_key_stirs_the_whole_hash);
    RUN(zeros_at_the_end_of_a_text_count);
    RUN(the_fingerprint_is_siphash_1_3);
    RUN(numbered_ids_spread_evenly_over_the_slots);
    return tests_end();
}
