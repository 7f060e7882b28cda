/* SPDX-License-Identifier: MIT */
/*
 * users.c - the users file of jim.auth=file: read as a whole, then looked up. It has a JSON object
 * a line, and may have blank lines and comments that begin with '#':
 *
 *     {"userId":"ann","password":"pbkdf2-sha256$200000$SALT$HASH","nick":"Ann",
 *      "groups":["100",{"groupId":"200","name":"Team"}],
 *      "friends":[{"groupId":"1","name":"Family","users":["bob"]}]}     (in one line)
 *
 * Logs nothing and keeps nothing beside what it returns: it may run in a thread.
 *
 *   passwords   what proves one
 *   lines       one user each
 *   the file    a map of them
 */
#include "jim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- passwords -------------------------------------------------------------------------------- */

/*
 * Why 200,000 rounds: a tenth of a second of one core of 2026, which is what we can take from a
 * server that shares its cores with the chat and may have to check all its users after a restart;
 * and for who has stolen the file, eight guesses a second and core. What a graphics card does to
 * PBKDF2 no number of rounds undoes: a good password does. `jim passwd -i` takes another number.
 */
_Static_assert(PASSWORD_ROUNDS <= MAX_ROUNDS, "a new password can be checked");

#define SCHEME "pbkdf2-sha256$"
#define NEW_SALT 16 /* bytes: RFC 8018 section 4.1 asks for 8 */
#define MIN_SALT 8

void
verifier_make(struct verifier *v, struct str password, uint32_t rounds)
{
    *v = (struct verifier){.rounds = rounds, .salt_len = NEW_SALT};
    random_bytes(v->salt, v->salt_len);
    pbkdf2(password, (struct str){(const char *)v->salt, v->salt_len}, rounds, v->hash,
           sizeof v->hash);
}

bool
verifier_is(const struct verifier *v, struct str password)
{
    uint8_t hash[32];

    pbkdf2(password, (struct str){(const char *)v->salt, v->salt_len}, v->rounds, hash,
           sizeof hash);
    bool same = str_eq_secret((struct str){(const char *)hash, sizeof hash},
                              (struct str){(const char *)v->hash, sizeof v->hash});
    wipe(hash, sizeof hash);
    return same;
}

void
verifier_put(struct buf *b, const struct verifier *v)
{
    char text[4 * (sizeof v->salt + 2) / 3 + 4];

    buf_printf(b, SCHEME "%u$", (unsigned)v->rounds);
    buf_add(b, text, base64_encode(text, v->salt, v->salt_len));
    buf_add(b, "$", 1);
    buf_add(b, text, base64_encode(text, v->hash, sizeof v->hash));
}

/* One base64 field into dst; -1 when it is none or longer. */
static ptrdiff_t
take_bytes(uint8_t *dst, size_t room, struct str text)
{
    uint8_t bytes[96];

    if (text.n / 4 * 3 > sizeof bytes)
        return -1;
    ptrdiff_t n = base64_decode(bytes, text.p, text.n);
    if (n < 0 || (size_t)n > room)
        return -1;
    memcpy(dst, bytes, (size_t)n);
    return n;
}

bool
verifier_parse(struct verifier *v, struct str text)
{
    struct str scheme = STR(SCHEME), rounds, salt;

    *v = (struct verifier){0};
    if (text.n < scheme.n || memcmp(text.p, scheme.p, scheme.n) != 0)
        return false;
    text.p += scheme.n;
    text.n -= scheme.n;
    if (!str_split(&text, '$', &rounds) || !str_split(&text, '$', &salt) || text.p == NULL ||
        rounds.n == 0 || rounds.n > 7)
        return false;
    for (size_t i = 0; i < rounds.n; i++) {
        if (rounds.p[i] < '0' || rounds.p[i] > '9')
            return false;
        v->rounds = 10 * v->rounds + (uint32_t)(rounds.p[i] - '0');
    }
    ptrdiff_t n = take_bytes(v->salt, sizeof v->salt, salt);
    v->salt_len = n > 0 ? (uint8_t)n : 0;
    return v->rounds >= 1 && v->rounds <= MAX_ROUNDS && v->salt_len >= MIN_SALT &&
           take_bytes(v->hash, sizeof v->hash, text) == sizeof v->hash;
}

/* --- lines ------------------------------------------------------------------------------------ */

struct entry {
    uint32_t hash;
    uint8_t idlen;
    struct verifier verifier;
    size_t json_len;
    char id[MAX_ID];
    char json[]; /* the members beside userId and password */
};

static bool
is_blank_line(struct str line)
{
    return line.n == 0 || line.p[0] == '#';
}

bool
users_line(struct str line, char id_text[MAX_ID], struct str *id)
{
    struct json_iter it;
    struct json key, value, found = {0};
    int more;

    line = str_trim(line);
    if (is_blank_line(line) || json_open(&it, line.p, line.n) != 0 || it.close != '}')
        return false;
    while ((more = json_next(&it, &key, &value)) > 0)
        if (name_is(&key, "userid"))
            found = value;
    return more == 0 && value_id(&found, id_text, id);
}

