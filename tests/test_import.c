/* SPDX-License-Identifier: MIT */
/*
 * test_import.c - a server carried elsewhere as lines, and J-IM's Redis: what comes out on the
 * other side is asked of a server, or seen in an export. In the lines ' stands for ". The Redis
 * here is a child process that answers from a table; tests/import_redis.sh has a real one.
 */
#include "client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- lines in, lines out ---------------------------------------------------------------------- */

/* Text with " for '. */
static struct buf
quoted(const char *text)
{
    struct buf b = {0};

    buf_add(&b, text, strlen(text) + 1);
    for (size_t i = 0; i < b.len; i++)
        if (b.p[i] == '\'')
            b.p[i] = '"';
    b.len--;
    return b;
}

static void
set_input(const char *path)
{
    int fd = open(path, O_RDONLY);

    CHECK(fd >= 0 && dup2(fd, 0) == 0);
    close(fd);
}

static void
import_file(const char *dir, const char *path, struct output *o)
{
    set_input(path);
    run_jim(o, "import", dir, NULL);
}

static void
import_text(const char *dir, const char *lines, int want, struct output *o)
{
    struct buf b = quoted(lines);

    write_file("lines", b.p);
    import_file(dir, "lines", o);
    CHECK_INT(o->code, want);
    buf_free(&b);
}

/* The whole store as lines. */
static struct buf
export_of(const char *dir)
{
    struct output o;

    run_jim(&o, "export", "-a", dir, NULL);
    CHECK_INT(o.code, 0);
    return o.out;
}

static void
check_export(const char *dir, const char *want)
{
    struct buf text = quoted(want), got = export_of(dir);

    CHECK_BYTES(got.p, got.len, text.p);
    buf_free(&text);
}

static void
check_holds(struct buf text, const char *part)
{
    struct buf b = quoted(part);

    if (!has(text, b.p))
        test_fail(__FILE__, __LINE__, "no %s", b.p);
    buf_free(&b);
}

#define T "1700000000000"
/* A private chat from ann to bob: number, time. */
#define CHAT(n, seq, time) \
    "{'chatType':2,'content':'c" n "','createTime':" time ",'from':'ann','id':'i" n "'," \
    "'msgType':0,'seq':" seq ",'to':'bob','time':" time "}\n"

/* A group that was dismissed stays so on the other side, until a line names it again. */
TEST(import_dismissed_group)
{
    static const char said[] =
        "{'chatType':1,'content':'1','createTime':" T ",'from':'ann','groupId':'g','id':'x',"
        "'seq':1,'time':" T "}\n";
    struct output o;
    struct buf want = {0};

    import_text("data", said, 0, &o);
    import_text("data", "{'groupId':'g','name':'G','type':'group'}\n"
                        "{'groupId':'g','userId':'ann','type':'member'}\n", 0, &o);
    import_text("data", "{'dismissed':true,'groupId':'g','type':'group'}\n"
                        "{'groupId':'g','userId':'ann','type':'member'}\n", 0, &o);
    buf_printf(&want, "%s{'dismissed':true,'groupId':'g','type':'group'}\n", said);
    buf_add(&want, "", 1);
    check_export("data", want.p);
    struct buf lines = export_of("data");
    buf_add(&lines, "", 1);
    import_text("there", lines.p, 0, &o);
    check_export("there", want.p);
    import_text("there", "{'groupId':'g','name':'N','type':'group'}\n"
                         "{'groupId':'g','seq':1,'userId':'bob','type':'member'}\n", 0, &o);
    want.len = 0;
    buf_printf(&want, "%s{'groupId':'g','name':'N','type':'group'}\n"
                      "{'groupId':'g','seq':1,'userId':'bob','type':'member'}\n", said);
    buf_add(&want, "", 1);
    check_export("there", want.p);
    buf_free(&want);
    buf_free(&lines);
}

/* Lines of every kind come out as they went in. */
TEST(import_every_line)
{
    static const char lines[] =
        CHAT("1", "1", T) CHAT("2", "2", T)
        "{'chatType':1,'content':'\xe4\xbd\xa0\xe5\xa5\xbd','createTime':" T ",'extras':{'a':[1]},"
        "'from':'ann','groupId':'g 1','id':'x','seq':1,'time':" T "}\n"
        "{'chatType':1,'content':'2','createTime':" T ",'from':'ann','groupId':'g 1','id':'y',"
        "'seq':2,'time':" T "}\n"
        "{'chatType':1,'content':'3','createTime':" T ",'from':'ann','groupId':'g 1','id':'z',"
        "'seq':3,'time':" T "}\n"
        "{'avatar':'a.png','extras':{'k':'v'},'nick':'Ann','sign':'s','userId':'ann',"
        "'type':'user'}\n"
        "{'userId':'bob','type':'user'}\n"
        "{'groupId':'g 1','name':'The \xe7\xbe\xa4','type':'group'}\n"
        "{'groupId':'g 1','live':[3,3],'seq':1,'userId':'bob','type':'member'}\n"
        "{'groupId':'g 1','seq':3,'userId':'ann','type':'member'}\n"
        "{'fromUserId':'ann','seq':1,'userId':'bob','type':'cursor'}\n";
    struct output o;

    import_text("data", lines, 0, &o);
    check_holds(o.out, "data: imported 5 messages, 2 users, 1 groups, 2 memberships, 1 cursors; "
                       "0 messages were there already; 0 refused\n");
    check_export("data", lines);
    run_jim(&o, "check", "data", NULL);
    CHECK_INT(o.code, 0);
    /* without -a: the messages, to the byte */
    run_jim(&o, "export", "data", NULL);
    CHECK(!has(o.out, "type\":\"") && has(o.out, "\"seq\":3,\"time\":1700000000000}\n"));
}

