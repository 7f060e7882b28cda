/* SPDX-License-Identifier: MIT */
/*
 * hash.c - digests and base64: what the codecs, the store and the logins are made of. Pure
 * functions over bytes, as in codec.c, and proven by the vectors of their standards.
 */
#include "jim.h"

#include <string.h>

/* === SHA-1 (FIPS 180-4) ======================================================================= */

/* Only for the WebSocket handshake, which proves that both sides mean WebSocket and nothing else:
 * that SHA-1 is broken does not matter there. */

static uint32_t
rotate(uint32_t v, int bits)
{
    return v << bits | v >> (32 - bits);
}

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
    const uint8_t *at = p;

    while (n > 0) {
        size_t have = s->n % 64;
        size_t take = n < 64 - have ? n : 64 - have;
        memcpy(s->block + have, at, take);
        s->n += take;
        at += take;
        n -= take;
        if (have + take == 64)
            sha1_block(s->h, s->block);
    }
}

void
sha1_end(struct sha1 *s, uint8_t digest[20])
{
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = s->n * 8;
    uint8_t length[8];

    put_be32(length, (uint32_t)(bits >> 32));
    put_be32(length + 4, (uint32_t)bits);
    sha1_add(s, pad, 1 + (119 - s->n % 64) % 64); /* up to 8 bytes before a block's end */
    sha1_add(s, length, 8);
    for (int i = 0; i < 5; i++)
        put_be32(digest + 4 * i, s->h[i]);
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

/* === CRC-32C (RFC 3720 appendix B.4) ========================================================== */

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
