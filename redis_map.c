/* SPDX-License-Identifier: MIT */
/*
 * redis_map.c - which server has what: the one that is configured, the master that Sentinels name,
 * or the masters of a Redis Cluster with their slots. Keeps a link to each, and asks again when
 * something has changed, and every now and then while nothing seems to.
 *
 * Questions are asked on a connection of their own, the scout, by turns of every server that is
 * configured or known: a server that hangs or is cut off holds up nobody else, and does not have
 * the last word.
 *
 *   what is configured
 *   links        kept, dropped, up and down
 *   answers      a master's address; slots
 *   the scout    whom to ask, and when
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

#define LOOK_PAUSE 250   /* ms between two questions while something is wrong */
#define LOOK_MS 10000    /* and while nothing is */
#define SCOUT_MS 2000    /* the longest a question may take */
#define COMPLAIN_MS 60000 /* between two complaints about one trouble */
#define SWING_MS 10000    /* up for less: that did not last */
#define SWING_PAUSE 500   /* ms it then stays down, twice as many with each time in a row */
#define MAX_SWINGS 7      /* so 32 s at most */
#define MAX_LINKS 1000   /* masters: what Redis Cluster is made for */
#define MAX_SEEDS 64     /* servers in a list */

/* --- what is configured ----------------------------------------------------------------------- */

/* The n-th address of a list; false past the last. usual: the port where none is given. */
static bool
list_at(struct str list, size_t n, struct str usual, struct str *host, struct str *port)
{
    struct str part;

    while (str_split(&list, ',', &part)) {
        part = str_trim(part);
        if (part.n > 0 && n-- == 0)
            return dial_split(part, usual, host, port);
    }
    return false;
}

static size_t
list_count(struct str list)
{
    struct str part;
    size_t n = 0;

    while (str_split(&list, ',', &part))
        n += str_trim(part).n > 0;
    return n;
}

/* name@host:port,host:port */
static bool
sentinel_split(const char *text, struct str *name, struct str *list)
{
    *list = str_of(text);
    return str_split(list, '@', name) && list->p != NULL && str_trim(*name).n > 0;
}

static bool
list_ok(struct str list, struct str usual)
{
    struct str host, port;
    size_t n = list_count(list);

    for (size_t i = 0; i < n; i++)
        if (!list_at(list, i, usual, &host, &port))
            return false;
    return n > 0 && n <= MAX_SEEDS;
}

int
redis_check(const struct options *o, char *err, size_t errsize)
{
    bool nodes = o->redis_nodes[0] != '\0', sentinel = o->redis_sentinel[0] != '\0';
    struct str name, list;
    const char *why = NULL;

    if (nodes && sentinel)
        why = "jim.redis.nodes and jim.redis.sentinel: one of them";
    else if (nodes && !list_ok(str_of(o->redis_nodes), STR("6379")))
        why = "jim.redis.nodes should be HOST:PORT, or up to 64 of them with commas";
    else if (nodes && o->redis_db != 0)
        why = "jim.redis.db: a Redis Cluster has only database 0";
    else if (sentinel && (!sentinel_split(o->redis_sentinel, &name, &list) ||
                          !list_ok(list, STR("26379"))))
        why = "jim.redis.sentinel should be NAME@HOST:PORT, or up to 64 hosts with commas";
    else if (!nodes && !sentinel && (o->redis_host[0] == '\0' || o->redis_port == 0))
        why = "jim.redis.host and jim.redis.port should say where Redis is";
    else if (o->redis_user[0] != '\0' && o->redis_auth[0] == '\0')
        why = "jim.redis.user wants jim.redis.auth";
    else if (o->redis_tls && tls_version() == NULL)
        why = "jim.redis.tls=on: this jim is built without TLS; `make TLS=1` builds one with it";
    if (why != NULL)
        snprintf(err, errsize, "%s", why);
    return why != NULL ? -1 : 0;
}

/* --- links ------------------------------------------------------------------------------------ */

static bool
is_at(const struct redis_link *k, struct str host, struct str port)
{
    return str_eq(str_of(k->host), host) && str_eq(str_of(k->port), port);
}

/* The link to that server, which is begun when there is none. NULL: there are too many. */
static struct redis_link *
link_to(struct redis *r, struct str host, struct str port)
{
    size_t n = 0;

    for (struct redis_link *k = r->links; k != NULL; k = k->next, n++)
        if (is_at(k, host, port) && !k->stale)
            return k;
    if (n >= MAX_LINKS)
        return NULL;
    struct redis_link *k = redis_link_new(r, host, port, &redis_ops);
    k->master = r->mode == REDIS_SENTINEL;
    k->next = r->links;
    r->links = k;
    redis_link_open(k, false);
    return k;
}

