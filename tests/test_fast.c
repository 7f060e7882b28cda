/* SPDX-License-Identifier: MIT */
/*
 * test_fast.c - what a message's speed rests on gives the same results as the plain way: names
 * found without folding, memory used again, ids remembered in a ring.
 */
#include "test.h"

/* --- names ------------------------------------------------------------------------------------ */

static enum field
field_of(const char *name)
{
    char text[128];
    struct request r;

    snprintf(text, sizeof text, "{\"%s\":7}", name);
    CHECK(request_parse(&r, str_of(text)));
    for (enum field f = 0; f < FIELDS; f++)
        if (r.f[f].type != JSON_NONE)
            return f;
    return FIELDS;
}

TEST(fast_names_as_written_and_folded)
{
    static const struct {
        const char *name, *other;
        enum field field;
    } names[] = {
        {"cmd", "CMD", F_CMD}, {"userId", "user_id", F_USER_ID}, {"to", "T-o", F_TO},
        {"password", "pass-word", F_PASSWORD}, {"token", "Token", F_TOKEN},
        {"from", "FROM", F_FROM}, {"groupId", "GROUP-ID", F_GROUP_ID},
        {"fromUserId", "from_user_id", F_FROM_USER_ID}, {"chatType", "chattype", F_CHAT_TYPE},
        {"msgType", "msg_type", F_MSG_TYPE}, {"content", "\\u0063ontent", F_CONTENT},
        {"createTime", "create_time", F_CREATE_TIME}, {"id", "_id", F_ID},
        {"extras", "Extras", F_EXTRAS}, {"type", "TYPE", F_TYPE},
        {"beginTime", "begintime", F_BEGIN_TIME}, {"endTime", "end-time", F_END_TIME},
        {"offset", "OffSet", F_OFFSET}, {"count", "COUNT", F_COUNT}, {"name", "Name", F_NAME},
        {"beforeSeq", "before_seq", F_BEFORE_SEQ}, {"afterSeq", "after_seq", F_AFTER_SEQ},
        {"users", "USERS", F_USERS}, {"cmb", "", FIELDS}, {"contest", "i", FIELDS},
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CHECK_INT(field_of(names[i].name), names[i].field);
        CHECK_INT(field_of(names[i].other), names[i].field);
    }
}

/* A name is one whatever its case, with '_' and '-' or without, and with any of it escaped. */
TEST(fast_names_are)
{
    static const struct {
        const char *name, *folded;
        bool is;
    } names[] = {
        {"cmd", "cmd", true}, {"cmd", "cm", false}, {"cm", "cmd", false},
        {"_G-r_o-U_p_I_d-", "groupid", true}, {"@[`{AZaz09", "@[`{azaz09", true},
        {"\\u0063\\u004DD", "cmd", true}, {"c\\u005fm\\u002Dd", "cmd", true},
        {"c\\tm\\/d\\\\", "c\tm/d\\", true},
        {"\xc3\x84\xe4\xbd\xa0", "\xc3\x84\xe4\xbd\xa0", true},
        {"\\u00C4\\ud83d\\ude00", "\xc3\x84\xf0\x9f\x98\x80", true},
        {"cmd\\u0000", "cmd", false}, {"\\u0000cmd", "cmd", false},
        {"", "cmd", false}, {"_-\\u005F", "cmd", false},
    };
    char text[600];
    struct json_iter it;
    struct json key, value;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int n = snprintf(text, sizeof text, "{\"%s\":1}", names[i].name);
        CHECK_INT(json_open(&it, test_edge(text, (size_t)n), (size_t)n), 0);
        CHECK_INT(json_next(&it, &key, &value), 1);
        CHECK_INT(name_is(&key, names[i].folded), names[i].is);
    }
    CHECK(!name_is(&(struct json){0}, "cmd"));
    CHECK(!name_is(&value, "1")); /* a number */
    memset(text, '_', sizeof text);
    memcpy(text + sizeof text - 3, "cmd", 3);
    key = (struct json){.p = text, .n = sizeof text, .type = JSON_STRING};
    CHECK(name_is(&key, "cmd"));
    key.escaped = true; /* longer than any that is looked for */
    CHECK(!name_is(&key, "cmd"));
}

