/* SPDX-License-Identifier: MIT */
/*
 * extend.c - what an embedding program adds: the functions it has given are kept and called here.
 * The rest of the server calls extend_*() at the places in question, when there are any hooks at
 * all; each turns internal structs into plain texts and numbers and back. Hooks are called where
 * nothing half-done is in the chat's buffers, since they may call back (embed.c).
 *
 *   keeping     the jim_on_*() functions
 *   connections opened, closed, their traffic
 *   chat        handshakes, joins, messages, who is where
 *   commands, and what is known of a user
 *   HTTP        routes, and who comes before and after them
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- keeping ---------------------------------------------------------------------------------- */

struct hooks *
extend_get(struct jim *j)
{
    if (j->hooks == NULL) {
        j->hooks = xcalloc(1, sizeof *j->hooks);
        j->hooks->jim = j;
    }
    return j->hooks;
}

/* Each has the same shape; the argument types are the field's own. */
#define KEEP(name, parameters, ...)                                   \
    void                                                              \
    jim_on_##name(struct jim *j, __VA_ARGS__ parameters, void *arg)   \
    {                                                                 \
        struct hooks *h = extend_get(j);                              \
                                                                      \
        h->name = fn;                                                 \
        h->name##_arg = arg;                                          \
    }

KEEP(login, (void *arg_, struct jim *j_, const struct jim_login *l), void (*fn))
KEEP(handshake, (void *arg_, struct jim *j_, const struct jim_handshake *h_), int (*fn))
KEEP(join, (void *arg_, struct jim *j_, uint64_t conn, struct jim_text user,
            struct jim_text group), int (*fn))
KEEP(chat, (void *arg_, struct jim *j_, const struct jim_chat *chat, struct jim_out *content,
            struct jim_out *extras), int (*fn))
KEEP(stored, (void *arg_, struct jim *j_, const struct jim_stored *s), void (*fn))
KEEP(delivered, (void *arg_, struct jim *j_, struct jim_text user, struct jim_text group,
                 uint64_t seq), void (*fn))
KEEP(binding, (void *arg_, struct jim *j_, const struct jim_binding *b), void (*fn))
KEEP(opened, (void *arg_, struct jim *j_, uint64_t conn), void (*fn))
KEEP(closed, (void *arg_, struct jim *j_, uint64_t conn, enum jim_why why), void (*fn))
KEEP(traffic, (void *arg_, struct jim *j_, uint64_t conn, enum jim_traffic what, int command,
               size_t bytes, int64_t us), void (*fn))
KEEP(silent, (void *arg_, struct jim *j_, uint64_t conn), int (*fn))
KEEP(user_info, (void *arg_, struct jim *j_, uint64_t conn, struct jim_text user, int type,
                 struct jim_out *json), int (*fn))
KEEP(http, , jim_http_fn *fn)
KEEP(http_done, (void *arg_, struct jim *j_, uint64_t conn, int status, uint64_t length),
     void (*fn))

int
jim_on_command(struct jim *j, int command, int open,
               void (*fn)(void *arg, struct jim *j, const struct jim_request *r), void *arg)
{
    if (command < COMMANDS || command > MAX_COMMAND)
        return -1;
    struct own_command *own = &extend_get(j)->command[command];
    if (own->fn != NULL)
        return -1;
    *own = (struct own_command){fn, arg, open != 0};
    return 0;
}

int
jim_on_route(struct jim *j, const char *path, const char *methods, int open, jim_http_fn *fn,
             void *arg)
{
    size_t n = strlen(path);
    struct own_route **at = &extend_get(j)->route;

    if (path[0] != '/')
        return -1;
    while (*at != NULL)
        at = &(*at)->next;
    struct own_route *r = *at = xcalloc(1, sizeof *r);
    r->prefix = path[n - 1] == '*';
    r->path = xstrndup(path, r->prefix ? n - 1 : n);
    r->methods = xstrndup(methods, strlen(methods));
    r->open = open != 0;
    r->fn = fn;
    r->arg = arg;
    return 0;
}

void
extend_free(struct hooks *h)
{
    if (h == NULL)
        return;
    while (h->route != NULL) {
        struct own_route *r = h->route;
        h->route = r->next;
        free(r->path);
        free(r->methods);
        free(r);
    }
    for (size_t i = 0; i < h->protos; i++)
        own_forget(&h->proto[i]);
    buf_free(&h->changes);
    buf_free(&h->decoded.b);
    free(h);
}

