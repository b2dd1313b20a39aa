/* scan.h - checks several bytes of a text at a time.
 *
 * Most bytes of a string have no special meaning. So a whole block is checked at once, and each
 * byte that may be special is marked: 16 bytes with SSE2, which every x86-64 has, otherwise 8 bytes
 * in a word, with Mycroft's test for a zero byte. A mark may also be set for a byte that is not
 * special, if a special byte comes before it. So the code checks the byte at a mark.
 *
 * The last few bytes of a text are read as part of the block that ends with the text. There is no such
 * block if the text is shorter, and none is used for words if no instruction counts zero bits: then
 * the bytes are checked one by one. A text that is printed is copied anyway, so its last few bytes are
 * loaded as a block with zeros behind them.
 */
#ifndef MB_SCAN_H
#define MB_SCAN_H

#include "text.h"

#if defined(__SSE2__) && defined(__GNUC__) && !defined(MB_SCAN_WORDS)

#include <emmintrin.h>

enum { MB_BLOCK = 16, MB_MARK_BITS = 1 };
typedef __m128i mb_block;

static inline mb_block mb_block_load(const char *at)
{
    return _mm_loadu_si128((const void *)at);
}

/* Fewer bytes than a block, and zeros behind them. */
static inline mb_block mb_block_load_short(const char *at, size_t size)
{
    if (size < 8)
        return _mm_set_epi64x(0, (long long)mb_text_word(at, size));
    const mb_block last = _mm_set_epi64x(0, (long long)mb_text_word(at + 8, size - 8));
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const void *)at), last);
}

static inline void mb_block_put(char *at, mb_block block)
{
    _mm_storeu_si128((void *)at, block);
}

static inline uint64_t mb_block_marks(mb_block marks)
{
    return (uint64_t)_mm_movemask_epi8(marks);
}

/* Marks bytes with that value. */
static inline mb_block mb_block_equal(mb_block block, char wanted)
{
    return _mm_cmpeq_epi8(block, _mm_set1_epi8(wanted));
}

/* Marks control characters and non-ASCII bytes: as signed bytes, those are below them. */
static inline mb_block mb_block_control_or_not_ascii(mb_block block)
{
    return _mm_cmplt_epi8(block, _mm_set1_epi8(0x20));
}

static inline mb_block mb_block_control(mb_block block)
{
    return _mm_cmpeq_epi8(block, _mm_min_epu8(block, _mm_set1_epi8(0x1f)));
}

/* Marks zeros and non-ASCII bytes. */
static inline mb_block mb_block_zero_or_not_ascii(mb_block block)
{
    return _mm_cmplt_epi8(block, _mm_set1_epi8(1));
}

static inline mb_block mb_block_or(mb_block a, mb_block b)
{
    return _mm_or_si128(a, b);
}

#else

enum { MB_BLOCK = 8, MB_MARK_BITS = 8 };
typedef uint64_t mb_block;

#define MB_EACH_BYTE UINT64_C(0x0101010101010101)

static inline mb_block mb_block_load(const char *at)
{
    mb_block block;
    memcpy(&block, at, sizeof block);
    return block;
}

/* Fewer bytes than a block, and zeros behind them. */
static inline mb_block mb_block_load_short(const char *at, size_t size)
{
    return mb_text_word(at, size);
}

static inline void mb_block_put(char *at, mb_block block)
{
    memcpy(at, &block, sizeof block);
}

static inline uint64_t mb_block_marks(mb_block marks)
{
    return marks & MB_EACH_BYTE << 7;
}

static inline mb_block mb_block_below(mb_block block, uint64_t least)
{
    return (block - MB_EACH_BYTE * least) & ~block;
}

static inline mb_block mb_block_equal(mb_block block, char wanted)
{
    return mb_block_below(block ^ MB_EACH_BYTE * (unsigned char)wanted, 1);
}

static inline mb_block mb_block_control(mb_block block)
{
    return mb_block_below(block, 0x20);
}

static inline mb_block mb_block_control_or_not_ascii(mb_block block)
{
    return mb_block_control(block) | block;
}

static inline mb_block mb_block_zero_or_not_ascii(mb_block block)
{
    return mb_block_below(block, 1) | block;
}

static inline mb_block mb_block_or(mb_block a, mb_block b)
{
    return a | b;
}

#endif

/* The block at `at`; where the text ends within it, with zeros behind the text. */
static inline mb_block mb_block_load_up_to(const char *at, const char *end)
{
    const size_t left = (size_t)(end - at);
    return left >= MB_BLOCK ? mb_block_load(at) : mb_block_load_short(at, left);
}

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
enum { MB_COUNTS_ZERO_BITS = true };
static inline size_t mb_zero_bits(uint64_t marks)
{
    return (size_t)__builtin_ctzll(marks);
}
#else
enum { MB_COUNTS_ZERO_BITS = false };
static inline size_t mb_zero_bits(uint64_t marks)
{
    (void)marks;
    return 0;
}
#endif

/* How many bytes of a block come before the first marked one; MB_BLOCK if none is marked. */
static inline size_t mb_bytes_before(mb_block marked)
{
    const uint64_t marks = mb_block_marks(marked);
    return marks == 0 ? MB_BLOCK : mb_zero_bits(marks) / MB_MARK_BITS;
}

/* How many bytes from `at` on are not marked, up to the end of a block or of the text.
 *
 * begin, end    of the text
 * at            before the end
 * mark          one of the functions above, or a similar one
 *
 * The result may be too small; a caller that checks the next byte then continues.
 */
static inline size_t mb_unmarked_bytes(const char *begin, const char *at, const char *end,
                                       mb_block (*mark)(mb_block))
{
    const size_t left = (size_t)(end - at);
    if (left >= MB_BLOCK)
        return mb_bytes_before(mark(mb_block_load(at)));
    if (!MB_COUNTS_ZERO_BITS || end - begin < MB_BLOCK)
        return 0;
    const uint64_t marks =
        mb_block_marks(mark(mb_block_load(end - MB_BLOCK))) >> (MB_BLOCK - left) * MB_MARK_BITS;
    return marks == 0 ? left : mb_zero_bits(marks) / MB_MARK_BITS;
}

#endif