/* What a request is when json_next() reads all of it. */
static bool
parse_by_rules(struct request *r, const char *p, size_t n)
{
    struct json_iter it;
    struct json key, value;
    int more = json_open(&it, p, n) == 0 && it.close == '}' ? 1 : -1;

    memset(r, 0, sizeof *r);
    while (more > 0 && (more = json_next(&it, &key, &value)) > 0) {
        enum field f = request_field(&key);
        if (f < FIELDS)
            r->f[f] = value;
        if (f < FIELDS && value.type == JSON_NULL)
            r->f[f].type = JSON_NONE;
    }
    if (r->f[F_USER_ID].type == JSON_NONE)
        r->f[F_USER_ID] = r->f[F_LOGIN_NAME];
    return more == 0;
}

/* A request is read by the rules, whatever stood in the one before: in memory of its own, so that
 * sanitizers see what is read around it. */
static void
check_request(const char *p, size_t n, struct order *order)
{
    struct request r, rules;
    char *text = xmalloc(n + (n == 0));

    memcpy(text, p, n);
    bool right = parse_by_rules(&rules, text, n);
    if (request_parse_like(&r, (struct str){text, n}, order) != right)
        test_fail(__FILE__, __LINE__, "%s: %.*s", right ? "refused" : "taken", (int)n, p);
    for (enum field f = 0; f < FIELDS && right; f++) {
        const struct json *a = &r.f[f], *b = &rules.f[f];
        if (a->type != b->type || a->p != b->p || a->n != b->n || a->plain != b->plain ||
            a->escaped != b->escaped)
            test_fail(__FILE__, __LINE__, "field %d differs: %.*s", (int)f, (int)n, p);
    }
    free(text);
}

/* What requests before were like changes nothing in what is read: each text behind each. */
TEST(fast_order_is_only_a_guess)
{
    static const char *const texts[] = {
        "{\"cmd\":11,\"to\":\"bob\",\"id\":\"1\"}", "{\"to\":\"bob\",\"cmd\":11,\"id\":\"1\"}",
        "{ \"cmd\":11, \"to\":\"bob\"}", "{\"cmd\" :11,\"to\":\"bob\"}",
        "{\"cmd\":11 \"to\":\"bob\"}", "{\"cmd\":11,\"to\":\"b\\u006fb\"}",
        "{\"cmd\":11,\"to\":null}", "{\"cmd\":01,\"to\":\"bob\"}",
        "{\"cmd\":11,\"top\":1,\"to\":[\"bob\"]}", "{\"cmd\":11,\"to\"=\"bob\"}",
        "{\"cmd\":11,\"to\":", "{\"cmd\":11,\"to\":\"", "{\"cmd\":11,\"to", "{\"cmd\":11,",
        "{\"cmd\":11", "{\"cmd\":", "{\"cmd\"", "{\"cmd", "{", "{}", "[\"cmd\",11]",
        "{,\"cmd\":11}", "{\"cmd\":11}}", "{\"id\":1,\"cmd\":11}", "{\"\":11,\"cmd\":1}",
        "{\"TO\":\"bob\",\"cmd\":11}", "{\"cmd\":11,\"cmd\":12,\"to\":\"eve\"}",
        "{\"cmd\": 11, \"to\":\t\"bob\"}", " \n{\"cmd\":11,\"to\":\"bob\"}\r\n", "  ", "}",
        "{\"cmd\":11} }", "{\"cmd\":11,\"to\":\"bob\" }", "{\"cmd\":11 , \"to\":\"bob\"\n}",
        "{\"cmd\":1.5,\"to\":\"bob\"}", "{\"cmd\":1e1,\"to\":-1}", "{\"cmd\":{}",
        "{\"cmd\":{},\"to\":[{}]}", "{\"cmd\":[}", "{\"cmd\":}", "{\"cmd\": }", "{\"cmd\":11, }",
        "{ }", "{\"cmd\":11,,\"to\":\"bob\"}", "{\"cmd\":11;\"to\":\"bob\"}",
        "{\"cmd\":\"11\"1,\"to\":\"bob\"}", "{\"cmd\":11}{\"to\":\"bob\"}",
        "{\"userId\":null,\"loginname\":\"bob\"}",
    };
    const size_t n = sizeof texts / sizeof texts[0];

    for (size_t i = 0; i < n * n; i++) {
        struct order order = {{0}};
        check_request(texts[i / n], strlen(texts[i / n]), &order);
        check_request(texts[i % n], strlen(texts[i % n]), &order);
    }
}

/* Each name, and others of 0 to 16 bytes, with texts of 0 to 40 bytes and numbers of 1 to 40
 * digits: as the first, the second and the last of three members, with blanks and without. */