static struct jim_text
text_of(struct str s)
{
    return (struct jim_text){s.p, s.n};
}

static struct jim_text
conn_user_text(const struct conn *c)
{
    return c->user != NULL ? text_of(user_id(c->user)) : (struct jim_text){NULL, 0};
}

void
jim_out_add(struct jim_out *out, const char *p, size_t n)
{
    out->written = true;
    buf_reserve(&out->b, n + 1); /* so that what is empty has an address, too */
    if (n > 0)
        buf_add(&out->b, p, n);
}

void
jim_out_string(struct jim_out *out, const char *p, size_t n)
{
    out->written = true;
    json_put_string(&out->b, p, n);
}

int
jim_json_member(const char *json, size_t n, const char *key, char *text, size_t size)
{
    struct json_iter it;
    struct json name, value, found = {.type = JSON_NONE};
    struct buf b = {0};
    int more, length = -1;

    if (json_open(&it, json, n) != 0 || it.close != '}')
        return -1;
    while ((more = json_next(&it, &name, &value)) > 0)
        if (str_eq((struct str){name.p, name.n}, str_of(key)))
            found = value; /* the last counts, as everywhere */
    if (more < 0 || found.type == JSON_NONE || found.type == JSON_NULL)
        return -1;
    buf_reserve(&b, found.n + 1);
    b.len = json_text(&found, b.p);
    if (b.len < size) {
        memcpy(text, b.p, b.len);
        text[b.len] = '\0';
        length = (int)b.len;
    }
    buf_free(&b);
    return length;
}

/* --- connections ------------------------------------------------------------------------------ */

/* The descriptor finds it, the number says whether it is still that one. */
uint64_t
conn_public_id(const struct conn *c)
{
    return c->fd < 0 ? 0 : c->id << FD_BITS | (uint64_t)c->fd;
}

struct conn *
conn_by_id(const struct jim *j, uint64_t id)
{
    struct conn *c = j->loop == NULL || id == 0
                         ? NULL : conn_at(j, (int)(id & ((1u << FD_BITS) - 1)));

    return c != NULL && c->id == id >> FD_BITS ? c : NULL;
}

struct own *
own_get(struct conn *c)
{
    if (c->own == NULL)
        c->own = xcalloc(1, sizeof *c->own);
    return c->own;
}

void
own_free(struct conn *c)
{
    struct own *own = c->own;

    if (own == NULL)
        return;
    c->own = NULL;
    if (own->destroy != NULL)
        own->destroy(own->pointer);
    free(own);
}

void
extend_opened(struct conn *c)
{
    struct hooks *h = c->jim->hooks;

    c->opened = true;
    if (h->opened != NULL)
        h->opened(h->opened_arg, h->jim, conn_public_id(c));
}

void
extend_closed(struct conn *c)
{
    static const enum jim_why why[DROPS] = {
        [DROP_UNREAD] = JIM_UNREAD, [DROP_DETECT] = JIM_NO_PROTOCOL, [DROP_LOGIN] = JIM_NO_LOGIN,
        [DROP_IDLE] = JIM_IDLE, [DROP_SILENT] = JIM_SILENT, [DROP_PROTOCOL] = JIM_NONSENSE,
        [DROP_DISPLACED] = JIM_DISPLACED};
    struct hooks *h = c->jim->hooks;

    if (!c->opened)
        return;
    c->opened = false;
    if (h->closed != NULL)
        h->closed(h->closed_arg, h->jim, conn_public_id(c),
                  c->reason >= REASON_DROPS ? why[c->reason - REASON_DROPS]
                  : c->reason == REASON_PEER ? JIM_BY_PEER
                  : c->reason == REASON_US   ? JIM_BY_SERVER
                                             : JIM_BROKEN);
}

void
extend_traffic(struct conn *c, enum jim_traffic what, int command, size_t bytes, int64_t us)
{
    struct hooks *h = c->jim->hooks;

    if (h->traffic != NULL)
        h->traffic(h->traffic_arg, h->jim, conn_public_id(c), what, command, bytes, us);
}

