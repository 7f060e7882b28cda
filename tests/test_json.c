/* SPDX-License-Identifier: MIT */
/*
 * test_json.c - the JSON reader and writer: tables of texts with what must come of them, each also
 * read from in front of an unreadable page; every byte at every place of a string; every UTF-8
 * character; and mutated texts compared with a second reader, slow and simple, written below.
 */
#include "test.h"

#define MAX_TEXT 8192 /* longest text a test reads */

/* A text that may hold NUL, for tables. */
#define T(literal) (literal), sizeof(literal) - 1

/* Places whose ends are unreadable: for input, for json_text()'s output, for a second reading. */
struct edges {
    char *in, *out, *again;
};

static struct edges
edges_new(void)
{
    static const char zeros[MAX_TEXT];
    struct edges e;

    e.in = test_edge(zeros, MAX_TEXT) + MAX_TEXT;
    e.out = test_edge(zeros, MAX_TEXT) + MAX_TEXT;
    e.again = test_edge(zeros, MAX_TEXT) + MAX_TEXT;
    return e;
}

static const char *
place(char *edge, const void *p, size_t n)
{
    CHECK(n <= MAX_TEXT);
    if (n > 0)
        memcpy(edge - n, p, n);
    return edge - n;
}

/* --- a second reader -------------------------------------------------------------------------- */

struct ref {
    const unsigned char *p, *end;
};

static int
ref_peek(const struct ref *r)
{
    return r->p < r->end ? *r->p : -1;
}

static bool
ref_take(struct ref *r, int low, int high)
{
    int c = ref_peek(r);

    if (c < low || c > high || c < 0)
        return false;
    r->p++;
    return true;
}

static void
ref_space(struct ref *r)
{
    while (ref_take(r, ' ', ' ') || ref_take(r, '\t', '\n') || ref_take(r, '\r', '\r'))
        ;
}

/* One character beyond ASCII, by the table of RFC 3629 section 4. */
static bool
ref_high(struct ref *r)
{
    static const struct {
        int lead_low, lead_high, next_low, next_high, more;
    } forms[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 0}, {0xe0, 0xe0, 0xa0, 0xbf, 1}, {0xe1, 0xec, 0x80, 0xbf, 1},
        {0xed, 0xed, 0x80, 0x9f, 1}, {0xee, 0xef, 0x80, 0xbf, 1}, {0xf0, 0xf0, 0x90, 0xbf, 2},
        {0xf1, 0xf3, 0x80, 0xbf, 2}, {0xf4, 0xf4, 0x80, 0x8f, 2},
    };

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (!ref_take(r, forms[i].lead_low, forms[i].lead_high))
            continue;
        if (!ref_take(r, forms[i].next_low, forms[i].next_high))
            return false;
        for (int more = forms[i].more; more > 0; more--)
            if (!ref_take(r, 0x80, 0xbf))
                return false;
        return true;
    }
    return false;
}

static bool
ref_string(struct ref *r)
{
    if (!ref_take(r, '"', '"'))
        return false;
    while (!ref_take(r, '"', '"')) {
        if (ref_take(r, '\\', '\\')) {
            int c = ref_peek(r);
            if (c <= 0 || strchr("\"\\/bfnrtu", c) == NULL)
                return false;
            r->p++;
            for (int i = 0; c == 'u' && i < 4; i++)
                if (!ref_take(r, '0', '9') && !ref_take(r, 'a', 'f') && !ref_take(r, 'A', 'F'))
                    return false;
        } else if (!ref_take(r, 0x20, 0x7f) && !ref_high(r)) {
            return false;
        }
    }
    return true;
}

static bool
ref_digits(struct ref *r)
{
    bool any = false;

    while (ref_take(r, '0', '9'))
        any = true;
    return any;
}

static bool
ref_number(struct ref *r)
{
    ref_take(r, '-', '-');
    if (!ref_take(r, '0', '0') && !ref_digits(r))
        return false;
    if (ref_take(r, '.', '.') && !ref_digits(r))
        return false;
    if (!ref_take(r, 'e', 'e') && !ref_take(r, 'E', 'E'))
        return true;
    if (!ref_take(r, '+', '+'))
        ref_take(r, '-', '-');
    return ref_digits(r);
}

static bool
ref_word(struct ref *r, const char *word)
{
    for (; *word != '\0'; word++)
        if (!ref_take(r, *word, *word))
            return false;
    return true;
}

static bool
ref_value(struct ref *r, int depth)
{
    int c = ref_peek(r), close = c == '{' ? '}' : ']';

    if (c == '"')
        return ref_string(r);
    if (c == 't' || c == 'f' || c == 'n')
        return ref_word(r, c == 't' ? "true" : c == 'f' ? "false" : "null");
    if (c != '{' && c != '[')
        return ref_number(r);
    r->p++;
    ref_space(r);
    if (depth == JSON_MAX_DEPTH)
        return false;
    if (ref_take(r, close, close))
        return true;
    do {
        ref_space(r);
        if (close == '}') {
            if (!ref_string(r))
                return false;
            ref_space(r);
            if (!ref_take(r, ':', ':'))
                return false;
            ref_space(r);
        }
        if (!ref_value(r, depth + 1))
            return false;
        ref_space(r);
    } while (ref_take(r, ',', ','));
    return ref_take(r, close, close);
}

static bool
ref_accepts(const char *p, size_t n)
{
    struct ref r = {(const unsigned char *)p, (const unsigned char *)p + n};

    ref_space(&r);
    if (ref_peek(&r) != '{' && ref_peek(&r) != '[')
        return false;
    if (!ref_value(&r, 0))
        return false;
    ref_space(&r);
    return r.p == r.end;
}

/* --- reading all of a text -------------------------------------------------------------------- */

static bool
same(const struct buf *a, const struct buf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->p, b->p, a->len) == 0);
}

/* Everything that can be asked of one value. */
static void
ask(const struct edges *e, const struct json *v)
{
    struct buf value = {0}, string = {0};
    char *dst = e->out - v->n;
    int64_t i;

    size_t n = json_text(v, dst);
    CHECK(n <= v->n);
    int got = json_int(v, &i);
    CHECK(got >= -1 && got <= 1);
    CHECK(v->type == JSON_STRING || (!v->plain && !v->escaped));
    if (v->type == JSON_STRING) {
        CHECK_INT(v->escaped, v->n > 0 && memchr(v->p, '\\', v->n) != NULL);
        json_put_value(&value, v);
        json_put_string(&string, dst, n);
        CHECK(same(&value, &string));
        bool copied = value.len == (size_t)v->n + 2 && memcmp(value.p + 1, v->p, v->n) == 0;
        /* Not the other way round: an escape may happen to be written as it would be again. */
        CHECK(!v->plain || copied);
        CHECK(v->plain || v->escaped || !copied);
    }
    buf_free(&value);
    buf_free(&string);
}

/* Walk what is left, and into every nested value. The result is that of the last json_next(). */
static int
walk(const struct edges *e, struct json_iter *it)
{
    bool object = it->close == '}';
    struct json key, val;
    int more;

    while ((more = json_next(it, &key, &val)) == 1) {
        CHECK_INT(key.type, object ? JSON_STRING : JSON_NONE);
        ask(e, &key);
        ask(e, &val);
        if (val.type == JSON_OBJECT || val.type == JSON_ARRAY) {
            struct json_iter inner;
            json_enter(&inner, &val);
            CHECK_INT(walk(e, &inner), 0);
            CHECK_INT(json_error_at(&inner), val.n);
        }
    }
    CHECK(key.type == JSON_NONE && val.type == JSON_NONE && val.p == NULL);
    CHECK_INT(json_next(it, NULL, &val), more); /* it stays so */
    return more;
}

