/* SPDX-License-Identifier: MIT */
/*
 * test_auth.c - what logins are made of, without a server: the users file, tokens and what is done
 * to forge them, profiles, the heads of a hook's responses and its address; and the subcommands
 * passwd and token. How servers log in is test_login.c's.
 */
#include "client.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define SECRET "0123456789abcdef0123456789abcdef"
#define NOW_S INT64_C(1700000000)

/* ' stands for ". Lives until the ninth call after it. */
static char *
quoted(const char *text)
{
    static char copies[9][4096];
    static int next;
    char *copy = copies[next++ % 9];

    CHECK(strlen(text) < sizeof copies[0]);
    strcpy(copy, text);
    for (char *p = copy; *p != '\0'; p++)
        if (*p == '\'')
            *p = '"';
    return copy;
}

/* --- passwords and the users file ------------------------------------------------------------- */

TEST(auth_verifier)
{
    struct verifier v, again;
    struct buf text = {0};

    verifier_make(&v, STR("open sesame"), 10);
    CHECK(verifier_is(&v, STR("open sesame")));
    CHECK(!verifier_is(&v, STR("open sesam")) && !verifier_is(&v, STR("")));
    verifier_put(&text, &v);
    CHECK(verifier_parse(&again, (struct str){text.p, text.len}));
    CHECK(again.rounds == 10 && verifier_is(&again, STR("open sesame")));
    buf_free(&text);
    verifier_make(&again, STR("open sesame"), 10);
    CHECK(memcmp(v.hash, again.hash, 32) != 0); /* the salt is another */
    /* python3 -c "hashlib.pbkdf2_hmac('sha256', b'password', b'salt1234', 4096)" */
    CHECK(verifier_parse(&v, STR("pbkdf2-sha256$4096$c2FsdDEyMzQ=$"
                                 "KOjSYov6UH7JL1xapJfW/E5L+/C4K1YWVi6L4T+irLg=")) &&
          verifier_is(&v, STR("password")));
}

#define HASH "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

TEST(auth_verifier_refuses)
{
    static const char *const bad[] = {
        "", "secret", "$", "pbkdf2-sha256", "pbkdf2-sha256$1$AAAAAAAAAAA=",
        "pbkdf2-sha1$1$AAAAAAAAAAA=$" HASH,        /* another scheme */
        "pbkdf2-sha256$0$AAAAAAAAAAA=$" HASH,      /* rounds */
        "pbkdf2-sha256$$AAAAAAAAAAA=$" HASH,
        "pbkdf2-sha256$-1$AAAAAAAAAAA=$" HASH,
        "pbkdf2-sha256$1e3$AAAAAAAAAAA=$" HASH,
        "pbkdf2-sha256$2000001$AAAAAAAAAAA=$" HASH,
        "pbkdf2-sha256$4294967297$AAAAAAAAAAA=$" HASH,
        "pbkdf2-sha256$1$AAAAAAAAAA==$" HASH,      /* a salt of 7 bytes */
        "pbkdf2-sha256$1$$" HASH,
        "pbkdf2-sha256$1$AAAAAAAAAAA$" HASH,       /* no base64 */
        "pbkdf2-sha256$1$AAAAAAAAAAA=$",           /* hashes of the wrong length */
        "pbkdf2-sha256$1$AAAAAAAAAAA=$AAAA",
        "pbkdf2-sha256$1$AAAAAAAAAAA=$" HASH "AAAA",
        "pbkdf2-sha256$1$AAAAAAAAAAA=$" HASH "$",
    };
    struct verifier v;
    char salt[200] = "pbkdf2-sha256$1$";

    CHECK(verifier_parse(&v, STR("pbkdf2-sha256$1$AAAAAAAAAAA=$" HASH)));
    for (size_t i = 0; i < COUNT(bad); i++)
        if (verifier_parse(&v, str_of(bad[i])))
            test_fail(__FILE__, __LINE__, "takes %s", bad[i]);
    memset(salt + 16, 'A', 88); /* a salt of 66 bytes */
    strcpy(salt + 104, "$" HASH);
    CHECK(!verifier_parse(&v, str_of(salt)));
}

#define PW "'password':'pbkdf2-sha256$1$AAAAAAAAAAA=$" HASH "'"

static struct users *
load(const char *text, char *err, size_t errsize)
{
    write_file("users", quoted(text));
    err[0] = '\0';
    return users_load("users", err, errsize);
}