static const char *
parse_password(const struct json *value, struct verifier *v)
{
    char text[512];

    size_t n = value->type == JSON_STRING && value->n <= sizeof text ? json_text(value, text) : 0;
    return verifier_parse(v, (struct str){text, n})
               ? NULL : "the password is not one that `jim passwd` has made";
}

/* A line into e, and its other members into json. NULL, or what is wrong. */
static const char *
parse_line(struct str line, struct entry *e, struct buf *json)
{
    struct json_iter it;
    struct json key, value;
    struct str id;
    unsigned ids = 0, passwords = 0;
    const char *why = profile_check(line);

    json->len = 0;
    buf_add(json, "{", 1);
    if (why != NULL)
        return why;
    json_open(&it, line.p, line.n);
    while (why == NULL && json_next(&it, &key, &value) > 0) {
        if (name_is(&key, "userid")) {
            ids++;
            if (!value_id(&value, e->id, &id))
                return "the userId cannot be one";
            e->idlen = (uint8_t)id.n;
        } else if (name_is(&key, "password")) {
            passwords++;
            why = parse_password(&value, &e->verifier);
        } else {
            json_put_comma(json);
            json_put_value(json, &key);
            buf_add(json, ":", 1);
            json_put_value(json, &value);
        }
    }
    buf_add(json, "}", 1);
    if (why == NULL && (ids != 1 || passwords != 1))
        why = ids != 1 ? "there has to be one userId" : "there has to be one password";
    return why;
}

/* --- the file --------------------------------------------------------------------------------- */

struct users {
    struct map map;        /* owned, with its entries */
    struct entry **entry;  /* owned: the same in the file's order */
    size_t n, cap;
};

static bool
entry_is(const void *item, const void *key)
{
    const struct entry *e = item;

    return str_eq((struct str){e->id, e->idlen}, *(const struct str *)key);
}

static struct entry *
entry_find(const struct users *u, struct str id)
{
    return map_find(&u->map, map_hash(&u->map, id.p, id.n), entry_is, &id);
}

static const char *
users_add(struct users *u, struct str line, struct buf *json)
{
    struct entry head = {0}, *e;
    const char *why = parse_line(line, &head, json);

    if (why != NULL)
        return why;
    struct str id = {head.id, head.idlen};
    if (entry_find(u, id) != NULL)
        return "this userId stands in the file twice";
    e = xmalloc(sizeof *e + json->len);
    *e = head;
    e->hash = map_hash(&u->map, id.p, id.n);
    e->json_len = json->len;
    memcpy(e->json, json->p, json->len);
    map_add(&u->map, e);
    GROW(u->entry, u->n, u->cap, 64);
    u->entry[u->n++] = e;
    return NULL;
}

struct users *
users_load(const char *file, char *err, size_t errsize)
{
    struct users *u;
    struct buf json = {0};
    char *line = NULL;
    const char *why = NULL;
    size_t cap = 0;
    ssize_t n = 0;
    FILE *f = fopen(file, "r");

    if (f == NULL) {
        snprintf(err, errsize, "%s: %s", file, strerror(errno));
        return NULL;
    }
    u = xcalloc(1, sizeof *u);
    map_init(&u->map);
    for (int number = 1; why == NULL && (n = getline(&line, &cap, f)) > 0; number++) {
        struct str text = str_trim((struct str){line, (size_t)n});
        if (!is_blank_line(text) && (why = users_add(u, text, &json)) != NULL)
            snprintf(err, errsize, "%s:%d: %s", file, number, why);
    }
    if (why == NULL && ferror(f)) {
        why = strerror(errno);
        snprintf(err, errsize, "%s: %s", file, why);
    }
    fclose(f);
    free(line);
    buf_free(&json);
    if (why == NULL)
        return u;
    users_free(u);
    return NULL;
}

void
users_free(struct users *u)
{
    if (u == NULL)
        return;
    for (size_t i = 0; i < u->n; i++)
        free(u->entry[i]);
    free(u->entry);
    map_free(&u->map);
    free(u);
}

size_t
users_count(const struct users *u)
{
    return u->n;
}

bool
users_find(const struct users *u, struct str id, struct verifier *v, struct str *json)
{
    const struct entry *e = entry_find(u, id);

    if (e == NULL)
        return false;
    *v = e->verifier;
    *json = (struct str){e->json, e->json_len};
    return true;
}

void
users_decoy(const struct users *u, struct str id, struct verifier *v)
{
    *v = (struct verifier){.rounds = PASSWORD_ROUNDS, .salt_len = NEW_SALT};
    if (u->n > 0)
        *v = u->entry[map_hash(&u->map, id.p, id.n) % u->n]->verifier;
}
