/* SPDX-License-Identifier: MIT */
/*
 * fuzz.c - the targets for the decoders, and what all targets share. What must hold of a decoder:
 * the same result whether the bytes come whole or in pieces, views that lie inside the input, no
 * step that goes nowhere, and for what is written again, that it reads the same.
 *
 *   transcripts   what a decoder said, for comparing
 *   TCP-IM, WebSocket, HTTP, chunked bodies, proxies, queries, RESP
 *   JSON, requests, properties files, segments of the log
 *   running       the table, corpora, mutations
 */
#include "fuzz.h"
#include "draw.h"
#include "../store.h"

#include <dirent.h>
#include <stdio.h>

void
fuzz_fail(const char *file, int line, const char *what)
{
    printf("%s:%d: %s does not hold\n", file, line, what);
    fflush(stdout);
    abort();
}

/* --- transcripts ------------------------------------------------------------------------------ */

/* A stream that is being decoded: what has come so far, followed by bytes that have not. */
struct feed {
    char *p;
    size_t have, all;
    struct buf said; /* the transcript */
};

static const uint64_t no_secret[2];

static void
say_view(struct feed *f, struct str view)
{
    if (view.n > 0)
        MUST(view.p >= f->p && view.p + view.n <= f->p + f->have);
    buf_printf(&f->said, " %zu:%016llx", view.n,
               (unsigned long long)siphash13(no_secret, view.p, view.n));
}

/* What has not come yet must not be looked at: it is something else until then. */
static void
feed_more(struct feed *f, const uint8_t *p, size_t piece)
{
    size_t n = f->all - f->have < piece ? f->all - f->have : piece;

    memcpy(f->p + f->have, p + f->have, n);
    f->have += n;
}

/*
 * Decode p whole, then in pieces of the size its first byte says, and compare. `step` decodes from
 * f->p + at: bytes used, 0 for more, negative at the end.
 */
static void
whole_and_split(const uint8_t *p, size_t n, void *state, size_t state_size,
                ptrdiff_t (*step)(struct feed *f, size_t at, void *state))
{
    if (n < 1)
        return;
    size_t piece = 1 + p[0] % 64;
    struct feed f[2] = {{.all = n - 1}, {.all = n - 1}};
    void *fresh = xmalloc(state_size);

    memcpy(fresh, state, state_size);
    for (int i = 0; i < 2; i++) {
        size_t at = 0;
        ptrdiff_t used = 0;
        f[i].p = xmalloc(f[i].all);
        memset(f[i].p, i == 0 ? 0 : '\n', f[i].all);
        memcpy(state, fresh, state_size);
        while (used >= 0) {
            while (at <= f[i].have && (used = step(&f[i], at, state)) > 0) {
                at += (size_t)used;
                MUST(at <= f[i].have);
            }
            if (f[i].have == f[i].all)
                break;
            feed_more(&f[i], p + 1, i == 0 ? f[i].all : piece);
        }
        buf_printf(&f[i].said, " end %td at %zu", used, used < 0 ? 0 : at);
    }
    MUST(f[0].said.len == f[1].said.len && memcmp(f[0].said.p, f[1].said.p, f[0].said.len) == 0);
    for (int i = 0; i < 2; i++) {
        buf_free(&f[i].said);
        free(f[i].p);
    }
    free(fresh);
}

/* --- TCP-IM, WebSocket ------------------------------------------------------------------------ */

#define FUZZ_MAX 1000 /* of a body: small enough to be passed */

static ptrdiff_t
step_pkt(struct feed *f, size_t at, void *state)
{
    struct pkt pkt;
    ptrdiff_t used = pkt_decode(f->p + at, f->have - at, FUZZ_MAX, &pkt);

    (void)state;
    if (used > 0) {
        MUST(pkt.body.n <= FUZZ_MAX);
        buf_printf(&f->said, "\n%d %u", pkt.cmd, pkt.seq);
        say_view(f, pkt.body);
        uint8_t head[MAX_PKT_HEAD];
        struct pkt again;
        size_t n = pkt_head(head, pkt.cmd, pkt.seq, 0);
        MUST(pkt_decode((char *)head, n, 0, &again) == (ptrdiff_t)n && again.seq == pkt.seq);
    }
    return used;
}

