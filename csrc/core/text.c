/* text.c - the two hashes of a text.
 *
 * Ids and field names come from strangers. If they knew the hash, they could choose a thousand
 * names that fall into one slot of a table and make a linear merge quadratic. So both hashes have a
 * key.
 *
 * mb_text_hash is for tables. It multiplies two words, each combined with a part of the key, and
 * folds the product of 128 bits into 64. wyhash by Wang Yi works like this, and Go's maps use it
 * with a secret key where the processor has no better instruction. It takes a quarter of the time
 * of SipHash, which matters because a merge hashes every id that it meets. Its values never leave
 * memory.
 *
 * mb_text_fingerprint is for what is stored or sent: SipHash (Aumasson and Bernstein, "SipHash: a
 * fast short-input PRF", 2012) in its 1-3 form, which CPython and Rust use. Its values must stay the
 * same from version to version. They differ between machines with different byte order; there, a
 * cursor is refused.
 */
#include "text.h"

/* ---- for tables ---------------------------------------------------------------------------- */

static inline uint64_t fold_product(uint64_t a, uint64_t b)
{
#if defined(__SIZEOF_INT128__) && !defined(MB_SCAN_WORDS)
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    const uint64_t a_low = (uint32_t)a, a_high = a >> 32, b_low = (uint32_t)b, b_high = b >> 32;
    const uint64_t low = a_low * b_low, left = a_high * b_low, right = a_low * b_high;
    const uint64_t middle = (low >> 32) + (uint32_t)left + right;
    const uint64_t high = a_high * b_high + (left >> 32) + (middle >> 32);
    return (middle << 32 | (uint32_t)low) ^ high;
#endif
}

static inline uint64_t eight_bytes(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t four_bytes(const char *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

uint64_t mb_text_hash(mb_text text, uint64_t key)
{
    enum { PAIR = 16, WORD = 8, HALF = 4 };
    const uint64_t second_key = key * UINT64_C(0x9e3779b97f4a7c15) ^ UINT64_C(0xd1b54a32d192ed03);
    const char *at = text.at;
    size_t left = text.size;
    uint64_t hash = key + text.size * UINT64_C(0xa0761d6478bd642f);
    uint64_t first = 0, last = 0; /* of what is left, which they may overlap in */
    for (; left > PAIR; at += PAIR, left -= PAIR)
        hash = fold_product(eight_bytes(at) ^ hash, eight_bytes(at + WORD) ^ second_key);
    if (left >= WORD) {
        first = eight_bytes(at);
        last = eight_bytes(at + left - WORD);
    } else if (left >= HALF) {
        first = four_bytes(at);
        last = four_bytes(at + left - HALF);
    } else if (left != 0) {
        first = (unsigned char)at[0];
        last = (uint64_t)(unsigned char)at[left / 2] << 8 | (unsigned char)at[left - 1];
    }
    hash = fold_product(first ^ hash, last ^ second_key);
    return fold_product(hash, UINT64_C(0x9e3779b97f4a7c15)); /* short texts differ in few bits */
}

/* ---- for what is stored or sent ------------------------------------------------------------ */

typedef struct {
    uint64_t v0, v1, v2, v3;
} sip_state;

static inline uint64_t rotate_left(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(sip_state *s)
{
    s->v0 += s->v1;
    s->v1 = rotate_left(s->v1, 13) ^ s->v0;
    s->v0 = rotate_left(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate_left(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate_left(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate_left(s->v1, 17) ^ s->v2;
    s->v2 = rotate_left(s->v2, 32);
}

uint64_t mb_text_fingerprint(mb_text text, uint64_t key)
{
    const uint64_t second_key = ~key;
    sip_state s = {key ^ UINT64_C(0x736f6d6570736575), second_key ^ UINT64_C(0x646f72616e646f6d),
                   key ^ UINT64_C(0x6c7967656e657261), second_key ^ UINT64_C(0x7465646279746573)};

    const char *at = text.at;
    size_t left = text.size;
    for (; left >= 8; at += 8, left -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        s.v3 ^= word;
        sip_round(&s);
        s.v0 ^= word;
    }

    const uint64_t last = (uint64_t)text.size << 56 ^ mb_text_word(at, left);
    s.v3 ^= last;
    sip_round(&s);
    s.v0 ^= last;

    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