TEST(fast_members_of_all_lengths)
{
    static const char *const names[] = {
        "cmd", "userId", "password", "token", "to", "from", "groupId", "fromUserId", "chatType",
        "msgType", "content", "createTime", "id", "extras", "type", "beginTime", "endTime",
        "offset", "count", "name", "beforeSeq", "afterSeq", "loginname", "users", "friends",
        "group_id", "",
        "c", "ct", "cmdd", "xtend", "touser", "contens", "createTimes", "createTimess",
        "createTimesss", "createTimessss", "createTimesssss", "createTimessssss",
    };
    static const char all[] = "1234567890123456789012345678901234567890";
    struct order order = {{0}};
    char text[256];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (int n = 0; n <= 40; n++)
            for (int form = 0; form < 12; form++) {
                const char *quote = form % 2 ? "\"" : "", *blank = form % 4 > 1 ? " " : "";
                int at = form / 4, len = snprintf(text, sizeof text, "{");
                if (n == 0 && !form % 2)
                    continue;
                for (int k = 0; k < 3; k++)
                    len += k == at
                        ? snprintf(text + len, sizeof text - (size_t)len, "%s\"%s\":%s%s%.*s%s",
                                   k > 0 ? "," : "", names[i], blank, quote, n, all, quote)
                        : snprintf(text + len, sizeof text - (size_t)len, "%s\"%s\":%d",
                                   k > 0 ? "," : "", k == 2 ? "msgType" : "to", k);
                len += snprintf(text + len, sizeof text - (size_t)len, "}");
                check_request(text, (size_t)len, &order);
            }
}

/* A usual request, cut anywhere, ended there with a brace, and with another byte anywhere. */
TEST(fast_request_cut_and_changed)
{
    static const char usual[] =
        "{\"chatType\":2,\"cmd\":11,\"content\":\"sixty-four bytes or so, which is more than three "
        "loads of 16 are\",\"createTime\":1700000000000,\"from\":\"u0000\","
        "\"id\":\"b000000000000001\",\"msgType\":0,\"to\":\"u0001\"}";
    static const char bytes[] = "\"}{,: \n\\\x80\x7f" "01a-";
    char text[sizeof usual + 1];
    struct order order = {{0}};

    for (size_t n = 0; n < sizeof usual; n++) {
        memcpy(text, usual, sizeof usual);
        check_request(text, n, &order);
        text[n] = '}';
        check_request(text, n + 1, &order);
        for (size_t i = 0; i < sizeof bytes; i++) { /* its NUL is one of them */
            check_request(usual, sizeof usual - 1, &order);
            text[n] = bytes[i];
            check_request(text, sizeof usual - (n < sizeof usual - 1), &order);
        }
    }
}

/* --- memory ----------------------------------------------------------------------------------- */

TEST(fast_pool_uses_memory_again)
{
    struct jim *j = jim_new();

    for (int i = 0; i < 1000; i++) {
        struct msg *a = msg_take(&j->msgs, CMD_CHAT, 0, "hello", 5);
        struct msg *b = msg_take(&j->msgs, CMD_CHAT, 0, "again", 5);
        CHECK_BYTES(a->data, a->len, "hello");
        msg_unref(a);
        CHECK_BYTES(b->data, b->len, "again");
        msg_unref(b);
    }
    CHECK_INT(j->msgs.made, 2);
    conn_free_spares(j);
    CHECK(j->msgs.size[0].free == NULL && j->msgs.size[1].free == NULL);
    jim_free(j);
}

TEST(fast_pool_has_its_sizes)
{
    struct jim *j = jim_new();
    char text[MAX_POOLED - sizeof(struct msg)] = "large";
    const size_t n[POOLS] = {5, 1000, sizeof text};

    for (int i = 0; i < 1000; i++) {
        struct msg *m[POOLS];
        for (int k = 0; k < POOLS; k++) {
            m[k] = msg_take(&j->msgs, CMD_CHAT, 0, text, n[k]);
            CHECK_BYTES(m[k]->data, 5, "large");
            CHECK(m[k]->size == k && m[k]->bytes >= sizeof *m[k] + n[k]);
        }
        for (int k = 0; k < POOLS; k++)
            msg_unref(m[k]);
    }
    CHECK_INT(j->msgs.made, POOLS);
    for (int k = 0; k < POOLS; k++)
        CHECK_INT(j->msgs.size[k].n, 1);
    conn_free_spares(j);
    for (int k = 0; k < POOLS; k++)
        CHECK(j->msgs.size[k].free == NULL && j->msgs.size[k].n == 0);
    jim_free(j);
}

