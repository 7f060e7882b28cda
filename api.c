/* SPDX-License-Identifier: MIT */
/*
 * api.c - the HTTP API: who may call it and with what, and its routes as a table. What the routes
 * do is in routes.c and metrics.c, HTTP itself in http.c.
 *
 *   answers     JSON and codes as responses
 *   access      key or loopback
 *   parameters  query, form and JSON body made into one struct request
 *   routes      the table, and what is the same for all of them
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- answers ---------------------------------------------------------------------------------- */

void
call_json(struct call *k, int status, struct buf *json)
{
    http_respond(k->c, status, JSON_TYPE, (struct str){k->extra.p, k->extra.len},
                 (struct str){json->p, json->len});
    buf_free(json);
}

static int
status_of(int code)
{
    switch (code) {
    case CODE_SEND_FAILED:
    case CODE_JOIN_FAILED:
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
        return code < CODE_SENT || code >= CODE_END ? 403 : 200; /* a function has refused it */
    }
}

struct buf
api_json(int code, int command, struct buf *data)
{
    struct buf b = {0};

    buf_add(&b, "{", 1);
    json_put_key(&b, "code");
    json_put_int(&b, code);
    if (command != 0) {
        json_put_key(&b, "command");
        json_put_int(&b, command);
    }
    if (data != NULL) {
        json_put_key(&b, "data");
        json_put_raw(&b, data->p, data->len);
        buf_free(data);
    }
    put_msg(&b, code);
    buf_add(&b, "}", 1);
    return b;
}

void
call_code(struct call *k, int code, int command)
{
    struct buf b = api_json(code, command, NULL);

    call_json(k, status_of(code), &b);
}

void
call_data(struct call *k, int code, struct buf *data)
{
    struct buf b = api_json(code, 0, data);

    call_json(k, status_of(code), &b);
}

void
call_later(struct call *k)
{
    struct buf *head = conn_answer_head(k->c);

    head->len = 0;
    buf_add(head, k->extra.p, k->extra.len);
}

void
call_changed(struct call *k, int code, struct conv *v)
{
    call_later(k);
    deliver_after(k->chat, k->c, code, v);
}

void
api_sent(struct conn *c, int code, const char *json, size_t n)
{
    if (c->state == CONN_DEAD)
        return;
    struct buf head = *conn_answer_head(c);
    *conn_answer_head(c) = (struct buf){0};
    http_respond(c, status_of(code), JSON_TYPE, (struct str){head.p, head.len},
                 (struct str){json, n});
    buf_free(&head);
}

/* --- access ----------------------------------------------------------------------------------- */

int
api_access(const struct conn *c, const struct http_req *r)
{
    const char *key = c->jim->opt.api_key;
    struct str auth = r->header[HTTP_AUTHORIZATION];

    if (key[0] != '\0') {
        if (auth.n < 7 || !str_ieq((struct str){auth.p, 7}, STR("Bearer ")))
            return 401;
        return str_eq_secret(str_trim((struct str){auth.p + 7, auth.n - 7}), str_of(key)) ? 0 : 401;
    }
    /* Without a key the address is the proof, and a web page of this machine's browser has it
     * too: so no foreign Origin, and no foreign name that resolves to this host. */
    if (!c->loopback || !http_origin_is_own(r))
        return 403;
    return r->header[HTTP_HOST].p == NULL || http_host_is_loopback(r->header[HTTP_HOST]) ? 0 : 403;
}

void
api_cors(const struct conn *c, const struct http_req *r, const char *methods, struct buf *head)
{
    const char *list = c->jim->opt.http_cors;
    struct str origin = r->header[HTTP_ORIGIN];

    if (strcmp(list, "none") == 0 || origin.p == NULL)
        return;
    buf_printf(head, "vary: origin\r\n");
    if (!http_origin_listed(list, origin))
        return;
    buf_printf(head, "access-control-allow-origin: %.*s\r\n", (int)origin.n, origin.p);
    if (methods != NULL)
        buf_printf(head,
                   "access-control-allow-methods: %s, OPTIONS\r\n"
                   "access-control-allow-headers: authorization, content-type\r\n"
                   "access-control-max-age: 600\r\n", methods);
}

/* --- parameters ------------------------------------------------------------------------------- */

/* Parameters of which there may be several, as an array in JSON, or given again and again. */
static const enum field lists[] = {F_TO, F_GROUP_ID, F_USERS};
#define LISTS (sizeof lists / sizeof lists[0])

/* `name=value`, decoded, into a JSON object, or into one of the lists. */
static void
add_pair(struct buf *json, struct buf list[LISTS], struct str name, struct str value)
{
    struct json key = {.p = name.p, .n = (uint32_t)name.n, .type = JSON_STRING};
    enum field f = request_field(&key);

    for (size_t i = 0; i < LISTS; i++)
        if (f == lists[i]) {
            json_put_comma(&list[i]);
            json_put_string(&list[i], value.p, value.n);
            return;
        }
    json_put_comma(json);
    json_put_string(json, name.p, name.n);
    buf_add(json, ":", 1);
    json_put_string(json, value.p, value.n);
}

/* The lists as members: a text when there is one, else an array. */
static void
add_lists(struct buf *json, struct buf list[LISTS])
{
    static const char *const names[LISTS] = {"to", "groupId", "users"};

    for (size_t i = 0; i < LISTS; i++) {
        struct buf *b = &list[i];
        if (b->len == 0)
            continue;
        size_t first = 1;
        while (b->p[first] != '"')
            first += b->p[first] == '\\' ? 2 : 1;
        json_put_key(json, names[i]);
        buf_add(json, "[", first + 1 < b->len ? 1 : 0);
        json_put_raw(json, b->p, b->len);
        buf_add(json, "]", first + 1 < b->len ? 1 : 0);
        buf_free(b);
    }
}

