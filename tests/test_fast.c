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
    };
    const size_t n = sizeof texts / sizeof texts[0];
    struct request a, b;

    for (size_t i = 0; i < n * n; i++) {
        struct order order = {{0}};
        size_t len = strlen(texts[i % n]);
        char *text = xstrndup(texts[i % n], len); /* so that what is read behind it is seen */
        request_parse_like(&b, str_of(texts[i / n]), &order);
        bool right = request_parse(&a, (struct str){text, len});
        CHECK_INT(request_parse_like(&b, (struct str){text, len}, &order), right);
        for (enum field f = 0; f < FIELDS && right; f++)
            CHECK(a.f[f].type == b.f[f].type && a.f[f].n == b.f[f].n && a.f[f].p == b.f[f].p &&
                  a.f[f].plain == b.f[f].plain && a.f[f].escaped == b.f[f].escaped);
        free(text);
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

TEST(fast_pool_has_two_sizes)
{
    struct jim *j = jim_new();
    char text[POOL_ROOM] = "larger";

    for (int i = 0; i < 1000; i++) {
        struct msg *a = msg_take(&j->msgs, CMD_CHAT, 0, text, sizeof text);
        struct msg *b = msg_take(&j->msgs, CMD_CHAT, 0, "small", 5);
        CHECK_BYTES(a->data, 6, "larger");
        CHECK_BYTES(b->data, b->len, "small");
        msg_unref(a);
        msg_unref(b);
    }
    CHECK_INT(j->msgs.made, 2);
    CHECK_INT(j->msgs.size[0].n, 1);
    CHECK_INT(j->msgs.size[1].n, 1);
    conn_free_spares(j);
    CHECK(j->msgs.size[0].free == NULL && j->msgs.size[1].free == NULL);
    jim_free(j);
}

TEST(fast_pool_is_for_short_messages)
{
    struct msg_pool pool = {0};
    char text[POOL_LARGE] = "long";
    struct msg *m = msg_take(&pool, CMD_CHAT, 0, text, sizeof text);

    msg_unref(m);
    CHECK_INT(pool.made, 0);
    CHECK(pool.size[0].free == NULL && pool.size[1].free == NULL);
}

/* --- ids -------------------------------------------------------------------------------------- */

/* Prints that want few places, so that they push each other along: also over the table's end. */
static uint64_t
print_of(uint64_t i)
{
    return (i % 977) * 0x100000001 + (i << 40) - 300;
}

TEST(fast_retries_in_a_ring)
{
    static struct conv conv, other;
    struct retries r;
    struct retry_hit hit;
    const uint64_t all = MAX_RETRY + 5000;

    retry_init(&r);
    for (uint64_t i = 1; i <= all; i++)
        retry_add(&r, siphash13(r.key, &i, sizeof i), &conv, i, (int64_t)i, 1000);
    CHECK_INT(r.count, MAX_RETRY);
    for (uint64_t i = 1; i <= all; i++) {
        bool found = retry_find(&r, siphash13(r.key, &i, sizeof i), 1000, &hit);
        CHECK_INT(found, i > all - MAX_RETRY);
        if (found)
            CHECK_INT(hit.seq, i);
    }
    retry_forget(&r, &other, 0);
    retry_forget(&r, &conv, all - 10);
    for (uint64_t i = all - 20; i <= all; i++)
        CHECK_INT(retry_find(&r, siphash13(r.key, &i, sizeof i), 1000, &hit), i <= all - 10);
    retry_free(&r);
}

TEST(fast_retries_that_collide)
{
    static struct conv conv;
    struct retries r;
    struct retry_hit hit;

    retry_init(&r);
    for (uint64_t i = 1; i <= 3000; i++)
        retry_add(&r, print_of(i), &conv, i, 0, (int64_t)i * 1000);
    for (uint64_t i = 1; i <= 3000; i++)
        CHECK(retry_find(&r, print_of(i), 3000000, &hit) && hit.seq == i);
    int64_t later = 1500000 + RETRY_MS; /* half of them are a day old */
    retry_add(&r, print_of(3001), &conv, 3001, 0, later);
    for (uint64_t i = 1; i <= 3001; i++)
        CHECK_INT(retry_find(&r, print_of(i), later, &hit), i >= 1500);
    retry_free(&r);
}
