/* SPDX-License-Identifier: MIT */
/*
 * web.h - a part of jim.h: HTTP, the API and metrics. Included there, where all it needs is
 * declared.
 */
#ifndef WEB_H
#define WEB_H

/* --- http.c: responses, origins, static files ------------------------------------------------- */

#define JSON_TYPE "application/json; charset=utf-8"

/* Can the page directory be served? 0, or -1 with err. */
int http_check(const struct options *o, char *err, size_t errsize);
/* A whole request. The answer is queued, now or later (c->deferred). */
void http_request(struct conn *c, const struct http_req *r, struct str body);
/* Answer the request: a status, a type, more header lines (each with its CRLF) and the body. */
void http_respond(struct conn *c, int status, const char *type, struct str extra, struct str body);
/* An error of HTTP rather than of chat: the `code` in its JSON is the status. */
void http_error(struct conn *c, int status, struct str extra);
/* Answer a request that could not be decoded with a status and close. */
void http_refuse(struct conn *c, int status);
/* May this upgrade request become a WebSocket? 0, or the status to refuse it with. */
int http_upgrade_status(const struct conn *c, const struct http_req *r);
/* localhost, 127.x.x.x or [::1], with or without a port: names no foreign DNS can point here. */
bool http_host_is_loopback(struct str host);
/* Has the request no Origin, or this server's own? */
bool http_origin_is_own(const struct http_req *r);
bool http_origin_listed(const char *list, struct str origin); /* "*", or with commas */

/* --- api.c: who may call the API, with what parameters, and the table of its routes ----------- */

struct call { /* a request for a route on its way */
    struct conn *c;
    struct chat *chat;
    const struct http_req *http;
    struct str body;
    struct buf query, form; /* JSON made of them; owned */
    struct request r;   /* all parameters; views of query, form and body */
    struct buf extra;   /* header lines for the answer (CORS); owned */
};

struct route {
    const char *path;
    bool post_only; /* it changes something */
    bool open;      /* for everybody */
    int command;    /* of J-IM, in its answers; 0: none */
    int invalid;    /* enum code: its parameters cannot be understood */
    void (*fn)(struct call *);
};
const struct route *api_route(size_t n); /* the n-th of the table, NULL past the last */

/* Answer a request for one of the routes, now or later; false when its path is none. */
bool api_call(struct conn *c, const struct http_req *r, struct str body);
/* May this request have what the API offers? 0, or the status that refuses it. */
int api_access(const struct conn *c, const struct http_req *r);
/* Append the header lines that tell a browser whether a page of that Origin may read the answer;
 * methods: to a preflight, of which it may use. */
void api_cors(const struct conn *c, const struct http_req *r, const char *methods,
              struct buf *head);
/* The answer to a call that waited for the store. */
void api_sent(struct conn *c, int code, const char *json, size_t n);

/* The same to one that has changed something: with the group, unless that is NULL or the change is
 * refused. */
void api_done(struct conn *c, int code, const struct conv *v);
/* {"code":…[,"command":…][,"data":…],"msg":…}; data NULL: none; freed. The caller frees. */
struct buf api_json(int code, int command, struct buf *data);

/* Answers: {"code":…[,"command":…],"msg":…} with the status that goes with the code; the same with
 * the JSON `data` in it, which is freed; api_done() once what the call has recorded is on disk;
 * and JSON as it is, freed. */
void call_code(struct call *k, int code, int command);
void call_data(struct call *k, int code, struct buf *data);
void call_changed(struct call *k, int code, struct conv *v);
void call_json(struct call *k, int status, struct buf *json);
/* The answer comes later, through api_sent(): keep what the call knows of it. */
void call_later(struct call *k);

/* --- routes.c: what the routes do ------------------------------------------------------------- */

void route_send(struct call *k);
void route_broadcast(struct call *k);
void route_history(struct call *k);
void route_offline(struct call *k);
void route_user_online(struct call *k);
void route_user_list(struct call *k);
void route_user_info(struct call *k);
void route_user_close(struct call *k);
void route_user_friends(struct call *k);
void route_group_create(struct call *k);
void route_group_join(struct call *k);
void route_group_leave(struct call *k);
void route_group_dismiss(struct call *k);
void route_group_rename(struct call *k);
void route_group_info(struct call *k);
void route_group_list(struct call *k);
void route_group_users(struct call *k);

/* --- metrics.c: the server in numbers --------------------------------------------------------- */

void route_stats(struct call *k);
void route_metrics(struct call *k);
void route_health(struct call *k);

#endif /* WEB_H */
