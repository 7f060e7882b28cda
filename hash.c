/* SPDX-License-Identifier: MIT */
/*
 * hash.c - digests and base64: what the codecs, the store and the logins are made of. Pure
 * functions over bytes, as in codec.c, and proven by the vectors of their standards.
 *
 *   SHA-1                      the WebSocket handshake
 *   SHA-256, HMAC, PBKDF2      passwords and tokens
 *   base64, base64url
 *   CRC-32C                    the log's lines
 */
#include "jim.h"

#include <string.h>

/* === what both SHAs do alike (FIPS 180-4) ===================================================== */

static uint32_t
rotate(uint32_t v, int bits)
{
    return v << bits | v >> (32 - bits);
}

/* Text comes in pieces of any length, and is taken in blocks of 64 bytes. */
typedef void block_fn(uint32_t *h, const uint8_t *p);

static void
blocks_add(uint32_t *h, uint64_t *total, uint8_t block[64], block_fn *take, const uint8_t *p,
           size_t n)
{
    while (n > 0) {
        size_t have = *total % 64;
        size_t some = n < 64 - have ? n : 64 - have;
        memcpy(block + have, p, some);
        *total += some;
        p += some;
        n -= some;
        if (have + some == 64)
            take(h, block);
    }
}

/* Behind the text: a bit, zeros up to 8 bytes before a block's end, and its length (5.1.1). */
static void
blocks_end(uint32_t *h, uint64_t *total, uint8_t block[64], block_fn *take)
{
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = *total * 8;
    uint8_t length[8];

    put_be32(length, (uint32_t)(bits >> 32));
    put_be32(length + 4, (uint32_t)bits);
    blocks_add(h, total, block, take, pad, 1 + (119 - *total % 64) % 64);
    blocks_add(h, total, block, take, length, 8);
}

/* === SHA-1 (FIPS 180-4) ======================================================================= */

/* Only for the WebSocket handshake, which proves that both sides mean WebSocket and nothing else:
 * that SHA-1 is broken does not matter there. */

/* The functions and constants of the four rounds of twenty steps (sections 4.1.1 and 4.2.1). */
static uint32_t
sha1_mix(int step, uint32_t b, uint32_t c, uint32_t d)
{
    switch (step / 20) {
    case 0:
        return ((b & c) | (~b & d)) + 0x5a827999;
    case 1:
        return (b ^ c ^ d) + 0x6ed9eba1;
    case 2:
        return ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
    default:
        return (b ^ c ^ d) + 0xca62c1d6;
    }
}

static void
sha1_block(uint32_t h[5], const uint8_t *p)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];

    for (int i = 0; i < 16; i++)
        w[i] = get_be32(p + 4 * i);
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t t = rotate(a, 5) + sha1_mix(i, b, c, d) + e + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = t;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

void
sha1_init(struct sha1 *s)
{
    *s = (struct sha1){.h = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}};
}

void
sha1_add(struct sha1 *s, const void *p, size_t n)
{
    blocks_add(s->h, &s->n, s->block, sha1_block, p, n);
}

void
sha1_end(struct sha1 *s, uint8_t digest[20])
{
    blocks_end(s->h, &s->n, s->block, sha1_block);
    for (int i = 0; i < 5; i++)
        put_be32(digest + 4 * i, s->h[i]);
}

/* === SHA-256 (FIPS 180-4), HMAC (RFC 2104), PBKDF2 (RFC 8018) ================================= */

/* One step of section 6.2.2: the eight variables do not move, their names do (see the calls). */
#define STEP(a, b, c, d, e, f, g, h, i) \
    do { \
        uint32_t t = h + (rotate(e, 26) ^ rotate(e, 21) ^ rotate(e, 7)) + (g ^ (e & (f ^ g))) + \
                     k[i] + w[i]; \
        d += t; \
        h = t + (rotate(a, 30) ^ rotate(a, 19) ^ rotate(a, 10)) + ((a & b) | (c & (a | b))); \
    } while (0)

/* `block` as words: PBKDF2 never sees its blocks as bytes. */
static void
sha256_words(uint32_t state[8], const uint32_t block[16])
{
    static const uint32_t k[64] = { /* section 4.2.2 */
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    uint32_t w[64], s[8];

    memcpy(w, block, 16 * sizeof w[0]);
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate(x, 25) ^ rotate(x, 14) ^ x >> 3) +
               (rotate(y, 15) ^ rotate(y, 13) ^ y >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i += 8) {
        STEP(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], i);
        STEP(s[7], s[0], s[1], s[2], s[3], s[4], s[5], s[6], i + 1);
        STEP(s[6], s[7], s[0], s[1], s[2], s[3], s[4], s[5], i + 2);
        STEP(s[5], s[6], s[7], s[0], s[1], s[2], s[3], s[4], i + 3);
        STEP(s[4], s[5], s[6], s[7], s[0], s[1], s[2], s[3], i + 4);
        STEP(s[3], s[4], s[5], s[6], s[7], s[0], s[1], s[2], i + 5);
        STEP(s[2], s[3], s[4], s[5], s[6], s[7], s[0], s[1], i + 6);
        STEP(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[0], i + 7);
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static void
sha256_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[16];

    for (int i = 0; i < 16; i++)
        w[i] = get_be32(p + 4 * i);
    sha256_words(h, w);
}

