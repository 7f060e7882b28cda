/* SPDX-License-Identifier: MIT */
/*
 * test_util.c - strings, buffers, the map and the log.
 *
 *   str, buf   tables of cases, some against an unreadable page
 *   siphash    published vectors, and a second implementation written from the paper
 *   map        200,000 random operations against an array of flags; then what is hard for the
 *              table: equal hashes, and clusters that wrap round its end while it is being moved
 *   log        levels, and one line a call whatever a peer's name holds
 */
#include "test.h"

/* --- strings --------------------------------------------------------------------------------- */

TEST(util_str_eq)
{
    const struct str none = {NULL, 0};

    CHECK(str_of(NULL).n == 0);
    CHECK_STR(str_of("abc"), "abc");
    CHECK(str_eq(none, STR("")));
    CHECK(str_eq(STR("abc"), STR("abc")));
    CHECK(!str_eq(STR("abc"), STR("abd")));
    CHECK(!str_eq(STR("abc"), STR("ab")));
    CHECK(!str_eq(STR("abc"), none));
    CHECK(str_eq(STR("a\0b"), STR("a\0b")));
    CHECK(!str_eq(STR("a\0b"), STR("a\0c")));
}

TEST(util_str_ieq)
{
    CHECK(str_ieq(STR("Content-Length"), STR("content-LENGTH")));
    CHECK(str_ieq(STR(""), (struct str){NULL, 0}));
    CHECK(!str_ieq(STR("a"), STR("")));
    CHECK(!str_ieq(STR("abc"), STR("abd")));
    /* Only letters have a case: these differ by the same bit. */
    CHECK(!str_ieq(STR("@"), STR("`")));
    CHECK(!str_ieq(STR("["), STR("{")));
    CHECK(!str_ieq(STR("\xc3\x84"), STR("\xc3\xa4")));
}

TEST(util_str_eq_secret)
{
    static const char *const keys[] = {"", "a", "b", "ab", "abab", "ababab", "secret", "secreT",
                                       "Secret", "secret1", "secre", "\xff\xfe", "\xff"};
    const size_t n = sizeof keys / sizeof keys[0];

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            struct str a = str_of(keys[i]), b = str_of(keys[j]);
            a.p = test_edge(a.p, a.n);
            b.p = test_edge(b.p, b.n);
            CHECK_INT(str_eq_secret(a, b), i == j);
        }
    CHECK(str_eq_secret((struct str){NULL, 0}, STR("")));
    CHECK(!str_eq_secret(STR("x"), (struct str){NULL, 0}));
    CHECK(!str_eq_secret((struct str){NULL, 0}, STR("x")));
}