/* The second time there is nothing to do, also for more messages than one table or batch takes. */
TEST(import_again)
{
    struct output o;
    struct buf lines = {0};

    for (int i = 1; i <= 6000; i++)
        buf_printf(&lines, "{\"chatType\":2,\"content\":\"%0250d\",\"createTime\":%d,"
                   "\"from\":\"u%d\",\"id\":\"m%d\",\"to\":\"bob\"}\n", i, i, i % 7, i);
    buf_printf(&lines, "{\"fromUserId\":\"u1\",\"seq\":3,\"type\":\"cursor\",\"userId\":\"bob\"}\n"
               "{\"groupId\":\"g\",\"type\":\"member\",\"userId\":\"bob\"}\n"
               "{\"nick\":\"B\",\"type\":\"user\",\"userId\":\"bob\"}\n"
               "{\"groupId\":\"g\",\"name\":\"G\",\"type\":\"group\"}\n");
    buf_add(&lines, "", 1);
    write_file("in", lines.p);
    import_file("data", "in", &o);
    CHECK_INT(o.code, 0);
    CHECK(has(o.out, "imported 6000 messages, 1 users, 1 groups, 1 memberships, 0 cursors; 0 m"));
    struct buf before = export_of("data");
    write_file("before", before.p);
    import_file("data", "in", &o);
    CHECK_INT(o.code, 0);
    CHECK(has(o.out, "imported 0 messages, 0 users, 0 groups, 0 memberships, 0 cursors; "
                     "6000 messages were there already; 0 refused"));
    import_file("data", "before", &o);
    CHECK(has(o.out, "imported 0 messages, 0 users, 0 groups, 0 memberships, 0 cursors; 6000 m"));
    struct buf after = export_of("data");
    CHECK(after.len == before.len && memcmp(after.p, before.p, after.len) == 0);
    buf_free(&lines);
}

/* The same message twice in one input, before anything is on disk. */
TEST(import_twice_in_one)
{
    struct output o;

    import_text("data", CHAT("1", "1", T) CHAT("1", "1", T) CHAT("2", "2", T) CHAT("1", "3", T), 0,
                &o);
    check_holds(o.out, "imported 2 messages");
    check_holds(o.out, "; 2 messages were there");
    check_export("data", CHAT("1", "1", T) CHAT("2", "2", T));
}

/* The same id from another sender, or elsewhere, is another message. */
TEST(import_same_id_elsewhere)
{
    struct output o;

    import_text("data",
                "{'chatType':2,'from':'a','to':'b','id':'1','createTime':5}\n"
                "{'chatType':2,'from':'b','to':'a','id':'1','createTime':5}\n"
                "{'chatType':2,'from':'a','to':'c','id':'1','createTime':5}\n"
                "{'chatType':1,'from':'a','groupId':'b','id':'1','createTime':5}\n", 0, &o);
    check_holds(o.out, "imported 4 messages");
}

TEST(import_bad_lines)
{
    struct output o;

    import_text("data",
                CHAT("1", "1", T)
                "not json\n"
                "{'chatType':2,'from':'ann','to':'bob'\n"
                "[]\n"
                "\n" /* no line at all */
                "{'chatType':3,'from':'ann','to':'bob'}\n"
                "{'chatType':2,'from':'ann'}\n"
                "{'chatType':2,'to':'bob'}\n"
                "{'chatType':1,'from':'ann'}\n"
                "{'chatType':2,'from':'a\\u0001','to':'bob'}\n"
                "{'chatType':2,'from':'ann','to':' '}\n"
                "{'chatType':2,'from':'ann','to':'bob','msgType':[]}\n"
                "{'chatType':2,'from':'ann','to':'bob','extras':'x'}\n"
                "{'type':'planet'}\n"
                "{'type':'user'}\n"
                "{'type':'user','userId':'x','nick':7}\n"
                "{'type':'group','name':'x'}\n"
                "{'userId':'x','type':'member'}\n"
                "{'userId':'x','type':'cursor'}\n"
                CHAT("2", "2", T) "{'half", 1, &o);
    check_holds(o.out, "imported 2 messages, 0 users, 0 groups, 0 memberships, 0 cursors; "
                       "0 messages were there already; 18 refused\n");
    static const char *const want[] = {
        "line 2: not a JSON object", "line 3: not a JSON object", "line 4: not a JSON object",
        "line 6: chatType is neither", "line 7: a private message without a receiver",
        "line 8: a private message without a sender", "line 9: a group message without groupId",
        "line 10: the sender's id", "line 11: the receiver's id", "line 12: msgType",
        "line 13: extras", "line 14: a type of line", "line 15: the user's id",
        "line 16: avatar, name, nick", "line 17: the group's id", "line 18: the group's id",
        "line 19: an id", "line 21: not a JSON object"};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        if (!has(o.err, want[i]))
            test_fail(__FILE__, __LINE__, "no %s", want[i]);
    check_export("data", CHAT("1", "1", T) CHAT("2", "2", T));
}

/* What J-IM writes, and older names: a message gets what it lacks. */
TEST(import_other_forms)
{
    struct output o;

    import_text("data",
                "{'chatType':0,'content':'a','createTime':" T ",'from':'ann','to':'bob','x':1}\n"
                "{'content':null,'createTime':'" T "','from':'ann','group_id':7,'id':9}\n"
                "{'chatType':'1','groupId':'h','createTime':" T ",'id':'n','cmd':11}", 0, &o);
    check_holds(o.out, "data: 1 messages had no id");
    check_holds(o.out, "data: 1 group messages had no sender");
    struct buf got = export_of("data");
    check_holds(got, "{'chatType':2,'content':'a','createTime':" T ",'from':'ann','id':'");
    check_holds(got, "','seq':1,'to':'bob','time':" T "}\n"
                     "{'chatType':1,'createTime':" T ",'from':'ann','groupId':'7','id':'9',"
                     "'seq':1,'time':" T "}\n"
                     "{'chatType':1,'cmd':11,'createTime':" T ",'from':'system','groupId':'h',"
                     "'id':'n','seq':1,'time':" T "}\n");
    /* an id that was made is made again */
    import_file("data", "lines", &o);
    CHECK(has(o.out, "imported 0 messages"));
}