/* What is counted is what it takes, and no more than MAX_POOL of a size is kept. */
TEST(fast_pool_is_counted_and_bounded)
{
    enum { N = MAX_POOL / MAX_POOLED + 10 };
    struct msg_pool pool = {0};
    struct msg *m[N];
    size_t held = 0;

    for (int i = 0; i < N; i++) {
        m[i] = msg_piece(&pool, CMD_CHAT, 0, 5000);
        msg_hold(m[i], &held);
        msg_hold(m[i], &held);
    }
    CHECK_INT(held, (size_t)N * MAX_POOLED);
    for (int i = 0; i < N; i++)
        msg_unref(m[i]);
    CHECK_INT(held, 0);
    CHECK_INT(pool.size[POOLS - 1].n, MAX_POOL / MAX_POOLED);
    msg_pool_free(&pool);
}

TEST(fast_pool_is_for_short_messages)
{
    struct msg_pool pool = {0};
    char text[MAX_POOLED] = "long";
    struct msg *m = msg_take(&pool, CMD_CHAT, 0, text, sizeof text);

    msg_unref(m);
    CHECK_INT(pool.made, 0);
    for (int k = 0; k < POOLS; k++)
        CHECK(pool.size[k].free == NULL);
}

/* --- ids -------------------------------------------------------------------------------------- */

static uint64_t
print_of(const struct retries *r, uint64_t i)
{
    return siphash13(r->key, &i, sizeof i);
}

/* The newest are found, and nobody else. One that is old for the ring may have been pushed off its
 * line before: of all of them, one in twenty runs; so four are a fault. */
TEST(fast_retries_in_a_ring)
{
    static struct conv conv, other;
    struct retries r;
    struct retry_hit hit;
    const uint64_t all = MAX_RETRY + 5000;
    int early = 0;

    retry_init(&r);
    for (uint64_t i = 1; i <= all; i++)
        retry_add(&r, print_of(&r, i), &conv, i, (int64_t)i, 1000);
    CHECK_INT(r.count, MAX_RETRY);
    for (uint64_t i = 1; i <= all; i++) {
        bool found = retry_find(&r, print_of(&r, i), 1000, &hit);
        if (i <= all - MAX_RETRY)
            CHECK(!found);
        else if (!found && i < all - MAX_RETRY / 2)
            early++;
        else
            CHECK(found && hit.seq == i);
    }
    CHECK(early < 4);
    CHECK(!retry_find(&r, print_of(&r, all), 1000 + RETRY_MS + 1, &hit));
    retry_forget(&r, &other, 0);
    retry_forget(&r, &conv, all - 10);
    for (uint64_t i = all - 20; i <= all; i++)
        CHECK_INT(retry_find(&r, print_of(&r, i), 1000, &hit), i <= all - 10);
    retry_free(&r);
}

/* Prints that want one line, and have one tag: the newest of them are told apart and found. */
TEST(fast_retries_of_one_line)
{
    static struct conv conv;
    struct retries r;
    struct retry_hit hit;

    retry_init(&r);
    for (uint64_t i = 1; i <= 20; i++)
        retry_add(&r, i << 32, &conv, i, 0, 1000); /* tags are above these bits */
    for (uint64_t i = 1; i <= 20; i++) {
        CHECK_INT(retry_find(&r, i << 32, 1000, &hit), i > 4);
        CHECK(i <= 4 || hit.seq == i);
    }
    CHECK(!retry_find(&r, UINT64_C(21) << 32, 1000, &hit) && !retry_find(&r, 0, 1000, &hit));
    retry_free(&r);
}

TEST(fast_retries_of_a_day)
{
    static struct conv conv;
    struct retries r;
    struct retry_hit hit;

    retry_init(&r);
    for (uint64_t i = 1; i <= 3000; i++)
        retry_add(&r, print_of(&r, i), &conv, i, 0, (int64_t)i * 1000);
    int64_t later = 1500000 + RETRY_MS; /* half of them are a day old */
    for (uint64_t i = 1; i <= 3000; i++)
        CHECK_INT(retry_find(&r, print_of(&r, i), later, &hit), i >= 1500);
    retry_free(&r);
}