bool
extend_silent(struct conn *c)
{
    struct hooks *h = c->jim->hooks;

    return h->silent != NULL && h->silent(h->silent_arg, h->jim, conn_public_id(c)) != 0;
}

/* --- chat ------------------------------------------------------------------------------------- */

bool
extend_handshake(struct conn *c, const struct http_req *r)
{
    struct hooks *h = c->jim->hooks;
    struct jim_handshake shake = {.conn = conn_public_id(c)};

    if (h->handshake == NULL)
        return true;
    if (r != NULL) {
        shake.path = text_of(r->path);
        shake.query = text_of(r->query);
        shake.host = text_of(r->header[HTTP_HOST]);
        shake.origin = text_of(r->header[HTTP_ORIGIN]);
        shake.authorization = text_of(r->header[HTTP_AUTHORIZATION]);
    }
    return h->handshake(h->handshake_arg, h->jim, &shake) != 0;
}

/* What a function has answered as a code that refuses, or 0. */
static int
refusal(int code)
{
    return code == 0 ? 0 : code < CODE_SEND_FAILED ? CODE_FORBIDDEN : code;
}

int
extend_join(struct conn *c, struct str group)
{
    struct hooks *h = c->jim->hooks;

    if (h->join == NULL)
        return 0;
    return refusal(h->join(h->join_arg, h->jim, conn_public_id(c), conn_user_text(c),
                           text_of(group)));
}

/* Put what was written for the message into a copy of its request. */
static int
change_chat(struct hooks *h, const struct jim_out *content, const struct jim_out *extras,
            const struct request **r)
{
    struct buf *b = &h->changes;
    struct request changed;

    if (content->b.len > (size_t)h->jim->opt.message_max)
        return CODE_TOO_LARGE;
    b->len = 0;
    buf_add(b, "{", 1);
    if (content->written)
        put_text(b, "content", (struct str){content->b.p, content->b.len});
    if (extras->written) {
        json_put_key(b, "extras");
        json_put_raw(b, extras->b.p, extras->b.len);
    }
    buf_add(b, "}", 1);
    if (!request_parse(&changed, (struct str){b->p, b->len}) ||
        (extras->written && changed.f[F_EXTRAS].type != JSON_OBJECT))
        return CODE_SEND_FAILED;
    h->request = **r;
    if (content->written)
        h->request.f[F_CONTENT] = changed.f[F_CONTENT];
    if (extras->written)
        h->request.f[F_EXTRAS] = changed.f[F_EXTRAS];
    *r = &h->request;
    return 0;
}

/* The content as text, decoded into b if need be. */
static struct jim_text
content_text(const struct json *v, struct buf *b)
{
    if (v->type != JSON_STRING || !v->escaped)
        return (struct jim_text){v->type == JSON_NONE ? NULL : v->p, v->n};
    buf_reserve(b, v->n);
    b->len = json_text(v, b->p);
    return (struct jim_text){b->p, b->len};
}

int
extend_chat(struct hooks *h, struct jim_chat *chat, const struct request **r)
{
    const struct json *content = &(*r)->f[F_CONTENT], *extras = &(*r)->f[F_EXTRAS];
    struct jim_out new_content = {.written = false}, new_extras = {.written = false};
    struct buf text = {0};

    if (h->chat == NULL)
        return 0;
    chat->content = content_text(content, &text);
    if (extras->type != JSON_NONE)
        chat->extras = (struct jim_text){extras->p, extras->n};
    /* What it writes is this call's own: it may send messages itself, and be called for them. */
    int code = refusal(h->chat(h->chat_arg, h->jim, chat, &new_content, &new_extras));
    buf_free(&text);
    if (code == 0 && (new_content.written || new_extras.written))
        code = change_chat(h, &new_content, &new_extras, r);
    buf_free(&new_content.b);
    buf_free(&new_extras.b);
    return code;
}

static struct jim_text
group_text(const struct conv *v)
{
    return text_of(v != NULL && v->group ? str_of(v->id) : STR(""));
}