static void
fuzz_pkt(const uint8_t *p, size_t n)
{
    char state;

    whole_and_split(p, n, &state, 1, step_pkt);
}

static ptrdiff_t
step_ws(struct feed *f, size_t at, void *state)
{
    struct ws_frame frame;
    ptrdiff_t used = ws_decode(state, f->p + at, f->have - at, FUZZ_MAX, &frame);

    if (used > 0) {
        MUST(frame.payload.n <= FUZZ_MAX);
        MUST(frame.opcode < WS_CLOSE || frame.payload.n <= MAX_CONTROL);
        MUST(!frame.whole || frame.fin);
        buf_printf(&f->said, "\n%d %d %d %d", frame.opcode, frame.fin, frame.whole, frame.code);
        say_view(f, frame.payload);
    }
    return used;
}

static void
fuzz_ws(const uint8_t *p, size_t n)
{
    struct ws state = {0};

    whole_and_split(p, n, &state, sizeof state, step_ws);
}

/* --- HTTP ------------------------------------------------------------------------------------- */

static ptrdiff_t
step_http(struct feed *f, size_t at, void *state)
{
    struct http_req r;
    ptrdiff_t used = http_decode(f->p + at, f->have - at, state, &r);

    if (used > 0) {
        MUST(used <= MAX_HEAD + 16 && r.method.n > 0);
        buf_printf(&f->said, "\n%llu %d %d %d %d", (unsigned long long)r.length, r.chunked,
                   r.keep_alive, r.http11, r.upgrade);
        say_view(f, r.method);
        if (!str_eq(r.path, STR("/"))) /* which is what an absolute form may leave unsaid */
            say_view(f, r.path);
        say_view(f, r.query);
        for (int i = 0; i < HTTP_HEADERS; i++)
            say_view(f, r.header[i]);
        for (size_t i = 0; i < r.path.n; i++) /* nothing in it can break a line of ours */
            MUST((unsigned char)r.path.p[i] > ' ');
    }
    return used;
}

static void
fuzz_http(const uint8_t *p, size_t n)
{
    size_t scan = 0;

    whole_and_split(p, n, &scan, sizeof scan, step_http);
}

/* Decodes in place and closes the gaps, so it has its own way of being fed. */
static void
unchunk(const uint8_t *p, size_t n, size_t piece, struct buf *said)
{
    struct http_chunked s = {0};
    char *b = xmalloc(n);
    size_t have = 0, rest = 0;
    int done = 0;

    while (done == 0 && have < n) {
        size_t more = n - have < piece ? n - have : piece;
        memcpy(b + rest, p + have, more);
        have += more;
        rest += more;
        done = http_unchunk(&s, b, &rest, FUZZ_MAX);
        MUST(s.body <= FUZZ_MAX && s.body <= s.raw && s.raw <= rest && rest <= have);
    }
    if (done > 0)
        buf_printf(said, "%016llx %zu %zu", (unsigned long long)siphash13(no_secret, b, s.body),
                   s.body, n - have + rest - s.raw);
    else
        buf_printf(said, "%d", done);
    free(b);
}

static void
fuzz_chunked(const uint8_t *p, size_t n)
{
    struct buf whole = {0}, split = {0};

    if (n < 1)
        return;
    unchunk(p + 1, n - 1, n, &whole);
    unchunk(p + 1, n - 1, 1 + p[0] % 64, &split);
    MUST(whole.len == split.len && memcmp(whole.p, split.p, whole.len) == 0);
    buf_free(&whole);
    buf_free(&split);
}

/* --- proxies ---------------------------------------------------------------------------------- */

static ptrdiff_t
step_proxy(struct feed *f, size_t at, void *state)
{
    struct proxy_said said;
    ptrdiff_t used = proxy_decode(f->p + at, f->have - at, &said);

    (void)state;
    if (used > 0)
        buf_printf(&f->said, "\n%td %d %016llx", used, said.known,
                   (unsigned long long)siphash13(no_secret, said.ip, sizeof said.ip));
    return used;
}

