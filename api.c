/* SPDX-License-Identifier: MIT */
/*
 * api.c - the HTTP API: its routes as a table, who may call them, and what they answer. The chat
 * behind the routes is chat.c's, HTTP itself http.c's.
 *
 *   answers     JSON and codes as responses
 *   access      key or loopback
 *   parameters  query, form and JSON body made into one struct request
 *   routes      one function each, and the table
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- answers ---------------------------------------------------------------------------------- */

/* One API request on its way. */
struct call {
    struct conn *c;
    struct chat *chat;
    const struct http_req *http;
    struct str body;
    struct buf params;  /* JSON made of query and form; owned */
    struct request r;   /* all parameters */
    struct buf extra;   /* header lines for the answer (CORS); owned */
};

static void
answer_json(struct call *k, int status, struct buf *json)
{
    http_respond(k->c, status, JSON_TYPE, (struct str){k->extra.p, k->extra.len},
            (struct str){json->p, json->len});
    buf_free(json);
}

/* {"code":…,"msg":…} with the status that goes with the code. */
static int
status_of(int code)
{
    switch (code) {
    case CODE_SEND_FAILED:
    case CODE_MESSAGES_FAILED:
    case CODE_INVALID:
        return 400;
    case CODE_USER_FAILED:
    case CODE_NO_GROUP:
        return 404;
    case CODE_NOT_LOGGED_IN:
        return 401;
    case CODE_RATE:
        return 429;
    case CODE_FORBIDDEN:
        return 403;
    case CODE_TOO_LARGE:
        return 413;
    case CODE_STORE:
    case CODE_STOPPING:
        return 503;
    default:
        return 200;
    }
}

/* command: as J-IM has it, 0: none. */
static void
call_code(struct call *k, int code, int command)
{
    struct buf b = {0};

    buf_add(&b, "{", 1);
    json_put_key(&b, "code");
    json_put_int(&b, code);
    if (command != 0) {
        json_put_key(&b, "command");
        json_put_int(&b, command);
    }
    put_msg(&b, code);
    buf_add(&b, "}", 1);
    answer_json(k, status_of(code), &b);
}

/* --- access ----------------------------------------------------------------------------------- */

/* 0, or the status that refuses the call. */
static int
access_status(const struct call *k)
{
    const char *key = k->c->jim->opt.api_key;
    struct str auth = k->http->header[HTTP_AUTHORIZATION];

    if (key[0] != '\0') {
        if (auth.n < 7 || !str_ieq((struct str){auth.p, 7}, STR("Bearer ")))
            return 401;
        return str_eq_secret(str_trim((struct str){auth.p + 7, auth.n - 7}), str_of(key)) ? 0 : 401;
    }
    /* Without a key the address is the proof, and a web page of this machine's browser has it
     * too: so no foreign Origin, and no foreign name that resolves to this host. */
    if (!k->c->loopback || !http_origin_is_own(k->http))
        return 403;
    return k->http->header[HTTP_HOST].p == NULL || http_host_is_loopback(k->http->header[HTTP_HOST])
               ? 0 : 403;
}

static void
put_cors(struct call *k, bool preflight)
{
    const char *list = k->c->jim->opt.http_cors;
    struct str origin = k->http->header[HTTP_ORIGIN];

    if (strcmp(list, "none") == 0 || origin.p == NULL)
        return;
    buf_printf(&k->extra, "vary: origin\r\n");
    if (!http_origin_listed(list, origin))
        return;
    buf_printf(&k->extra, "access-control-allow-origin: %.*s\r\n", (int)origin.n, origin.p);
    if (preflight)
        buf_printf(&k->extra,
                   "access-control-allow-methods: GET, POST, OPTIONS\r\n"
                   "access-control-allow-headers: authorization, content-type\r\n"
                   "access-control-max-age: 600\r\n");
}

/* --- parameters ------------------------------------------------------------------------------- */