/* `a=b&c=d` as a JSON object; false when something is not percent-encoded UTF-8. */
static bool
pairs_to_json(struct buf *json, struct str pairs)
{
    struct buf list[LISTS] = {{0}};
    struct str name, value;
    bool ok = true;

    buf_add(json, "{", 1);
    while (ok && query_next(&pairs, &name, &value)) {
        char *text = xmalloc(name.n + value.n + 1);
        uint32_t state = 0;
        ptrdiff_t n = url_decode(text, name, true);
        ptrdiff_t v = n < 0 ? -1 : url_decode(text + n, value, true);
        ok = v >= 0 && utf8_check(&state, text, (size_t)n) && state == 0 &&
             utf8_check(&state, text + n, (size_t)v) && state == 0;
        if (ok && n > 0)
            add_pair(json, list, (struct str){text, (size_t)n}, (struct str){text + n, (size_t)v});
        free(text);
    }
    add_lists(json, list);
    buf_add(json, "}", 1);
    return ok;
}

/* Query, form and JSON body into k->r; what the body says wins. False: it cannot be understood. */
static bool
parse_params(struct call *k)
{
    struct str type = k->http->header[HTTP_CONTENT_TYPE], kind, json = k->body;
    struct request body;
    bool form;

    if (!str_split(&type, ';', &kind))
        kind = STR("");
    /* Clients that name no type (`curl -d`) are said to send a form; a brace says what it is. */
    form = str_ieq(str_trim(kind), STR("application/x-www-form-urlencoded")) &&
           (str_trim(k->body).n == 0 || str_trim(k->body).p[0] != '{');
    if (!pairs_to_json(&k->query, k->http->query) ||
        !request_parse(&k->r, (struct str){k->query.p, k->query.len}))
        return false;
    if (k->body.n == 0)
        return true;
    if (form) {
        if (!pairs_to_json(&k->form, k->body))
            return false;
        json = (struct str){k->form.p, k->form.len};
    }
    if (!request_parse(&body, json))
        return false;
    for (int f = 0; f < FIELDS; f++)
        if (body.f[f].type != JSON_NONE)
            k->r.f[f] = body.f[f];
    return true;
}

/* --- routes ----------------------------------------------------------------------------------- */

static const struct route routes[] = {
    {"/api/message/send", true, false, CMD_CHAT_RESP, CODE_SEND_FAILED, route_send},
    {"/api/message/broadcast", true, false, CMD_CHAT_RESP, CODE_SEND_FAILED, route_broadcast},
    {"/api/message/history", false, false, CMD_MESSAGES_RESP, CODE_MESSAGES_FAILED, route_history},
    {"/api/message/offline", false, false, CMD_MESSAGES_RESP, CODE_MESSAGES_FAILED, route_offline},
    {"/api/user/online", false, false, 0, CODE_INVALID, route_user_online},
    {"/api/user/list", false, false, 0, CODE_INVALID, route_user_list},
    {"/api/user/info", false, false, 0, CODE_INVALID, route_user_info},
    {"/api/user/close", true, false, 0, CODE_INVALID, route_user_close},
    {"/api/user/friends", true, false, 0, CODE_INVALID, route_user_friends},
    {"/api/group/create", true, false, 0, CODE_INVALID, route_group_create},
    {"/api/group/join", true, false, 0, CODE_INVALID, route_group_join},
    {"/api/group/leave", true, false, 0, CODE_INVALID, route_group_leave},
    {"/api/group/dismiss", true, false, 0, CODE_INVALID, route_group_dismiss},
    {"/api/group/rename", true, false, 0, CODE_INVALID, route_group_rename},
    {"/api/group/info", false, false, 0, CODE_INVALID, route_group_info},
    {"/api/group/list", false, false, 0, CODE_INVALID, route_group_list},
    {"/api/group/users", false, false, 0, CODE_INVALID, route_group_users},
    {"/api/cluster", false, false, 0, CODE_INVALID, route_cluster},
    {"/api/stats", false, false, 0, CODE_INVALID, route_stats},
    {"/metrics", false, false, 0, CODE_INVALID, route_metrics},
    {"/healthz", false, true, 0, CODE_INVALID, route_health},
};

const struct route *
api_route(size_t n)
{
    return n < sizeof routes / sizeof routes[0] ? &routes[n] : NULL;
}

static void
call_route(struct call *k, const struct route *route)
{
    struct str method = k->http->method;
    bool post = str_eq(method, STR("POST"));
    bool get = str_eq(method, STR("GET")) || str_eq(method, STR("HEAD"));
    int status;

    if (str_eq(method, STR("OPTIONS"))) {
        api_cors(k->c, k->http, "GET, POST", &k->extra);
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
    api_cors(k->c, k->http, NULL, &k->extra);
    status = route->open ? 0 : api_access(k->c, k->http);
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
    chat_rate_take(k->chat, k->c, 1);
    if (!route->open && route->fn != route_stats && memory_full(k->c->jim)) {
        k->c->jim->stats.pressed++;
        call_code(k, CODE_STORE, 0);
        return;
    }
    if (parse_params(k))
        route->fn(k);
    else
        call_code(k, route->invalid, route->command);
}

bool
api_call(struct conn *c, const struct http_req *r, struct str body)
{
    struct call k = {.c = c, .chat = &c->jim->chat, .http = r, .body = body};

    for (const struct route *route = routes; route < routes + sizeof routes / sizeof routes[0];
         route++) {
        if (!str_eq(r->path, str_of(route->path)))
            continue;
        call_route(&k, route);
        buf_free(&k.query);
        buf_free(&k.form);
        buf_free(&k.extra);
        return true;
    }
    return false;
}