/* HOST:PORT as Redis writes it: an IPv6 address without brackets, no host for its own. */
struct redis_link *
redis_map_link(struct redis *r, struct str text, const struct redis_link *from)
{
    size_t colon = text.n;

    while (colon > 0 && text.p[colon - 1] != ':')
        colon--;
    if (colon == 0 || colon == text.n)
        return NULL;
    struct str host = {text.p, colon - 1}, port = {text.p + colon, text.n - colon};
    struct redis_link *k = link_to(r, host.n > 0 ? host : str_of(from->host), port);
    if (k != NULL)
        k->wanted = true;
    return k;
}

/* A master that is new does not make the others' service worse while it is being connected. */
static bool
is_served(const struct redis *r, const struct redis_link *k)
{
    if (k == NULL || k->stale || k->down)
        return false;
    return k->state == RLINK_READY ? r->up || !k->unsure : r->up && redis_link_takes(k);
}

static void
steady_fired(struct timer *t)
{
    struct redis *r = container_of(t, struct redis, steady_timer);

    redis_map_changed(r, "");
}

/* It changes; false: not yet, because it has not lasted the last times. */
static bool
is_steady(struct redis *r, bool up)
{
    int64_t now = loop_now(r->o.loop);

    if (up && now < r->steady_ms) {
        loop_timer(r->o.loop, &r->steady_timer, r->steady_ms, steady_fired);
        return false;
    }
    if (up) {
        r->up_ms = now;
        return true;
    }
    r->swings = now - r->up_ms >= SWING_MS ? 0 : r->swings + (r->swings < MAX_SWINGS);
    r->steady_ms = r->swings == 0 ? now : now + (SWING_PAUSE << (r->swings - 1));
    return true;
}

void
redis_map_changed(struct redis *r, const char *why)
{
    bool up = true;

    for (size_t i = 0; i < r->parts && up; i++)
        up = is_served(r, r->part[i].link);
    r->release = true;
    if (up == r->up || !is_steady(r, up))
        return;
    r->up = up;
    r->why[0] = '\0';
    if (up) {
        log_write(r->o.log, LOG_LEVEL_INFO, "redis: connected");
        if (r->o.up != NULL)
            r->o.up(r->o.arg, r);
    } else if (r->o.down != NULL) {
        r->o.down(r->o.arg, r, why);
    }
}

/* Something went wrong: logged unless it is the same as before, or one more in a short time. */
static void
complain(struct redis *r, const struct redis_link *k, const char *why)
{
    char text[sizeof r->why];

    snprintf(text, sizeof text, "redis %.100s:%.8s: %.160s", k->host, k->port, why);
    if (r->why[0] != '\0' && (strcmp(text, r->why) == 0 ||
                              loop_now(r->o.loop) - r->complained_ms < COMPLAIN_MS))
        return;
    log_write(r->o.log, LOG_LEVEL_WARN, "%s", text);
    memcpy(r->why, text, sizeof text);
    r->complained_ms = loop_now(r->o.loop);
}

void
redis_map_lost(struct redis *r, struct redis_link *k, const char *why)
{
    char copy[200];

    if (r->closing || !k->wanted)
        return;
    snprintf(copy, sizeof copy, "%s", why);
    redis_link_open(k, true);
    redis_map_look(r);
    redis_map_changed(r, copy);
    complain(r, k, copy);
}

/* Is its cluster up, as it sees it? Each server has a view of its own, and serves by that. */
static void
ask_state(struct redis_link *k)
{
    if (k->state != RLINK_READY || k->asked || !(k->down || k->unsure))
        return;
    k->asked = true;
    redis_link_look(k, (struct str[]){STR("CLUSTER"), STR("INFO")}, 2);
}

void
redis_map_doubt(struct redis_link *k)
{
    k->unsure = true;
    k->asked = false;
    ask_state(k);
}

void
redis_map_down(struct redis_link *k)
{
    if (k->down || k->redis->mode != REDIS_SHARDS)
        return;
    k->down = true;
    redis_map_changed(k->redis, "CLUSTERDOWN The cluster is down");
    complain(k->redis, k, "CLUSTERDOWN The cluster is down");
}

/* Who may not say (an ACL) is believed to be up until a command of his tells otherwise. */
void
redis_map_told(struct redis_link *k, const struct redis_reply *reply)
{
    struct str text = redis_text(reply), line;
    bool fail = false;

    while (str_split(&text, '\n', &line))
        fail = fail || str_eq(str_trim(line), STR("cluster_state:fail"));
    k->asked = k->unsure = false;
    if (fail) {
        redis_map_down(k);
        return;
    }
    k->down = false;
    redis_map_changed(k->redis, "");
}