/* Add `a=b&c=d` to a JSON object; false when something is not percent-encoded UTF-8. */
static bool
add_pairs(struct buf *json, struct str pairs)
{
    struct str name, value;
    bool ok = true;

    while (ok && query_next(&pairs, &name, &value)) {
        char *text = xmalloc(name.n + value.n + 1);
        uint32_t state = 0;
        ptrdiff_t n = url_decode(text, name, true);
        ptrdiff_t v = n < 0 ? -1 : url_decode(text + n, value, true);
        ok = v >= 0 && utf8_check(&state, text, (size_t)n) && state == 0 &&
             utf8_check(&state, text + n, (size_t)v) && state == 0;
        if (ok && n > 0) {
            json_put_comma(json);
            json_put_string(json, text, (size_t)n);
            buf_add(json, ":", 1);
            json_put_string(json, text + n, (size_t)v);
        }
        free(text);
    }
    return ok;
}

/* Query, form and JSON body into k->r; what the body says wins. False: it cannot be understood. */
static bool
parse_params(struct call *k)
{
    struct str type = k->http->header[HTTP_CONTENT_TYPE], kind;
    struct request body;
    bool form;

    if (!str_split(&type, ';', &kind))
        kind = STR("");
    /* Clients that name no type (`curl -d`) are said to send a form; a brace says what it is. */
    form = str_ieq(str_trim(kind), STR("application/x-www-form-urlencoded")) &&
           (k->body.n == 0 || str_trim(k->body).p[0] != '{');
    buf_add(&k->params, "{", 1);
    if (!add_pairs(&k->params, k->http->query) || (form && !add_pairs(&k->params, k->body)))
        return false;
    buf_add(&k->params, "}", 1);
    if (!request_parse(&k->r, (struct str){k->params.p, k->params.len}))
        return false;
    if (form || k->body.n == 0)
        return true;
    if (!request_parse(&body, k->body))
        return false;
    for (int f = 0; f < FIELDS; f++)
        if (body.f[f].type != JSON_NONE)
            k->r.f[f] = body.f[f];
    return true;
}

/* --- routes ----------------------------------------------------------------------------------- */

static void
route_send(struct call *k)
{
    int code = CODE_SEND_FAILED;
    struct buf *head = conn_answer_head(k->c);

    buf_add(head, k->extra.p, k->extra.len); /* the answer may come when this call is forgotten */
    if (k->r.f[F_TO].type < JSON_ARRAY && k->r.f[F_GROUP_ID].type < JSON_ARRAY)
        code = send_api(k->chat, k->c, &k->r);
    if (code != 0) {
        buf_free(head);
        call_code(k, code, CMD_CHAT_RESP);
    }
}

void
api_sent(struct conn *c, int code, const char *json, size_t n)
{
    struct buf head = *conn_answer_head(c);

    *conn_answer_head(c) = (struct buf){0};
    http_respond(c, status_of(code), JSON_TYPE, (struct str){head.p, head.len},
                 (struct str){json, n});
    buf_free(&head);
}