TEST(util_str_split)
{
    static const struct {
        const char *text, *parts; /* parts, each between brackets */
    } cases[] = {
        {"", "[]"},           {"a", "[a]"},         {"a,b", "[a][b]"}, {",", "[][]"},
        {"a,", "[a][]"},      {",a", "[][a]"},      {"a,,b", "[a][][b]"},
        {" a , b ", "[ a ][ b ]"}, {"one;two,3", "[one;two][3]"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct str rest = str_of(cases[i].text), part;
        struct buf got = {0};
        rest.p = test_edge(rest.p, rest.n);
        while (str_split(&rest, ',', &part))
            buf_printf(&got, "[%.*s]", (int)part.n, part.p);
        CHECK_BYTES(got.p, got.len, cases[i].parts);
        CHECK(!str_split(&rest, ',', &part));
        buf_free(&got);
    }
    struct str none = {NULL, 0}, part;
    CHECK(!str_split(&none, ',', &part));
}

TEST(util_str_trim)
{
    CHECK_STR(str_trim(STR("")), "");
    CHECK_STR(str_trim(STR(" \t\r\n")), "");
    CHECK_STR(str_trim(STR("a")), "a");
    CHECK_STR(str_trim(STR("\r\n a b\t ")), "a b");
    CHECK_STR(str_trim(STR("\fa\v")), "\fa\v");
    CHECK_INT(str_trim((struct str){NULL, 0}).n, 0);
    char *edge = test_edge("   ", 3);
    CHECK_INT(str_trim((struct str){edge, 3}).n, 0);
}

TEST(util_strndup)
{
    char *copy = xstrndup("hello", 3), *empty = xstrndup(NULL, 0);

    CHECK_BYTES(copy, strlen(copy), "hel");
    CHECK(empty[0] == '\0');
    free(copy);
    free(empty);
    /* Sizes of nothing still give something to free. */
    free(xmalloc(0));
    free(xcalloc(0, 8));
    free(xrealloc(xmalloc(1), 0));
}

/* --- buffers --------------------------------------------------------------------------------- */

/* A ring goes round and grows where it stands: what comes out is what went in, in that order. */
TEST(util_ring_grows)
{
    uint32_t *ring = NULL, head = 0, cap = 0, n = 0, in = 0, out = 0;

    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 7; i++) {
            if (n == cap) {
                ring = ring_grow(ring, sizeof *ring, &head, &cap, 4);
                CHECK_INT(head, 0);
                CHECK((cap & (cap - 1)) == 0 && cap > n && cap <= (n < 4 ? 4 : 2 * n));
            }
            ring[(head + n++) & (cap - 1)] = in++;
        }
        for (int i = 0; i < 3; i++, n--) {
            CHECK_INT(ring[head], out++);
            head = (head + 1) & (cap - 1);
        }
    }
    for (; n > 0; n--, head = (head + 1) & (cap - 1))
        CHECK_INT(ring[head], out++);
    CHECK_INT(out, in);
    free(ring);
}

TEST(util_buf)
{
    struct buf b = {0};
    char big[1000];

    buf_add(&b, NULL, 0);
    CHECK(b.p == NULL && b.len == 0);
    buf_add(&b, "ab", 2);
    buf_str(&b, STR("cd"));
    buf_str(&b, (struct str){NULL, 0});
    CHECK_BYTES(b.p, b.len, "abcd");
    buf_drop(&b, 1);
    CHECK_BYTES(b.p, b.len, "bcd");
    buf_drop(&b, 0);
    buf_drop(&b, 3);
    CHECK_INT(b.len, 0);
    memset(big, 'x', sizeof big);
    for (int i = 0; i < 100; i++) {
        big[0] = (char)i;
        buf_add(&b, big, sizeof big);
    }
    CHECK_INT(b.len, 100000);
    for (int i = 0; i < 100; i++)
        CHECK(b.p[i * 1000] == i && b.p[i * 1000 + 999] == 'x');
    buf_reserve(&b, 5000);
    CHECK(b.cap >= b.len + 5000);
    char *before = b.p;
    buf_reserve(&b, 5000); /* there is room: nothing moves */
    CHECK(b.p == before);
    buf_free(&b);
    CHECK(b.p == NULL && b.len == 0 && b.cap == 0);
    buf_free(&b);
}

TEST(util_digits)
{
    static const struct {
        int64_t value;
        const char *want;
    } cases[] = {{0, "0"}, {0, "0"}, {1795659910228, "1795659910228"},
                 {1795659910228, "1795659910228"}, {7, "7"}, {-1, "-1"},
                 {INT64_MAX, "9223372036854775807"}, {0, "0"}};
    struct digits d = {0};
    char text[JSON_INT_ROOM];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct str got = {text, (size_t)(digits_at(&d, text, cases[i].value) - text)};
        CHECK_STR(got, cases[i].want);
    }
}

TEST(util_buf_printf)
{
    struct buf b = {0}, want = {0};
    char text[700];

    /* Every length around the first guess and around what the buffer happens to hold. */
    for (size_t n = 0; n < sizeof text - 1; n += n < 300 ? 1 : 37) {
        memset(text, 'a' + (int)(n % 26), n);
        text[n] = '\0';
        buf_printf(&b, "%s|%zu,", text, n);
        buf_add(&want, text, n);
        char tail[32];
        int k = snprintf(tail, sizeof tail, "|%zu,", n);
        buf_add(&want, tail, (size_t)k);
        CHECK_INT(b.len, want.len);
    }
    CHECK(memcmp(b.p, want.p, want.len) == 0);
    buf_free(&b);
    buf_free(&want);
}