/* Headers; and the same bytes as a list of networks, and as fields of a request. */
static void
fuzz_proxy(const uint8_t *p, size_t n)
{
    unsigned char ip[16] = {1};
    char state, *text = xstrndup((const char *)p, n);

    whole_and_split(p, n, &state, 1, step_proxy);
    if (networks_ok(text))
        networks_have(text, ip);
    struct buf head = {0};
    buf_printf(&head, "X-Forwarded-For: ");
    buf_add(&head, p, n);
    bool known = proxy_forwarded("10.0.0.0/8,::1", (struct str){head.p, head.len}, ip);
    MUST(!known || networks_have("0.0.0.0/0,::/0", ip));
    buf_free(&head);
    free(text);
}

/* --- queries ---------------------------------------------------------------------------------- */

static void
fuzz_query(const uint8_t *p, size_t n)
{
    struct str all = {(const char *)p, n}, rest = all, name, value;
    char *dst = xmalloc(n), accept[28];
    size_t total = 0;

    while (query_next(&rest, &name, &value)) {
        total += name.n + value.n;
        MUST(total <= n);
        ptrdiff_t got = url_decode(dst, value, true);
        MUST(got >= -1 && got <= (ptrdiff_t)value.n);
    }
    ptrdiff_t got = url_decode(dst, all, n & 1);
    MUST(got >= -1 && got <= (ptrdiff_t)n);
    got = base64_decode(dst, all.p, n);
    MUST(got >= -1 && got <= (ptrdiff_t)(n / 4 * 3));
    if (got > 0) { /* but for unused bits at the end, it is what encoding gives */
        char *again = xmalloc(4 * (((size_t)got + 2) / 3));
        MUST(base64_encode(again, dst, (size_t)got) == n && memcmp(again, p, n - 4) == 0);
        free(again);
    }
    http_list_has(all, "chunked");
    http_host_is_loopback(all);
    http_origin_listed("http://a,http://b", all);
    ws_accept(all, accept);
    if (id_ok(all)) { /* an id comes back from its key in the log, and from no other */
        struct roster r;
        roster_init(&r);
        struct user *u = user_get(&r, all), *other = user_get(&r, STR("a:b"));
        struct conv *pair = pair_get(&r, u, other), *group = group_get(&r, all);
        MUST(conv_get_key(&r, (struct str){pair->key, pair->keylen}) == pair);
        MUST(conv_get_key(&r, (struct str){group->key, group->keylen}) == group && pair != group);
        roster_free(&r);
    }
    free(dst);
}

static ptrdiff_t
step_resp(struct feed *f, size_t at, void *state)
{
    struct resp r;
    ptrdiff_t used = resp_decode(f->p + at, f->have - at, state, FUZZ_MAX, &r);

    if (used > 0) {
        buf_printf(&f->said, "\n%d %lld", r.type, (long long)r.n);
        if (r.text.p != NULL)
            say_view(f, r.text);
        MUST(r.type != RESP_BULK || r.text.n <= FUZZ_MAX);
    }
    return used;
}

static void
fuzz_resp(const uint8_t *p, size_t n)
{
    size_t scan = 0;

    whole_and_split(p, n, &scan, sizeof scan, step_resp);
}

/* --- JSON, requests --------------------------------------------------------------------------- */

static bool
walk(struct json_iter *it, const char *p, size_t n)
{
    struct json key, value;
    struct json_iter inner;
    int more;

    while ((more = json_next(it, &key, &value)) > 0) {
        int64_t number;
        char *text = xmalloc(value.n);
        MUST(value.p >= p && value.p + value.n <= p + n);
        MUST(json_text(&value, text) <= value.n);
        free(text);
        json_int(&value, &number);
        name_is(&key, "userid");
        if (value.type != JSON_ARRAY && value.type != JSON_OBJECT)
            continue;
        json_enter(&inner, &value);
        MUST(walk(&inner, p, n)); /* it was checked before it was handed out */
    }
    return more == 0;
}