void
sha256_init(struct sha256 *s)
{
    *s = (struct sha256){.h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                               0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void
sha256_add(struct sha256 *s, const void *p, size_t n)
{
    blocks_add(s->h, &s->n, s->block, sha256_block, p, n);
}

void
sha256_end(struct sha256 *s, uint8_t digest[32])
{
    blocks_end(s->h, &s->n, s->block, sha256_block);
    for (int i = 0; i < 8; i++)
        put_be32(digest + 4 * i, s->h[i]);
}

void
hmac256_init(struct hmac256 *m, const void *key, size_t n)
{
    uint8_t block[64] = {0};

    if (n > sizeof block) { /* RFC 2104 section 2 */
        sha256_init(&m->inner);
        sha256_add(&m->inner, key, n);
        sha256_end(&m->inner, block);
    } else if (n > 0) {
        memcpy(block, key, n);
    }
    for (size_t i = 0; i < sizeof block; i++)
        block[i] ^= 0x36;
    sha256_init(&m->inner);
    sha256_add(&m->inner, block, sizeof block);
    for (size_t i = 0; i < sizeof block; i++)
        block[i] ^= 0x36 ^ 0x5c;
    sha256_init(&m->outer);
    sha256_add(&m->outer, block, sizeof block);
    wipe(block, sizeof block);
}

void
hmac256_add(struct hmac256 *m, const void *p, size_t n)
{
    sha256_add(&m->inner, p, n);
}

void
hmac256_end(struct hmac256 *m, uint8_t mac[32])
{
    sha256_end(&m->inner, mac);
    sha256_add(&m->outer, mac, 32);
    sha256_end(&m->outer, mac);
}

/* The padded block behind a first block of 64 bytes that holds one digest: 96 bytes in all. */
static void
digest_block(uint32_t w[16])
{
    memset(w, 0, 16 * sizeof w[0]);
    w[8] = 0x80000000;
    w[15] = (64 + 32) * 8;
}

/*
 * T_i of RFC 8018 section 5.2. What the password does to the two states of HMAC is computed once;
 * from the second round on a round is two blocks of SHA-256 and nothing else.
 */
static void
pbkdf2_block(const struct hmac256 *keyed, struct str salt, uint32_t rounds, uint32_t number,
             uint8_t out[32])
{
    struct hmac256 m = *keyed;
    uint32_t inner[16], outer[16], sum[8];
    uint8_t index[4];

    put_be32(index, number);
    hmac256_add(&m, salt.p, salt.n);
    hmac256_add(&m, index, sizeof index);
    hmac256_end(&m, out);
    digest_block(inner);
    digest_block(outer);
    for (int i = 0; i < 8; i++)
        sum[i] = inner[i] = get_be32(out + 4 * i);
    for (uint32_t r = 1; r < rounds; r++) {
        memcpy(outer, keyed->inner.h, sizeof sum);
        sha256_words(outer, inner);
        memcpy(inner, keyed->outer.h, sizeof sum);
        sha256_words(inner, outer);
        for (int i = 0; i < 8; i++)
            sum[i] ^= inner[i];
    }
    for (int i = 0; i < 8; i++)
        put_be32(out + 4 * i, sum[i]);
    wipe(&m, sizeof m);
}

void
pbkdf2(struct str password, struct str salt, uint32_t rounds, uint8_t *out, size_t n)
{
    struct hmac256 keyed;
    uint8_t block[32];

    hmac256_init(&keyed, password.p, password.n);
    for (uint32_t number = 1; n > 0; number++) {
        size_t take = n < sizeof block ? n : sizeof block;
        pbkdf2_block(&keyed, salt, rounds, number, block);
        memcpy(out, block, take);
        out += take;
        n -= take;
    }
    wipe(&keyed, sizeof keyed);
    wipe(block, sizeof block);
}

void
wipe(void *p, size_t n)
{
    volatile uint8_t *at = p;

    while (n-- > 0)
        *at++ = 0;
}

/* === base64 (RFC 4648 section 4) ============================================================== */

size_t
base64_encode(char *dst, const void *p, size_t n)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *s = p;
    char *at = dst;

    for (; n > 0; s += 3) {
        size_t take = n < 3 ? n : 3;
        uint32_t v = (uint32_t)s[0] << 16;
        if (take > 1)
            v |= (uint32_t)s[1] << 8;
        if (take > 2)
            v |= s[2];
        *at++ = digits[v >> 18];
        *at++ = digits[v >> 12 & 63];
        *at++ = take > 1 ? digits[v >> 6 & 63] : '=';
        *at++ = take > 2 ? digits[v & 63] : '=';
        n -= take;
    }
    return (size_t)(at - dst);
}

static int
base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Bits behind the last byte need not be zero (section 3.5 leaves it open): the example key of RFC
 * 6455 section 4.1 has some. */
ptrdiff_t
base64_decode(void *dst, const char *p, size_t n)
{
    uint8_t *at = dst;

    if (n % 4 != 0)
        return -1;
    for (size_t i = 0; i < n; i += 4) {
        int digits = 4;
        uint32_t v = 0;
        if (i + 4 == n && p[i + 3] == '=')
            digits = p[i + 2] == '=' ? 2 : 3;
        for (int k = 0; k < 4; k++) {
            int digit = k < digits ? base64_value(p[i + (size_t)k]) : 0;
            if (digit < 0)
                return -1;
            v = v << 6 | (uint32_t)digit;
        }
        for (int k = 0; k < digits - 1; k++)
            *at++ = (uint8_t)(v >> (16 - 8 * k));
    }
    return at - (uint8_t *)dst;
}

size_t
base64url_encode(char *dst, const void *p, size_t n)
{
    size_t len = base64_encode(dst, p, n);

    while (len > 0 && dst[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++)
        dst[i] = dst[i] == '+' ? '-' : dst[i] == '/' ? '_' : dst[i];
    return len;
}

ptrdiff_t
base64url_decode(void *dst, const char *p, size_t n)
{
    uint8_t *at = dst;
    uint32_t bits = 0;
    int have = 0;

    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        int digit = c == '-' ? 62 : c == '_' ? 63 : c == '+' || c == '/' ? -1 : base64_value(c);
        if (digit < 0)
            return -1;
        bits = bits << 6 | (uint32_t)digit;
        have += 6;
        if (have >= 8) {
            have -= 8;
            *at++ = (uint8_t)(bits >> have);
        }
    }
    if (n % 4 == 1 || (bits & ((1u << have) - 1)) != 0)
        return -1;
    return at - (uint8_t *)dst;
}

/* === CRC-32C (RFC 3720 appendix B.4) ========================================================== */

/* Where the processor has an instruction for it, that is several times as fast as any table. One of
 * x86-64 has to be asked whether it does; for ARM the compiler knows. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#define CRC_WORD(crc, word) __builtin_ia32_crc32di((crc), (word))
#define CRC_BYTE(crc, byte) __builtin_ia32_crc32qi((uint32_t)(crc), (byte))
#if defined(__clang__) && __clang_major__ >= 14 /* which took it out of SSE 4.2 */
#define CRC_TARGET __attribute__((target("crc32")))
#else
#define CRC_TARGET __attribute__((target("sse4.2")))
#endif
static bool
crc_here(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_SSE4_2) != 0;
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32) && defined(__GNUC__)
#include <arm_acle.h>
#define CRC_WORD(crc, word) __crc32cd((uint32_t)(crc), (word))
#define CRC_BYTE(crc, byte) __crc32cb((uint32_t)(crc), (byte))
#define CRC_TARGET
static bool
crc_here(void)
{
    return true;
}
#endif