/* Numbers are kept as long as they rise. */
TEST(import_numbers)
{
    struct output o;

    import_text("data", CHAT("1", "5", T) CHAT("2", "5", T) CHAT("3", "2", T) CHAT("4", "9", T)
                CHAT("5", "1000000000000001", T) CHAT("6", "-1", T), 0, &o);
    check_export("data", CHAT("1", "5", T) CHAT("2", "6", T) CHAT("3", "7", T) CHAT("4", "9", T)
                 CHAT("5", "10", T) CHAT("6", "11", T));
}

/* Behind messages that are there already, numbers change, and cursors with them. */
TEST(import_cursors_follow)
{
    struct output o;

    import_text("data",
                "{'chatType':2,'content':'','createTime':1,'from':'ann','id':'old','to':'bob'}\n"
                "{'chatType':1,'content':'','createTime':1,'from':'x','groupId':'g','id':'o'}\n", 0,
                &o);
    import_text("data",
                CHAT("1", "1", T) CHAT("2", "2", T) CHAT("3", "3", T) CHAT("4", "4", T)
                CHAT("5", "5", T)
                "{'chatType':1,'createTime':2,'from':'x','groupId':'g','id':'1','seq':1}\n"
                "{'chatType':1,'createTime':2,'from':'x','groupId':'g','id':'2','seq':2}\n"
                "{'fromUserId':'ann','live':[4,5],'seq':2,'userId':'bob','type':'cursor'}\n"
                "{'groupId':'g','seq':1,'userId':'bob','type':'member'}\n"
                "{'groupId':'g','userId':'late','type':'member'}\n"
                "{'groupId':'empty','seq':7,'userId':'bob','type':'member'}\n", 0, &o);
    struct buf got = export_of("data");
    check_holds(got, "{'fromUserId':'ann','live':[5,6],'seq':3,'userId':'bob','type':'cursor'}\n");
    check_holds(got, "{'groupId':'g','seq':2,'userId':'bob','type':'member'}\n"
                     "{'groupId':'g','seq':3,'userId':'late','type':'member'}\n"
                     "{'groupId':'empty','seq':0,'userId':'bob','type':'member'}\n");
    /* a cursor never falls */
    import_text("data", CHAT("1", "1", T)
                "{'fromUserId':'ann','seq':1,'userId':'bob','type':'cursor'}\n", 0, &o);
    check_holds(export_of("data"), "{'fromUserId':'ann','live':[5,6],'seq':3,'userId':'bob',");
}

/* A cursor may stand where there is no message, here or there. */
TEST(import_cursor_in_a_gap)
{
    struct output o;

    import_text("data",
                "{'chatType':2,'content':'','createTime':1,'from':'ann','id':'o','to':'bob'}\n", 0,
                &o);
    import_text("data",
                CHAT("1", "1", T) CHAT("2", "2", T) CHAT("3", "10", T)
                "{'fromUserId':'ann','seq':5,'userId':'bob','type':'cursor'}\n"
                "{'fromUserId':'bob','seq':99,'userId':'ann','type':'cursor'}\n", 0, &o);
    struct buf got = export_of("data");
    check_holds(got, "{'fromUserId':'ann','seq':3,'userId':'bob','type':'cursor'}\n");
    check_holds(got, "{'fromUserId':'bob','seq':10,'userId':'ann','type':'cursor'}\n");
}

static void
import_one(struct import *im, const char *json)
{
    struct buf b = quoted(json);
    struct request r;

    CHECK(request_parse(&r, (struct str){b.p, b.len}));
    CHECK(import_chat(im, (struct str){b.p, b.len}, &r, IMPORT_ANY, -1, NULL) == NULL);
    buf_free(&b);
}

/* Two messages of one fingerprint, which chance will not bring: both are kept. */
TEST(import_coincidence)
{
    struct import im;

    CHECK(import_open(&im, "data"));
    import_one(&im, "{'chatType':2,'createTime':1,'from':'a','id':'1','to':'b'}");
    struct user *a = user_find(&im.chat.roster, STR("a"));
    const struct conv *v = member_with(&im.chat.roster, a, STR("b"))->conv;
    uint64_t print = retry_print(&im.chat.retries, a, v, STR("2"));
    size_t at = (size_t)print & (im.seen.cap - 1);
    im.seen.n += im.seen.print[at] == 0;
    im.seen.print[at] = print;
    im.seen.seq[at] = 1;
    import_one(&im, "{'chatType':2,'createTime':1,'from':'a','id':'2','to':'b'}");
    CHECK_INT(im.messages, 2);
    import_one(&im, "{'chatType':2,'createTime':1,'from':'a','id':'2','to':'b'}");
    CHECK_INT(im.again, 1);
    CHECK_INT(import_close(&im, stdout), 0);
}

/* Who has left is not in the lines, and lines do not bring him back. */
TEST(import_who_has_left)
{
    struct log log = {stderr, LOG_LEVEL_ERROR};
    struct store_options opt = {.dir = "data", .policy = STORE_OFF, .segment = 1 << 20,
                                .log = &log};
    struct output o;

    import_text("data", "{'groupId':'g','userId':'ann','type':'member'}\n"
                "{'groupId':'g','userId':'bob','type':'member'}\n", 0, &o);
    struct buf before = export_of("data");
    write_file("in", before.p);
    struct store *s = store_open(&opt);
    CHECK(s != NULL);
    CHECK(store_append(s, REC_LEAVE, STR("g:g"), 0, STR("{\"userId\":\"ann\"}"), 5, NULL) != 0);
    CHECK_INT(store_close(s), 0);
    check_export("data", "{'groupId':'g','seq':0,'userId':'bob','type':'member'}\n");
    import_file("data", "in", &o);
    CHECK_INT(o.code, 0);
    check_export("data", "{'groupId':'g','seq':0,'userId':'bob','type':'member'}\n");
}