TEST(auth_users_file)
{
    char err[512];
    struct verifier v;
    struct str json;
    struct users *u = load("", err, sizeof err);

    CHECK(u != NULL && users_count(u) == 0);
    users_decoy(u, STR("nobody"), &v); /* an empty file: there is still something to check */
    CHECK(v.rounds == PASSWORD_ROUNDS);
    users_free(u);
    u = load("# our users\n\n  \t\n"
             "{'userId':'ann'," PW ",'nick':'Ann','groups':['100',{'groupId':'200'}]}\r\n"
             "   {'user_id':'\\u4e2d'," PW "}   \n"
             "  # {'userId':'ann'}\n"
             "{" PW ",'userId':'bob'}", err, sizeof err); /* no newline at the end */
    if (u == NULL)
        test_fail(__FILE__, __LINE__, "%s", err);
    CHECK_INT(users_count(u), 3);
    CHECK(users_find(u, STR("ann"), &v, &json));
    CHECK_LIKE(json, "{'nick':'Ann','groups':['100',{'groupId':'200'}]}"); /* no password in it */
    CHECK(users_find(u, STR("中"), &v, &json) && users_find(u, STR("bob"), &v, &json));
    CHECK_LIKE(json, "{}");
    CHECK(!users_find(u, STR("Ann"), &v, &json) && !users_find(u, STR(""), &v, &json));
    users_free(u);
}

TEST(auth_users_file_errors)
{
    static const struct {
        const char *text, *err;
    } cases[] = {
        {"{'userId':'a'," PW "}\n{'userId':'b'," PW, "users:2: not a JSON object"},
        {"\n\nann:secret\n", "users:3: not a JSON object"},
        {"['ann']", "users:1: not a JSON object"},
        {"{'userId':'a'," PW "} {}", "users:1: not a JSON object"},
        {"{'userId':'a'}", "users:1: there has to be one password"},
        {"{" PW "}", "users:1: there has to be one userId"},
        {"{'userId':'a','userId':'b'," PW "}", "users:1: there has to be one userId"},
        {"{'userId':'a'," PW "," PW "}", "users:1: there has to be one password"},
        {"{'userId':'a'," PW ",'p\\u0061ssword':''}", "users:1: the password is not one that"},
        {"{'userId':'a','password':'secret'}", "users:1: the password is not one that"},
        {"{'userId':'a','password':1}", "users:1: the password is not one that"},
        {"{'userId':''," PW "}", "users:1: the userId cannot be one"},
        {"{'userId':['a']," PW "}", "users:1: the userId cannot be one"},
        {"{'userId':'a\\n'," PW "}", "users:1: the userId cannot be one"},
        {"{'userId':'a'," PW "}\n#\n{'userId':'a'," PW "}", "users:3: this userId stands"},
        {"{'userId':'a'," PW ",'nick':1}", "users:1: nick, avatar and sign have to be texts"},
        {"{'userId':'a'," PW ",'groups':'100'}", "users:1: groups are no list"},
        {"{'userId':'a'," PW ",'groups':[{'name':'x'}]}", "users:1: a group has no id"},
        {"{'userId':'a'," PW ",'friends':['b']}", "users:1: friends are no list of groups"},
    };
    char err[512];

    for (size_t i = 0; i < COUNT(cases); i++) {
        CHECK(load(cases[i].text, err, sizeof err) == NULL);
        if (strstr(err, cases[i].err) == NULL)
            test_fail(__FILE__, __LINE__, "%s: says %s", cases[i].text, err);
        CHECK(strstr(err, "AAAA") == NULL && strstr(err, "secret") == NULL);
    }
    CHECK(users_load("missing", err, sizeof err) == NULL && strstr(err, "missing: ") != NULL);
    CHECK(users_load("/", err, sizeof err) == NULL);
}

TEST(auth_users_decoy)
{
    char err[512];
    struct verifier v, again;
    struct users *u = load("{'userId':'a','password':'pbkdf2-sha256$11$AAAAAAAAAAA=$" HASH "'}\n"
                           "{'userId':'b','password':'pbkdf2-sha256$22$AAAAAAAAAAA=$" HASH "'}",
                           err, sizeof err);
    unsigned seen = 0;

    for (char name[2] = "c"; name[0] <= 'z'; name[0]++) {
        users_decoy(u, str_of(name), &v);
        users_decoy(u, str_of(name), &again);
        CHECK(v.rounds == again.rounds && (v.rounds == 11 || v.rounds == 22));
        seen |= v.rounds;
    }
    CHECK_INT(seen, 11 | 22); /* among users of both kinds, a stranger looks like both */
    users_free(u);
}

/* --- threads ---------------------------------------------------------------------------------- */

/* A crew of one, whose first task waits for the gate. */
static struct crew {
    pthread_mutex_t gate;
    struct workers *workers;
    int ready;       /* in the gate too */
    char order[8];   /* of running: written by the only thread, read when it is done */
    size_t ran, done, left;
} crew = {.gate = PTHREAD_MUTEX_INITIALIZER};

struct errand {
    struct task task;
    char name;
};

static void
errand_run(struct task *t)
{
    pthread_mutex_lock(&crew.gate);
    pthread_mutex_unlock(&crew.gate);
    crew.order[crew.ran++] = ((struct errand *)(void *)t)->name;
}