#ifdef CRC_WORD
CRC_TARGET static uint32_t
crc_by_instruction(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t c = crc, word;

    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8); /* both are little-endian, as the bits of the instruction are */
        c = CRC_WORD(c, word);
    }
    for (; n > 0; n--)
        c = CRC_BYTE(c, *p++);
    return (uint32_t)c;
}
#endif

/* Slicing by eight: t[k][b] is what byte b adds when k more bytes follow it, so that eight bytes
 * take eight independent look-ups instead of a chain of eight. */
void
crc32c_init(struct crc32c *c)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;
        for (int bit = 0; bit < 8; bit++)
            v = v >> 1 ^ (v & 1 ? 0x82f63b78 : 0); /* the Castagnoli polynomial, bits reversed */
        c->t[0][i] = v;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++)
            c->t[k][i] = c->t[k - 1][i] >> 8 ^ c->t[0][c->t[k - 1][i] & 0xff];
#ifdef CRC_WORD
    c->instruction = crc_here();
#else
    c->instruction = false;
#endif
}

/* Little-endian whatever the machine is; compilers make one load of it. */
static uint32_t
get32_le(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint32_t
crc32c_add(const struct crc32c *c, uint32_t crc, const void *p, size_t n)
{
    const uint8_t *s = p;

    crc = ~crc;
#ifdef CRC_WORD
    if (c->instruction)
        return ~crc_by_instruction(crc, s, n);
#endif
    for (; n >= 8; n -= 8, s += 8) {
        uint32_t a = crc ^ get32_le(s), b = get32_le(s + 4);
        crc = c->t[7][a & 0xff] ^ c->t[6][a >> 8 & 0xff] ^ c->t[5][a >> 16 & 0xff]
            ^ c->t[4][a >> 24] ^ c->t[3][b & 0xff] ^ c->t[2][b >> 8 & 0xff]
            ^ c->t[1][b >> 16 & 0xff] ^ c->t[0][b >> 24];
    }
    for (; n > 0; n--)
        crc = crc >> 8 ^ c->t[0][(crc ^ *s++) & 0xff];
    return ~crc;
}