static void
route_online(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    const struct user *u;

    if (!request_id(&k->r, F_USER_ID, text, &id)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    u = user_find(&k->chat->roster, id);
    call_code(k, u != NULL && u->nconns > 0 ? CODE_ONLINE : CODE_OFFLINE, 0);
}

static void
route_close(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    struct user *u;

    if (!request_id(&k->r, F_USER_ID, text, &id)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    u = user_find(&k->chat->roster, id);
    if (u != NULL)
        chat_close_user(k->chat, u, 0, NULL);
    call_code(k, CODE_CLOSED, 0);
}

static void
put_number(struct buf *b, const char *key, uint64_t n)
{
    json_put_key(b, key);
    json_put_int(b, (int64_t)n);
}

static const char *
store_state(const struct store *s)
{
    return !store_keeps(s) ? "off" : store_failed(s) ? "failed" : "on";
}

static void
route_stats(struct call *k)
{
    const struct jim *j = k->c->jim;
    const struct stats *s = &j->stats;
    int64_t sync = j->opt.store_sync;
    struct buf b = {0};

    buf_add(&b, "{", 1);
    put_number(&b, "accepted", s->accepted);
    put_text(&b, "backend", str_of(loop_backend()));
    put_number(&b, "bytesIn", s->bytes_in);
    put_number(&b, "bytesOut", s->bytes_out);
    put_number(&b, "closed", s->closed);
    put_number(&b, "connections", j->conns);
    put_number(&b, "conversations", j->chat.roster.convs.count);
    put_number(&b, "delivered", s->delivered);
    put_number(&b, "encoded", s->encoded);
    put_number(&b, "http", s->proto[PROTO_HTTP]);
    put_number(&b, "lags", s->lags);
    put_number(&b, "messages", s->messages);
    put_number(&b, "online", j->chat.roster.nonline);
    put_number(&b, "overflows", s->overflows);
    put_number(&b, "reads", s->reads);
    put_number(&b, "refused", s->refused);
    put_number(&b, "requests", s->requests);
    put_number(&b, "retries", s->retries);
    put_text(&b, "store", str_of(store_state(j->store)));
    put_text(&b, "sync", sync == STORE_GROUP ? STR("group")
                         : sync == STORE_OFF ? STR("off")
                                             : STR("timed"));
    put_number(&b, "tcp", s->proto[PROTO_TCP]);
    put_number(&b, "uptimeMs", (uint64_t)(k->chat->now_ms() - j->start_ms));
    put_number(&b, "users", j->chat.roster.nusers);
    put_text(&b, "version", STR(JIM_VERSION));
    put_number(&b, "writes", s->writes);
    put_number(&b, "ws", s->proto[PROTO_WS]);
    buf_add(&b, "}", 1);
    answer_json(k, 200, &b);
}

static void
route_health(struct call *k)
{
    struct buf b = {0};
    bool ok = !store_failed(k->chat->store) && !k->c->jim->draining;

    buf_printf(&b, "{\"status\":\"%s\"}", ok ? "ok" : "unavailable");
    answer_json(k, ok ? 200 : 503, &b);
}

static const struct route {
    const char *path;
    bool post_only; /* it changes something */
    bool open;      /* for everybody */
    void (*fn)(struct call *);
} routes[] = {
    {"/api/message/send", true, false, route_send},
    {"/api/user/online", false, false, route_online},
    {"/api/user/close", true, false, route_close},
    {"/api/stats", false, false, route_stats},
    {"/healthz", false, true, route_health},
};

static void
call_route(struct call *k, const struct route *route)
{
    struct str method = k->http->method;
    bool post = str_eq(method, STR("POST"));
    bool get = str_eq(method, STR("GET")) || str_eq(method, STR("HEAD"));
    int status;

    if (str_eq(method, STR("OPTIONS"))) {
        put_cors(k, true);
        buf_printf(&k->extra, "allow: %s\r\n",
                   route->post_only ? "POST, OPTIONS" : "GET, HEAD, POST, OPTIONS");
        http_respond(k->c, 204, JSON_TYPE, (struct str){k->extra.p, k->extra.len}, STR(""));
        return;
    }
    if (!post && (!get || route->post_only)) {
        http_error(k->c, 405, route->post_only ? STR("allow: POST, OPTIONS\r\n")
                                                  : STR("allow: GET, HEAD, POST, OPTIONS\r\n"));
        return;
    }
    put_cors(k, false);
    status = route->open ? 0 : access_status(k);
    if (status == 401)
        buf_printf(&k->extra, "www-authenticate: Bearer\r\n");
    if (status != 0) {
        call_code(k, status == 401 ? CODE_NOT_LOGGED_IN : CODE_FORBIDDEN, 0);
        return;
    }
    if (!chat_rate_ok(k->chat, k->c)) {
        call_code(k, CODE_RATE, 0);
        return;
    }
    chat_rate_take(k->chat, k->c);
    if (parse_params(k))
        route->fn(k);
    else if (route->fn == route_send)
        call_code(k, CODE_SEND_FAILED, CMD_CHAT_RESP);
    else
        call_code(k, CODE_INVALID, 0);
}

bool
api_call(struct conn *c, const struct http_req *r, struct str body)
{
    struct call k = {.c = c, .chat = &c->jim->chat, .http = r, .body = body};

    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!str_eq(r->path, str_of(routes[i].path)))
            continue;
        call_route(&k, &routes[i]);
        buf_free(&k.params);
        buf_free(&k.extra);
        return true;
    }
    return false;
}
