/* SPDX-License-Identifier: MIT */
/*
 * test_client.c - the client library: what it makes of JSON.
 */
#include "client.h"

#include "../client_int.h"

/* --- codes and messages ----------------------------------------------------------------------- */

TEST(client_codes_are_those_of_the_protocol)
{
    struct jim_result r = {.code = 10001};

    CHECK(strcmp(jim_code_text(10007), "logged in") == 0);
    CHECK(strcmp(jim_code_text(10030), "no such group") == 0);
    CHECK(strcmp(jim_code_text(10031), "unknown code") == 0);
    CHECK(strcmp(jim_code_text(9999), "unknown code") == 0);
    CHECK(jim_result_ok(&r));
    r.code = -1;
    CHECK(jim_result_ok(&r));
    r.code = 10027;
    CHECK(!jim_result_ok(&r));
    r.code = 0;
    CHECK(!jim_result_ok(&r));
    for (int code = CODE_SENT; code <= CODE_NO_GROUP; code++)
        CHECK(strcmp(jim_code_text(code), "unknown code") != 0);
}

static int
message_of(const char *json, struct buf *text, struct jim_message *m)
{
    struct json chat = {.p = json, .n = (uint32_t)strlen(json), .type = JSON_OBJECT};

    return client_message(&chat, text, m);
}

TEST(client_message_is_decoded)
{
    struct buf text = {0};
    struct jim_message m;

    CHECK_INT(message_of("{\"chatType\":1,\"content\":\"a\\u0000b\\n\",\"createTime\":5,\"extras\":"
                         "{\"k\":[1]},\"from\":\"u1\",\"groupId\":\"g\",\"id\":\"i\",\"msgType\":2,"
                         "\"seq\":7}", &text, &m), 0);
    CHECK_INT(m.chat_type, JIM_TO_GROUP);
    CHECK_BYTES(m.from, strlen(m.from), "u1");
    CHECK_BYTES(m.group, strlen(m.group), "g");
    CHECK_BYTES(m.id, strlen(m.id), "i");
    CHECK(m.to == NULL);
    CHECK_INT(m.content_n, 4);
    CHECK(memcmp(m.content, "a\0b\n", 5) == 0);
    CHECK_INT(m.msg_type, 2);
    CHECK_INT(m.create_ms, 5);
    CHECK_INT(m.seq, 7);
    CHECK_BYTES(m.extras, m.extras_n, "{\"k\":[1]}");
    buf_free(&text);
}

TEST(client_message_of_jim_2_and_of_little)
{
    struct buf text = {0};
    struct jim_message m;

    CHECK_INT(message_of("{\"group_id\":\"g\",\"content\":12,\"msgType\":\"3\"}", &text, &m), 0);
    CHECK_BYTES(m.group, strlen(m.group), "g");
    CHECK_BYTES(m.content, m.content_n, "12");
    CHECK_INT(m.msg_type, 3);
    CHECK_INT(message_of("{}", &text, &m), 0);
    CHECK(m.content == NULL && m.from == NULL && m.seq == 0);
    CHECK_INT(m.msg_type, -1);
    buf_free(&text);
}

TEST(client_message_with_a_member_again_and_again)
{
    struct buf text = {0}, json = {0};
    struct jim_message m;

    buf_lit(&json, "{\"from\":\"u1\"");
    for (int i = 0; i < 1000; i++)
        buf_lit(&json, ",\"to\":\"\"");
    buf_lit(&json, "}\0");
    CHECK_INT(message_of(json.p, &text, &m), 0);
    CHECK_BYTES(m.from, strlen(m.from), "u1");
    CHECK(m.to != NULL);
    buf_free(&json);
    buf_free(&text);
}