/* From a callback of the loop: nobody wants it any more. What it still owes comes or fails. */
static void
link_drop(struct redis_link *k)
{
    k->wanted = false;
    if (k->state == RLINK_READY) {
        redis_link_retire(k, "it is no longer a master");
    } else if (k->state != RLINK_OFF) {
        struct redis_cmd *cmds = redis_link_close(k);
        k->ops->lost(k, "it is no longer a master", cmds);
    }
}

void
redis_map_sweep(struct redis *r)
{
    for (struct redis_link **at = &r->links; *at != NULL;) {
        struct redis_link *k = *at;
        if (k->wanted || k->state != RLINK_OFF) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        redis_link_free(k);
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

/* SENTINEL get-master-addr-by-name. False: it does not know. */
static bool
take_master(struct redis *r, const struct redis_reply *reply)
{
    struct str host = redis_text(redis_at(reply, 0)), port = redis_text(redis_at(reply, 1));
    struct redis_link *old = r->part[0].link;

    if (host.n == 0 || port.n == 0)
        return false;
    if (old != NULL && is_at(old, host, port) && !old->stale)
        return true;
    struct redis_link *k = link_to(r, host, port);
    if (k == NULL)
        return false;
    k->wanted = true;
    redis_part_moves(r, 0, k);
    if (old != NULL)
        link_drop(old);
    return true;
}

/* A server in an answer to CLUSTER SLOTS: [host, port, id, ...]. */
static bool
take_server(const struct redis_reply *e, const struct redis_link *from, struct str *host,
            char port[8])
{
    int64_t n = redis_int(redis_at(e, 1), 0);

    *host = redis_text(redis_at(e, 0));
    if (host->n == 0 || str_eq(*host, STR("?")))
        *host = str_of(from->host); /* it does not know its own address */
    snprintf(port, 8, "%d", n > 0 && n <= 65535 ? (int)n : 0);
    return n > 0 && n <= 65535;
}

/* One range: [first, last, master, replica...]. Everybody in it is known from now on. */
static void
take_range(struct redis *r, const struct redis_link *from, const struct redis_reply *e,
           struct redis_link **to)
{
    int64_t first = redis_int(redis_at(e, 0), -1), last = redis_int(redis_at(e, 1), -1);
    const struct redis_reply *server;
    struct str host;
    char port[8];

    for (size_t i = 2; (server = redis_at(e, i)) != NULL; i++)
        if (take_server(server, from, &host, port) && r->known.len < MAX_READ)
            buf_printf(&r->known, "%s%s%.*s%s:%s", r->known.len > 0 ? "," : "",
                       memchr(host.p, ':', host.n) != NULL ? "[" : "", (int)host.n, host.p,
                       memchr(host.p, ':', host.n) != NULL ? "]" : "", port);
    if (first < 0 || last < first || last >= REDIS_SLOTS ||
        !take_server(redis_at(e, 2), from, &host, port))
        return;
    struct redis_link *k = link_to(r, host, str_of(port));
    if (k == NULL)
        return;
    k->wanted = true;
    for (int64_t s = first; s <= last; s++)
        to[s] = k;
}

/* CLUSTER SLOTS. False: it does not know. */
static bool
take_slots(struct redis *r, const struct redis_link *from, const struct redis_reply *reply)
{
    const struct redis_reply *e = redis_at(reply, 0);

    if (e == NULL)
        return false;
    struct redis_link **to = xcalloc(REDIS_SLOTS, sizeof *to);
    for (struct redis_link *k = r->links; k != NULL; k = k->next)
        k->wanted = false;
    r->known.len = 0;
    for (int64_t i = 0; i < reply->n; i++, e = redis_next(e))
        take_range(r, from, e, to);
    for (size_t s = 0; s < REDIS_SLOTS; s++) {
        struct redis_link *old = r->part[s].link;
        /* Who knows an owner is believed before who knows none. If he is wrong, the one who was
         * named refuses. */
        if (old != to[s] && (to[s] != NULL || old == NULL || !old->wanted))
            redis_part_moves(r, s, to[s]);
    }
    free(to);
    for (struct redis_link *k = r->links; k != NULL; k = k->next)
        if (!k->wanted)
            link_drop(k);
    return true;
}

/* --- the scout -------------------------------------------------------------------------------- */

/* Whom to ask this time: all that are configured and known, by turns. */
static bool
next_seed(struct redis *r, struct str *host, struct str *port)
{
    struct str given = str_of(r->o.opt->redis_nodes), name;
    struct str known = {r->known.p, r->known.len};

    if (r->mode == REDIS_SENTINEL)
        sentinel_split(r->o.opt->redis_sentinel, &name, &given);
    size_t configured = list_count(given), all = configured + list_count(known);
    size_t i = all > 0 ? r->seed++ % all : 0;
    struct str usual = r->mode == REDIS_SENTINEL ? STR("26379") : STR("6379");
    return i < configured ? list_at(given, i, usual, host, port)
                          : list_at(known, i - configured, usual, host, port);
}

static void
look_fired(struct timer *t);

static void
look_at(struct redis *r, int64_t pause_ms)
{
    int64_t at = loop_now(r->o.loop) + pause_ms;

    if (r->look_timer.slot == 0 || r->look_timer.at_ms > at)
        loop_timer(r->o.loop, &r->look_timer, at, look_fired);
}

void
redis_map_look(struct redis *r)
{
    int64_t since = loop_now(r->o.loop) - r->looked_ms;

    if (r->mode == REDIS_ONE || r->closing)
        return;
    if (r->scout != NULL && r->scout->state != RLINK_OFF)
        r->look_again = true;
    else
        look_at(r, since >= LOOK_PAUSE ? 0 : LOOK_PAUSE - since);
}

static void
scout_up(struct redis_link *k)
{
    const struct redis *r = k->redis;
    struct str name = STR(""), list;

    if (r->mode == REDIS_SHARDS) {
        redis_link_look(k, (struct str[]){STR("CLUSTER"), STR("SLOTS")}, 2);
        return;
    }
    sentinel_split(r->o.opt->redis_sentinel, &name, &list);
    redis_link_look(k, (struct str[]){STR("SENTINEL"), STR("get-master-addr-by-name"),
                                      str_trim(name)}, 3);
}

/* The question is answered, or will not be. */
static void
scout_done(struct redis *r, bool answered)
{
    bool again = r->look_again || !answered || !r->up;

    r->look_again = false;
    look_at(r, again ? LOOK_PAUSE : LOOK_MS);
}

static void
free_cmds(struct redis_cmd *cmds)
{
    while (cmds != NULL) {
        struct redis_cmd *cmd = cmds;
        cmds = cmd->next;
        free(cmd);
    }
}

static void
scout_reply(struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *reply)
{
    struct redis *r = k->redis;
    char why[160];

    free(cmd);
    bool ok = r->mode == REDIS_SHARDS ? take_slots(r, k, reply) : take_master(r, reply);
    if (ok) {
        redis_map_changed(r, "a part has no master");
    } else {
        struct str text = redis_text(reply);
        snprintf(why, sizeof why, "%.*s", (int)(text.n < 150 ? text.n : 150), text.p);
        complain(r, k, text.n > 0 ? why : "it does not know the master");
    }
    free_cmds(redis_link_close(k));
    scout_done(r, ok);
}

static void
scout_lost(struct redis_link *k, const char *why, struct redis_cmd *cmds)
{
    struct redis *r = k->redis;

    free_cmds(cmds);
    if (r->closing)
        return;
    if (!r->up)
        complain(r, k, why);
    scout_done(r, false);
}

static const struct redis_ops scout_ops = {scout_up, scout_reply, scout_lost};

static void
scout_end(struct redis *r)
{
    if (r->scout == NULL)
        return;
    free_cmds(redis_link_close(r->scout));
    redis_link_free(r->scout);
    r->scout = NULL;
}

static void
look_fired(struct timer *t)
{
    struct redis *r = container_of(t, struct redis, look_timer);
    struct str host, port;

    for (struct redis_link *k = r->links; k != NULL; k = k->next)
        ask_state(k);
    if (r->scout != NULL && r->scout->state != RLINK_OFF)
        return;
    scout_end(r);
    r->looked_ms = loop_now(r->o.loop);
    if (!next_seed(r, &host, &port)) {
        look_at(r, LOOK_PAUSE);
        return;
    }
    r->scout = redis_link_new(r, host, port, &scout_ops);
    r->scout->plain = r->mode == REDIS_SENTINEL;
    if (r->scout->patience_ms > SCOUT_MS)
        r->scout->patience_ms = SCOUT_MS;
    redis_link_open(r->scout, false);
}

void
redis_map_begin(struct redis *r)
{
    const struct options *o = r->o.opt;
    char port[24];

    r->mode = o->redis_nodes[0] != '\0'      ? REDIS_SHARDS
              : o->redis_sentinel[0] != '\0' ? REDIS_SENTINEL
                                             : REDIS_ONE;
    r->parts = r->mode == REDIS_SHARDS ? REDIS_SLOTS : 1;
    r->part = xcalloc(r->parts, sizeof r->part[0]);
    if (r->mode != REDIS_ONE) {
        look_at(r, 0);
        return;
    }
    snprintf(port, sizeof port, "%lld", (long long)o->redis_port);
    r->part[0].link = link_to(r, str_of(o->redis_host), str_of(port));
    r->part[0].link->wanted = true;
}

void
redis_map_end(struct redis *r)
{
    loop_timer_clear(r->o.loop, &r->look_timer);
    loop_timer_clear(r->o.loop, &r->steady_timer);
    scout_end(r);
    buf_free(&r->known);
}
