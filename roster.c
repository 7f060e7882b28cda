/* SPDX-License-Identifier: MIT */
/*
 * roster.c - who there is and who talks with whom: users, conversations and the memberships that
 * join the two. Pure memory: no connection, no store, no JSON. What it must not
 * forget its callers write into the log (record.c), which is replayed into it at start.
 *
 *   ids and keys  what may name a user or group, and how ids become keys of the log
 *   users         found by id, and listed
 *   conversations found by the log's key: a group, or a pair of users
 *   members       found by (user, group or peer), so that a message costs one look-up
 *   cursors       how far a member's user has got
 *   forgetting    only in a cluster, where Redis knows
 *   the whole
 *
 * A conversation keeps its online members in front of the offline ones. Presence moves a member
 * over the border by one swap, and a message walks the online part only. The list of all users who
 * have ever logged in is kept the same way.
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- ids and keys ----------------------------------------------------------------------------- */

bool
id_ok(struct str id)
{
    uint32_t state = 0;

    if (id.n > MAX_ID || str_trim(id).n == 0 || !utf8_check(&state, id.p, id.n) || state != 0)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        unsigned char c = (unsigned char)id.p[i];
        if (c < 0x20 || c == 0x7f)
            return false;
        /* U+0080 to U+009F are controls too */
        if (c == 0xc2 && (unsigned char)id.p[i + 1] < 0xa0)
            return false;
    }
    return true;
}

/*
 * In a key ':' parts the ids and a blank ends it, so both are escaped inside an id, and '%' itself:
 * the pairs (a:b, c) and (a, b:c) stay apart, and the log's lines can be cut at blanks.
 */
size_t
id_escape(char *dst, struct str id)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;

    for (size_t i = 0; i < id.n; i++) {
        unsigned char c = (unsigned char)id.p[i];
        if (c == ' ' || c == '%' || c == ':') {
            dst[n++] = '%';
            dst[n++] = hex[c >> 4];
            dst[n++] = hex[c & 15];
        } else {
            dst[n++] = (char)c;
        }
    }
    return n;
}

struct str
group_key(struct str id, char dst[MAX_CONV_KEY])
{
    memcpy(dst, "g:", 2);
    return (struct str){dst, 2 + id_escape(dst + 2, id)};
}

/* The same key whichever of the two is named first. */
struct str
pair_key(struct str a, struct str b, char dst[MAX_CONV_KEY])
{
    int order = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    bool swap = order > 0 || (order == 0 && a.n > b.n);
    size_t n = 2;

    memcpy(dst, "p:", 2);
    n += id_escape(dst + n, swap ? b : a);
    dst[n++] = ':';
    n += id_escape(dst + n, swap ? a : b);
    return (struct str){dst, n};
}

bool
id_unescape(struct str part, char dst[MAX_ID], struct str *id)
{
    char text[3 * MAX_ID];

    if (part.n > sizeof text)
        return false;
    ptrdiff_t n = url_decode(text, part, false);
    if (n <= 0 || n > MAX_ID)
        return false;
    memcpy(dst, text, (size_t)n);
    *id = (struct str){dst, (size_t)n};
    return id_ok(*id);
}

/* --- users ------------------------------------------------------------------------------------ */

struct str
user_id(const struct user *u)
{
    return (struct str){u->id, u->idlen};
}

static bool
user_is(const void *item, const void *key)
{
    return str_eq(user_id(item), *(const struct str *)key);
}

struct user *
user_find(struct roster *r, struct str id)
{
    return map_find(&r->users, map_hash(&r->users, id.p, id.n), user_is, &id);
}

struct user *
user_get(struct roster *r, struct str id)
{
    struct user *u = user_find(r, id);

    if (u != NULL)
        return u;
    assert(id.n > 0 && id.n <= MAX_ID);
    u = xcalloc(1, sizeof *u + id.n);
    u->hash = map_hash(&r->users, id.p, id.n);
    u->idlen = (uint8_t)id.n;
    memcpy(u->id, id.p, id.n);
    u->plain = json_is_plain(id.p, id.n);
    u->next = r->made_users;
    r->made_users = u;
    map_add(&r->users, u);
    return u;
}