void
extend_stored(struct chat *c, const struct pending *p)
{
    struct hooks *h = c->hooks;
    struct jim_stored s = {.from = text_of(user_id(p->from)), .group = group_text(p->conv),
                           .seq = p->seq, .json = {p->msg->data, p->msg->len}};
    static const char head[] = "{\"command\":11,\"data\":";
    struct str chat = {s.json.p + sizeof head - 1, s.json.n - sizeof head};
    struct request r;
    struct buf text = {0};

    if (h->stored == NULL)
        return;
    if (p->to != NULL)
        s.to = text_of(user_id(p->to));
    if (request_parse(&r, chat))
        s.content = content_text(&r.f[F_CONTENT], &text);
    h->stored(h->stored_arg, h->jim, &s);
    buf_free(&text);
}

void
extend_delivered(struct chat *c, const struct member *m, uint64_t seq)
{
    struct hooks *h = c->hooks;

    if (h->delivered != NULL)
        h->delivered(h->delivered_arg, h->jim, text_of(user_id(m->user)), group_text(m->conv),
                     seq);
}

void
extend_binding(struct hooks *h, enum jim_bound what, const struct conn *conn,
               const struct user *u, const struct conv *v, bool edge, bool member)
{
    struct jim_binding b = {.what = what, .conn = conn != NULL ? conn_public_id(conn) : 0,
                            .user = text_of(user_id(u)), .group = group_text(v), .edge = edge,
                            .member = member};

    if (h->binding != NULL)
        h->binding(h->binding_arg, h->jim, &b);
}

void
extend_groups(struct hooks *h, enum jim_bound what, const struct conn *conn,
              const struct user *u, bool edge)
{
    for (struct member *m = h->binding != NULL ? u->members : NULL; m != NULL; m = m->next_of_user)
        if (m->conv->group && !m->left)
            extend_binding(h, what, conn, u, m->conv, edge, what == JIM_GROUP_BOUND && m->fresh);
}

/* --- commands --------------------------------------------------------------------------------- */

struct own_command *
extend_command_find(struct hooks *h, int number, struct str json)
{
    if (number > MAX_COMMAND || h->command[number].fn == NULL)
        return NULL;
    h->command_number = number;
    h->command_json = text_of(json);
    return &h->command[number];
}

bool
extend_command(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    struct hooks *h = c->hooks;
    struct own_command *own = &h->command[h->command_number];
    struct jim_request q = {.conn = conn_public_id(from), .command = h->command_number, .seq = seq,
                            .user = conn_user_text(from), .json = h->command_json};

    if (r == NULL)
        answer_code(c, from, (uint8_t)q.command, seq, CODE_INVALID);
    else
        own->fn(own->arg, h->jim, &q);
    return true;
}

void
jim_request_answer(struct jim *j, const struct jim_request *r, int command, const char *json,
                   size_t n)
{
    struct conn *c = conn_by_id(j, r->conn);

    if (c != NULL)
        conn_reply(c, (uint8_t)command, r->seq, json, n);
}

bool
extend_user_info(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    static const int codes[] = {CODE_ONLINE_USERS, CODE_OFFLINE_USERS, CODE_USER_OK};
    struct hooks *h = c->hooks;
    struct jim_out json = {.written = false};
    char text[MAX_ID];
    struct str id;
    int64_t type;

    if (h->user_info == NULL || r == NULL || !request_id(r, F_USER_ID, text, &id) ||
        request_int(r, F_TYPE, 2, &type) < 0 || type < 0 || type > 2)
        return false;
    int known = h->user_info(h->user_info_arg, h->jim, conn_public_id(from), text_of(id),
                             (int)type, &json);
    if (known < 0 || (known > 0 && json.b.len == 0)) {
        answer_code(c, from, CMD_USER_RESP, seq, CODE_USER_FAILED);
    } else if (known > 0) {
        struct buf *b = answer_begin(c, codes[type], CMD_USER_RESP);
        json_put_key(b, "data");
        json_put_raw(b, json.b.p, json.b.len);
        put_msg(b, codes[type]);
        answer_send(c, from, CMD_USER_RESP, seq);
    }
    buf_free(&json.b);
    return known != 0;
}

/* --- HTTP ------------------------------------------------------------------------------------- */

static struct jim_http
http_of(struct conn *c, const struct http_req *r, struct str body)
{
    return (struct jim_http){.conn = conn_public_id(c), .method = text_of(r->method),
                             .path = text_of(r->path), .query = text_of(r->query),
                             .body = text_of(body), .host = text_of(r->header[HTTP_HOST]),
                             .origin = text_of(r->header[HTTP_ORIGIN]),
                             .authorization = text_of(r->header[HTTP_AUTHORIZATION]),
                             .content_type = text_of(r->header[HTTP_CONTENT_TYPE])};
}