static bool
json_well(const char *p, size_t n)
{
    struct json_iter it;
    bool well = json_open(&it, p, n) == 0 && walk(&it, p, n);

    MUST(well || json_error_at(&it) <= n);
    return well;
}

static void
fuzz_json(const uint8_t *p, size_t n)
{
    const char *text = (const char *)p;
    struct buf wrapped = {0}, once = {0}, twice = {0};
    struct json_iter it;
    struct json value;

    bool well = json_well(text, n);
    /* As a member of an array it can be taken as one value, and written again. */
    buf_add(&wrapped, "[", 1);
    buf_add(&wrapped, p, n);
    buf_add(&wrapped, "]", 1);
    if (json_open(&it, wrapped.p, wrapped.len) == 0 && json_next(&it, NULL, &value) > 0 &&
        json_next(&it, NULL, &(struct json){0}) == 0) {
        json_put_value(&once, &value);
        buf_add(&twice, "[", 1);
        buf_add(&twice, once.p, once.len);
        buf_add(&twice, "]", 1);
        struct buf again = {0};
        MUST(json_open(&it, twice.p, twice.len) == 0 && json_next(&it, NULL, &value) > 0);
        json_put_value(&again, &value);
        MUST(again.len == once.len && memcmp(again.p, once.p, once.len) == 0);
        buf_free(&again);
    } else {
        MUST(!well || it.error == JSON_DEPTH); /* one deeper than it was */
    }
    buf_free(&wrapped);
    buf_free(&once);
    buf_free(&twice);
}

/* Does a request say what json_next() says of its text? */
static void
request_by_rules(const struct request *r, bool right, const char *p, size_t n)
{
    struct request rules = {0};
    struct json_iter it;
    struct json key, value;
    int more = json_open(&it, p, n) == 0 && it.close == '}' ? 1 : -1;

    while (more > 0 && (more = json_next(&it, &key, &value)) > 0) {
        enum field f = request_field(&key);
        if (f < FIELDS)
            rules.f[f] = value;
        if (f < FIELDS && value.type == JSON_NULL)
            rules.f[f].type = JSON_NONE;
    }
    MUST(right == (more == 0));
    if (rules.f[F_USER_ID].type == JSON_NONE)
        rules.f[F_USER_ID] = rules.f[F_LOGIN_NAME];
    for (int f = 0; f < FIELDS && right; f++) {
        const struct json *a = &r->f[f], *b = &rules.f[f];
        MUST(a->type == b->type && a->p == b->p && a->n == b->n);
        MUST(a->escaped == b->escaped && a->plain == b->plain);
    }
}

static void
fuzz_request(const uint8_t *p, size_t n)
{
    struct request r;
    char text[MAX_ID];
    struct str id;
    struct buf b = {0};
    int64_t number;

    bool right = request_parse(&r, (struct str){(const char *)p, n});
    request_by_rules(&r, right, (const char *)p, n);
    if (!right)
        return;
    buf_add(&b, "{", 1);
    for (int f = 0; f < FIELDS; f++) {
        if (request_id(&r, (enum field)f, text, &id))
            MUST(id.n > 0 && id.n <= MAX_ID && id_ok(id));
        request_int(&r, (enum field)f, 0, &number);
        char name[16];
        snprintf(name, sizeof name, "f%d", f);
        put_field(&b, name, &r.f[f]);
    }
    buf_add(&b, "}", 1);
    MUST(json_well(b.p, b.len));
    buf_free(&b);
}

/* --- properties ------------------------------------------------------------------------------- */

static void
fuzz_conf(const uint8_t *p, size_t n)
{
    struct options o;
    struct buf notices = {0};
    char err[256] = "", why[256];

    if (n == 0)
        return;
    FILE *f = fmemopen((void *)(uintptr_t)p, n, "r");
    MUST(f != NULL);
    conf_init(&o);
    int result = conf_read(&o, f, "fuzz", NULL, &notices, err, sizeof err);
    MUST((result == 0) == (err[0] == '\0'));
    if (result == 0)
        (void)conf_check(&o, why, sizeof why);
    fclose(f);
    conf_free(&o);
    buf_free(&notices);
}