static void
user_swap(struct roster *r, size_t a, size_t b)
{
    struct user *u = r->user[a];

    r->user[a] = r->user[b];
    r->user[b] = u;
    r->user[a]->place = (uint32_t)a;
    r->user[b]->place = (uint32_t)b;
}

void
user_know(struct roster *r, struct user *u)
{
    if (u->known)
        return;
    if (r->nusers == r->user_cap) {
        r->user_cap += r->user_cap / 2 + 16;
        r->user = xrealloc(r->user, r->user_cap * sizeof r->user[0]);
    }
    u->known = true;
    u->place = (uint32_t)r->nusers;
    r->user[r->nusers++] = u;
    if (u->nconns > 0) /* user_online() has counted him */
        user_swap(r, u->place, r->nonline - 1);
}

static void
user_free(struct user *u)
{
    while (u->members != NULL) {
        struct member *m = u->members;
        u->members = m->next_of_user;
        free(m);
    }
    profile_free(u);
    free(u);
}

/* --- conversations ---------------------------------------------------------------------------- */

static bool
conv_is(const void *item, const void *key)
{
    const struct conv *v = item;

    return str_eq((struct str){v->key, v->keylen}, *(const struct str *)key);
}

struct str
conv_key(const struct conv *v)
{
    return (struct str){v->key, v->keylen};
}

struct conv *
conv_find_key(struct roster *r, struct str key)
{
    return map_find(&r->convs, map_hash(&r->convs, key.p, key.n), conv_is, &key);
}

static struct conv *
conv_new(struct roster *r, struct str key)
{
    struct conv *v = xcalloc(1, sizeof *v + key.n);

    v->hash = map_hash(&r->convs, key.p, key.n);
    v->keylen = (uint32_t)key.n;
    memcpy(v->key, key.p, key.n);
    v->next = r->made_convs;
    r->made_convs = v;
    map_add(&r->convs, v);
    return v;
}

static void
conv_free(struct conv *v)
{
    store_index_free(&v->index);
    free(v->member);
    free(v->name);
    free(v->id);
    free(v);
}

struct conv *
group_find_any(struct roster *r, struct str id)
{
    char key[MAX_CONV_KEY];
    struct conv *v = conv_find_key(r, group_key(id, key));

    return v == NULL || (v->gone && !group_dismissed(v)) ? NULL : v;
}

struct conv *
group_find(struct roster *r, struct str id)
{
    struct conv *v = group_find_any(r, id);

    return v == NULL || v->gone ? NULL : v;
}

static void
group_list(struct roster *r, struct conv *v)
{
    if (r->ngroups == r->group_cap) {
        r->group_cap += r->group_cap / 2 + 16;
        r->group = xrealloc(r->group, r->group_cap * sizeof r->group[0]);
    }
    v->place = (uint32_t)r->ngroups;
    r->group[r->ngroups++] = v;
}

struct conv *
group_prepare(struct roster *r, struct str id)
{
    char text[MAX_CONV_KEY];
    struct str key = group_key(id, text);
    struct conv *v = conv_find_key(r, key);

    if (v == NULL) {
        v = conv_new(r, key);
        v->group = v->gone = true;
        v->id = xstrndup(id.p, id.n);
    }
    return v;
}

struct conv *
group_get(struct roster *r, struct str id)
{
    struct conv *v = group_prepare(r, id);

    if (!group_dismissed(v))
        group_revive(r, v);
    return v;
}

/* --- members ---------------------------------------------------------------------------------- */

/* What finds a member: the user, and the group or the other user by id. */
struct member_key {
    const struct user *user;
    bool group;
    struct str id;
};

/* The user's address and the id hashed together: no second look-up for user or conversation. */
static uint32_t
member_hash(const struct roster *r, const struct member_key *k)
{
    char text[sizeof k->user + 1 + MAX_ID];

    memcpy(text, &k->user, sizeof k->user);
    text[sizeof k->user] = (char)k->group;
    memcpy(text + sizeof k->user + 1, k->id.p, k->id.n);
    return map_hash(&r->members, text, sizeof k->user + 1 + k->id.n);
}

