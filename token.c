/* SPDX-License-Identifier: MIT */
/*
 * token.c - login tokens: JSON Web Tokens (RFC 7519) in compact form (RFC 7515), signed with
 * HMAC-SHA-256. The signature is checked before anything else is believed or even parsed, and there
 * is one algorithm: a token does not choose how it is checked (RFC 8725 section 3.1).
 *
 *   members    of header and payload, by exact name, and never twice
 *   checking   signature, header, claims
 *   making
 */
#include "jim.h"

/* --- members ---------------------------------------------------------------------------------- */

#define MAX_NAME 8 /* bytes of the longest name we look for, and one more */

/* How often an object has a member of this name, which may be written with escapes; *out: the last.
 * -1: it is no JSON object. */
static int
member(struct str json, const char *name, struct json *out)
{
    struct json_iter it;
    struct json key, value;
    char text[6 * MAX_NAME];
    int count = 0, more;

    *out = (struct json){0};
    if (json_open(&it, json.p, json.n) != 0 || it.close != '}')
        return -1;
    while ((more = json_next(&it, &key, &value)) > 0) {
        size_t n = key.n <= sizeof text ? json_text(&key, text) : 0;
        if (!str_eq((struct str){text, n}, str_of(name)))
            continue;
        *out = value;
        count++;
    }
    return more < 0 ? -1 : count;
}

/* --- checking --------------------------------------------------------------------------------- */

static const char *
check_header(struct str json)
{
    struct json alg, crit;
    char text[6 * MAX_NAME]; /* every byte may have come as \u00xx */

    if (member(json, "alg", &alg) != 1 || alg.type != JSON_STRING || alg.n > sizeof text)
        return "its alg is not HS256";
    size_t n = json_text(&alg, text);
    if (!str_eq((struct str){text, n}, STR("HS256")))
        return "its alg is not HS256";
    /* RFC 7515 section 4.1.11: who does not know what is critical must refuse. */
    return member(json, "crit", &crit) == 0 ? NULL : "it has critical header members";
}

/* A NumericDate (RFC 7519 section 2): 1 and *s, 0 when absent, -1 when it is none. */
static int
take_date(struct str json, const char *name, int64_t *s)
{
    struct json v;
    int count = member(json, name, &v);

    if (count == 0)
        return 0;
    return count == 1 && v.type == JSON_NUMBER && json_int(&v, s) > 0 ? 1 : -1;
}

static const char *
check_claims(struct str json, int64_t now_s, char id_text[MAX_ID], struct str *id)
{
    static const char *const once[] = {"nick", "avatar", "groups", "friends", "sign", "extras"};
    struct json sub, v;
    int64_t exp, nbf = INT64_MIN;

    if (member(json, "sub", &sub) != 1 || sub.type != JSON_STRING || !value_id(&sub, id_text, id))
        return "its sub is no userId";
    if (take_date(json, "exp", &exp) != 1)
        return "it has no exp";
    if (take_date(json, "nbf", &nbf) < 0)
        return "its nbf is no date";
    if (now_s >= exp)
        return "it has expired";
    if (now_s < nbf)
        return "it is not valid yet";
    for (size_t i = 0; i < sizeof once / sizeof once[0]; i++)
        if (member(json, once[i], &v) > 1)
            return "it has a member twice";
    return profile_check(json);
}

/* The dots' places: three parts, none empty. */
static bool
split(struct str token, struct str part[3])
{
    for (int i = 0; i < 3; i++)
        if (!str_split(&token, '.', &part[i]) || part[i].n == 0)
            return false;
    return token.p == NULL;
}

static void
sign(uint8_t mac[32], struct str secret, struct str text)
{
    struct hmac256 m;

    hmac256_init(&m, secret.p, secret.n);
    hmac256_add(&m, text.p, text.n);
    hmac256_end(&m, mac);
    wipe(&m, sizeof m);
}

const char *
token_check(struct str token, struct str secret, int64_t now_s, struct buf *claims,
            char id_text[MAX_ID], struct str *id)
{
    struct str part[3];
    uint8_t mac[32], shown[48];
    char header[MAX_TOKEN];

    if (token.n > MAX_TOKEN || !split(token, part))
        return "it is no signed token";
    if (part[2].n > sizeof shown ||
        base64url_decode(shown, part[2].p, part[2].n) != (ptrdiff_t)sizeof mac)
        return "its signature is none";
    sign(mac, secret, (struct str){token.p, part[0].n + 1 + part[1].n});
    if (!str_eq_secret((struct str){(const char *)mac, sizeof mac},
                       (struct str){(const char *)shown, sizeof mac}))
        return "its signature is wrong";
    ptrdiff_t n = base64url_decode(header, part[0].p, part[0].n);
    if (n < 0)
        return "its header is not base64url";
    const char *why = check_header((struct str){header, (size_t)n});
    if (why != NULL)
        return why;
    claims->len = 0;
    buf_reserve(claims, part[1].n);
    n = base64url_decode(claims->p, part[1].p, part[1].n);
    if (n < 0)
        return "its payload is not base64url";
    claims->len = (size_t)n;
    return check_claims((struct str){claims->p, claims->len}, now_s, id_text, id);
}

/* --- making ----------------------------------------------------------------------------------- */

static void
put_part(struct buf *out, const void *p, size_t n)
{
    buf_reserve(out, 4 * ((n + 2) / 3));
    out->len += base64url_encode(out->p + out->len, p, n);
}

void
token_make(struct buf *out, struct str secret, struct str claims)
{
    static const char header[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";
    size_t start = out->len;
    uint8_t mac[32];

    put_part(out, header, sizeof header - 1);
    buf_add(out, ".", 1);
    put_part(out, claims.p, claims.n);
    sign(mac, secret, (struct str){out->p + start, out->len - start});
    buf_add(out, ".", 1);
    put_part(out, mac, sizeof mac);
}