/* --- segments of the log ---------------------------------------------------------------------- */

/* Give the lines right checksums, or hardly any would be looked at: first the header's, at its
 * end, then every line's, at its front. */
static void
fix_sums(struct buf *b)
{
    struct crc32c crc;
    uint32_t seed = 0;

    crc32c_init(&crc);
    for (size_t at = 0; at < b->len;) {
        char *line = b->p + at, *end = memchr(line, '\n', b->len - at), sum[9];
        size_t n = end == NULL ? b->len - at : (size_t)(end - line);
        if (at == 0 && n > 31) { /* "…salt fresh crc" */
            snprintf(sum, sizeof sum, "%08x", (unsigned)crc32c_add(&crc, 0, line, n - 9));
            memcpy(line + n - 8, sum, 8);
            seed = crc32c_add(&crc, 0, line + n - 8 - 6 - 17, 16);
        } else if (n > 9 && line[0] == '0') { /* the rest stays wrong */
            snprintf(sum, sizeof sum, "%08x", (unsigned)crc32c_add(&crc, seed, line + 9, n - 9));
            memcpy(line, sum, 8);
        }
        at += n + 1;
    }
}

struct replayed {
    struct chat chat;
    struct buf said;
};

static int64_t
long_ago(void)
{
    return 1700000000000;
}

static void
note_record(void *arg, const struct store_rec *rec)
{
    struct replayed *r = arg;

    MUST(rec->number > 0);
    buf_printf(&r->said, "\n%llu %c %llu %lld %u:%u %016llx", (unsigned long long)rec->number,
               rec->type, (unsigned long long)rec->seq, (long long)rec->time_ms, rec->segment,
               rec->offset,
               (unsigned long long)siphash13(no_secret, rec->json.p, rec->json.n));
    record_replay(&r->chat, rec);
}

static void
scan_once(struct buf *said, bool go_on)
{
    struct options opt;
    struct stats stats = {0};
    struct log log = {NULL, -1};
    struct replayed r = {0};
    struct scan c = {.io = &fuzz_disk, .dir = "d", .go_on = go_on, .record = note_record,
                     .arg = &r};

    conf_init(&opt);
    chat_init(&r.chat, &opt, &log, &stats);
    r.chat.now_ms = long_ago;
    struct store *none = r.chat.store = store_open_none();
    scan_run(&c);
    MUST(c.result != SCAN_ERROR);
    buf_printf(&r.said, "\nend %d %llu %llu %s", c.result, (unsigned long long)c.bad_first,
               (unsigned long long)c.bad_at, c.why != NULL ? c.why : "");
    scan_free(&c);
    chat_free(&r.chat);
    store_close(none);
    conf_free(&opt);
    *said = r.said;
}

/* The first byte: 1 checksums are made right, 2 damage is passed over. A NUL parts two segments. */
static void
fuzz_segment(const uint8_t *p, size_t n)
{
    struct buf whole = {0}, split = {0}, part = {0};
    struct str rest = {(const char *)p + 1, n - 1}, one;
    uint64_t number = 1;

    if (n < 2)
        return;
    disk_reset();
    for (int i = 0; i < 2 && str_split(&rest, '\0', &one); i++) {
        char path[64];
        unsigned long long first;
        part.len = 0;
        buf_str(&part, one);
        if (p[0] & 1)
            fix_sums(&part);
        buf_add(&part, "", 1);
        const char *second = strchr(part.p, '\n'); /* the line whose number is in the name */
        if (i > 0 && second != NULL && strlen(second) > 10 &&
            sscanf(second + 10, "%18llu", &first) == 1 && first > number)
            number = first;
        else
            number += (uint64_t)i;
        snprintf(path, sizeof path, "d/%020llu.log", (unsigned long long)number);
        disk_put(path, part.p, part.len - 1);
    }
    scan_once(&whole, p[0] & 2);
    disk_short_reads(1 + p[0] / 4);
    scan_once(&split, p[0] & 2);
    MUST(whole.len == split.len && memcmp(whole.p, split.p, whole.len) == 0);
    disk_reset();
    buf_free(&whole);
    buf_free(&split);
    buf_free(&part);
}

