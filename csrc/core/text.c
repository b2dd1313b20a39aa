/* text.c - the hash of a text.
 *
 * Ids and field names come from strangers. With a fixed hash, they could choose a thousand names
 * that fall into one slot and make a linear merge quadratic. SipHash (Aumasson and Bernstein,
 * "SipHash: a fast short-input PRF", 2012) has a secret key. Its 1-3 form, which CPython and Rust
 * use for the same purpose, is cheap for short texts.
 *
 * Does not promise the same value on machines with different byte order. Only the fingerprint of a
 * request leaves memory; there, a difference costs a refused cursor.
 */
#include "text.h"

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

/* The last bytes of a text, fewer than eight, as a number. */
static inline uint64_t last_bytes(const char *at, size_t count)
{
    uint64_t bytes = 0;
    uint32_t four;
    uint16_t two;
    if ((count & 4) != 0) {
        memcpy(&four, at, sizeof four);
        bytes = four;
    }
    if ((count & 2) != 0) {
        memcpy(&two, at + (count & 4), sizeof two);
        bytes |= (uint64_t)two << 8 * (count & 4);
    }
    if ((count & 1) != 0)
        bytes |= (uint64_t)(unsigned char)at[count - 1] << 8 * (count - 1);
    return bytes;
}

uint64_t mb_text_hash(mb_text text, uint64_t key)
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

    const uint64_t last = (uint64_t)text.size << 56 ^ last_bytes(at, left);
    s.v3 ^= last;
    sip_round(&s);
    s.v0 ^= last;

    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