/* Each record has its own time, also behind a younger one; none is in the future. */
TEST(import_times)
{
    struct output o;

    import_text("data",
                "{'chatType':2,'createTime':9000000,'from':'a','id':'1','to':'b'}\n"
                "{'chatType':2,'createTime':1000000,'from':'a','id':'2','to':'b'}\n"
                "{'chatType':2,'createTime':9000001,'from':'a','id':'3','to':'b','time':9000005}\n"
                "{'chatType':2,'createTime':-5,'from':'a','id':'4','to':'c'}\n"
                "{'chatType':2,'createTime':99999999999999,'from':'a','id':'5','to':'d'}\n"
                "{'chatType':2,'from':'a','id':'6','to':'e','time':77}\n"
                "{'chatType':2,'createTime':1000,'from':'a','id':'7','to':'f','time':400000}\n", 0,
                &o);
    check_holds(o.out, "data: 1 messages have a createTime far before");
    check_holds(o.out, "data: 1 messages had a createTime ahead");
    struct buf got = export_of("data");
    check_holds(got, "'createTime':1000000,'from':'a','id':'2','seq':2,'to':'b','time':1000000}");
    check_holds(got, "'createTime':9000001,'from':'a','id':'3','seq':3,'to':'b','time':9000005}");
    check_holds(got, "'createTime':-5,'from':'a','id':'4','seq':1,'to':'c','time':0}");
    check_holds(got, "'createTime':77,'from':'a','id':'6','seq':1,'to':'e','time':77}");
    CHECK(!has(got, "99999999999999"));
}

/* A line above the limit is refused, and the next one is found. */
TEST(import_long_line)
{
    struct output o;
    struct buf b = quoted(CHAT("1", "1", T)), last = quoted(CHAT("2", "2", T));
    size_t n = MAX_RECORD + 100000;

    buf_reserve(&b, n + last.len + 2);
    memset(b.p + b.len, 'x', n);
    b.len += n;
    buf_add(&b, "\n", 1);
    buf_str(&b, (struct str){last.p, last.len});
    buf_add(&b, "", 1);
    write_file("in", b.p);
    import_file("data", "in", &o);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "line 2: longer than 16 MiB"));
    check_export("data", CHAT("1", "1", T) CHAT("2", "2", T));
    buf_free(&b);
    buf_free(&last);
}

TEST(import_cannot)
{
    struct output o;
    struct server s;

    server_start(&s, QUIET, NULL);
    import_text("data", CHAT("1", "1", T), 2, &o);
    CHECK(has(o.err, "in use") && o.out.len == 0);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    import_text("no/such/dir", CHAT("1", "1", T), 2, &o);
    set_input("."); /* cannot be read */
    run_jim(&o, "import", "data", NULL);
    CHECK_INT(o.code, 2);
    CHECK(has(o.err, "not all is imported"));
    run_jim(&o, "import", NULL);
    CHECK_INT(o.code, 1);
    run_jim(&o, "import", "--jim-redis", "data", NULL);
    CHECK_INT(o.code, 1);
}

/* A disk that is full. What came before is kept, and the rest comes the next time. */
TEST(import_full_disk)
{
    struct output o;
    struct buf lines = {0};
    struct rlimit was, little = {100000, RLIM_INFINITY};

    for (int i = 1; i <= 5000; i++)
        buf_printf(&lines, "{\"chatType\":2,\"content\":\"%0400d\",\"createTime\":%d,"
                   "\"from\":\"ann\",\"id\":\"m%d\",\"to\":\"bob\"}\n", i, i, i);
    buf_add(&lines, "", 1);
    write_file("in", lines.p);
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &was) == 0);
    little.rlim_max = was.rlim_max;
    CHECK(setrlimit(RLIMIT_FSIZE, &little) == 0);
    import_file("data", "in", &o);
    CHECK(setrlimit(RLIMIT_FSIZE, &was) == 0);
    CHECK_INT(o.code, 2);
    CHECK(has(o.err, "run it again") && o.out.len == 0);
    import_file("data", "in", &o);
    CHECK_INT(o.code, 0);
    run_jim(&o, "check", "data", NULL);
    CHECK_INT(o.code, 0);
    CHECK(has(o.out, "messages 5000\n"));
    buf_free(&lines);
}

/* Killed in the middle: run again, it ends with every message once. */
TEST(import_interrupted)
{
    enum { LINES = 12000 };
    struct output o;
    struct buf lines = {0};
    struct stat st;
    int pipe_fd[2];

    for (int i = 1; i <= LINES; i++)
        buf_printf(&lines, "{\"chatType\":2,\"content\":\"%0400d\",\"createTime\":%d,"
                   "\"from\":\"ann\",\"id\":\"m%d\",\"seq\":%d,\"to\":\"bob\"}\n", i, i, i, i);
    CHECK(pipe(pipe_fd) == 0);
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(pipe_fd[1]);
        _exit(import_lines("data", pipe_fd[0], stdout));
    }
    close(pipe_fd[0]);
    size_t most = lines.len / 3 * 2;
    for (size_t at = 0; at < most;) {
        ssize_t put_n = write(pipe_fd[1], lines.p + at, most - at);
        CHECK(put_n > 0);
        at += (size_t)put_n;
    }
    int64_t until = time_mono_ms() + WAIT_MS;
    while (stat("data/00000000000000000001.log", &st) != 0 || st.st_size < 100000) {
        CHECK(time_mono_ms() < until);
        usleep(1000);
    }
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    close(pipe_fd[1]);
    buf_add(&lines, "", 1);
    write_file("in", lines.p);
    import_file("data", "in", &o);
    CHECK_INT(o.code, 0);
    CHECK(!has(o.out, "; 0 messages were there already"));
    run_jim(&o, "export", "data", NULL);
    struct str rest = {o.out.p, o.out.len}, line;
    for (int i = 1; i <= LINES; i++) {
        char want[64];
        CHECK(str_split(&rest, '\n', &line));
        int n = snprintf(want, sizeof want, "\"id\":\"m%d\",\"seq\":%d,", i, i);
        CHECK(line.n > 0 && memmem(line.p, line.n, want, (size_t)n) != NULL);
    }
    CHECK(str_split(&rest, '\n', &line) && line.n == 0 && rest.p == NULL);
    buf_free(&lines);
}

/* --- a server carried elsewhere --------------------------------------------------------------- */