static void
errand_done(struct task *t)
{
    if (t->ran)
        crew.done++;
    else
        crew.left++;
    free(t);
}

static void
crew_ready(void *arg)
{
    struct crew *c = arg;

    pthread_mutex_lock(&c->gate);
    c->ready++;
    pthread_mutex_unlock(&c->gate);
}

static bool
errand(char name, bool first)
{
    struct errand *e = xcalloc(1, sizeof *e);

    e->task.run = errand_run;
    e->task.done = errand_done;
    e->name = name;
    if (workers_add(crew.workers, &e->task, first))
        return true;
    free(e);
    return false;
}

TEST(auth_workers)
{
    crew.workers = workers_new(1, 3, crew_ready, &crew);
    CHECK(crew.workers != NULL);
    pthread_mutex_lock(&crew.gate);
    CHECK(errand('a', false));
    CHECK(errand('b', false) && errand('c', false));
    while (!errand('d', false))
        ; /* until the thread has taken the first, three are too many */
    CHECK(!errand('x', false));
    CHECK(errand('0', true)); /* before them, and though they are enough */
    pthread_mutex_unlock(&crew.gate);
    while (crew.done + crew.left < 5)
        workers_poll(crew.workers);
    CHECK_BYTES(crew.order, crew.ran, "a0bcd");
    CHECK_INT(crew.done, 5);
    workers_free(crew.workers);
    workers_free(NULL);
    CHECK_INT(crew.ready, 5); /* one call for each */
    CHECK_INT(crew.left, 0);
}

/* --- profiles --------------------------------------------------------------------------------- */

TEST(auth_profile_check)
{
    static const struct {
        const char *json, *why; /* NULL: good */
    } cases[] = {
        {"{}", NULL},
        {"{'nick':'N','avatar':'','sign':null,'extras':{'a':[1]},'other':7}", NULL},
        {"{'groups':['1',2,{'groupId':'3','name':'x','users':[]},{'group_id':4}]}", NULL},
        {"{'friends':[{'groupId':1},{'groupId':'2','name':'x','users':['a',{'userId':'b'}]}]}",
         NULL},
        {"", "not a JSON object"}, {"[]", "not a JSON object"}, {"{'nick':'N'", "not a JSON"},
        {"{'nick':7}", "texts"}, {"{'AVATAR':{}}", "texts"}, {"{'extras':[]}", "object"},
        {"{'groups':{}}", "no list"}, {"{'groups':[null]}", "no id"}, {"{'groups':['']}", "no id"},
        {"{'groups':[[]]}", "no id"}, {"{'groups':[true]}", "no id"},
        {"{'friends':{}}", "no list"}, {"{'friends':[[]]}", "no list"},
        {"{'friends':[{}]}", "no groupId"}, {"{'friends':[{'groupId':1,'users':{}}]}", "no list"},
        {"{'friends':[{'groupId':1,'users':[{'nick':'x'}]}]}", "no userId"},
    };
    struct buf b = {0};

    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *why = profile_check(str_of(quoted(cases[i].json)));
        if (cases[i].why == NULL ? why != NULL : why == NULL || !strstr(why, cases[i].why))
            test_fail(__FILE__, __LINE__, "%s: %s", cases[i].json, why ? why : "taken");
    }
    buf_printf(&b, "{\"sign\":\"%0*d\"}", MAX_PROFILE + 1, 0);
    CHECK(strstr(profile_check((struct str){b.p, b.len}), "too long") != NULL);
    b.len = 0;
    buf_printf(&b, "{\"groups\":[1");
    for (int i = 0; i < MAX_GROUPS; i++)
        buf_printf(&b, ",%d", i);
    buf_printf(&b, "]}");
    CHECK(strstr(profile_check((struct str){b.p, b.len}), "too many groups") != NULL);
    b.len = 0; /* each `1` becomes {"userId":"1"}: the limit is for what is kept */
    buf_printf(&b, "{\"friends\":[{\"groupId\":1,\"users\":[1");
    for (int i = 0; i < 30000; i++)
        buf_printf(&b, ",1");
    buf_printf(&b, "]}]}");
    CHECK(strstr(profile_check((struct str){b.p, b.len}), "too many friends") != NULL);
    buf_free(&b);
}