struct user *
member_peer(const struct member *m)
{
    const struct conv *v = m->conv;

    return v->nmembers < 2 ? m->user : v->member[v->member[0] == m ? 1 : 0]->user;
}

static bool
member_is(const void *item, const void *key)
{
    const struct member *m = item;
    const struct member_key *k = key;

    if (m->user != k->user || m->conv->group != k->group)
        return false;
    return str_eq(k->group ? str_of(m->conv->id) : user_id(member_peer(m)), k->id);
}

bool
member_is_in(const struct member *m, const struct user *u, struct str group)
{
    return m != NULL && !m->left && member_is(m, &(struct member_key){u, true, group});
}

bool
member_is_with(const struct member *m, const struct user *u, struct str peer)
{
    return m != NULL && member_is(m, &(struct member_key){u, false, peer});
}

static struct member *
member_find(struct roster *r, const struct member_key *k)
{
    if (k->id.n == 0 || k->id.n > MAX_ID)
        return NULL;
    return map_find(&r->members, member_hash(r, k), member_is, k);
}

struct member *
member_in_group(struct roster *r, struct user *u, struct str group)
{
    struct member *m = member_find(r, &(struct member_key){u, true, group});

    return m == NULL || m->left ? NULL : m;
}

struct member *
member_with(struct roster *r, struct user *u, struct str peer)
{
    return member_find(r, &(struct member_key){u, false, peer});
}

static void
place_swap(struct conv *v, uint32_t a, uint32_t b)
{
    struct member *m = v->member[a];

    v->member[a] = v->member[b];
    v->member[b] = m;
    v->member[a]->place = a;
    v->member[b]->place = b;
}

static void
place_online(struct member *m, bool online)
{
    struct conv *v = m->conv;

    if (online && m->place >= v->nonline) {
        place_swap(v, m->place, v->nonline++);
        m->fanned = (uint32_t)v->durable;
    } else if (!online && m->place < v->nonline) {
        place_swap(v, m->place, --v->nonline);
    }
}

static void
place_add(struct member *m)
{
    struct conv *v = m->conv;

    if (v->nmembers == v->cap) {
        v->cap = v->cap == 0 ? 2 : v->cap + v->cap / 2 + 1;
        v->member = xrealloc(v->member, v->cap * sizeof v->member[0]);
    }
    m->place = v->nmembers;
    v->member[v->nmembers++] = m;
    m->user->joined += v->group;
    if (v->group && m->user->nconns > 0)
        place_online(m, true);
}

struct member *
member_of(struct roster *r, struct user *u, struct conv *v)
{
    if (v->group)
        return member_find(r, &(struct member_key){u, true, str_of(v->id)});
    return member_of_pair(v, u);
}

static struct member *
member_new(struct user *u, struct conv *v)
{
    struct member *m = xcalloc(1, sizeof *m);

    m->user = u;
    m->conv = v;
    v->refs++;
    m->next_of_user = u->members;
    u->members = m;
    place_add(m);
    return m;
}

static void
member_file(struct roster *r, struct member *m)
{
    struct member_key k = {m->user, m->conv->group,
                           m->conv->group ? str_of(m->conv->id) : user_id(member_peer(m))};

    m->hash = member_hash(r, &k);
    map_add(&r->members, m);
}

struct conv *
pair_get(struct roster *r, struct user *a, struct user *b)
{
    char text[MAX_CONV_KEY];
    struct str key = pair_key(user_id(a), user_id(b), text);
    struct conv *v = conv_find_key(r, key);

    if (v == NULL) {
        v = conv_new(r, key);
        struct member *first = member_new(a, v), *second = b == a ? NULL : member_new(b, v);
        /* Each is filed under the other's id, so only when both are there. */
        member_file(r, first);
        if (second != NULL)
            member_file(r, second);
    }
    return v;
}