/* Everything users can ask about themselves, from a server on `dir`. */
static struct buf
answers(const char *dir)
{
    static const char *const users[] = {"ann", "bob", "eve"};
    struct server s;
    struct buf all = {0};

    server_start(&s, QUIET, "-d", dir, NULL);
    for (size_t i = 0; i < 3; i++) {
        struct peer p;
        peer_login(&p, &s, PROTO_TCP, users[i]);
        peer_drain(&p);
        sayf(&p, 17, "{'userId':'%s','type':2}", users[i]);
        for (size_t k = 0; k < 3; k++)
            sayf(&p, 19, "{'userId':'%s','fromUserId':'%s','type':1}", users[i], users[k]);
        sayf(&p, 19, "{'userId':'%s','groupId':'g','type':1}", users[i]);
        sayf(&p, 19, "{'userId':'%s','type':0}", users[i]);
        for (int n = 0; n < 6;) {
            CHECK(hear(&p));
            if (p.cmd != 18 && p.cmd != 20)
                continue; /* notices */
            n++;
            buf_str(&all, p.text);
            buf_add(&all, "\n", 1);
        }
        peer_close(&p);
    }
    CHECK_INT(server_end(&s, SIGTERM), 0);
    buf_add(&all, "", 1);
    all.len--;
    return all;
}