/* --- running ---------------------------------------------------------------------------------- */

const struct fuzz_target fuzz_targets[] = {
    {"pkt", fuzz_pkt, 4096},         {"ws", fuzz_ws, 4096},
    {"http", fuzz_http, 4096},       {"chunked", fuzz_chunked, 4096},
    {"query", fuzz_query, 512},      {"json", fuzz_json, 4096},
    {"request", fuzz_request, 4096}, {"conf", fuzz_conf, 4096},
    {"segment", fuzz_segment, 4096}, {"server", fuzz_server, 4096},
    {"stream", fuzz_stream, 4096},   {"resp", fuzz_resp, 4096},
    {"cluster", fuzz_cluster, 4096}, {"proxy", fuzz_proxy, 2200},
    {NULL, NULL, 0},
};

const struct fuzz_target *
fuzz_find(const char *name)
{
    for (const struct fuzz_target *t = fuzz_targets; t->name != NULL; t++)
        if (strcmp(t->name, name) == 0)
            return t;
    return NULL;
}

void
fuzz_run(const struct fuzz_target *t, const void *p, size_t n)
{
    uint8_t *copy = xmalloc(n);

    if (n > 0)
        memcpy(copy, p, n);
    t->fn(copy, n);
    free(copy);
}

size_t
fuzz_mutate(uint64_t *seed, uint8_t *p, size_t n, size_t max)
{
    for (uint32_t times = 1 + draw(seed) % 4; times > 0; times--) {
        size_t at = n > 0 ? draw(seed) % n : 0, from = n > 0 ? draw(seed) % n : 0;
        size_t len = 1 + draw(seed) % 16;
        switch (n > 0 ? draw(seed) % 6 : 1) {
        case 0:
            p[at] ^= (uint8_t)(1u << draw(seed) % 8);
            break;
        case 1: /* insert */
            if (n == max)
                break;
            memmove(p + at + 1, p + at, n - at);
            p[at] = (uint8_t)draw(seed);
            n++;
            break;
        case 2: /* remove some */
            len = len < n - at ? len : n - at;
            memmove(p + at, p + at + len, n - at - len);
            n -= len;
            break;
        case 3: /* say some of it again, elsewhere */
            if (n + len > max || from + len > n)
                break;
            memmove(p + at + len, p + at, n - at);
            memmove(p + at, p + (from >= at ? from + len : from), len);
            n += len;
            break;
        case 4:
            p[at] = (uint8_t)"\0\x01\x7f\x80\xff\r\n \":,{}[]%09"[draw(seed) % 18];
            break;
        default:
            if (draw(seed) % 8 == 0)
                n = at;
        }
    }
    return n;
}

unsigned long
fuzz_replay(const struct fuzz_target *t, const char *dir, unsigned mutations)
{
    char path[4096];
    uint8_t *p = xmalloc(t->max), *copy = xmalloc(t->max);
    uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);
    unsigned long inputs = 0;
    const struct dirent *e;

    snprintf(path, sizeof path, "%s/%s", dir, t->name);
    DIR *d = opendir(path);
    while (d != NULL && (e = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "%s/%s/%s", dir, t->name, e->d_name);
        FILE *f = e->d_name[0] != '.' ? fopen(path, "rb") : NULL;
        if (f == NULL)
            continue;
        size_t n = fread(p, 1, t->max, f);
        fclose(f);
        fuzz_run(t, p, n);
        inputs++;
        for (unsigned i = 0; i < mutations; i++, inputs++) {
            memcpy(copy, p, n);
            fuzz_run(t, copy, fuzz_mutate(&seed, copy, n, t->max));
        }
    }
    if (d != NULL)
        closedir(d);
    free(p);
    free(copy);
    return inputs;
}
