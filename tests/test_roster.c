/* SPDX-License-Identifier: MIT */
/*
 * test_roster.c - users, conversations, memberships and cursors.
 *
 *   ids and keys   what may be an id, and that no two conversations share a key
 *   members        found by group and by peer
 *   online part    100,000 random comings and goings against arrays of flags
 *   cursors        every order of delivery of up to six messages, then long random ones: what was
 *                  not delivered must never count as delivered
 *   slow readers   what they are behind with
 */
#include "test.h"

/* --- ids and keys ---------------------------------------------------------------------------- */

static bool
ok(const char *p, size_t n)
{
    return id_ok((struct str){test_edge(p, n), n});
}

TEST(roster_ids)
{
    static const char *const good[] = {
        "a", "0", " a ", "%", ":", "a b:c%d", "\"\\", "朋友", "\xc2\xa0", "\xc2\xbf",
        "\xf0\x9f\x98\x80", "\xef\xbf\xbf", "\xe2\x80\xa8", "-", "*?[", "../..", "<script>",
    };
    static const char *const bad[] = {
        "", " ", "   ", "\x01", "a\nb", "\t", "a\x1f", "\x7f", "a\x7f", "\xc2\x80", "x\xc2\x85y",
        "\xc2\x9f",
        "\x80", "\xff", "a\xc2", "\xe6\x9c", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80",
        "\xf4\x90\x80\x80", "\xf0\x9f\x98", "\xfe",
    };
    char text[65];

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (!ok(good[i], strlen(good[i])))
            test_fail(__FILE__, __LINE__, "'%s' is refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (ok(bad[i], strlen(bad[i])))
            test_fail(__FILE__, __LINE__, "bad id %zu is accepted", i);
    CHECK(!ok("a\0b", 3) && !ok("\0", 1));
    CHECK(!id_ok((struct str){NULL, 0}));
    memset(text, 'x', sizeof text);
    CHECK(ok(text, 64) && !ok(text, 65));
    memcpy(text + 61, "\xe4\xb8\xad", 3);
    CHECK(ok(text, 64) && !ok(text, 63) && !ok(text, 62) && ok(text, 61));
    for (int c = 0; c < 0x20; c++) {
        char one = (char)c;
        CHECK(!ok(&one, 1));
    }
}

static struct str
key_of(const struct conv *v)
{
    return (struct str){v->key, v->keylen};
}

static struct conv *
pair(struct roster *r, const char *a, const char *b)
{
    return pair_get(r, user_get(r, str_of(a)), user_get(r, str_of(b)));
}

TEST(roster_keys)
{
    struct roster r;

    roster_init(&r);
    CHECK_STR(key_of(group_get(&r, STR("100"))), "g:100");
    CHECK_STR(key_of(group_get(&r, STR("a b%c:d"))), "g:a%20b%25c%3Ad");
    CHECK_STR(key_of(group_get(&r, STR("朋友"))), "g:朋友");
    CHECK_STR(key_of(pair(&r, "u1", "u2")), "p:u1:u2");
    CHECK_STR(key_of(pair(&r, "u2", "u1")), "p:u1:u2");
    CHECK_STR(key_of(pair(&r, "a:b", "c")), "p:a%3Ab:c");
    CHECK_STR(key_of(pair(&r, "a", "b:c")), "p:a:b%3Ac");
    CHECK_STR(key_of(pair(&r, "me", "me")), "p:me:me");
    CHECK_STR(key_of(pair(&r, "ab", "a")), "p:a:ab");
    CHECK(pair(&r, "a", "b") == pair(&r, "b", "a"));
    CHECK(pair(&r, "a:b", "c") != pair(&r, "a", "b:c"));
    CHECK(pair(&r, "a%3Ab", "c") != pair(&r, "a:b", "c"));
    CHECK(pair(&r, "a", "a") != pair(&r, "a", "b"));
    CHECK(group_get(&r, STR("a")) != pair(&r, "a", "a"));
    CHECK(group_get(&r, STR("100")) == group_find(&r, STR("100")));
    CHECK(group_find(&r, STR("1000")) == NULL);
    CHECK_BYTES(group_get(&r, STR("x y"))->id, 3, "x y");
    roster_free(&r);
}

/* An id of up to 64 bytes made of what a key could trip over. */
static struct str
nasty_id(uint64_t *seed, char text[MAX_ID])
{
    static const char *const pieces[] = {" ", "%", ":", "a", "g", "p", "2", "0", "-", "%20", "%3A",
                                         "::", "g:", "p:a", "中", "\xc2\xa0", "%%", "\""};
    size_t n = 0, parts = 1 + draw(seed) % 24;

    for (size_t i = 0; i < parts; i++) {
        const char *piece = pieces[draw(seed) % (sizeof pieces / sizeof pieces[0])];
        if (n + strlen(piece) > MAX_ID)
            break;
        memcpy(text + n, piece, strlen(piece));
        n += strlen(piece);
    }
    if (str_trim((struct str){text, n}).n == 0)
        text[0] = '.'; /* blanks alone are no name */
    CHECK(id_ok((struct str){text, n}));
    return (struct str){text, n};
}

/* A key read back from the log gives the same conversation, in a server that knows nothing yet. */
TEST(roster_key_round_trip)
{
    uint64_t seed = 0x2545f4914f6cdd1d;
    char a_text[MAX_ID], b_text[MAX_ID];

    for (int i = 0; i < 5000; i++) {
        struct roster before, after;
        struct str a = nasty_id(&seed, a_text), b = nasty_id(&seed, b_text);
        roster_init(&before);
        roster_init(&after);
        struct conv *v = pair_get(&before, user_get(&before, a), user_get(&before, b));
        struct conv *w = conv_get_key(&after, key_of(v));
        CHECK(w != NULL && !w->group && str_eq(key_of(v), key_of(w)));
        CHECK_INT(after.users.count, str_eq(a, b) ? 1 : 2);
        struct user *ua = user_find(&after, a), *ub = user_find(&after, b);
        CHECK(ua != NULL && ub != NULL);
        CHECK(member_with(&after, ua, b)->conv == w && member_with(&after, ub, a)->conv == w);
        struct conv *g = group_get(&before, a), *h = conv_get_key(&after, key_of(g));
        CHECK(h != NULL && h->group && str_eq(key_of(g), key_of(h)));
        CHECK(str_eq(str_of(h->id), a));
        for (size_t k = 0; k < v->keylen; k++)
            CHECK((unsigned char)v->key[k] > ' ' && v->key[k] != 0x7f);
        CHECK(conv_get_key(&after, key_of(v)) == w && conv_get_key(&after, key_of(g)) == h);
        roster_free(&before);
        roster_free(&after);
    }
}

TEST(roster_keys_of_others)
{
    static const char *const bad[] = {
        "", "-", "g", "p", "g:", "p:", "x:a", "gg:a", ":a", "p:a", "p:a:", "p::a", "p::", "g:%",
        "g:%2", "g:%zz", "g:%00", "g:%01", "p:a:%7F", "g:\xff", "g:%C2%85", "p:%:b", "G:a",
    };
    struct roster r;
    struct buf b = {0};

    roster_init(&r);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (conv_get_key(&r, str_of(bad[i])) != NULL)
            test_fail(__FILE__, __LINE__, "'%s' is accepted", bad[i]);
    buf_str(&b, STR("g:"));
    for (int i = 0; i < 65; i++)
        buf_str(&b, STR("x"));
    CHECK(conv_get_key(&r, (struct str){b.p, b.len}) == NULL);
    CHECK(conv_get_key(&r, (struct str){b.p, b.len - 1}) != NULL);
    for (int i = 0; i < 1000; i++)
        buf_str(&b, STR("%20"));
    CHECK(conv_get_key(&r, (struct str){b.p, b.len}) == NULL);
    buf_free(&b);
    CHECK_INT(r.users.count, 0);
    CHECK_INT(r.convs.count, 1);
    roster_free(&r);
}

/* --- members --------------------------------------------------------------------------------- */

TEST(roster_users)
{
    struct roster r;
    char text[MAX_ID];

    roster_init(&r);
    CHECK(user_find(&r, STR("a")) == NULL);
    struct user *a = user_get(&r, STR("a"));
    CHECK(user_get(&r, STR("a")) == a && user_find(&r, STR("a")) == a);
    CHECK_STR(user_id(a), "a");
    CHECK(!a->known && a->nconns == 0 && r.nusers == 0);
    CHECK(user_find(&r, STR("A")) == NULL); /* case-sensitive */
    memset(text, 'z', sizeof text);
    struct user *z = user_get(&r, (struct str){text, sizeof text});
    CHECK(z->idlen == MAX_ID && user_find(&r, (struct str){text, MAX_ID - 1}) == NULL);
    roster_free(&r);
}

TEST(roster_members)
{
    struct roster r;

    roster_init(&r);
    struct user *a = user_get(&r, STR("a")), *b = user_get(&r, STR("b"));
    struct user *c = user_get(&r, STR("c"));
    struct conv *g = group_get(&r, STR("b")), *v = pair_get(&r, a, b);

    CHECK(member_in_group(&r, a, STR("b")) == NULL);
    struct member *in = member_add(&r, a, g);
    CHECK(member_in_group(&r, a, STR("b")) == in && in->conv == g && in->user == a);
    CHECK(member_add(&r, a, g) == in && g->nmembers == 1);
    CHECK(member_in_group(&r, b, STR("b")) == NULL && member_in_group(&r, a, STR("a")) == NULL);
    CHECK(member_in_group(&r, a, STR("")) == NULL);

    /* the peer b is not the group b */
    struct member *ab = member_with(&r, a, STR("b")), *ba = member_with(&r, b, STR("a"));
    CHECK(ab != NULL && ba != NULL && ab != ba && ab != in);
    CHECK(ab->user == a && ba->user == b && ab->conv == v && ba->conv == v);
    CHECK(member_peer(ab) == b && member_peer(ba) == a);
    CHECK(member_with(&r, a, STR("a")) == NULL && member_with(&r, c, STR("a")) == NULL);
    CHECK(member_of(&r, a, v) == ab && member_of(&r, b, v) == ba && member_of(&r, c, v) == NULL);
    CHECK(member_of(&r, a, g) == in && member_of(&r, b, g) == NULL);
    char text[MAX_ID + 1];
    memset(text, 'x', sizeof text);
    CHECK(member_in_group(&r, a, (struct str){text, sizeof text}) == NULL);
    CHECK(member_with(&r, a, (struct str){text, sizeof text}) == NULL);
    roster_free(&r);
}

TEST(roster_notes_to_oneself)
{
    struct roster r;

    roster_init(&r);
    struct user *me = user_get(&r, STR("me")), *you = user_get(&r, STR("you"));
    struct conv *v = pair_get(&r, me, me);
    struct member *m = member_with(&r, me, STR("me"));
    CHECK_INT(v->nmembers, 1);
    CHECK(m != NULL && m->conv == v && member_peer(m) == me && member_of(&r, me, v) == m);
    CHECK(pair_get(&r, me, me) == v);
    pair_get(&r, you, me);
    CHECK(member_with(&r, me, STR("me")) == m && member_with(&r, you, STR("you")) == NULL);
    CHECK(member_peer(member_with(&r, me, STR("you"))) == you);
    roster_free(&r);
}

TEST(roster_leave_and_rejoin)
{
    struct roster r;

    roster_init(&r);
    struct user *a = user_get(&r, STR("a")), *b = user_get(&r, STR("b"));
    struct conv *g = group_get(&r, STR("g"));
    g->seq = g->durable = 5;
    struct member *m = member_add(&r, a, g);
    CHECK_INT(m->cursor, 5); /* only what is sent since */
    member_add(&r, b, g);
    g->seq = g->durable = 9;
    CHECK_INT(member_next_missing(m, 0), 6);
    member_delivered(&r, m, 8);
    member_leave(m);
    CHECK(member_in_group(&r, a, STR("g")) == NULL && g->nmembers == 1);
    CHECK(member_of(&r, a, g) == m && m->left); /* kept for messages in flight */
    member_delivered(&r, m, 9);
    g->seq = g->durable = 20;
    CHECK(member_add(&r, a, g) == m);
    CHECK(member_in_group(&r, a, STR("g")) == m && g->nmembers == 2 && !m->left);
    CHECK_INT(m->cursor, 20);
    CHECK_INT(m->live_hi, 0);
    CHECK_INT(member_next_missing(m, 0), 0);
    roster_free(&r);
}

/* --- the online part ------------------------------------------------------------------------- */

enum { USERS = 24, GROUPS = 9 };

struct model {
    struct roster r;
    struct user *user[USERS];
    struct conv *group[GROUPS];
    bool in[GROUPS][USERS], online[USERS];
};

static void
check_group(struct model *t, size_t g)
{
    struct conv *v = t->group[g];
    uint32_t members = 0, online = 0;

    for (size_t u = 0; u < USERS; u++) {
        struct member *m = member_in_group(&t->r, t->user[u], str_of(v->id));
        CHECK((m != NULL) == t->in[g][u]);
        if (m == NULL)
            continue;
        members++;
        online += t->online[u];
        CHECK(m->place < v->nmembers && v->member[m->place] == m);
        CHECK((m->place < v->nonline) == t->online[u]);
    }
    CHECK_INT(v->nmembers, members);
    CHECK_INT(v->nonline, online);
}

static void
model_begin(struct model *t)
{
    memset(t, 0, sizeof *t);
    roster_init(&t->r);
    for (size_t i = 0; i < USERS; i++) {
        char id = (char)('a' + i);
        t->user[i] = user_get(&t->r, (struct str){&id, 1});
    }
    for (size_t i = 0; i < GROUPS; i++) {
        char id = (char)('0' + i);
        t->group[i] = group_get(&t->r, (struct str){&id, 1});
    }
}

/* One connection more or less, as chat.c does it. */
static void
model_presence(struct model *t, size_t u)
{
    struct user *user = t->user[u];

    t->online[u] = !t->online[u];
    user->nconns = t->online[u] ? 1 : 0;
    user_online(&t->r, user, t->online[u]);
}

static void
model_membership(struct model *t, size_t g, size_t u)
{
    t->in[g][u] = !t->in[g][u];
    if (t->in[g][u])
        member_add(&t->r, t->user[u], t->group[g]);
    else
        member_leave(member_in_group(&t->r, t->user[u], str_of(t->group[g]->id)));
}

TEST(roster_online_part)
{
    static struct model t;
    uint64_t seed = 0x9e3779b97f4a7c15;
    size_t online = 0;

    model_begin(&t);
    for (int op = 0; op < 100000; op++) {
        size_t u = draw(&seed) % USERS, g = draw(&seed) % GROUPS;
        switch (draw(&seed) % 8) {
        case 0:
        case 1:
        case 2:
            model_presence(&t, u);
            online += t.online[u] ? 1 : SIZE_MAX;
            break;
        case 3:
            pair_get(&t.r, t.user[u], t.user[draw(&seed) % USERS]);
            break;
        default:
            model_membership(&t, g, u);
        }
        CHECK_INT(t.r.nonline, online);
        check_group(&t, g);
        if (op % 50 == 0)
            for (size_t k = 0; k < GROUPS; k++)
                check_group(&t, k);
    }
    for (size_t u = 0; u < USERS; u++) /* pairs have no online part: both are looked at anyway */
        for (struct member *m = t.user[u]->members; m != NULL; m = m->next_of_user)
            CHECK(m->conv->group || m->conv->nonline == 0);
    roster_free(&t.r);
}

/* --- lists ----------------------------------------------------------------------------------- */

TEST(roster_list_of_users)
{
    static struct model t;
    uint64_t seed = 0x2545f4914f6cdd1d;

    model_begin(&t);
    CHECK_INT(t.r.nusers, 0); /* nobody has logged in yet */
    for (int op = 0; op < 20000; op++) {
        size_t u = draw(&seed) % USERS, known = 0, online = 0;
        model_presence(&t, u); /* as a login does: online, then known */
        user_know(&t.r, t.user[u]);
        user_know(&t.r, t.user[u]);
        for (size_t i = 0; i < USERS; i++) {
            known += t.user[i]->known;
            online += t.online[i];
            if (!t.user[i]->known)
                continue;
            CHECK(t.r.user[t.user[i]->place] == t.user[i]);
            CHECK((t.user[i]->place < t.r.nonline) == t.online[i]);
        }
        CHECK_INT(t.r.nusers, known);
        CHECK_INT(t.r.nonline, online);
    }
    roster_free(&t.r);
}

TEST(roster_list_of_groups)
{
    static struct model t;
    uint64_t seed = 0x9e3779b97f4a7c15;
    bool there[GROUPS];

    model_begin(&t);
    memset(there, true, sizeof there);
    for (int op = 0; op < 5000; op++) {
        size_t g = draw(&seed) % GROUPS, n = 0;
        struct conv *v = t.group[g];
        there[g] = !there[g];
        if (there[g]) {
            group_revive(&t.r, v);
            group_revive(&t.r, v);
            member_add(&t.r, t.user[op % USERS], v);
        } else {
            group_enter_life(v, v->life + 1);
            CHECK(v->nmembers == 0 && v->nonline == 0);
            group_bury(&t.r, v);
            group_bury(&t.r, v);
        }
        for (size_t i = 0; i < GROUPS; i++) {
            n += there[i];
            CHECK(group_find_any(&t.r, str_of(t.group[i]->id)) == t.group[i]);
            CHECK((group_find(&t.r, str_of(t.group[i]->id)) != NULL) == there[i]);
            CHECK(!there[i] || t.r.group[t.group[i]->place] == t.group[i]);
        }
        CHECK_INT(t.r.ngroups, n);
    }
    group_enter_life(t.group[0], 0); /* a life that is over changes nothing */
    roster_free(&t.r);
}

/* --- cursors --------------------------------------------------------------------------------- */

struct track { /* one member, and what has really reached him: bit seq - 1 */
    struct roster r;
    struct conv *v;
    struct member *m;
    uint64_t base, delivered;
};

static void
track_begin(struct track *t, uint64_t base, uint64_t n)
{
    roster_init(&t->r);
    t->v = group_get(&t->r, STR("g"));
    t->v->seq = t->v->durable = base;
    t->m = member_add(&t->r, user_get(&t->r, STR("u")), t->v);
    t->v->seq = t->v->durable = base + n;
    t->base = base;
    t->delivered = 0;
}

static bool
counts_as_delivered(const struct member *m, uint64_t seq)
{
    return seq <= m->cursor || (m->live_hi != 0 && seq >= m->live_lo && seq <= m->live_hi);
}

/* Nothing that is missing counts as delivered, and all that does not count is listed, in order. */
static void
track_check(const struct track *t)
{
    const struct member *m = t->m;
    uint64_t at = 0;

    CHECK(m->live_lo <= m->live_hi && (m->live_hi == 0 || m->live_lo > m->cursor + 1));
    for (uint64_t seq = t->base + 1; seq <= t->v->durable; seq++) {
        bool counts = counts_as_delivered(m, seq);
        bool reached = (t->delivered >> (seq - t->base - 1) & 1) != 0;
        if (counts && !reached)
            test_fail(__FILE__, __LINE__, "%llu is lost: cursor %llu, live %llu to %llu",
                      (unsigned long long)seq, (unsigned long long)m->cursor,
                      (unsigned long long)m->live_lo, (unsigned long long)m->live_hi);
        if (!counts) {
            at = member_next_missing(m, at);
            CHECK_INT(at, seq);
        }
    }
    CHECK_INT(member_next_missing(m, at), 0);
    CHECK_INT(member_next_missing(m, t->v->durable), 0);
}

static void
track_deliver(struct track *t, uint64_t k)
{
    member_delivered(&t->r, t->m, t->base + k);
    t->delivered |= UINT64_C(1) << (k - 1);
    track_check(t);
}

static void
track_upto(struct track *t, uint64_t k)
{
    member_delivered_upto(&t->r, t->m, t->base + k);
    t->delivered |= (UINT64_C(1) << k) - 1;
    track_check(t);
    CHECK(t->m->cursor >= t->base + k);
}

static void
swap(int *a, int *b)
{
    int x = *a;

    *a = *b;
    *b = x;
}

/* Deliver in the order given; after each step, the rest is a set of messages that never came. */
static size_t
all_orders(int *order, int n, int fixed, uint64_t base)
{
    struct track t;
    size_t count = 0;

    if (fixed == n) {
        track_begin(&t, base, (uint64_t)n);
        track_check(&t);
        for (int i = 0; i < n; i++)
            track_deliver(&t, (uint64_t)order[i]);
        for (int i = 0; i < n; i++) { /* what was repeated for safety's sake arrives again */
            uint64_t missing = member_next_missing(t.m, 0);
            if (missing != 0)
                track_deliver(&t, missing - base);
        }
        CHECK_INT(t.m->cursor, base + (uint64_t)n);
        CHECK(t.m->dirty && t.r.dirty == t.m && t.m->next_dirty == NULL);
        roster_free(&t.r);
        return 1;
    }
    for (int i = fixed; i < n; i++) {
        swap(&order[fixed], &order[i]);
        count += all_orders(order, n, fixed + 1, base);
        swap(&order[fixed], &order[i]);
    }
    return count;
}

TEST(roster_cursor_every_order)
{
    static const size_t factorial[] = {1, 1, 2, 6, 24, 120, 720};

    for (int n = 1; n <= 6; n++)
        for (uint64_t base = 0; base <= 7; base += 7) {
            int order[6] = {1, 2, 3, 4, 5, 6};
            CHECK_INT(all_orders(order, n, 0, base), factorial[n]);
        }
}

/* With an answer 20 that proves a beginning delivered, at every moment of every order. */
static void
orders_with_answer(int *order, int n, int fixed)
{
    if (fixed == n) {
        for (int when = 0; when <= n; when++)
            for (int upto = 1; upto <= n; upto++) {
                struct track t;
                track_begin(&t, 0, (uint64_t)n);
                for (int i = 0; i <= n; i++) {
                    if (i == when)
                        track_upto(&t, (uint64_t)upto);
                    if (i < n)
                        track_deliver(&t, (uint64_t)order[i]);
                }
                roster_free(&t.r);
            }
        return;
    }
    for (int i = fixed; i < n; i++) {
        swap(&order[fixed], &order[i]);
        orders_with_answer(order, n, fixed + 1);
        swap(&order[fixed], &order[i]);
    }
}

TEST(roster_cursor_with_answers)
{
    for (int n = 1; n <= 5; n++) {
        int order[] = {1, 2, 3, 4, 5};
        orders_with_answer(order, n, 0);
    }
}

TEST(roster_cursor_random)
{
    uint64_t seed = 0x853c49e6748fea9b;

    for (int life = 0; life < 4000; life++) {
        struct track t;
        uint64_t n = 1 + draw(&seed) % 40;
        track_begin(&t, draw(&seed) % 2 ? draw(&seed) : 0, n);
        for (uint64_t step = 0; step < n; step++) {
            uint64_t k = 1 + draw(&seed) % n;
            if (draw(&seed) % 8 == 0)
                track_upto(&t, k);
            else if (draw(&seed) % 2 == 0) /* a run, as live messages come */
                for (uint64_t to = k + draw(&seed) % 6; k <= to && k <= n; k++)
                    track_deliver(&t, k);
            else
                track_deliver(&t, k);
        }
        roster_free(&t.r);
    }
}

/* The usual cases cost nothing twice. */
TEST(roster_cursor_keeps_what_it_can)
{
    struct track t;

    track_begin(&t, 0, 10);
    for (uint64_t k = 1; k <= 10; k++)
        track_deliver(&t, k);
    CHECK_INT(t.m->cursor, 10);
    roster_free(&t.r);

    track_begin(&t, 0, 10); /* 1 to 5 wait while 6 to 10 come live */
    for (uint64_t k = 6; k <= 10; k++)
        track_deliver(&t, k);
    CHECK(t.m->cursor == 0 && t.m->live_lo == 6 && t.m->live_hi == 10);
    CHECK_INT(member_next_missing(t.m, 5), 0);
    CHECK_INT(member_next_missing(t.m, 7), 0);
    track_upto(&t, 5);
    CHECK_INT(t.m->cursor, 10);
    CHECK_INT(t.m->live_hi, 0);
    roster_free(&t.r);

    track_begin(&t, 0, 10); /* the same message again changes nothing */
    track_deliver(&t, 1);
    t.r.dirty = t.m->next_dirty;
    t.m->dirty = false;
    track_deliver(&t, 1);
    CHECK(!t.m->dirty);
    track_upto(&t, 1);
    CHECK(!t.m->dirty);
    roster_free(&t.r);
}

/* What is numbered but not yet on disk is not missing: nobody may see it. */
TEST(roster_cursor_durable)
{
    struct track t;

    track_begin(&t, 0, 10);
    t.v->durable = 4;
    CHECK_INT(member_next_missing(t.m, 0), 1);
    CHECK_INT(member_next_missing(t.m, 3), 4);
    CHECK_INT(member_next_missing(t.m, 4), 0);
    t.v->durable = 10;
    CHECK_INT(member_next_missing(t.m, 4), 5);
    roster_free(&t.r);
}

TEST(roster_dirty_list)
{
    struct roster r;
    struct member *m[5];
    size_t n = 0;

    roster_init(&r);
    for (size_t i = 0; i < 5; i++) {
        char id = (char)('a' + i);
        struct conv *g = group_get(&r, (struct str){&id, 1});
        m[i] = member_add(&r, user_get(&r, STR("u")), g);
        g->seq = g->durable = 3;
        for (uint64_t seq = 1; seq <= i; seq++)
            member_delivered(&r, m[i], seq);
    }
    for (struct member *d = r.dirty; d != NULL; d = d->next_dirty, n++)
        CHECK(d->dirty && d != m[0]);
    CHECK_INT(n, 4);
    roster_free(&r);
}

/* --- what a slow reader is behind with -------------------------------------------------------- */

/* Random comings and goings against an array: each is there until it is done, and each has its
 * turn. */
TEST(lag_random)
{
    enum { MEMBERS = 3000 };
    static struct member m[MEMBERS];
    static uint64_t seq[MEMBERS];
    uint64_t seed = 0x853c49e6748fea9b;
    struct lags l = {0};
    uint32_t n = 0, most = 0;

    memset(seq, 0, sizeof seq);
    for (uint32_t step = 0; step < 100000; step++) {
        size_t i = draw(&seed) % MEMBERS;
        bool rising = step / 10000 % 2 == 0; /* to many, and back to none */
        CHECK(lags_has(&l, &m[i]) == (seq[i] != 0));
        if (seq[i] == 0 && (rising || draw(&seed) % 4 == 0)) {
            lags_add(&l, &m[i], seq[i] = step + 1);
            n++;
        } else if (n > 0 && !rising) {
            struct lag *first = lags_first(&l);
            CHECK(first != NULL);
            CHECK_INT(first->seq, seq[first->member - m]);
            seq[first->member - m] = 0;
            lags_done(&l);
            n--;
        }
        most = n > most ? n : most;
        CHECK_INT(l.n, n);
        CHECK((lags_first(&l) == NULL) == (n == 0));
    }
    CHECK(most > MEMBERS / 2 && l.cap <= 4 * MEMBERS);
    for (; n > 0; n--) {
        seq[lags_first(&l)->member - m] = 0;
        lags_done(&l);
    }
    for (int i = 0; i < MEMBERS; i++)
        CHECK(seq[i] == 0 && !lags_has(&l, &m[i]));
    lags_free(&l);
}