struct conv *
conv_get_key(struct roster *r, struct str key)
{
    struct conv *v = conv_find_key(r, key);
    char a[MAX_ID], b[MAX_ID];
    struct str first, second, rest = key;

    if (v != NULL || !str_split(&rest, ':', &first) || first.n != 1)
        return v;
    if (first.p[0] == 'g' && rest.p != NULL && id_unescape(rest, a, &first))
        return group_get(r, first);
    if (first.p[0] == 'p' && str_split(&rest, ':', &second) && rest.p != NULL &&
        id_unescape(second, a, &first) && id_unescape(rest, b, &second))
        return pair_get(r, user_get(r, first), user_get(r, second));
    return NULL;
}

struct member *
member_add(struct roster *r, struct user *u, struct conv *v)
{
    struct member *m = member_of(r, u, v);

    assert(v->group);
    if (m != NULL && !m->left)
        return m;
    if (m == NULL) {
        m = member_new(u, v);
        member_file(r, m);
    } else {
        m->left = false;
        place_add(m);
    }
    m->cursor = v->durable; /* not v->seq: what is on its way may be lost, and numbered anew */
    m->live_lo = m->live_hi = 0;
    return m;
}

void
member_leave(struct member *m)
{
    struct conv *v = m->conv;

    assert(v->group && !m->left);
    place_online(m, false);
    place_swap(v, m->place, v->nmembers - 1);
    v->nmembers--;
    m->user->joined--;
    m->left = true;
}

static void
group_empty(struct conv *v)
{
    while (v->nmembers > 0)
        member_leave(v->member[v->nmembers - 1]);
    free(v->member);
    v->member = NULL;
    v->cap = 0;
}

void
group_enter_life(struct conv *v, uint32_t life)
{
    if (life <= v->life)
        return;
    group_empty(v);
    v->life = life;
}

void
group_bury(struct roster *r, struct conv *v)
{
    assert(v->group);
    if (v->gone)
        return;
    group_empty(v);
    v->gone = true;
    r->group[v->place] = r->group[--r->ngroups];
    r->group[v->place]->place = v->place;
}

void
group_revive(struct roster *r, struct conv *v)
{
    if (!v->gone)
        return;
    v->gone = false;
    group_list(r, v);
}

void
user_online(struct roster *r, struct user *u, bool online)
{
    size_t border = online ? r->nonline++ : --r->nonline;

    if (u->known)
        user_swap(r, u->place, border);
    for (struct member *m = u->members; m != NULL; m = m->next_of_user)
        if (m->conv->group && !m->left)
            place_online(m, online);
}

/* --- cursors ---------------------------------------------------------------------------------- */

static void
member_touch(struct roster *r, struct member *m)
{
    if (m->dirty)
        return;
    m->dirty = true;
    m->next_dirty = r->dirty;
    r->dirty = m;
}

/* The range that came live joins the cursor as soon as nothing is missing between them. */
static void
member_merge(struct member *m)
{
    if (m->live_hi == 0 || m->live_lo > m->cursor + 1)
        return;
    if (m->live_hi > m->cursor)
        m->cursor = m->live_hi;
    m->live_lo = m->live_hi = 0;
}

void
member_delivered_range(struct roster *r, struct member *m, uint64_t first, uint64_t last)
{
    if (last <= m->cursor || (first >= m->live_lo && last <= m->live_hi))
        return;
    if (first <= m->cursor + 1) {
        m->cursor = last;
    } else if (m->live_hi != 0 && first >= m->live_lo && first <= m->live_hi + 1) {
        m->live_hi = last;
    } else {
        /* Only one range is kept. Dropping the older one costs a second delivery, never a loss. */
        m->live_lo = first;
        m->live_hi = last;
    }
    member_merge(m);
    member_touch(r, m);
}

void
member_delivered(struct roster *r, struct member *m, uint64_t seq)
{
    member_delivered_range(r, m, seq, seq);
}

void
member_delivered_upto(struct roster *r, struct member *m, uint64_t seq)
{
    if (seq <= m->cursor)
        return;
    m->cursor = seq;
    member_merge(m);
    member_touch(r, m);
}