bool
extend_http(struct conn *c, const struct http_req *r, struct str body)
{
    struct hooks *h = c->jim->hooks;

    if (h->http == NULL)
        return false;
    struct jim_http q = http_of(c, r, body);
    c->own_http = true;
    if (h->http(h->http_arg, h->jim, &q) != 0)
        return true;
    c->own_http = false;
    return false;
}

void
extend_http_done(struct conn *c, int status, uint64_t length)
{
    struct hooks *h = c->jim->hooks;

    if (h->http_done != NULL)
        h->http_done(h->http_done_arg, h->jim, conn_public_id(c), status, length);
}

/* May this method be used there? HEAD is what GET is. */
static bool
route_allows(const struct own_route *r, struct str method)
{
    struct str rest = str_of(r->methods), one;

    if (str_eq(method, STR("HEAD")))
        method = STR("GET");
    while (str_split(&rest, ',', &one))
        if (str_eq(str_trim(one), method))
            return true;
    return false;
}

static const struct own_route *
route_find(const struct hooks *h, struct str path)
{
    for (const struct own_route *r = h->route; r != NULL; r = r->next) {
        struct str own = str_of(r->path);
        if (str_eq(path, own) ||
            (r->prefix && path.n > own.n && memcmp(path.p, own.p, own.n) == 0))
            return r;
    }
    return NULL;
}

/* The status of a request that the route's function does not see (204: a preflight), or 0; with
 * header lines of the answer. */
static int
route_refuses(const struct conn *c, const struct http_req *r, const struct own_route *route,
              struct buf *head)
{
    bool allowed = route_allows(route, r->method);

    if (!allowed && str_eq(r->method, STR("OPTIONS"))) {
        api_cors(c, r, route->methods, head);
        buf_printf(head, "allow: %s, OPTIONS\r\n", route->methods);
        return 204;
    }
    if (!allowed) {
        buf_printf(head, "allow: %s\r\n", route->methods);
        return 405;
    }
    api_cors(c, r, NULL, head);
    int status = route->open ? 0 : api_access(c, r);
    if (status == 401)
        buf_printf(head, "www-authenticate: Bearer\r\n");
    return status == 0 && !chat_rate_ok(&c->jim->chat, c) ? 429 : status;
}

bool
extend_route(struct conn *c, const struct http_req *r, struct str body)
{
    struct hooks *h = c->jim->hooks;
    struct chat *chat = &c->jim->chat;
    const struct own_route *route = route_find(h, r->path);
    struct buf head = {0};

    if (route == NULL)
        return false;
    int status = route_refuses(c, r, route, &head);
    if (status == 204) {
        http_respond(c, status, "", (struct str){head.p, head.len}, STR(""));
    } else if (status != 0) {
        http_error(c, status, (struct str){head.p, head.len});
    } else {
        if (head.len > 0) { /* for jim_http_answer() */
            conn_answer_head(c)->len = 0;
            buf_str(conn_answer_head(c), (struct str){head.p, head.len});
        }
        chat_rate_take(chat, c, 1);
        struct jim_http q = http_of(c, r, body);
        c->own_http = true;
        route->fn(route->arg, h->jim, &q);
    }
    buf_free(&head);
    return true;
}

int
jim_http_answer(struct jim *j, uint64_t conn, int status, const char *type, const char *body,
                size_t n)
{
    struct conn *c = conn_by_id(j, conn);

    if (c == NULL || !c->own_http || status < 200 || status > 599)
        return -1;
    c->own_http = false;
    if (c->state == CONN_DEAD || c->state == CONN_LINGER)
        return -1;
    struct buf head = {0};
    if (c->pend != NULL) {
        head = c->pend->answer_head;
        c->pend->answer_head = (struct buf){0};
    }
    http_respond(c, status, type, (struct str){head.p, head.len}, (struct str){body, n});
    buf_free(&head);
    if (c->pend != NULL || c->state != CONN_OPEN)
        c->resume = true; /* what he has asked meanwhile */
    conn_attend(c);
    return 0;
}