TEST(auth_profile_set)
{
    struct roster r;
    struct buf b = {0};

    roster_init(&r);
    struct user *u = user_get(&r, STR("u"));
    CHECK(!profile_set(u, STR("")) && !profile_set(u, STR("{}")));
    CHECK(profile_set(u, str_of(quoted("{'nick':'N\\u00e9','sign':'s','extras':{'k':1},"
                                       "'friends':[{'groupId':7,'users':['a',{'userId':8,"
                                       "'nick':'E','x':1}]}]}"))));
    CHECK(!profile_set(u, str_of(quoted("{'nick':'N\xc3\xa9'}")))); /* the same as it was */
    CHECK(!profile_set(u, str_of(quoted("{'nick':null,'userId':'v'}")))); /* says nothing */
    CHECK(profile_set(u, str_of(quoted("{'sign':'','extras':{}}")))); /* empty: away */
    buf_add(&b, "{", 1);
    profile_put(&b, u);
    buf_add(&b, "}", 1);
    CHECK_BYTES(b.p, b.len, quoted("{'friends':[{'groupId':'7','name':'7','users':[{'userId':'a'},"
                                   "{'nick':'E','userId':'8'}]}],'nick':'N\xc3\xa9'}"));
    CHECK(profile_set(u, str_of(quoted("{'friends':[]}"))) && u->profile->friends == NULL);
    buf_free(&b);
    roster_free(&r);
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* header.payload.signature, whatever the two say. Lives until the third call after it. */
static struct str
forge(const char *header, const char *claims, struct str secret)
{
    static char texts[3][4096];
    static int next;
    char *t = texts[next++ % 3];
    struct hmac256 m;
    uint8_t mac[32];
    size_t n = base64url_encode(t, quoted(header), strlen(header));

    t[n++] = '.';
    n += base64url_encode(t + n, quoted(claims), strlen(claims));
    hmac256_init(&m, secret.p, secret.n);
    hmac256_add(&m, t, n);
    hmac256_end(&m, mac);
    t[n++] = '.';
    n += base64url_encode(t + n, mac, sizeof mac);
    return (struct str){t, n};
}

static const char *
check(struct str token)
{
    struct buf claims = {0};
    char text[MAX_ID];
    struct str id;
    const char *why = token_check(token, STR(SECRET), NOW_S, &claims, text, &id);

    if (why == NULL)
        CHECK_STR(id, "ann");
    buf_free(&claims);
    return why;
}

#define HS256 "{'alg':'HS256','typ':'JWT'}"
#define GOOD "{'exp':1700000001,'sub':'ann'}"

TEST(auth_token_of_the_rfc)
{
    /* RFC 7515 appendix A.1: another program has signed it. It has no sub, and expired in 2011. */
    static const char token[] =
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0"
        "cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    static const char key[] = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75"
                              "aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    char secret[80], text[MAX_ID];
    ptrdiff_t n = base64url_decode(secret, key, sizeof key - 1);
    struct buf claims = {0};
    struct str id;

    CHECK_INT(n, 64);
    const char *why = token_check(str_of(token), (struct str){secret, (size_t)n}, 1300819379,
                                  &claims, text, &id);
    CHECK_BYTES(why, strlen(why), "its sub is no userId"); /* so the signature was right */
    secret[0] ^= 1;
    why = token_check(str_of(token), (struct str){secret, (size_t)n}, 1300819379, &claims, text,
                      &id);
    CHECK_BYTES(why, strlen(why), "its signature is wrong");
    buf_free(&claims);
}

TEST(auth_token_good)
{
    static const char *const headers[] = {HS256, "{'alg':'HS256'}", "{'\\u0061lg':'HS\\u003256'}",
                                          "{'kid':'1','alg':'HS256','typ':'at+jwt'}"};
    static const char *const claims[] = {
        GOOD, "{'sub':'ann','exp':9007199254740991}", "{'sub':'ann','exp':1700000001.5}",
        "{'sub':'ann','exp':1700000001,'nbf':1700000000,'iat':1,'aud':['x']}",
        "{'sub':'ann','exp':1700000001,'nick':'A','groups':['100',{'groupId':'2','name':'x'}]}"};

    for (size_t i = 0; i < COUNT(headers); i++)
        for (size_t k = 0; k < COUNT(claims); k++) {
            const char *why = check(forge(headers[i], claims[k], STR(SECRET)));
            if (why != NULL)
                test_fail(__FILE__, __LINE__, "%s %s: %s", headers[i], claims[k], why);
        }
}

/* A token that does not prove what it should, for each way somebody has thought of. */
TEST(auth_token_forged)
{
    static const struct {
        const char *header, *claims, *why;
    } cases[] = {
        {"{'alg':'none'}", GOOD, "alg"}, {"{'alg':'None'}", GOOD, "alg"},
        {"{'alg':''}", GOOD, "alg"}, {"{}", GOOD, "alg"}, {"{'alg':null}", GOOD, "alg"},
        {"{'alg':'hs256'}", GOOD, "alg"}, {"{'alg':'HS256 '}", GOOD, "alg"},
        {"{'alg':'HS384'}", GOOD, "alg"}, {"{'alg':'HS512'}", GOOD, "alg"},
        {"{'alg':'RS256'}", GOOD, "alg"}, {"{'alg':'ES256'}", GOOD, "alg"},
        {"{'alg':['HS256']}", GOOD, "alg"}, {"{'alg':256}", GOOD, "alg"},
        {"{'Alg':'HS256'}", GOOD, "alg"}, {"{'alg':'HS256','alg':'HS256'}", GOOD, "alg"},
        {"{'alg':'none','alg':'HS256'}", GOOD, "alg"},
        {"{'alg':'HS256','\\u0061lg':'none'}", GOOD, "alg"},
        {"{'alg':'HS256'", GOOD, "alg"}, {"['HS256']", GOOD, "alg"}, {"'HS256'", GOOD, "alg"},
        {"{'alg':'HS256'} {}", GOOD, "alg"},
        {"{'alg':'HS256','crit':['exp']}", GOOD, "critical"},
        {"{'alg':'HS256','crit':[]}", GOOD, "critical"},
        {HS256, "{'exp':1700000001}", "sub"}, {HS256, "{'exp':1700000001,'sub':''}", "sub"},
        {HS256, "{'exp':1700000001,'sub':7}", "sub"},
        {HS256, "{'exp':1700000001,'sub':null}", "sub"},
        {HS256, "{'exp':1700000001,'Sub':'ann'}", "sub"},
        {HS256, "{'exp':1700000001,'sub':['ann']}", "sub"},
        {HS256, "{'exp':1700000001,'sub':'a\\u0000'}", "sub"},
        {HS256, "{'exp':1700000001,'sub':'ann','sub':'ann'}", "sub"},
        {HS256, "{'exp':1700000001,'sub':'ann','su\\u0062':'root'}", "sub"},
        {HS256, "{'sub':'ann'}", "exp"}, {HS256, "{'sub':'ann','exp':null}", "exp"},
        {HS256, "{'sub':'ann','exp':'1700000001'}", "exp"},
        {HS256, "{'sub':'ann','exp':true}", "exp"},
        {HS256, "{'sub':'ann','exp':1,'exp':1700000001}", "exp"},
        {HS256, "{'sub':'ann','exp':1e400}", "exp"},
        {HS256, "{'sub':'ann','exp':99999999999999999999}", "exp"},
        {HS256, "{'sub':'ann','exp':1700000000}", "expired"},
        {HS256, "{'sub':'ann','exp':-1}", "expired"},
        {HS256, "{'sub':'ann','exp':1700000001,'nbf':1700000001}", "not valid yet"},
        {HS256, "{'sub':'ann','exp':1700000001,'nbf':'0'}", "nbf"},
        {HS256, "{'sub':'ann','exp':1700000001,'nbf':1800000000,'nbf':0}", "nbf"},
        {HS256, "{'sub':'ann','exp':1700000001,'nick':'a','nick':'b'}", "twice"},
        {HS256, "{'sub':'ann','exp':1700000001,'groups':['1'],'groups':[]}", "twice"},
        {HS256, "{'sub':'ann','exp':1700000001,'groups':'1'}", "groups"},
        {HS256, "{'sub':'ann','exp':1700000001,'nick':{}}", "nick"},
        {HS256, "{'sub':'ann','exp':1700000001", "sub"}, {HS256, "", "signed"},
        {"", GOOD, "signed"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *why = check(forge(cases[i].header, cases[i].claims, STR(SECRET)));
        if (why == NULL || strstr(why, cases[i].why) == NULL)
            test_fail(__FILE__, __LINE__, "%s %s: %s", cases[i].header, cases[i].claims,
                      why ? why : "taken");
    }
    CHECK(check(forge(HS256, GOOD, STR(SECRET))) == NULL);
    CHECK(check(forge(HS256, GOOD, STR(""))) != NULL); /* signed with nothing, or nearly the key */
    CHECK(check(forge(HS256, GOOD, STR(SECRET "\0x"))) != NULL);
}

TEST(auth_token_mangled)
{
    struct str good = forge(HS256, GOOD, STR(SECRET));
    struct buf t = {0};

    CHECK(check(good) == NULL);
    for (size_t i = 0; i < good.n; i++) { /* one digit changed, or all from there on missing */
        t.len = 0;
        buf_str(&t, good);
        t.p[i] = good.p[i] == 'A' ? 'B' : 'A';
        CHECK(check((struct str){t.p, t.len}) != NULL);
        CHECK(check((struct str){test_edge(good.p, i), i}) != NULL);
    }
    static const char *const tails[] = {".", "=", " ", ".AA", "A", "\n"};
    for (size_t i = 0; i < COUNT(tails); i++) {
        t.len = 0;
        buf_str(&t, good);
        buf_str(&t, str_of(tails[i]));
        CHECK(check((struct str){t.p, t.len}) != NULL);
    }
    size_t dot = (size_t)((const char *)memchr(good.p, '.', good.n) - good.p);
    size_t end = good.n - 43; /* where the signature begins */
    CHECK(check((struct str){good.p, end}) != NULL); /* stripped of it, with and without the dot */
    CHECK(check((struct str){good.p, end - 1}) != NULL);
    CHECK(check((struct str){good.p + dot + 1, good.n - dot - 1}) != NULL);
    t.len = 0; /* more than any token has */
    buf_str(&t, forge(HS256, GOOD, STR(SECRET)));
    buf_reserve(&t, 2 * MAX_TOKEN);
    memset(t.p + t.len, 'A', MAX_TOKEN);
    CHECK(check((struct str){t.p, t.len + MAX_TOKEN}) != NULL);
    buf_free(&t);
}

/* --- the hook's address and responses --------------------------------------------------------- */

TEST(auth_hook_url)
{
    static const struct {
        const char *url, *want; /* host port path authority */
    } good[] = {{"http://a", "a 80 / a"},
                {"HTTP://a.b:1/c/d?e=f", "a.b 1 /c/d?e=f a.b:1"},
                {"http://127.0.0.1:65535/", "127.0.0.1 65535 / 127.0.0.1:65535"},
                {"http://[::1]/x", "::1 80 /x [::1]"},
                {"http://[fe80::1]:8080", "fe80::1 8080 / [fe80::1]:8080"},
                {"https://a", "a 443 / a tls"},
                {"HTTPS://[::1]:8443/x?y", "::1 8443 /x?y [::1]:8443 tls"}};
    static const char *const bad[] = {
        "", "http://", "http:///x", "http:/a", "ftp://a/", "a", "//a/", "http://a:0/", "http://a:/",
        "http://a:65536/", "http://a:80x/", "http://a:-1/", "http://:80/", "http://[::1/",
        "http://[::1]x/", "http://a b/", "http://a/\r\nx: y", "http://u:p@a/", "http://a/#x",
        "http://a?x", "http://\xc3\xa9/", "https:/", "https://", "https:///x", "https://a:0/",
        "httpsx//a/", "https://u:p@a/"};
    struct hook_url u;
    char text[200];

    for (size_t i = 0; i < COUNT(good); i++) {
        CHECK(hook_url(good[i].url, &u) == NULL);
        snprintf(text, sizeof text, "%.*s %.*s %.*s %.*s%s", (int)u.host.n, u.host.p, (int)u.port.n,
                 u.port.p, (int)u.path.n, u.path.p, (int)u.authority.n, u.authority.p,
                 u.tls ? " tls" : "");
        CHECK_BYTES(text, strlen(text), good[i].want);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        if (hook_url(bad[i], &u) == NULL)
            test_fail(__FILE__, __LINE__, "takes %s", bad[i]);
}

TEST(auth_hook_head)
{
    static const struct {
        const char *head, *want; /* status keep sized length chunked; NULL: no head */
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", "200 1 1 12 0"},
        {"HTTP/1.1 200\ncontent-length:0\n\n", "200 1 1 0 0"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", "200 1 0 0 1"},
        {"HTTP/1.1 200 OK\r\n\r\n", "200 0 0 0 0"},
        {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", "200 0 1 3 0"},
        {"HTTP/1.1 401 \r\nConnection: x, CLOSE\r\nContent-Length: 3\r\n\r\n", "401 0 1 3 0"},
        {"HTTP/1.1 204 No Content\r\n\r\n", "204 1 1 0 0"},
        {"HTTP/1.1 100 Continue\r\n\r\n", "100 1 1 0 0"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "200 1 1 3 0"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", NULL},
        {"HTTP/1.1 200 OK\r\n: y\r\n\r\n", NULL},
        {"HTTP/1.1 2000 OK\r\n\r\n", NULL}, {"HTTP/1.1 20 OK\r\n\r\n", NULL},
        {"HTTP/1.1 099 OK\r\n\r\n", NULL}, {"HTTP/2.0 200 OK\r\n\r\n", NULL},
        {"HTTP/1.2 200 OK\r\n\r\n", NULL}, {"ICY 200 OK\r\n\r\n", NULL}, {"\r\n\r\n", NULL},
        {"SSH-2.0-OpenSSH\r\n", NULL},
    };
    struct http_reply r;
    char text[80];
    struct buf b = {0};

    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t n = strlen(cases[i].head);
        ptrdiff_t got = hook_head(test_edge(cases[i].head, n), n, &r);
        CHECK_INT(got, cases[i].want == NULL ? -1 : (ptrdiff_t)n);
        if (got < 0)
            continue;
        snprintf(text, sizeof text, "%d %d %d %d %d", r.status, r.keep_alive, r.sized,
                 (int)r.length, r.chunked);
        CHECK_BYTES(text, strlen(text), cases[i].want);
        for (size_t cut = 0; cut < n; cut++)
            CHECK_INT(hook_head(test_edge(cases[i].head, cut), cut, &r), 0);
    }
    buf_printf(&b, "HTTP/1.1 200 OK\r\n");
    while (b.len < MAX_HEAD)
        buf_printf(&b, "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n");
    CHECK_INT(hook_head(b.p, b.len, &r), -1);
    buf_free(&b);
}

/* --- passwd and token ------------------------------------------------------------------------- */

/* A shell command with the program as $JIM; its exit code. */
static int
sh(const char *command)
{
    char path[4200];

    test_begins();
    snprintf(path, sizeof path, "%s/jim", test_source());
    setenv("JIM", path, 0);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static struct verifier
verifier_in_file(const char *user)
{
    char err[512];
    struct verifier v = {0};
    struct str json;
    struct users *u = users_load("users", err, sizeof err);

    if (u == NULL)
        test_fail(__FILE__, __LINE__, "%s", err);
    CHECK(users_find(u, str_of(user), &v, &json));
    users_free(u);
    return v;
}

TEST(auth_passwd)
{
    struct stat st;
    struct verifier v;

    CHECK_INT(sh("echo secret | $JIM passwd users ann"), 0);
    CHECK(stat("users", &st) == 0 && (st.st_mode & 0777) == 0600);
    v = verifier_in_file("ann");
    CHECK(v.rounds == PASSWORD_ROUNDS && verifier_is(&v, STR("secret")));
    CHECK_INT(sh("printf 'se\"c ret\\r\\nrest\\n' | $JIM passwd -i 5 users 'b ob'"), 0);
    v = verifier_in_file("b ob");
    CHECK(v.rounds == 5 && verifier_is(&v, STR("se\"c ret"))); /* its first line, without CR */
    CHECK_INT(sh("printf x | $JIM passwd -i 5 users ann"), 0); /* no newline */
    v = verifier_in_file("ann");
    CHECK(verifier_is(&v, STR("x")));
    v = verifier_in_file("b ob");
    CHECK(verifier_is(&v, STR("se\"c ret")));
    CHECK(access("users.tmp", F_OK) != 0);
}

TEST(auth_passwd_keeps_the_rest)
{
    const char *begin = quoted("# a comment\n\n{'userId':'ann','password':'pbkdf2-sha256$1$");
    struct stat st;

    write_file("real", quoted("# a comment\n\n{'nick':'A','userId':'ann','friends':[{'groupId':1}],"
                              "'password':'pbkdf2-sha256$1$AAAAAAAAAAA=$" HASH "'}\n"
                              "{'userId':'bob', " PW "}\nbroken, but not ours"));
    CHECK(chmod("real", 0640) == 0 && symlink("real", "users") == 0);
    CHECK_INT(sh("echo secret | $JIM passwd -i 1 users ann"), 0);
    struct buf text = read_whole("users");
    CHECK(lstat("users", &st) == 0 && S_ISLNK(st.st_mode)); /* what it points to has changed */
    CHECK(stat("users", &st) == 0 && (st.st_mode & 0777) == 0640);
    CHECK(strncmp(text.p, begin, strlen(begin)) == 0);
    CHECK(has(text, quoted("','nick':'A','friends':[{'groupId':1}]}\n{'userId':'bob', " PW
                           "}\nbroken, but not ours\n")));
    CHECK(!has(text, quoted("'ann'," PW)));
}

TEST(auth_passwd_refuses)
{
    CHECK_INT(sh("echo | $JIM passwd users ann 2>err"), 1);
    CHECK(has(read_whole("err"), "empty"));
    CHECK_INT(sh("$JIM passwd users ann </dev/null 2>err"), 1);
    CHECK_INT(sh("printf '\\377\\n' | $JIM passwd users ann 2>err"), 1);
    CHECK(has(read_whole("err"), "UTF-8"));
    CHECK_INT(sh("printf '%01025d\\n' 0 | $JIM passwd users ann 2>err"), 1);
    CHECK(has(read_whole("err"), "too long"));
    CHECK_INT(sh("echo x | $JIM passwd users '' 2>err"), 1);
    CHECK_INT(sh("echo x | $JIM passwd users 2>err"), 1);
    CHECK_INT(sh("echo x | $JIM passwd -i 0 users ann 2>err"), 1);
    CHECK_INT(sh("echo x | $JIM passwd -i 2000001 users ann 2>err"), 1);
    CHECK_INT(sh("echo x | $JIM passwd nowhere/users ann 2>err"), 1);
    CHECK(access("users", F_OK) != 0);
    write_file("users.tmp", ""); /* somebody else is at it */
    CHECK_INT(sh("echo x | $JIM passwd users ann 2>err"), 1);
    CHECK(has(read_whole("err"), "users.tmp"));
    CHECK(access("users", F_OK) != 0 && access("users.tmp", F_OK) == 0);
}

/* What the terminal shows until `text` has come, or to its end. */
static void
shown_until(int tty, struct buf *b, const char *text)
{
    struct pollfd f = {.fd = tty, .events = POLLIN};
    ssize_t n;

    do {
        buf_reserve(b, 256);
        b->p[b->len] = '\0';
        if (text != NULL && strstr(b->p, text) != NULL)
            return;
        CHECK(poll(&f, 1, WAIT_MS) > 0);
        n = read(tty, b->p + b->len, 255);
        b->len += n > 0 ? (size_t)n : 0;
    } while (n > 0);
    CHECK(text == NULL);
}

/* `jim passwd` on a terminal, with two answers; its exit code. What was shown is in b. */
static int
on_terminal(struct buf *b, const char *first, const char *second)
{
    int tty = posix_openpt(O_RDWR | O_NOCTTY), status;
    pid_t pid;

    CHECK(tty >= 0 && grantpt(tty) == 0 && unlockpt(tty) == 0);
    pid = fork();
    if (pid == 0) {
        setsid();
        int fd = open(ptsname(tty), O_RDWR);
        dup2(fd, 0);
        dup2(fd, 2);
        close(tty);
        _exit(sh("$JIM passwd -i 1 users ann"));
    }
    b->len = 0;
    shown_until(tty, b, "New password: ");
    CHECK(write(tty, first, strlen(first)) > 0);
    shown_until(tty, b, "Again: ");
    CHECK(write(tty, second, strlen(second)) > 0);
    shown_until(tty, b, NULL);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    close(tty);
    b->p[b->len] = '\0';
    return WEXITSTATUS(status);
}

TEST(auth_passwd_on_a_terminal)
{
    struct buf b = {0};
    struct verifier v;

    sh("true"); /* sets JIM */
    CHECK_INT(on_terminal(&b, "sesame\n", "sesamo\n"), 1);
    CHECK(has(b, "not the same") && !has(b, "sesam"));
    CHECK(access("users", F_OK) != 0);
    CHECK_INT(on_terminal(&b, "sesame\n", "sesame\n"), 0);
    CHECK(!has(b, "sesame")); /* no echo */
    v = verifier_in_file("ann");
    CHECK(verifier_is(&v, STR("sesame")));
}

/* The token in a file, its claims into b. */
static const char *
check_file(const char *file, struct buf *b)
{
    struct buf text = read_whole(file);
    char id_text[MAX_ID];
    struct str id;
    const char *why = token_check(str_trim((struct str){text.p, text.len}), STR(SECRET),
                                  time_wall_ms() / 1000, b, id_text, &id);

    buf_add(b, "", 1);
    buf_free(&text);
    return why;
}

TEST(auth_token_command)
{
    struct buf b = {0};

    CHECK_INT(sh("$JIM token -s " SECRET " -u ann -e 60 -n 'A \"nn' -g 100 -g 200 >t"), 0);
    CHECK(check_file("t", &b) == NULL);
    CHECK(has(b, quoted(",'groups':['100','200'],")) && has(b, "\"nick\":\"A \\\"nn\"") &&
          has(b, quoted("'sub':'ann'}")));
    CHECK_INT(sh("echo " SECRET " >secret; $JIM token -s @secret -u ann >t"), 0);
    CHECK(check_file("t", &b) == NULL && !has(b, "groups") && !has(b, "nick"));
    CHECK_INT(sh("JIM_TOKEN_SECRET=" SECRET " $JIM token -u ann >t"), 0);
    CHECK(check_file("t", &b) == NULL);
    CHECK_INT(sh("$JIM token -s x" SECRET " -u ann >t"), 0);
    CHECK(check_file("t", &b) != NULL);
}

TEST(auth_token_command_refuses)
{
    static const char *const bad[] = {
        "$JIM token 2>err >t", "$JIM token -u ann 2>err >t",
        "$JIM token -s " SECRET " 2>err >t", "$JIM token -s short -u ann 2>err >t",
        "$JIM token -s @missing -u ann 2>err >t", "$JIM token -s " SECRET " -u '' 2>err >t",
        "$JIM token -s " SECRET " -u ann -e 0 2>err >t",
        "$JIM token -s " SECRET " -u ann -e 1h 2>err >t",
        "$JIM token -s " SECRET " -u ann -g '' 2>err >t",
        "$JIM token -s " SECRET " -u ann -n \"$(printf '\\377')\" 2>err >t",
        "$JIM token -s " SECRET " -u ann extra 2>err >t",
        "$JIM token -s " SECRET " -u ann -n $(printf '%08000d' 0) 2>err >t"};

    for (size_t i = 0; i < COUNT(bad); i++) {
        if (sh(bad[i]) != 1)
            test_fail(__FILE__, __LINE__, "takes %s", bad[i]);
        struct buf err = read_whole("err"), out = read_whole("t");
        CHECK(err.len > 0 && out.len == 0 && !has(err, SECRET));
    }
    CHECK_INT(sh("$JIM token -s " SECRET " -u ann 2>err >&-"), 2); /* as where a disk is full */
    struct buf err = read_whole("err");
    CHECK(err.len > 0 && !has(err, SECRET));
}