/* --- SipHash --------------------------------------------------------------------------------- */

static bool
little_endian(void)
{
    const uint16_t one = 1;
    unsigned char first;

    memcpy(&first, &one, 1);
    return first == 1;
}

/* Written from section 2 of the paper, one operation after the other. */
static void
slow_round(uint64_t *a, uint64_t *b, uint64_t *c, uint64_t *d)
{
    *a += *b;
    *c += *d;
    *b = (*b << 13) | (*b >> 51);
    *d = (*d << 16) | (*d >> 48);
    *b ^= *a;
    *d ^= *c;
    *a = (*a << 32) | (*a >> 32);
    *c += *b;
    *a += *d;
    *b = (*b << 17) | (*b >> 47);
    *d = (*d << 21) | (*d >> 43);
    *b ^= *c;
    *d ^= *a;
    *c = (*c << 32) | (*c >> 32);
}

static uint64_t
slow_siphash13(uint64_t k0, uint64_t k1, const unsigned char *p, size_t n)
{
    uint64_t a = k0 ^ 0x736f6d6570736575, b = k1 ^ 0x646f72616e646f6d;
    uint64_t c = k0 ^ 0x6c7967656e657261, d = k1 ^ 0x7465646279746573;

    for (size_t at = 0; at <= n; at += 8) {
        uint64_t word = n - at < 8 ? (uint64_t)(n & 255) << 56 : 0;
        for (size_t i = 0; i < 8 && at + i < n; i++) {
            /* jim reads whole words in the machine's order. */
            size_t shift = n - at >= 8 && !little_endian() ? 7 - i : i;
            word |= (uint64_t)p[at + i] << (8 * shift);
        }
        d ^= word;
        slow_round(&a, &b, &c, &d);
        a ^= word;
    }
    c ^= 0xff;
    slow_round(&a, &b, &c, &d);
    slow_round(&a, &b, &c, &d);
    slow_round(&a, &b, &c, &d);
    return a ^ b ^ c ^ d;
}

TEST(util_siphash_vectors)
{
    /* Key 00..0f, message 00, 01, ... of so many bytes: as the authors' reference prints them. */
    static const struct {
        size_t n;
        uint64_t hash;
    } vectors[] = {
        {0, 0xabac0158050fc4dc},  {1, 0xc9f49bf37d57ca93},  {2, 0x82cb9b024dc7d44d},
        {3, 0x8bf80ab8e7ddf7fb},  {4, 0xcf75576088d38328},  {5, 0xdef9d52f49533b67},
        {6, 0xc50d2b50c59f22a7},  {7, 0xd3927d989bb11140},  {8, 0x369095118d299a8e},
        {9, 0x25a48eb36c063de4},  {15, 0xd320d86d2a519956}, {16, 0xcc4fdd1a7d908b66},
        {17, 0x9cf2689063dbd80c}, {31, 0x2370dd1f8c21d1bc}, {63, 0x9d199062b7bbb3a8},
    };
    static const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    unsigned char message[64];

    for (size_t i = 0; i < sizeof message; i++)
        message[i] = (unsigned char)i;
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        size_t n = vectors[i].n;
        if (n < 8 || little_endian())
            CHECK(siphash13(key, test_edge(message, n), n) == vectors[i].hash);
    }
}

TEST(util_siphash_lengths)
{
    unsigned char text[600];
    uint64_t key[2];

    random_bytes(text, sizeof text);
    random_bytes(key, sizeof key);
    for (size_t n = 0; n < sizeof text; n++) {
        /* At every alignment, and never past the end. */
        const unsigned char *p = text + (sizeof text - n) / 2;
        CHECK(siphash13(key, p, n) == slow_siphash13(key[0], key[1], p, n));
    }
    char *edge = test_edge(text, 100);
    for (size_t i = 0; i <= 100; i++)
        CHECK(siphash13(key, edge + i, 100 - i) ==
              slow_siphash13(key[0], key[1], text + i, 100 - i));
}