struct result {
    enum json_error error;
    size_t at;
};

static struct result
read_all(const struct edges *e, const char *p, size_t n)
{
    struct json_iter it;
    const char *text = place(e->in, p, n);

    int opened = json_open(&it, text, n);
    int ended = walk(e, &it);

    CHECK(opened == 0 || ended == -1);
    CHECK_INT(it.error != JSON_OK, ended != 0);
    CHECK(json_error_at(&it) <= n);
    return (struct result){it.error, json_error_at(&it)};
}

/* A whole document, known to be valid, written again. */
static void
encode(struct buf *to, const char *p, size_t n)
{
    struct json v = {0};

    while (n > 0 && strchr(" \t\r\n", *p) != NULL)
        p++, n--;
    while (n > 0 && strchr(" \t\r\n", p[n - 1]) != NULL)
        n--;
    v.p = p;
    v.n = (uint32_t)n;
    v.type = *p == '{' ? JSON_OBJECT : JSON_ARRAY;
    json_put_value(to, &v);
}

/* --- what is JSON and what is not ------------------------------------------------------------- */

static const struct {
    const char *p;
    size_t n;
} good[] = {
    {T("{}")},
    {T("{\"a\":1,\"b\":\"x\",\"cc\":0,\"d\":12345678,\"e\":1700000000000}")},
    {T("{\"cmd\":11,\"content\":\"a plain text of more than 16 bytes\",\"createTime\":"
       "1700000000000,\"id\":\"1f\",\"to\":\"bob\"}")},
    {T("{\"a\":\"\",\"b\":-1,\"c\":1.5,\"d\":\"\xe4\xbd\xa0\",\"e\":\"\\n\",\"f\":7}")},
    {T("{\"a\":1 ,\"b\": 2, \"c\":3,\"d\" :4,\"e\":[],\"f\":12}")},
    {T("[]")},
    {T(" \t\r\n{ \t\r\n} \t\r\n")},
    {T("[ ]")},
    {T("[[]]")},
    {T("[{}]")},
    {T("{\"a\":{}}")},
    {T("[[],[[]],{\"a\":[]}]")},
    {T("[0]")},
    {T("[-0]")},
    {T("[0,1,9,10,123456789]")},
    {T("[ 1 , 2 ]")},
    {T("[-1,-10]")},
    {T("[0.0,0.5,1.25,-0.001]")},
    {T("[1e1,1E1,1e+1,1e-1,1E+01,1e00,0e0,-0.0e-0]")},
    {T("[1.5e300,1e400,-1e-400]")},
    {T("[123456789012345678901234567890123456789012345678901234567890]")},
    {T("[0.12345678901234567890123456789012345678901234567890]")},
    {T("[true,false,null]")},
    {T("[true ,\nfalse\t]")},
    {T("[\"\"]")},
    {T("{\"\":\"\"}")},
    {T("{\"\":0,\"\":1}")},
    {T("[\"a\",\"bc\",\"seven77\",\"eight888\",\"nine 9999\"]")},
    {T("[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]")},
    {T("[\"\\u0000\\u0020\\u00e9\\u20AC\\uFFFF\\uabcd\\uABCD\"]")},
    {T("[\"\\uD83D\\uDE00\\ud83d\\ude00\"]")},
    {T("[\"\\uD83D\",\"\\uDE00\",\"\\uDE00\\uD83D\",\"\\uD83Dx\",\"\\uD83D\\n\"]")},
    {T("[\"\\uD83D\\u0041\",\"\\uD83D\\uD83D\\uDE00\",\"\\\\uD83D\"]")},
    {T("[\"/ ' <>& \x7f\"]")},
    {T("[\"\xc2\x80\xc2\x9f\xc2\xa0\xdf\xbf\"]")},
    {T("[\"\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\"]")},
    {T("[\"\xe2\x80\xa7\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa\"]")},
    {T("[\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"]")},
    {T("{\"\xe4\xbd\xa0\":\"\xe5\xa5\xbd hello \xf0\x9f\x98\x80\"}")},
    {T("[\"\xef\xbb\xbf\"]")},
    {T("{\"a\":1,\"a\":2,\"A\":3}")},
    {T("{\"a\":null,\"b\":[null,{\"c\":null}],\"d\":{\"e\":null}}")},
    {T("{ \"cmd\" : 11 , \"extras\" : { \"x\" : [ 1.50 , 1e3 , { } ] } }")},
    {T("{\"cmd\":\"11\",\"chat_type\":\"1,234\",\"msg-Type\":2.9,\"x\":true}")},
    {T("{\"cmd\":11,\"chatType\":2,\"content\":\"hello, how are you today?\",\"createTime\":"
       "1700000000000,\"from\":\"alice\",\"id\":\"0123456789abcdef0123456789abcdef\","
       "\"to\":\"b\"}")},
};
#define GOOD (sizeof good / sizeof good[0])

TEST(json_accepts)
{
    struct edges e = edges_new();
    size_t cuts = 0;

    for (size_t i = 0; i < GOOD; i++) {
        const char *p = good[i].p;
        size_t n = good[i].n;
        struct result r = read_all(&e, p, n);
        if (r.error != JSON_OK)
            test_fail(__FILE__, __LINE__, "%s: error %d at %zu", p, (int)r.error, r.at);
        CHECK_INT(r.at, n);
        CHECK(ref_accepts(p, n));
        while (strchr(" \t\r\n", p[n - 1]) != NULL)
            n--;
        for (size_t cut = 0; cut < n; cut++, cuts++) {
            r = read_all(&e, p, cut);
            bool inside = r.error == JSON_UTF8 && r.at + 4 > cut && (p[r.at] & 0x80) != 0;
            if (!inside && (r.error != JSON_SYNTAX || r.at != cut))
                test_fail(__FILE__, __LINE__, "%s cut to %zu: error %d at %zu", p, cut,
                          (int)r.error, r.at);
        }
    }
    test_note("%zu JSON texts, %zu cut short", GOOD, cuts);
}

static const struct {
    const char *p;
    size_t n;
    size_t at;
    enum json_error error;
} bad[] = {
    /* no document */
    {T(""), 0, JSON_SYNTAX},
    {T(" \n "), 3, JSON_SYNTAX},
    {T("\0"), 0, JSON_SYNTAX},
    {T("1"), 0, JSON_SYNTAX},
    {T("\"a\""), 0, JSON_SYNTAX},
    {T("null"), 0, JSON_SYNTAX},
    {T(" true"), 1, JSON_SYNTAX},
    {T("]"), 0, JSON_SYNTAX},
    {T("}"), 0, JSON_SYNTAX},
    {T(","), 0, JSON_SYNTAX},
    {T("\xef\xbb\xbf{}"), 0, JSON_SYNTAX},
    {T("\xc2\xa0{}"), 0, JSON_SYNTAX},
    {T("\f[]"), 0, JSON_SYNTAX},
    {T("/**/{}"), 0, JSON_SYNTAX},
    /* something after it */
    {T("{}x"), 2, JSON_SYNTAX},
    {T("{} {}"), 3, JSON_SYNTAX},
    {T("[]]"), 2, JSON_SYNTAX},
    {T("[1],"), 3, JSON_SYNTAX},
    {T("{}\0"), 2, JSON_SYNTAX},
    {T("[]//"), 2, JSON_SYNTAX},
    {T("{\"a\":1}}"), 7, JSON_SYNTAX},
    /* brackets and commas */
    {T("["), 1, JSON_SYNTAX},
    {T("{"), 1, JSON_SYNTAX},
    {T("[}"), 1, JSON_SYNTAX},
    {T("{]"), 1, JSON_SYNTAX},
    {T("[[]"), 3, JSON_SYNTAX},
    {T("[{]}"), 2, JSON_SYNTAX},
    {T("[1,]"), 3, JSON_SYNTAX},
    {T("[,1]"), 1, JSON_SYNTAX},
    {T("[,]"), 1, JSON_SYNTAX},
    {T("[1,,2]"), 3, JSON_SYNTAX},
    {T("[1 2]"), 3, JSON_SYNTAX},
    {T("[1:2]"), 2, JSON_SYNTAX},
    {T("[1;2]"), 2, JSON_SYNTAX},
    {T("[\"a\" \"b\"]"), 5, JSON_SYNTAX},
    {T("[\"a\":1]"), 4, JSON_SYNTAX},
    {T("[[] []]"), 4, JSON_SYNTAX},
    {T("[[1,]]"), 4, JSON_SYNTAX},
    {T("[1/**/]"), 2, JSON_SYNTAX},
    {T("[\f]"), 1, JSON_SYNTAX},
    {T("[\v1]"), 1, JSON_SYNTAX},
    {T("[\xc2\xa0]"), 1, JSON_SYNTAX},
    {T("[\xe2\x81\xa0]"), 1, JSON_SYNTAX},
    {T("[\\n]"), 1, JSON_SYNTAX},
    {T("[\0]"), 1, JSON_SYNTAX},
    /* members */
    {T("{,}"), 1, JSON_SYNTAX},
    {T("{a:1}"), 1, JSON_SYNTAX},
    {T("{'a':1}"), 1, JSON_SYNTAX},
    {T("{1:1}"), 1, JSON_SYNTAX},
    {T("{null:1}"), 1, JSON_SYNTAX},
    {T("{[]:1}"), 1, JSON_SYNTAX},
    {T("{\"a\"}"), 4, JSON_SYNTAX},
    {T("{\"a\" 1}"), 5, JSON_SYNTAX},
    {T("{\"a\",1}"), 4, JSON_SYNTAX},
    {T("{\"a\"=1}"), 4, JSON_SYNTAX},
    {T("{\"a\"::1}"), 5, JSON_SYNTAX},
    {T("{\"a\":}"), 5, JSON_SYNTAX},
    {T("{\"a\":,\"b\":1}"), 5, JSON_SYNTAX},
    {T("{\"a\":1,}"), 7, JSON_SYNTAX},
    {T("{\"a\":1,,\"b\":2}"), 7, JSON_SYNTAX},
    {T("{\"a\":1 \"b\":2}"), 7, JSON_SYNTAX},
    {T("{\"a\":1 b}"), 7, JSON_SYNTAX},
    {T("{\"a\":1]"), 6, JSON_SYNTAX},
    {T("{\"a\":1"), 6, JSON_SYNTAX},
    {T("{\"a"), 3, JSON_SYNTAX},
    {T("{\"a\""), 4, JSON_SYNTAX},
    {T("{\"a\":"), 5, JSON_SYNTAX},
    {T("{\"a\":1,\"b\"}"), 10, JSON_SYNTAX},
    {T("{\"a\":{\"b\":1,}}"), 12, JSON_SYNTAX},
    {T("{\"a\\x\":1}"), 4, JSON_SYNTAX},
    {T("{\"a\nb\":1}"), 3, JSON_SYNTAX},
    /* words */
    {T("[nul]"), 4, JSON_SYNTAX},
    {T("[nulL]"), 4, JSON_SYNTAX},
    {T("[tru"), 4, JSON_SYNTAX},
    {T("[True]"), 1, JSON_SYNTAX},
    {T("[TRUE]"), 1, JSON_SYNTAX},
    {T("[fals]"), 5, JSON_SYNTAX},
    {T("[truee]"), 5, JSON_SYNTAX},
    {T("[true1]"), 5, JSON_SYNTAX},
    {T("[nulltrue]"), 5, JSON_SYNTAX},
    {T("[undefined]"), 1, JSON_SYNTAX},
    {T("[NaN]"), 1, JSON_SYNTAX},
    {T("[nan]"), 2, JSON_SYNTAX},
    {T("[Infinity]"), 1, JSON_SYNTAX},
    {T("[-Infinity]"), 2, JSON_SYNTAX},
    {T("[a]"), 1, JSON_SYNTAX},
    {T("['a']"), 1, JSON_SYNTAX},
    {T("[*]"), 1, JSON_SYNTAX},
    /* numbers */
    {T("[01]"), 2, JSON_SYNTAX},
    {T("[00]"), 2, JSON_SYNTAX},
    {T("[-01]"), 3, JSON_SYNTAX},
    {T("[-]"), 2, JSON_SYNTAX},
    {T("[--1]"), 2, JSON_SYNTAX},
    {T("[- 1]"), 2, JSON_SYNTAX},
    {T("[+1]"), 1, JSON_SYNTAX},
    {T("[.5]"), 1, JSON_SYNTAX},
    {T("[-.5]"), 2, JSON_SYNTAX},
    {T("[1.]"), 3, JSON_SYNTAX},
    {T("[1.e1]"), 3, JSON_SYNTAX},
    {T("[1..2]"), 3, JSON_SYNTAX},
    {T("[1.2.3]"), 4, JSON_SYNTAX},
    {T("[1e]"), 3, JSON_SYNTAX},
    {T("[1E+]"), 4, JSON_SYNTAX},
    {T("[1e-"), 4, JSON_SYNTAX},
    {T("[1e+-1]"), 4, JSON_SYNTAX},
    {T("[1e1.5]"), 4, JSON_SYNTAX},
    {T("[1ee1]"), 3, JSON_SYNTAX},
    {T("[e1]"), 1, JSON_SYNTAX},
    {T("[0x10]"), 2, JSON_SYNTAX},
    {T("[1_000]"), 2, JSON_SYNTAX},
    {T("[1a]"), 2, JSON_SYNTAX},
    {T("[1-2]"), 2, JSON_SYNTAX},
    {T("[12 34]"), 4, JSON_SYNTAX},
    {T("[\xef\xbc\x91]"), 1, JSON_SYNTAX},
    {T("{\"a\":-}"), 6, JSON_SYNTAX},
    /* strings */
    {T("[\""), 2, JSON_SYNTAX},
    {T("[\"abc"), 5, JSON_SYNTAX},
    {T("[\"abc]"), 6, JSON_SYNTAX},
    {T("[\"abcdefghijkl]"), 15, JSON_SYNTAX},
    {T("[\"a\nb\"]"), 3, JSON_SYNTAX},
    {T("[\"a\tb\"]"), 3, JSON_SYNTAX},
    {T("[\"\0\"]"), 2, JSON_SYNTAX},
    {T("[\"\x1f\"]"), 2, JSON_SYNTAX},
    {T("[\"0123456789\x01\"]"), 12, JSON_SYNTAX},
    {T("[\"\\"), 3, JSON_SYNTAX},
    {T("[\"\\\"]"), 5, JSON_SYNTAX},
    {T("[\"\\a\"]"), 3, JSON_SYNTAX},
    {T("[\"\\x41\"]"), 3, JSON_SYNTAX},
    {T("[\"\\0\"]"), 3, JSON_SYNTAX},
    {T("[\"\\'\"]"), 3, JSON_SYNTAX},
    {T("[\"\\\0\"]"), 3, JSON_SYNTAX},
    {T("[\"\\N\"]"), 3, JSON_SYNTAX},
    {T("[\"\\U0041\"]"), 3, JSON_SYNTAX},
    {T("[\"\\\n\"]"), 3, JSON_SYNTAX},
    {T("[\"\\\xc3\xa9\"]"), 3, JSON_SYNTAX},
    {T("[\"\\u\"]"), 4, JSON_SYNTAX},
    {T("[\"\\u00\"]"), 6, JSON_SYNTAX},
    {T("[\"\\u004\"]"), 7, JSON_SYNTAX},
    {T("[\"\\u004g\"]"), 7, JSON_SYNTAX},
    {T("[\"\\u 041\"]"), 4, JSON_SYNTAX},
    {T("[\"\\u+041\"]"), 4, JSON_SYNTAX},
    {T("[\"\\u00\x04\x41\"]"), 6, JSON_SYNTAX},
    {T("[\"\\u@000\"]"), 4, JSON_SYNTAX},
    {T("[\"\\u`000\"]"), 4, JSON_SYNTAX},
    {T("[\"\\uD83D\\u\"]"), 10, JSON_SYNTAX},
    {T("[\"\\uD83D\\x\"]"), 9, JSON_SYNTAX},
    /* bytes that are not UTF-8: the offset is that of the character */
    {T("[\"\x80\"]"), 2, JSON_UTF8},
    {T("[\"abcdefgh\xbf\"]"), 10, JSON_UTF8},
    {T("[\"\xc0\x80\"]"), 2, JSON_UTF8},
    {T("[\"\xc1\xbf\"]"), 2, JSON_UTF8},
    {T("[\"\xc3\"]"), 2, JSON_UTF8},
    {T("[\"\xc3(\"]"), 2, JSON_UTF8},
    {T("[\"\xe4\xbd\"]"), 2, JSON_UTF8},
    {T("[\"\xe4\xbd\xa0\xe5\xa5\"]"), 5, JSON_UTF8},
    {T("[\"\xe0\x80\xaf\"]"), 2, JSON_UTF8},
    {T("[\"\xe0\x9f\xbf\"]"), 2, JSON_UTF8},
    {T("[\"\xed\xa0\x80\"]"), 2, JSON_UTF8},
    {T("[\"\xed\xbf\xbf\"]"), 2, JSON_UTF8},
    {T("[\"\xed\xa0\xbd\xed\xb8\x80\"]"), 2, JSON_UTF8},
    {T("[\"\xf0\x80\x80\xaf\"]"), 2, JSON_UTF8},
    {T("[\"\xf0\x8f\xbf\xbf\"]"), 2, JSON_UTF8},
    {T("[\"\xf0\x9f\x98\"]"), 2, JSON_UTF8},
    {T("[\"\xf4\x90\x80\x80\"]"), 2, JSON_UTF8},
    {T("[\"\xf5\x80\x80\x80\"]"), 2, JSON_UTF8},
    {T("[\"\xf8\x88\x80\x80\x80\"]"), 2, JSON_UTF8},
    {T("[\"\xfe\"]"), 2, JSON_UTF8},
    {T("[\"\xff\xff\"]"), 2, JSON_UTF8},
    {T("[\"a\xc3\xa9\xff\"]"), 5, JSON_UTF8},
    {T("{\"\xff\":1}"), 2, JSON_UTF8},
    {T("{\"a\":[{\"b\":\"\xff\"}]}"), 12, JSON_UTF8},
    {T("[\"\xe4\xbd"), 2, JSON_UTF8},
};
#define BAD (sizeof bad / sizeof bad[0])

TEST(json_refuses)
{
    struct edges e = edges_new();

    for (size_t i = 0; i < BAD; i++) {
        struct result r = read_all(&e, bad[i].p, bad[i].n);
        if (r.error != bad[i].error || r.at != bad[i].at)
            test_fail(__FILE__, __LINE__, "%s: error %d at %zu, not %d at %zu", bad[i].p,
                      (int)r.error, r.at, (int)bad[i].error, bad[i].at);
        CHECK(!ref_accepts(bad[i].p, bad[i].n));
    }
    test_note("%zu texts that are not JSON", BAD);
}

TEST(json_open_nothing)
{
    struct json_iter it;
    struct json val;

    CHECK_INT(json_open(&it, NULL, 0), -1);
    CHECK_INT(it.error, JSON_SYNTAX);
    CHECK_INT(json_error_at(&it), 0);
    CHECK_INT(json_next(&it, NULL, &val), -1);
#if SIZE_MAX > UINT32_MAX
    /* Longer than struct json can say: refused without a look at the text. */
    CHECK_INT(json_open(&it, "[]", (size_t)UINT32_MAX + 1), -1);
#endif
}

/* --- every byte, every character, every depth ------------------------------------------------- */

/* Each byte at each place of strings around the eight bytes that are scanned at once. */
TEST(json_byte_anywhere)
{
    struct edges e = edges_new();

    for (int byte = 0; byte < 256; byte++)
        for (size_t n = 1; n < 20; n++)
            for (size_t at = 0; at < n; at++) {
                char text[32] = "[\"";
                memset(text + 2, byte % 2 ? 'a' : '~', n);
                text[2 + at] = (char)byte;
                memcpy(text + 2 + n, "\"]", 2);
                struct result r = read_all(&e, text, n + 4);
                CHECK_INT(r.error == JSON_OK, ref_accepts(text, n + 4));
                if (byte < 0x20)
                    CHECK(r.error == JSON_SYNTAX && r.at == 2 + at);
                if (byte >= 0x80)
                    CHECK(r.error == JSON_UTF8 && r.at == 2 + at);
                if (byte == '"')
                    CHECK(r.error == JSON_SYNTAX && r.at == 3 + at);
            }
}

/* The end of plain text and of digits, wherever it and they are in a text of any length: nothing is
 * read outside of that (sanitizers see both sides), and nothing before p counts. */
TEST(json_spans)
{
    struct edges e = edges_new();
    char text[80];

    for (size_t n = 0; n <= sizeof text; n++)
        for (size_t from = 0; from <= n; from += n - from > 20 && from > 17 ? 7 : 1)
            for (size_t stop = from; stop <= n; stop++) {
                memset(text, '"', n);
                memset(text + from, '7', n - from);
                if (stop < n)
                    text[stop] = stop % 2 ? '"' : '\x80';
                char *own = xmalloc(n + (n == 0));
                memcpy(own, text, n);
                const char *edge = place(e.in, text, n);
                CHECK(json_span(own, own + from, own + n) == own + stop);
                CHECK(json_digits(own, own + from, own + n) == own + stop);
                CHECK(json_span(edge, edge + from, edge + n) == edge + stop);
                CHECK(json_digits(edge, edge + from, edge + n) == edge + stop);
                free(own);
            }
}

/* Lead bytes with every second byte and the edges of the others, against the table of RFC 3629. */
TEST(json_utf8_forms)
{
    static const char tail[] = "\x7f\x80\x8f\x90\xbf\xc0\"";
    struct edges e = edges_new();
    char text[10] = "[\"";

    for (int lead = 0x80; lead < 0x100; lead++)
        for (int second = 0; second < 0x100; second++)
            for (size_t i = 0; i < 49; i++) {
                text[2] = (char)lead;
                text[3] = (char)second;
                text[4] = tail[i / 7];
                text[5] = tail[i % 7];
                for (size_t n = 3; n <= 6; n++) {
                    memcpy(text + n, "\"]", 2);
                    struct result r = read_all(&e, text, n + 2);
                    CHECK_INT(r.error == JSON_OK, ref_accepts(text, n + 2));
                }
            }
}

static size_t
utf8_of(uint32_t c, char *dst)
{
    if (c < 0x80) {
        dst[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        dst[0] = (char)(0xc0 | c >> 6);
        dst[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        dst[0] = (char)(0xe0 | c >> 12);
        dst[1] = (char)(0x80 | (c >> 6 & 0x3f));
        dst[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    dst[0] = (char)(0xf0 | c >> 18);
    dst[1] = (char)(0x80 | (c >> 12 & 0x3f));
    dst[2] = (char)(0x80 | (c >> 6 & 0x3f));
    dst[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* What the writer must make of one character. */
static size_t
escape_of(uint32_t c, char *dst)
{
    const char *control = "\b\f\n\r\t", *letter = "bfnrt", *at;

    if (c == '"' || c == '\\')
        return (size_t)sprintf(dst, "\\%c", (int)c);
    if (c > 0 && c < 0x20 && (at = strchr(control, (int)c)) != NULL)
        return (size_t)sprintf(dst, "\\%c", letter[at - control]);
    if (c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029)
        return (size_t)sprintf(dst, "\\u%04X", (unsigned)c);
    return utf8_of(c, dst);
}

/* Every character as it is and as an escape: decoded, and written again. */
TEST(json_every_character)
{
    struct edges e = edges_new();
    struct buf out = {0};
    size_t characters = 0;

    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        char raw[4], text[48] = "[\"a", want[16] = "\"a", got[16];
        bool half = c >= 0xd800 && c <= 0xdfff;
        struct json_iter it;
        struct json v;
        size_t n = utf8_of(half ? 0xfffd : c, raw), size = 3;
        if (c >= 0x20 && c != '"' && c != '\\' && !half) {
            memcpy(text + size, raw, n);
            size += n;
        } else {
            size += (size_t)sprintf(text + size, "\\u%04x", (unsigned)c);
        }
        size += (size_t)sprintf(text + size, "\",\"a");
        if (c < 0x10000)
            size += (size_t)sprintf(text + size, "\\u%04X\"]", (unsigned)c);
        else
            size += (size_t)sprintf(text + size, "\\u%04x\\u%04x\"]",
                                    (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
                                    (unsigned)(0xdc00 + (c & 0x3ff)));
        size_t want_n = 2 + escape_of(half ? 0xfffd : c, want + 2);
        want[want_n++] = '"';
        CHECK_INT(json_open(&it, place(e.in, text, size), size), 0);
        for (int i = 0; i < 2; i++) {
            CHECK_INT(json_next(&it, NULL, &v), 1);
            CHECK_INT(json_text(&v, got), n + 1);
            CHECK(got[0] == 'a' && memcmp(got + 1, raw, n) == 0);
            out.len = 0;
            json_put_value(&out, &v);
            CHECK(out.len == want_n && memcmp(out.p, want, want_n) == 0);
            bool plain = i == 0 && v.n + 2 == want_n && !v.escaped;
            CHECK_INT(v.plain, plain);
            out.len = 0;
            json_put_string(&out, got, n + 1);
            CHECK(out.len == want_n && memcmp(out.p, want, want_n) == 0);
        }
        CHECK_INT(json_next(&it, NULL, &v), 0);
        characters++;
    }
    buf_free(&out);
    test_note("%zu characters read and written", characters);
}

/* Where a text's 33rd bracket opens; its length when there is none. */
static size_t
too_deep(const struct buf *b)
{
    int depth = 0;
    size_t at = 0;

    for (; at < b->len; at++) {
        if (b->p[at] == '[' || b->p[at] == '{')
            depth++;
        if (b->p[at] == ']' || b->p[at] == '}')
            depth--;
        if (depth > JSON_MAX_DEPTH)
            break;
    }
    return at;
}

TEST(json_depth)
{
    static const struct {
        const char *open, *inside, *close;
        int brackets;
    } kinds[] = {
        {"[", "", "]", 1},
        {"{\"a\":", "0", "}", 1},
        {"[ [", "", "] ]", 2},
        {"[1,{\"b\":[],\"a\":", "\"x\"", "} ]", 2},
    };
    struct edges e = edges_new();

    CHECK_INT(JSON_MAX_DEPTH, 32);
    for (size_t i = 0; i < 4; i++)
        for (int brackets = 28; brackets < 40; brackets += kinds[i].brackets) {
            struct buf b = {0}, again = {0};
            for (int k = 0; k < brackets; k += kinds[i].brackets)
                buf_str(&b, str_of(kinds[i].open));
            buf_str(&b, str_of(kinds[i].inside));
            for (int k = 0; k < brackets; k += kinds[i].brackets)
                buf_str(&b, str_of(kinds[i].close));
            size_t at = too_deep(&b);
            struct result r = read_all(&e, b.p, b.len);
            CHECK_INT(r.error, at < b.len ? JSON_DEPTH : JSON_OK);
            CHECK_INT(r.at, at);
            if (i == 0 && brackets <= JSON_MAX_DEPTH) {
                encode(&again, b.p, b.len);
                CHECK(same(&again, &b));
            }
            buf_free(&b);
            buf_free(&again);
        }
}

/* --- walking ---------------------------------------------------------------------------------- */

static void
check_member(struct json_iter *it, const char *name, int type, const char *text)
{
    struct json key, val;

    CHECK_INT(json_next(it, &key, &val), 1);
    CHECK_INT(key.type, name ? JSON_STRING : JSON_NONE);
    if (name != NULL)
        CHECK_BYTES(key.p, key.n, name);
    CHECK_INT(val.type, type);
    CHECK_BYTES(val.p, val.n, text);
}

TEST(json_members)
{
    const char *text = " { \"a\" : 1 , \"a\":-2.5e+3,\"b\\n\":\"x\\ty\",\"c\":true,\"c\":false,"
                       "\"d\":null,\"\":[ 1, \"]\" ] ,\"e\":{\"f\":\"}\"}} ";
    struct json_iter it, inner;
    struct json key, val;

    CHECK_INT(json_open(&it, text, strlen(text)), 0);
    check_member(&it, "a", JSON_NUMBER, "1");
    check_member(&it, "a", JSON_NUMBER, "-2.5e+3");
    check_member(&it, "b\\n", JSON_STRING, "x\\ty");
    check_member(&it, "c", JSON_TRUE, "true");
    check_member(&it, "c", JSON_FALSE, "false");
    check_member(&it, "d", JSON_NULL, "null");
    CHECK_INT(json_next(&it, NULL, &val), 1);
    CHECK_BYTES(val.p, val.n, "[ 1, \"]\" ]");
    json_enter(&inner, &val);
    check_member(&inner, NULL, JSON_NUMBER, "1");
    check_member(&inner, NULL, JSON_STRING, "]");
    CHECK_INT(json_next(&inner, &key, &val), 0);
    CHECK_INT(json_next(&it, &key, &val), 1);
    CHECK_INT(val.type, JSON_OBJECT);
    json_enter(&inner, &val);
    check_member(&inner, "f", JSON_STRING, "}");
    CHECK_INT(json_next(&inner, &key, &val), 0);
    CHECK_INT(json_next(&it, &key, &val), 0);
    CHECK_INT(key.type, JSON_NONE);
    CHECK_INT(val.type, JSON_NONE);
    CHECK_INT(json_next(&it, &key, &val), 0);
    CHECK_INT(json_error_at(&it), strlen(text));
}

/* What stands before a fault is handed out, and the fault then stays. */
TEST(json_late_fault)
{
    const char *text = "{\"a\":1,\"b\":[[2]],\"c\":[[3}]}";
    struct json_iter it;
    struct json val;

    CHECK_INT(json_open(&it, text, strlen(text)), 0);
    check_member(&it, "a", JSON_NUMBER, "1");
    check_member(&it, "b", JSON_ARRAY, "[[2]]");
    for (int i = 0; i < 3; i++) {
        CHECK_INT(json_next(&it, NULL, &val), -1);
        CHECK_INT(val.type, JSON_NONE);
        CHECK_INT(it.error, JSON_SYNTAX);
        CHECK_INT(json_error_at(&it), strlen("{\"a\":1,\"b\":[[2]],\"c\":[[3"));
    }
}

/* The zero value and those without members: nothing in them, and no crash. */
TEST(json_enter_scalar)
{
    struct json_iter it, inner;
    struct json val = {0};
    char text[1];

    json_enter(&inner, &val);
    CHECK_INT(json_next(&inner, NULL, &val), 0);
    CHECK_INT(json_text(&val, text), 0);
    CHECK_INT(json_open(&it, "[\"[1]\",1]", 9), 0);
    while (json_next(&it, NULL, &val) == 1) {
        json_enter(&inner, &val);
        CHECK_INT(json_next(&inner, NULL, &val), 0);
    }
    CHECK_INT(it.error, JSON_OK);
}

/* --- values ----------------------------------------------------------------------------------- */

/* The only element of an array of which `text` is the inside, at the unreadable page's edge but for
 * the bracket. */
static struct json
value_of(const struct edges *e, const char *text)
{
    char copy[MAX_TEXT];
    struct json_iter it;
    struct json val, end;
    int n = snprintf(copy, sizeof copy, "[%s]", text);

    CHECK(n > 0 && (size_t)n < sizeof copy);
    CHECK_INT(json_open(&it, place(e->in, copy, (size_t)n), (size_t)n), 0);
    if (json_next(&it, NULL, &val) != 1 || json_next(&it, NULL, &end) != 0)
        test_fail(__FILE__, __LINE__, "%s is not JSON", text);
    return val;
}

static const struct {
    const char *text;
    int result;
    int64_t value;
} ints[] = {
    {"0", 1, 0},
    {"-0", 1, 0},
    {"7", 1, 7},
    {"-7", 1, -7},
    {"1700000000000", 1, 1700000000000},
    {"123456789012345678", 1, 123456789012345678},
    {"1234567890123456789", 1, 1234567890123456789},
    {"9223372036854775807", 1, INT64_MAX},
    {"9223372036854775808", -1, 0},
    {"-9223372036854775808", 1, INT64_MIN},
    {"-9223372036854775809", -1, 0},
    {"9223372036854775807.9", 1, INT64_MAX},
    {"10000000000000000000", -1, 0},
    {"18446744073709551616", -1, 0},
    {"99999999999999999999999999", -1, 0},
    {"2.9", 1, 2},
    {"-2.9", 1, -2},
    {"0.99", 1, 0},
    {"-0.99", 1, 0},
    {"1.7e12", 1, 1700000000000},
    {"1.7E+12", 1, 1700000000000},
    {"17000000000000e-1", 1, 1700000000000},
    {"1.23456e3", 1, 1234},
    {"12345e-3", 1, 12},
    {"12345e-5", 1, 0},
    {"12345e-99", 1, 0},
    {"0.00012e4", 1, 1},
    {"0.00012e5", 1, 12},
    {"9.223372036854775807e18", 1, INT64_MAX},
    {"9.223372036854775808e18", -1, 0},
    {"-9.223372036854775808e18", 1, INT64_MIN},
    {"1e18", 1, 1000000000000000000},
    {"1e19", -1, 0},
    {"1e400", -1, 0},
    {"1e99999999999999999999999999999999", -1, 0},
    {"1e-99999999999999999999999999999999", 1, 0},
    {"0e99999999999999999999999999999999", 1, 0},
    {"0.0e999999999", 1, 0},
    {"0.000000000000000000000000000001e30", 1, 1},
    {"1000000000000000000000000000000e-30", 1, 1},
    {"true", 1, 1},
    {"false", 1, 0},
    {"null", 0, 0},
    {"\"\"", 0, 0},
    {"\"null\"", 0, 0},
    {"\"n\\u0075ll\"", 0, 0},
    {"\"2\"", 1, 2},
    {"\"-2\"", 1, -2},
    {"\"007\"", 1, 7},
    {"\"1,234\"", 1, 1234},
    {"\"-1,234,567.89\"", 1, -1234567},
    {"\"1,2,3\"", 1, 123},
    {"\"2.9\"", 1, 2},
    {"\"1.7e12\"", 1, 1700000000000},
    {"\"1,700e9\"", 1, 1700000000000},
    {"\"9,223,372,036,854,775,807\"", 1, INT64_MAX},
    {"\"9,223,372,036,854,775,808\"", -1, 0},
    {"\"\\u0031\\u002c\\u0032\"", 1, 12},
    {"\"1\\u00e9\"", -1, 0},
    {"\" 2 \"", -1, 0},
    {"\" 2\"", -1, 0},
    {"\"2 \"", -1, 0},
    {"\"2\\n\"", -1, 0},
    {"\"2\\u0000\"", -1, 0},
    {"\"+2\"", -1, 0},
    {"\"--2\"", -1, 0},
    {"\"-\"", -1, 0},
    {"\",\"", -1, 0},
    {"\",1\"", -1, 0},
    {"\"1,\"", -1, 0},
    {"\"1,,2\"", -1, 0},
    {"\"-,1\"", -1, 0},
    {"\"1,.5\"", -1, 0},
    {"\"1.\"", -1, 0},
    {"\".5\"", -1, 0},
    {"\"1.5,5\"", -1, 0},
    {"\"1e\"", -1, 0},
    {"\"1e+\"", -1, 0},
    {"\"1e1,0\"", -1, 0},
    {"\"1e1.0\"", -1, 0},
    {"\"1.5x\"", -1, 0},
    {"\"0x10\"", -1, 0},
    {"\"true\"", -1, 0},
    {"\"NULL\"", -1, 0},
    {"\"abc\"", -1, 0},
    {"\"2020-01-01\"", -1, 0},
    {"{}", -1, 0},
    {"[]", -1, 0},
    {"[1]", -1, 0},
};

TEST(json_integers)
{
    struct edges e = edges_new();
    struct json none = {0};
    int64_t got = 99;

    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        struct json v = value_of(&e, ints[i].text);
        /* A value of its own, so that the byte after it is the unreadable one. */
        v.p = place(e.again, v.p, v.n);
        got = 99;
        int result = json_int(&v, &got);
        if (result != ints[i].result || (result == 1 && got != ints[i].value))
            test_fail(__FILE__, __LINE__, "%s gives %d and %lld", ints[i].text, result,
                      (long long)got);
    }
    CHECK_INT(json_int(&none, &got), 0);
    /* Every integer with commas fits when all of it is escaped; longer texts are not numbers. */
    char text[600] = "\"";
    for (const char *p = "-9,223,372,036,854,775,808"; *p != '\0'; p++)
        sprintf(text + strlen(text), "\\u%04x", (unsigned)*p);
    strcat(text, "\"");
    struct json v = value_of(&e, text);
    CHECK_INT(json_int(&v, &got), 1);
    CHECK(got == INT64_MIN);
    text[0] = '"';
    for (size_t i = 0; i < 50; i++)
        memcpy(text + 1 + i * 6, "\\u0030", 6);
    strcpy(text + 301, "\"");
    v = value_of(&e, text);
    CHECK_INT(json_int(&v, &got), -1);
}

/* Integers of every length there and back; with a byte that is no digit anywhere in it, none. */
TEST(json_integers_of_all_lengths)
{
    struct edges e = edges_new();
    char text[24];
    int64_t got;

    for (int n = 1; n <= 19; n++) {
        struct buf b = {0};
        snprintf(text, sizeof text, "%.*s", n, "9123456780123456789");
        int64_t value = strtoll(text, NULL, 10);
        json_put_int(&b, value);
        CHECK_BYTES(b.p, b.len, text);
        b.len = 0;
        json_put_int(&b, -value);
        CHECK(b.len == (size_t)n + 1 && b.p[0] == '-' && memcmp(b.p + 1, text, (size_t)n) == 0);
        buf_free(&b);
        struct json v = {place(e.in, text, (size_t)n), (uint32_t)n, JSON_NUMBER, false, false};
        CHECK(json_int(&v, &got) == 1 && got == value);
        CHECK(json_digits(v.p, v.p, v.p + n) == v.p + n);
        for (int at = 0; at < n; at++)
            for (const char *other = "/:\xb0\xff "; *other != '\0'; other++) {
                char was = text[at];
                text[at] = *other;
                v = (struct json){place(e.in, text, (size_t)n), (uint32_t)n, JSON_STRING, false,
                                  false};
                CHECK(json_digits(v.p, v.p, v.p + n) == v.p + at);
                CHECK_INT(json_int(&v, &got), -1);
                text[at] = was;
            }
    }
}

TEST(json_texts)
{
    static const struct {
        const char *json, *want;
        size_t n;
    } texts[] = {
        {"\"\"", T("")},
        {"\"abc\"", T("abc")},
        {"\"a\\\"b\\\\c\\/d\"", T("a\"b\\c/d")},
        {"\"\\b\\f\\n\\r\\t\"", T("\b\f\n\r\t")},
        {"\"bfnrt\"", T("bfnrt")},
        {"\"\\u0000x\\u0000\"", T("\0x\0")},
        {"\"\\u0041\\u00e9\\u4F60\"", T("A\xc3\xa9\xe4\xbd\xa0")},
        {"\"\\uaBcD\\uEF09\"", T("\xea\xaf\x8d\xee\xbc\x89")},
        {"\"\\ud83d\\ude00\"", T("\xf0\x9f\x98\x80")},
        {"\"\\ud800\\udc00\\udbff\\udfff\"", T("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf")},
        {"\"\\ud83d\"", T("\xef\xbf\xbd")},
        {"\"\\ude00\"", T("\xef\xbf\xbd")},
        {"\"\\ud83dx\"", T("\xef\xbf\xbdx")},
        {"\"\\ud83d\\n\"", T("\xef\xbf\xbd\n")},
        {"\"\\ud83d\\nde00\"", T("\xef\xbf\xbd\nde00")},
        {"\"\\ud83d\\u0041\"", T("\xef\xbf\xbd" "A")},
        {"\"\\ud83d\\ud83d\\ude00\"", T("\xef\xbf\xbd\xf0\x9f\x98\x80")},
        {"\"\\ude00\\ud83d\"", T("\xef\xbf\xbd\xef\xbf\xbd")},
        {"\"\\ud83d\\ue000\"", T("\xef\xbf\xbd\xee\x80\x80")},
        {"\"\\\\ud83d\"", T("\\ud83d")},
        {"\"\xe4\xbd\xa0\\n\xe5\xa5\xbd\"", T("\xe4\xbd\xa0\n\xe5\xa5\xbd")},
        {"17", T("17")},
        {"-1.50E+3", T("-1.50E+3")},
        {"true", T("true")},
        {"false", T("false")},
        {"null", T("null")},
        {"{ \"a\\n\" : 1 }", T("{ \"a\\n\" : 1 }")},
        {"[1, 2]", T("[1, 2]")},
    };
    struct edges e = edges_new();

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct json v = value_of(&e, texts[i].json);
        v.p = place(e.again, v.p, v.n);
        char *dst = e.out - v.n;
        size_t n = json_text(&v, dst);
        if (n != texts[i].n || memcmp(dst, texts[i].want, n) != 0)
            test_fail(__FILE__, __LINE__, "%s gives %.*s", texts[i].json, (int)n, dst);
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

TEST(json_puts_strings)
{
    static const struct {
        const char *text;
        size_t n;
        const char *want;
    } strings[] = {
        {NULL, 0, "\"\""},
        {T("abc"), "\"abc\""},
        {T("a\"b\\c/d"), "\"a\\\"b\\\\c/d\""},
        {T("\b\f\n\r\t"), "\"\\b\\f\\n\\r\\t\""},
        {T("\0\x01\x0b\x1f\x7f"), "\"\\u0000\\u0001\\u000B\\u001F\\u007F\""},
        {T("\xc2\x80\xc2\x9f\xc2\xa0"), "\"\\u0080\\u009F\xc2\xa0\""},
        {T("\xe2\x80\xa7\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa"),
         "\"\xe2\x80\xa7\\u2028\\u2029\xe2\x80\xaa\""},
        {T("\xe4\xbd\xa0\xe2\x80\xa8\xe5\xa5\xbd\xc2\x85!"),
         "\"\xe4\xbd\xa0\\u2028\xe5\xa5\xbd\\u0085!\""},
        {T("<>&'"), "\"<>&'\""},
        {T("\xf0\x9f\x98\x80"), "\"\xf0\x9f\x98\x80\""},
        {T("0123456789\n0123456789\n"), "\"0123456789\\n0123456789\\n\""},
        /* The promise of valid UTF-8 broken: copied, and never read past the end. */
        {T("a\xc2"), "\"a\xc2\""},
        {T("a\xe2"), "\"a\xe2\""},
        {T("a\xe2\x80"), "\"a\xe2\x80\""},
        {T("\xff\x80"), "\"\xff\x80\""},
    };
    struct edges e = edges_new();

    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        struct buf b = {0};
        const char *p = strings[i].text;
        if (p != NULL)
            p = place(e.in, p, strings[i].n);
        json_put_string(&b, p, strings[i].n);
        CHECK_BYTES(b.p, b.len, strings[i].want);
        buf_free(&b);
    }
}

TEST(json_puts_parts)
{
    struct buf b = {0};

    json_put_comma(&b);
    CHECK_INT(b.len, 0);
    json_put_raw(&b, NULL, 0);
    json_put_raw(&b, "{", 1);
    json_put_key(&b, "a");
    json_put_int(&b, 0);
    json_put_key(&b, "b");
    json_put_raw(&b, "[", 1);
    json_put_comma(&b);
    json_put_int(&b, INT64_MIN);
    json_put_comma(&b);
    json_put_int(&b, INT64_MAX);
    json_put_comma(&b);
    json_put_int(&b, -1);
    json_put_comma(&b);
    json_put_int(&b, 10);
    json_put_comma(&b);
    json_put_string(&b, "{", 1);
    json_put_comma(&b);
    json_put_raw(&b, "{}", 2);
    json_put_raw(&b, "]", 1);
    json_put_key(&b, "");
    json_put_string(&b, "[", 1);
    json_put_key(&b, "c");
    json_put_raw(&b, "null}", 5);
    CHECK_BYTES(b.p, b.len, "{\"a\":0,\"b\":[-9223372036854775808,9223372036854775807,-1,10,\"{\","
                            "{}],\"\":\"[\",\"c\":null}");
    buf_free(&b);
}

TEST(json_puts_values)
{
    static const struct {
        const char *text, *want;
    } values[] = {
        {"1.50", "1.50"},
        {"-0", "-0"},
        {"1e3", "1e3"},
        {"1E+03", "1E+03"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"true", "true"},
        {"false", "false"},
        {"null", "null"},
        {"\"plain\"", "\"plain\""},
        {"\"\"", "\"\""},
        {"\"\\u0041\\/\\u00e9\\u4f60\"", "\"A/\xc3\xa9\xe4\xbd\xa0\""},
        {"\"\\u000a\\u000B\\u007f\\u2028\"", "\"\\n\\u000B\\u007F\\u2028\""},
        {"\"\x7f\xc2\x85\xe2\x80\xa9\"", "\"\\u007F\\u0085\\u2029\""},
        {"\"\\ud83d\\ude00\\ud83d\"", "\"\xf0\x9f\x98\x80\xef\xbf\xbd\""},
        {"\"a\\\"b\\\\\"", "\"a\\\"b\\\\\""},
        {"\"\\u0022\\u005c\"", "\"\\\"\\\\\""},
        {"{ }", "{}"},
        {"[ ]", "[]"},
        {" { \"a\" : [ 1 , { \"b\" : \"c\" } , [ ] ] , \"d\" : { } } ",
         "{\"a\":[1,{\"b\":\"c\"},[]],\"d\":{}}"},
        {"{\"b\":1,\"a\":2,\"b\":3}", "{\"b\":1,\"a\":2,\"b\":3}"},
        {"{\"a\":null}", "{}"},
        {"{\"a\":null,\"b\":1}", "{\"b\":1}"},
        {"{\"b\":1,\"a\":null}", "{\"b\":1}"},
        {"{\"b\":1,\"a\": null ,\"c\":2}", "{\"b\":1,\"c\":2}"},
        {"{\"a\":{\"b\":null,\"c\":{\"d\":null}}}", "{\"a\":{\"c\":{}}}"},
        {"[null,{\"a\":null},null]", "[null,{},null]"},
        {"{\"a\":[null]}", "{\"a\":[null]}"},
        {"{\"a\":\"null\"}", "{\"a\":\"null\"}"},
        {"{\"\\u0061\\n\":{\"\x7f\":\"\\/\"}}", "{\"a\\n\":{\"\\u007F\":\"/\"}}"},
        {"[\"[\",\"{\",1]", "[\"[\",\"{\",1]"},
    };
    struct edges e = edges_new();
    struct json none = {0};
    struct buf b = {0};

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct json v = value_of(&e, values[i].text);
        /* A string's view ends before its quote. */
        v.p = place(e.again, v.p, v.n);
        b.len = 0;
        json_put_value(&b, &v);
        CHECK_BYTES(b.p, b.len, values[i].want);
    }
    b.len = 0;
    json_put_value(&b, &none);
    CHECK_BYTES(b.p, b.len, "null");
    buf_free(&b);
}

/* Only a broken promise brings these: the writer stops, it does not crash. */
TEST(json_puts_unchecked)
{
    struct edges e = edges_new();
    struct buf b = {0};

    for (size_t i = 0; i < BAD; i++) {
        if (bad[i].n == 0)
            continue;
        struct json v = {.p = place(e.in, bad[i].p, bad[i].n), .n = (uint32_t)bad[i].n};
        v.type = JSON_OBJECT;
        json_put_value(&b, &v);
    }
    size_t deep = 1000000;
    char *text = xmalloc(deep);
    memset(text, '[', deep);
    b.len = 0;
    json_put_value(&b, &(struct json){.p = text, .n = (uint32_t)deep, .type = JSON_ARRAY});
    CHECK(b.len < 100);
    free(text);
    buf_free(&b);
}

/* Written again, a text is still JSON, and a second time changes nothing. */
static void
check_again(const struct edges *e, const char *p, size_t n)
{
    struct buf once = {0}, twice = {0};

    encode(&once, p, n);
    const char *text = place(e->again, once.p, once.len);
    if (!ref_accepts(text, once.len))
        test_fail(__FILE__, __LINE__, "not JSON: %.*s", (int)once.len, text);
    CHECK_INT(read_all(e, once.p, once.len).error, JSON_OK);
    encode(&twice, text, once.len);
    CHECK(same(&once, &twice));
    buf_free(&once);
    buf_free(&twice);
}

TEST(json_round_trip)
{
    struct edges e = edges_new();

    for (size_t i = 0; i < GOOD; i++)
        check_again(&e, good[i].p, good[i].n);
}

/* --- mutated texts ---------------------------------------------------------------------------- */

static size_t
mutate(char *p, size_t n, size_t max, uint64_t *random)
{
    static const char spice[] = "{}[]\",:\\u0aD8dCe+-. \n\x7f\x80\xbf\xc2\xe2\xed\xf0\xff";
    uint64_t r = (uint64_t)draw(random) << 32 | draw(random);
    size_t at = n > 0 ? (size_t)(r >> 8) % n : 0;
    size_t more = 1 + (size_t)(r >> 40) % 6;
    char c = spice[(size_t)(r >> 32) % (sizeof spice - 1)];

    if (more > n - at)
        more = n - at;
    switch (r % 6) {
    case 0: /* a bit */
        if (n > 0)
            p[at] = (char)(p[at] ^ 1 << (r >> 50) % 8);
        return n;
    case 1: /* another byte */
        if (n > 0)
            p[at] = c;
        return n;
    case 2: /* one more */
        if (n == max)
            return n;
        memmove(p + at + 1, p + at, n - at);
        p[at] = c;
        return n + 1;
    case 3: /* fewer */
        memmove(p + at, p + at + more, n - at - more);
        return n - more;
    case 4: /* some twice */
        if (n + more > max)
            return n;
        memmove(p + at + more, p + at, n - at);
        return n + more;
    default: /* cut short, now and then */
        return r >> 60 == 0 ? at : n;
    }
}

TEST(json_mutations)
{
    struct edges e = edges_new();
    uint64_t random = 88172645463325252;
    size_t valid = 0;

    for (int i = 0; i < 200000; i++) {
        char text[400];
        size_t which = (size_t)(draw(&random) >> 8) % GOOD, n = good[which].n;
        memcpy(text, good[which].p, n);
        for (uint64_t k = draw(&random) % 3 + 1; k > 0; k--)
            n = mutate(text, n, sizeof text, &random);
        struct result r = read_all(&e, text, n);
        bool want = ref_accepts(text, n);
        if ((r.error == JSON_OK) != want)
            test_fail(__FILE__, __LINE__, "%d: error %d at %zu: %.*s", i, (int)r.error, r.at,
                      (int)n, text);
        if (want) {
            check_again(&e, text, n);
            valid++;
        }
    }
    CHECK(valid > 20000 && valid < 180000); /* else the mutations have lost their bite */
    test_note("200000 mutated texts, %zu of them JSON", valid);
}

/* --- the header on its own -------------------------------------------------------------------- */

static void
write_file(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");

    CHECK(f != NULL);
    fprintf(f, "#include \"json.h\"\n%s", text);
    CHECK(fclose(f) == 0);
}

/* json.h and nothing else makes a program, with a buffer of its own; C++ takes its declarations. */
TEST(json_alone)
{
    static const char warn[] = "-Wall -Wextra -Wpedantic -Werror";
    char command[1024];

    write_file("alone.c", "#define JSON_IMPLEMENTATION\n"
                          "#include \"json.h\"\n"
                          "int main(void)\n"
                          "{\n"
                          "    struct json_buf b = {0};\n"
                          "    for (int i = 0; i < 100; i++)\n"
                          "        json_put_key(&b, \"0123456789\");\n"
                          "    int bad = b.len != 1399 || b.cap < b.len;\n"
                          "    static char more[9999];\n"
                          "    json_put_raw(&b, more, sizeof more);\n"
                          "    bad |= b.len != 1399 + sizeof more || b.cap < b.len;\n"
                          "    free(b.p);\n"
                          "    return bad;\n"
                          "}\n");
    write_file("alone.cc", "int f(json_iter *it, json *v) { return json_next(it, 0, v); }\n");
    if (system("command -v \"${CC:-cc}\" >/dev/null") != 0) {
        test_note("no C compiler: json.h was not compiled on its own");
        return;
    }
    snprintf(command, sizeof command, "\"${CC:-cc}\" -std=c11 %s -I '%s' -o alone alone.c", warn,
             test_source());
    CHECK_INT(system(command), 0);
    CHECK_INT(system("./alone"), 0);
    snprintf(command, sizeof command, "\"${CXX:-c++}\" %s -I '%s' -c alone.cc", warn,
             test_source());
    if (system("command -v \"${CXX:-c++}\" >/dev/null") == 0)
        CHECK_INT(system(command), 0);
}