static void
make_history(void)
{
    struct server s;
    struct peer ann, bob;
    struct output o;

    import_text("data", "{'nick':'Ann','extras':{'a':1},'type':'user','userId':'ann'}\n", 0, &o);
    server_start(&s, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    peer_drain(&ann);
    peer_login(&bob, &s, PROTO_WS, "bob");
    sayf(&ann, 7, "{'groupId':'g','name':'The group'}");
    EXPECT(&ann, "{'code':10011,'command':8,<...>");
    EXPECT(&ann, "{'code':10011,'command':9,<...>");
    sayf(&bob, 7, "{'groupId':'g'}");
    EXPECT(&bob, "{'code':10011,'command':8,<...>");
    sayf(&ann, 11, "{'to':'bob','chatType':2,'content':'live','id':'1'}");
    for (CHECK(hear(&ann)); ann.cmd != 12;)
        CHECK(hear(&ann));
    for (CHECK(hear(&bob)); !heard(&bob, "\"command\":11");)
        CHECK(hear(&bob));
    peer_close(&bob);
    for (CHECK(hear(&ann)); ann.cmd != 10;) /* bob has gone: what follows waits for him */
        CHECK(hear(&ann));
    for (int i = 0; i < 3; i++) {
        sayf(&ann, 11, "{'to':'bob','chatType':2,'content':'waits %d'}", i);
        EXPECT(&ann, "{'code':10001,<...>");
        sayf(&ann, 11, "{'groupId':'g','chatType':1,'content':'all %d','extras':{'x':%d}}", i, i);
        EXPECT(&ann, "{'command':11,<...>");
        EXPECT(&ann, "{'code':10000,<...>");
        sayf(&ann, 11, "{'to':'eve','chatType':2,'content':'eve %d','msgType':1}", i);
        EXPECT(&ann, "{'code':10001,<...>");
    }
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

TEST(import_carries_a_server)
{
    struct output o;

    make_history();
    struct buf lines = export_of("data");
    write_file("in", lines.p);
    import_file("other", "in", &o);
    CHECK_INT(o.code, 0);
    struct buf again = export_of("other");
    CHECK_BYTES(again.p, again.len, lines.p);
    struct buf here = answers("data"), there = answers("other");
    CHECK(has(here, "waits 2") && has(here, "The group") && has(here, "\"nick\":\"Ann\""));
    CHECK_BYTES(there.p, there.len, here.p);
    buf_free(&here);
    buf_free(&there);
}

/* Of a conversation that retention has emptied there is only how far it has counted: the next
 * message has the next number, also elsewhere. */
TEST(import_emptied_conversations)
{
    static const char lines[] = "{'groupId':'g','seq':5,'type':'seq'}\n"
                                "{'groupId':'g','seq':4,'userId':'ann','type':'member'}\n"
                                "{'fromUserId':'bob','seq':7,'userId':'ann','type':'seq'}\n"
                                "{'fromUserId':'ann','seq':2,'userId':'ann','type':'seq'}\n";
    struct output o;
    struct server s;
    struct peer ann;

    import_text("first", lines, 0, &o);
    struct buf once = export_of("first");
    write_file("in", once.p);
    import_file("data", "in", &o);
    CHECK_INT(o.code, 0);
    struct buf twice = export_of("data");
    check_holds(twice, "{'groupId':'g','seq':5,'type':'seq'}\n"
                       "{'groupId':'g','seq':4,'userId':'ann','type':'member'}\n");
    CHECK_BYTES(twice.p, twice.len, once.p);
    /* a number never falls */
    import_text("data", "{'groupId':'g','seq':3,'type':'seq'}\n", 0, &o);
    import_text("data", "{'groupId':'g','seq':0,'type':'seq'}\n", 1, &o);
    import_text("data", "{'groupId':'g','type':'seq'}\n", 1, &o);
    import_text("data", "{'userId':'g','seq':3,'type':'seq'}\n", 1, &o);
    server_start(&s, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    EXPECT(&ann, "{'code':10011,'command':9,'group':'g',<...>");
    say(&ann, 11, "{'chatType':2,'to':'bob','id':'1'}");
    EXPECT(&ann, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'1','seq':8},<...>");
    say(&ann, 11, "{'chatType':1,'groupId':'g','id':'2'}");
    EXPECT(&ann, "{'command':11,'data':{'chatType':1,'createTime':<time>,'from':'ann',"
                 "'groupId':'g','id':'2','seq':6}}");
    EXPECT(&ann, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'2','seq':6},<...>");
    peer_close(&ann);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    struct buf after = export_of("data");
    CHECK(!has(after, "\"groupId\":\"g\",\"seq\":5,\"type\"")); /* a message says it now */
    buf_free(&once);
    buf_free(&twice);
    buf_free(&after);
}

/* --- a Redis of the test's own ---------------------------------------------------------------- */

struct value {
    char kind; /* s: string, l: list, z: sorted set of member and score; n: `many` members;
                  h: a string above the limit */
    const char *key;
    const char *item[8];
    int many;
};

struct fake {
    const struct value *value;
    size_t values;
    size_t piece;         /* bytes a write; 0: all at once */
    size_t most;          /* bytes after which the connection ends; 0: never */
    const char *password; /* NULL: none */
    const char *raw;      /* all that is ever answered, NULL: what Redis would */
    int port;
    pid_t pid;
    FILE *in;
    int fd;
    size_t sent;
    bool logged_in;
};

static void
fake_send(struct fake *f, const struct buf *b)
{
    size_t piece = f->piece > 0 ? f->piece : b->len;

    for (size_t at = 0; at < b->len; at += piece) {
        size_t n = b->len - at < piece ? b->len - at : piece;
        if (f->most > 0 && f->sent + n > f->most)
            _exit(0);
        for (size_t put_n = 0; put_n < n;) {
            ssize_t got = write(f->fd, b->p + at + put_n, n - put_n);
            if (got <= 0)
                _exit(0); /* the other side had enough */
            put_n += (size_t)got;
        }
        f->sent += n;
    }
}

static void
put_bulk(struct buf *b, const char *text)
{
    buf_printf(b, "$%zu\r\n%s\r\n", strlen(text), text);
}

static void
put_item(struct buf *b, const struct value *v, int i)
{
    struct buf text;

    if (v->kind != 'n') {
        put_bulk(b, v->item[i]);
        return;
    }
    struct buf line = {0};
    if (i % 2 == 1)
        buf_printf(&line, "%d", i / 2 / 3); /* three of each score */
    else
        buf_printf(&line, "{'chatType':1,'content':'m%d','createTime':%d,'from':'u','groupId':'g',"
                   "'id':'%d'}", i / 2, i / 2 / 3, i / 2);
    buf_add(&line, "", 1);
    text = quoted(line.p);
    put_bulk(b, text.p);
    buf_free(&text);
    buf_free(&line);
}

static int
items_of(const struct value *v)
{
    int n = 0;

    while (v->kind != 'n' && n < 8 && v->item[n] != NULL)
        n++;
    return v->kind == 'n' ? 2 * v->many : n;
}

/* Two keys an answer, and every first one twice. */
static void
fake_scan(struct fake *f, char **arg, struct buf *b)
{
    size_t at = strtoul(arg[1], NULL, 10), n = 0, prefix = strlen(arg[3]) - 1;
    struct buf keys = {0};

    CHECK(arg[3][prefix] == '*');
    for (size_t k = at; k < at + 2 && k < f->values; k++)
        if (strncmp(f->value[k].key, arg[3], prefix) == 0)
            for (size_t twice = k == at ? 0 : 1; twice < 2; twice++, n++)
                put_bulk(&keys, f->value[k].key);
    char cursor[24];
    snprintf(cursor, sizeof cursor, "%zu", at + 2 < f->values ? at + 2 : 0);
    buf_printf(b, "*2\r\n");
    put_bulk(b, cursor);
    buf_printf(b, "*%zu\r\n", n);
    buf_str(b, (struct str){keys.p, keys.len});
    buf_free(&keys);
}

static void
fake_read(struct fake *f, char **arg, char kind, struct buf *b)
{
    const struct value *v = NULL;

    for (size_t k = 0; k < f->values; k++)
        if (strcmp(f->value[k].key, arg[1]) == 0)
            v = &f->value[k];
    CHECK(v != NULL);
    if (kind == 's' && v->kind == 'h') {
        buf_printf(b, "$%u\r\n", MAX_RECORD + 70000);
        buf_reserve(b, MAX_RECORD + 70000);
        memset(b->p + b->len, '\n', MAX_RECORD + 70000);
        b->len += MAX_RECORD + 70000;
        buf_add(b, "\r\n", 2);
        return;
    }
    if (kind == 's' && v->kind == 's') {
        put_bulk(b, v->item[0]);
        return;
    }
    if (kind == 's' || v->kind == 's' || (kind == 'l') != (v->kind == 'l')) {
        buf_printf(b, "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
        return;
    }
    int each = kind == 'z' ? 2 : 1, from = each * atoi(arg[2]), to = each * (atoi(arg[3]) + 1);
    int n = items_of(v);
    if (to > n)
        to = n;
    buf_printf(b, "*%d\r\n", to > from ? to - from : 0);
    for (int i = from; i < to; i++)
        put_item(b, v, i);
}

static void
fake_auth(struct fake *f, char **arg, struct buf *b)
{
    f->logged_in = strcmp(arg[1], f->password) == 0;
    buf_printf(b, f->logged_in ? "+OK\r\n" : "-WRONGPASS invalid password\r\n");
}

static void
fake_command(struct fake *f, char **arg, struct buf *b)
{
    b->len = 0;
    if (f->raw != NULL)
        buf_printf(b, "%s", f->raw);
    else if (strcmp(arg[0], "AUTH") == 0)
        fake_auth(f, arg, b);
    else if (f->password != NULL && !f->logged_in)
        buf_printf(b, "-NOAUTH Authentication required.\r\n");
    else if (strcmp(arg[0], "PING") == 0)
        buf_printf(b, "+PONG\r\n");
    else if (strcmp(arg[0], "SCAN") == 0)
        fake_scan(f, arg, b);
    else if (strcmp(arg[0], "GET") == 0)
        fake_read(f, arg, 's', b);
    else if (strcmp(arg[0], "LRANGE") == 0)
        fake_read(f, arg, 'l', b);
    else if (strcmp(arg[0], "ZRANGE") == 0)
        fake_read(f, arg, 'z', b);
    else
        _exit(3); /* above all: nothing that writes */
    fake_send(f, b);
}

static void
fake_serve(struct fake *f)
{
    static char text[8][2048];
    char *arg[8], line[64];
    struct buf out = {0};

    while (fgets(line, sizeof line, f->in) != NULL) {
        int n = atoi(line + 1);
        CHECK(line[0] == '*' && n >= 1 && n <= 8);
        for (int i = 0; i < n; i++) {
            CHECK(fgets(line, sizeof line, f->in) != NULL && line[0] == '$');
            size_t len = strtoul(line + 1, NULL, 10);
            CHECK(len < 2046 && fread(text[i], 1, len + 2, f->in) == len + 2);
            text[i][len] = '\0';
            arg[i] = text[i];
        }
        fake_command(f, arg, &out);
    }
    _exit(0);
}

/* Serve one connection after another, in a process of its own. */
static void
fake_start(struct fake *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t size = sizeof a;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&a, size) == 0);
    CHECK(listen(listener, 4) == 0 && getsockname(listener, (struct sockaddr *)&a, &size) == 0);
    f->port = ntohs(a.sin_port);
    fflush(stdout);
    f->pid = fork();
    CHECK(f->pid >= 0);
    if (f->pid > 0) {
        close(listener);
        return;
    }
    f->fd = accept(listener, NULL, NULL);
    CHECK(f->fd >= 0 && setsockopt(f->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    f->in = fdopen(dup(f->fd), "r");
    CHECK(f->in != NULL);
    fake_serve(f);
}

/* Import from a Redis that answers as *f says. */
static void
import_fake(struct fake *f, const char *dir, int want, struct output *o)
{
    char address[32];
    int status;

    fake_start(f);
    snprintf(address, sizeof address, "127.0.0.1:%d", f->port);
    run_jim(o, "import", "--jim-redis", address, dir, NULL);
    CHECK(waitpid(f->pid, &status, 0) == f->pid);
    CHECK_INT(status, 0);
    CHECK_INT(o->code, want);
}

#define TABLE(t) .value = (t), .values = sizeof(t) / sizeof(t)[0]
/* As J-IM writes a private chat: no `seq`, names in order. */
#define SAID(from, to, id, time) \
    "{\"chatType\":2,\"content\":\"" id "\",\"createTime\":" time ",\"from\":\"" from \
    "\",\"id\":\"" id "\",\"msgType\":0,\"to\":\"" to "\"}"
#define SAID_IN(group, from, id, time) \
    "{\"chatType\":1,\"content\":\"" id "\",\"createTime\":" time ",\"from\":\"" from \
    "\",\"groupId\":\"" group "\",\"id\":\"" id "\",\"msgType\":0}"

static const struct value chats[] = {
    {'z', "store:user:ann-bob",
     {SAID("ann", "bob", "a1", "1001"), "1001", SAID("bob", "ann", "a2", "1002"), "1002",
      SAID("ann", "bob", "a3", "1003"), "1003"}, 0},
    {'z', "push:user:bob:ann", {SAID("ann", "bob", "a3", "1003"), "1003"}, 0},
    /* '-' in ids: two conversations under one key */
    {'z', "store:user:x-y-z",
     {SAID("x-y", "z", "d1", "1004"), "1004", SAID("x", "y-z", "d2", "1005"), "1005"}, 0},
    /* waits, and is in no history; ':' in an id */
    {'z', "push:user:p:q:r", {SAID("q:r", "p", "w1", "1006"), "1006"}, 0},
    {'z', "store:group:g:1",
     {SAID_IN("g:1", "ann", "g1", "1001"), "1001", SAID_IN("g:1", "ann", "g2", "1002"), "1002"}, 0},
    {'z', "push:group:g:1:bob", {SAID_IN("g:1", "ann", "g2", "1002"), "1002"}, 0},
    {'l', "group:g:1:user", {"ann", "bob"}, 0},
    {'s', "group:g:1:info", {"{\"groupId\":\"g:1\",\"name\":\"G\"}"}, 0},
    {'l', "user:bob:group", {"g:1", "h"}, 0},
    {'s', "user:ann:info",
     {"{\"nick\":\"A\",\"status\":\"online\",\"terminal\":\"ws\",\"userId\":\"ann\"}"}, 0},
    {'s', "user:ann:friends",
     {"[{\"groupId\":\"1\",\"name\":\"F\",\"users\":[{\"userId\":\"bob\",\"nick\":\"B\"}]}]"}, 0},
    {'s', "user:ann:terminal:ws", {"\"online\""}, 0},
    {'s', "store:other", {"not J-IM's"}, 0},
};

/* What is in Redis, as it is then in the store. */
static void
check_chats(const char *dir)
{
    struct buf got = export_of(dir);
    static const char *const lines[] = {
        "'id':'a1','msgType':0,'seq':1,'to':'bob','time':1001}\n",
        "'id':'a3','msgType':0,'seq':3,'to':'bob','time':1003}\n",
        "'from':'x-y','id':'d1','msgType':0,'seq':1,'to':'z','time':1004}\n",
        "'from':'x','id':'d2','msgType':0,'seq':1,'to':'y-z','time':1005}\n",
        "'from':'q:r','id':'w1','msgType':0,'seq':1,'to':'p','time':1006}\n",
        "'groupId':'g:1','id':'g2','msgType':0,'seq':2,'time':1002}\n",
        "{'fromUserId':'bob','seq':3,'userId':'ann','type':'cursor'}\n",
        "{'fromUserId':'ann','seq':2,'userId':'bob','type':'cursor'}\n",
        "{'fromUserId':'x-y','seq':1,'userId':'z','type':'cursor'}\n",
        "{'fromUserId':'p','seq':1,'userId':'q:r','type':'cursor'}\n",
        "{'groupId':'g:1','seq':2,'userId':'ann','type':'member'}\n",
        "{'groupId':'g:1','seq':1,'userId':'bob','type':'member'}\n",
        "{'groupId':'h','seq':0,'userId':'bob','type':'member'}\n",
        "{'groupId':'g:1','name':'G','type':'group'}\n",
        ("{'friends':[{'groupId':'1','name':'F','users':[{'nick':'B','userId':'bob'}]}],"
         "'nick':'A','userId':'ann','type':'user'}\n")};

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        check_holds(got, lines[i]);
    CHECK(!has(got, "\"userId\":\"p\",")); /* nothing has reached him: no cursor */
    buf_free(&got);
}

TEST(import_redis_all)
{
    struct output o;

    import_fake(&(struct fake){TABLE(chats)}, "data", 0, &o);
    CHECK(has(o.out, "imported 8 messages, 1 users, 1 groups, 3 memberships"));
    check_chats("data");
    struct buf before = export_of("data");
    import_fake(&(struct fake){TABLE(chats)}, "data", 0, &o);
    CHECK(has(o.out, "imported 0 messages, 0 users, 0 groups, 0 memberships, 0 cursors"));
    struct buf after = export_of("data");
    CHECK_BYTES(after.p, after.len, before.p);
}

/* Answers that come a byte at a time. */
TEST(import_redis_drip)
{
    struct output o;

    import_fake(&(struct fake){TABLE(chats), .piece = 1}, "data", 0, &o);
    check_chats("data");
}

/* Cut off anywhere: 2, and the next time everything is there. */
TEST(import_redis_cut)
{
    struct output o;

    for (size_t most = 1; most < 3000; most += 450) {
        import_fake(&(struct fake){TABLE(chats), .most = most, .piece = 90}, "data", 2, &o);
        CHECK(has(o.err, "redis: "));
        CHECK(most < 500 || has(o.err, "run it again"));
    }
    import_fake(&(struct fake){TABLE(chats)}, "data", 0, &o);
    check_chats("data");
}

/* More than a page, with equal scores. */
TEST(import_redis_pages)
{
    static const struct value many[] = {
        {'n', "store:group:g", {NULL}, 1100},
        {'z', "push:group:g:v", {SAID_IN("g", "u", "1090", "363"), "363"}, 0},
        {'l', "group:g:user", {"u", "v"}, 0},
    };
    struct output o;

    import_fake(&(struct fake){TABLE(many)}, "data", 0, &o);
    struct buf got = export_of("data");
    check_holds(got, "'content':'m0','createTime':0,");
    check_holds(got, "'content':'m1099','createTime':366,'from':'u','groupId':'g','id':'1099',"
                     "'seq':1100,'time':366}\n");
    check_holds(got, "{'groupId':'g','seq':1090,'userId':'v','type':'member'}\n");
    check_holds(got, "{'groupId':'g','seq':1100,'userId':'u','type':'member'}\n");
}

/* Refused by key, with the reason; the rest comes in. */
TEST(import_redis_refused)
{
    static const struct value odd[] = {
        {'s', "store:user:a-b", {"not sorted"}, 0},
        {'z', "store:user:c-d", {"no json", "1", "{\"from\":\"c\",\"id\":\"1\"}", "2",
                                 SAID("c", "d", "2", "3"), "3"}, 0},
        {'z', "store:user:e-f", {SAID("e\\u0000", "f", "1", "1"), "1"}, 0},
        {'z', "store:group:null", {"{\"chatType\":1,\"from\":\"a\",\"id\":\"1\"}", "1"}, 0},
        {'z', "push:group:x:b", {SAID_IN("y", "a", "1", "1"), "1"}, 0},
        {'l', "group:g:user", {" ", "ok"}, 0},
        {'s', "user:u:info", {"[1]"}, 0},
        {'s', "group:g:info", {"{\"name\":\"no id\"}"}, 0},
        {'s', "user:v:info", {"{\"userId\":\"v\",\"nick\":{}}"}, 0},
        {'h', "user:w:info", {NULL}, 0},
        {'s', "user:x:info", {"{\"userId\":\"x\"}"}, 0},
    };
    static const char *const want[] = {
        "store:user:a-b: no value of the kind", "store:user:c-d: a message that is no JSON",
        "store:user:c-d: a private message without a receiver", "store:user:e-f: the sender's id",
        "store:group:null: a group message without groupId", "push:group:x:b: a message of another",
        "group:g:user: the user's id", "user:u:info: no JSON", "group:g:info: the group's id",
        "user:v:info: avatar, name", "user:w:info: a value over 16 MiB"};
    struct output o;

    import_fake(&(struct fake){TABLE(odd)}, "data", 1, &o);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        if (!has(o.err, want[i]))
            test_fail(__FILE__, __LINE__, "no %s", want[i]);
    CHECK(has(o.out, "imported 2 messages, 1 users, 0 groups, 1 memberships"));
}

TEST(import_redis_password)
{
    struct output o;

    import_fake(&(struct fake){TABLE(chats), .password = "secret"}, "data", 2, &o);
    CHECK(has(o.err, "NOAUTH"));
    setenv("JIM_REDIS_AUTH", "wrong", 1);
    import_fake(&(struct fake){TABLE(chats), .password = "secret"}, "data", 2, &o);
    CHECK(has(o.err, "WRONGPASS") && !has(o.err, "wrong: "));
    setenv("JIM_REDIS_AUTH", "secret", 1);
    import_fake(&(struct fake){TABLE(chats), .password = "secret"}, "data", 0, &o);
    check_chats("data");
}

/* Something else answers, or nothing. */
TEST(import_redis_none)
{
    static const char *const answers_of[] = {"HTTP/1.1 400 Bad Request\r\n", "*3\r\n+a\r\n:",
                                             "$99999999999\r\n", "+OK\r\n+what\r\n"};
    struct output o;
    struct fake f = {TABLE(chats)};

    for (size_t i = 0; i < sizeof answers_of / sizeof answers_of[0]; i++) {
        import_fake(&(struct fake){TABLE(chats), .raw = answers_of[i]}, "data", 2, &o);
        CHECK(has(o.err, "redis: "));
    }
    fake_start(&f);
    CHECK(kill(f.pid, SIGKILL) == 0 && waitpid(f.pid, NULL, 0) == f.pid);
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%d", f.port);
    run_jim(&o, "import", "--jim-redis", address, "data", NULL);
    CHECK_INT(o.code, 2);
    CHECK(has(o.err, "Connection refused"));
    run_jim(&o, "import", "--jim-redis", "[::1:7", "data", NULL);
    CHECK_INT(o.code, 2);
}