/* --- map ------------------------------------------------------------------------------------- */

struct item {
    uint32_t hash;
    uint32_t key;
    bool in;      /* what the reference says */
    int visited;
};

static bool
item_is(const void *item, const void *key)
{
    return ((const struct item *)item)->key == *(const uint32_t *)key;
}

static struct item *
item_find(const struct map *m, const struct item *of)
{
    return map_find(m, of->hash, item_is, &of->key);
}

/* map_next() comes by everything that is in, once, and by nothing else. */
static void
check_walk(const struct map *m, struct item *items, size_t n)
{
    size_t at = 0, seen = 0, in = 0;
    struct item *i;

    while ((i = map_next(m, &at)) != NULL) {
        CHECK(i >= items && i < items + n);
        CHECK(i->in);
        CHECK_INT(++i->visited, 1);
        seen++;
    }
    CHECK(map_next(m, &at) == NULL);
    for (size_t k = 0; k < n; k++) {
        in += items[k].in;
        items[k].visited = 0;
    }
    CHECK_INT(seen, in);
    CHECK_INT(m->count, in);
}

static void
flip(struct map *m, struct item *i)
{
    if (i->in)
        map_remove(m, i);
    else
        map_add(m, i);
    i->in = !i->in;
}

TEST(util_map_random)
{
    enum { N = 60000, OPERATIONS = 200000 };
    struct item *items = xcalloc(N, sizeof *items);
    uint64_t seed = 0x9e3779b97f4a7c15;
    size_t moving = 0, removed_from_old = 0, walked_moving = 0;
    struct map m;

    map_init(&m);
    for (uint32_t i = 0; i < N; i++) {
        items[i].key = i;
        items[i].hash = map_hash(&m, &i, sizeof i);
    }
    for (int op = 0; op < OPERATIONS; op++) {
        /* The items in reach grow, so adding wins until the end. */
        uint32_t reach = 10 + (uint32_t)((int64_t)op * (N - 10) / OPERATIONS);
        struct item *one = &items[draw(&seed) % reach];
        struct item *other = &items[draw(&seed) % reach];
        if (one->in && draw(&seed) % 3 == 0)
            one = &items[draw(&seed) % reach];
        removed_from_old += one->in && m.old != NULL;
        flip(&m, one);
        CHECK(item_find(&m, one) == (one->in ? one : NULL));
        CHECK(item_find(&m, other) == (other->in ? other : NULL));
        moving += m.old != NULL;
        if (op % 5003 == 0 || (m.old != NULL && moving % 400 == 0)) {
            walked_moving += m.old != NULL;
            check_walk(&m, items, N);
        }
    }
    CHECK(moving > 1000 && removed_from_old > 100 && walked_moving > 5);
    for (uint32_t i = 0; i < N; i++)
        CHECK(item_find(&m, &items[i]) == (items[i].in ? &items[i] : NULL));
    check_walk(&m, items, N);
    for (uint32_t i = 0; i < N; i++)
        if (items[i].in)
            flip(&m, &items[i]);
    check_walk(&m, items, N);
    map_free(&m);
    free(items);
}

static void
check_all(const struct map *m, struct item *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK(item_find(m, &items[i]) == (items[i].in ? &items[i] : NULL));
    check_walk(m, items, n);
}

TEST(util_map_equal_hashes)
{
    enum { N = 300 };
    static struct item items[N];
    struct map m;

    map_init(&m);
    for (uint32_t i = 0; i < N; i++)
        items[i] = (struct item){.hash = 0xfffffffe, .key = i};
    for (size_t i = 0; i < N; i++) {
        flip(&m, &items[i]);
        check_all(&m, items, i + 1);
    }
    for (size_t i = 0; i < N; i += 3) {
        flip(&m, &items[i]);
        check_all(&m, items, N);
    }
    for (size_t i = 1; i < N; i += 3) {
        flip(&m, &items[N - i]);
        check_all(&m, items, N);
    }
    map_free(&m);
}