uint64_t
member_next_missing(const struct member *m, uint64_t seq)
{
    if (seq < m->cursor)
        seq = m->cursor;
    seq++;
    if (seq >= m->live_lo && seq <= m->live_hi)
        seq = m->live_hi + 1;
    return seq <= m->conv->durable ? seq : 0;
}

/* --- forgetting ------------------------------------------------------------------------------- */

bool
user_is_online(const struct user *u)
{
    return u->nconns > 0 || u->elsewhere != PROTO_NONE;
}

static bool
user_idle(const struct user *u)
{
    return u->nconns == 0 && u->pins == 0;
}

static void
member_drop(struct roster *r, struct member *m)
{
    struct member **at = &m->user->members, **dirty = &r->dirty;

    while (*at != m)
        at = &(*at)->next_of_user;
    *at = m->next_of_user;
    if (m->dirty) {
        while (*dirty != m)
            dirty = &(*dirty)->next_dirty;
        *dirty = m->next_dirty;
    }
    if (!m->left) {
        struct conv *v = m->conv;
        place_online(m, false);
        place_swap(v, m->place, v->nmembers - 1);
        v->nmembers--;
        m->user->joined -= v->group;
    }
    m->conv->refs--;
    map_remove(&r->members, m);
    free(m);
}

/* Both places of a pair go together: each is filed under the other's id. */
static bool
pair_drop(struct roster *r, struct conv *v)
{
    for (uint32_t i = 0; i < v->nmembers; i++)
        if (!user_idle(v->member[i]->user) || v->member[i]->dirty)
            return false;
    while (v->nmembers > 0)
        member_drop(r, v->member[v->nmembers - 1]);
    return true;
}

static void
user_drop_groups(struct roster *r, struct user *u)
{
    for (struct member *m = u->members, *next; m != NULL; m = next) {
        next = m->next_of_user;
        if (m->conv->group && !m->dirty)
            member_drop(r, m);
    }
}

/* The place of a group in the list of all. */
static void
group_unlist(struct roster *r, struct conv *v)
{
    if (v->gone)
        return;
    r->group[v->place] = r->group[--r->ngroups];
    r->group[v->place]->place = v->place;
}

static void
sweep_conv(struct roster *r, void (*gone)(struct conv *v))
{
    struct conv *v = *r->sweep_conv;
    bool free_now = v->pins == 0 && v->waves == 0 && (v->group ? v->refs == 0 : pair_drop(r, v));

    if (!free_now) {
        r->sweep_conv = &v->next;
        return;
    }
    *r->sweep_conv = v->next;
    if (v->group)
        group_unlist(r, v);
    gone(v);
    map_remove(&r->convs, v);
    conv_free(v);
}

static void
sweep_user(struct roster *r)
{
    struct user *u = *r->sweep_user;

    if (user_idle(u))
        user_drop_groups(r, u);
    if (!user_idle(u) || u->members != NULL || u->known) {
        r->sweep_user = &u->next;
        return;
    }
    *r->sweep_user = u->next;
    map_remove(&r->users, u);
    user_free(u);
}

bool
roster_sweep(struct roster *r, size_t max, void (*gone)(struct conv *v))
{
    if (r->sweep_user == NULL) {
        r->sweep_user = &r->made_users;
        r->sweep_conv = &r->made_convs;
    }
    for (; max > 0; max--)
        if (*r->sweep_user != NULL) {
            sweep_user(r);
        } else if (*r->sweep_conv != NULL) {
            sweep_conv(r, gone);
        } else {
            r->sweep_user = NULL;
            return false;
        }
    return true;
}

/* --- the whole -------------------------------------------------------------------------------- */

void
roster_init(struct roster *r)
{
    *r = (struct roster){0};
    map_init(&r->users);
    map_init(&r->convs);
    map_init(&r->members);
}

void
roster_free(struct roster *r)
{
    size_t at = 0;
    void *item;

    while ((item = map_next(&r->users, &at)) != NULL)
        user_free(item);
    for (at = 0; (item = map_next(&r->convs, &at)) != NULL;)
        conv_free(item);
    map_free(&r->users);
    map_free(&r->convs);
    map_free(&r->members);
    free(r->user);
    free(r->group);
}