/* The hash says where the search begins; the item's own key whether it has been found. */
TEST(util_map_key_decides)
{
    struct item a = {.hash = 7, .key = 1}, b = {.hash = 7, .key = 2};
    struct item same_slot = {.hash = 7 + 16, .key = 1};
    struct map m;

    map_init(&m);
    CHECK(item_find(&m, &a) == NULL);
    map_add(&m, &a);
    CHECK(item_find(&m, &b) == NULL);
    CHECK(item_find(&m, &same_slot) == NULL);
    map_add(&m, &b);
    CHECK(item_find(&m, &a) == &a && item_find(&m, &b) == &b);
    map_remove(&m, &a);
    CHECK(item_find(&m, &a) == NULL && item_find(&m, &b) == &b);
    CHECK_INT(m.count, 1);
    map_free(&m);
}

/* A cluster at the end of a full table goes on at its beginning; then the table is moved. */
TEST(util_map_wrapped_cluster)
{
    enum { N = 40 };

    for (uint32_t home = 0; home < 16; home++)
        for (int removed = -1; removed < 12; removed++) {
            struct item items[N] = {{0}};
            struct map m;
            map_init(&m);
            CHECK_INT(m.size, 16);
            for (uint32_t i = 0; i < N; i++)
                items[i] = (struct item){.hash = home + 16 * i, .key = i};
            for (size_t i = 0; i < N; i++) {
                flip(&m, &items[i]);
                if (i == 12)
                    CHECK(m.old != NULL); /* twelve are a full table of sixteen */
                if (i == 12 && removed >= 0)
                    flip(&m, &items[removed]); /* out of the old table, all still there */
                check_all(&m, items, N);
            }
            map_free(&m);
        }
}

/* Short lives of tables whose hashes crowd round the end, at every size they grow through. */
TEST(util_map_crowded)
{
    enum { N = 96 };
    uint64_t seed = 88172645463325252;
    size_t while_moving = 0;

    for (int life = 0; life < 300; life++) {
        struct item items[N] = {{0}};
        struct map m;
        map_init(&m);
        uint32_t centre = draw(&seed), width = 1 + draw(&seed) % 12;
        if (life % 2 == 0)
            centre = UINT32_MAX - draw(&seed) % 4;
        for (uint32_t i = 0; i < N; i++)
            items[i] = (struct item){.hash = centre + draw(&seed) % width, .key = i};
        for (int op = 0; op < 160; op++) {
            struct item *one = &items[draw(&seed) % N];
            if (one->in && op < 110 && draw(&seed) % 4 != 0)
                continue; /* rather grow */
            flip(&m, one);
            while_moving += m.old != NULL;
            check_all(&m, items, N);
        }
        map_free(&m);
    }
    CHECK(while_moving > 1000);
}

/* "No single call touches more than a few dozen items": a map_add() never moves the whole table. */
TEST(util_map_grows_little_by_little)
{
    enum { N = 50000 };
    struct item *items = xcalloc(N, sizeof *items);
    size_t most = 0, before = 0;
    struct map m;

    map_init(&m);
    for (uint32_t i = 0; i < N; i++) {
        items[i].key = i;
        items[i].hash = map_hash(&m, &i, sizeof i);
        size_t size = m.size;
        bool was_moving = m.old != NULL;
        before = m.moved;
        map_add(&m, &items[i]);
        if (was_moving && m.size == size && m.moved - before > most)
            most = m.moved - before;
    }
    CHECK(most > 0 && most < 1000);
    test_note("util_map_grows_little_by_little: at most %zu slots a call", most);
    map_free(&m);
    free(items);
}

TEST(util_map_keys_differ)
{
    struct map a, b;

    map_init(&a);
    map_init(&b);
    CHECK(a.key[0] != b.key[0] && a.key[1] != b.key[1]);
    map_free(&a);
    map_free(&b);
    CHECK(a.slot == NULL);
}

/* --- log ------------------------------------------------------------------------------------- */

/* What one call writes, without the time in front; "" for nothing. */
static const char *
logged(int level, enum log_level at, const char *text)
{
    static char line[4096];
    char *all = NULL;
    size_t n = 0;
    struct log l = {open_memstream(&all, &n), level};

    log_write(&l, at, "%s", text);
    fclose(l.file);
    CHECK(n < sizeof line);
    if (n == 0) {
        free(all);
        return "";
    }
    /* 2026-01-31T23:59:59Z */
    static const char form[] = "dddd-dd-ddTdd:dd:ddZ ";
    CHECK(n > sizeof form);
    for (size_t i = 0; i < sizeof form - 1; i++)
        CHECK(form[i] == 'd' ? all[i] >= '0' && all[i] <= '9' : all[i] == form[i]);
    memcpy(line, all + sizeof form - 1, n - (sizeof form - 1));
    line[n - (sizeof form - 1)] = '\0';
    free(all);
    return line;
}

#define CHECK_LOGGED(level, at, text, want) \
    do { \
        const char *got_ = logged((level), (at), (text)); \
        CHECK_BYTES(got_, strlen(got_), (want)); \
    } while (0)

TEST(util_log_levels)
{
    static const char *const lines[] = {"error: x\n", "warn: x\n", "info: x\n", "debug: x\n"};

    for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++)
        for (int at = LOG_LEVEL_ERROR; at <= LOG_LEVEL_DEBUG; at++)
            CHECK_LOGGED(level, (enum log_level)at, "x", at <= level ? lines[at] : "");
    struct log nowhere = {NULL, LOG_LEVEL_DEBUG};
    log_write(&nowhere, LOG_LEVEL_ERROR, "nobody hears this");
}

TEST(util_log_one_line)
{
    CHECK_LOGGED(2, LOG_LEVEL_INFO, "a\nb", "info: a?b\n");
    CHECK_LOGGED(2, LOG_LEVEL_INFO, "a\r\n2026-01-01T00:00:00Z error: forged",
                 "info: a??2026-01-01T00:00:00Z error: forged\n");
    CHECK_LOGGED(2, LOG_LEVEL_INFO, "\x1b[31m\a\t\x7f", "info: ?[31m???\n");
    CHECK_LOGGED(2, LOG_LEVEL_INFO, "J-IM朋友圈", "info: J-IM朋友圈\n");
    CHECK_LOGGED(2, LOG_LEVEL_INFO, "%s%n", "info: %s%n\n");
    for (int c = 1; c < 0x20; c++) {
        char text[2] = {(char)c, '\0'};
        CHECK_LOGGED(2, LOG_LEVEL_WARN, text, "warn: ?\n");
    }
}

TEST(util_log_long)
{
    char text[3000];

    for (size_t n = 1000; n < sizeof text - 1; n += 7) {
        memset(text, 'y', n);
        text[n] = '\0';
        const char *got = logged(2, LOG_LEVEL_INFO, text);
        size_t len = strlen(got);
        CHECK(len > 900 && got[len - 1] == '\n' && strchr(got, '\n') == got + len - 1);
        CHECK(strspn(got + 6, "y") == len - 7);
    }
}

/* --- time and random bytes ------------------------------------------------------------------- */

TEST(util_time)
{
    int64_t last = time_mono_ms();

    for (int i = 0; i < 100000; i++) {
        int64_t now = time_mono_ms();
        CHECK(now >= last);
        last = now;
    }
    CHECK(time_wall_ms() > INT64_C(1700000000000));
}

TEST(util_random_bytes)
{
    static unsigned char a[70000], b[70000];
    int zeros = 0;

    random_bytes(a, 0);
    random_bytes(a, sizeof a);
    random_bytes(b, sizeof b);
    CHECK(memcmp(a, b, 16) != 0);
    for (size_t i = 0; i < sizeof a; i++)
        zeros += a[i] == 0;
    CHECK(zeros > 100 && zeros < 500); /* 273 expected, 16 of deviation */
}
