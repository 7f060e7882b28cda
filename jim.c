/* SPDX-License-Identifier: MIT */
/*
 * jim.c - the server: options to listeners, the turn of the loop, and stopping.
 *
 *   accepting   and what happens when descriptors run out
 *   starting    log, store, ports
 *   the turn
 *   stopping
 *
 * A turn: wait; callbacks read and decode, commands append to the store and queue answers; what the
 * store has made durable is delivered; then every connection that has something to do is attended
 * to once: waiting input, one writev, release. Messages to large groups, and connections that can
 * wait, get a slice of the turn at its end.
 */
#include "jim.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEEP_MS 10000    /* between two looks whether old messages are to go; see keep.c */
#define SAVE_MS 1000     /* moved cursors are at most this old on disk; a crash repeats that much */
#define MAX_SAVE 1000    /* cursors written at a time */
#define RETRY_ACCEPT_MS 100
#define MAX_ACCEPT 64    /* connections accepted a turn and listener */
#define RESERVED_FDS 64  /* descriptors kept for the store, log and files */

/* --- accepting -------------------------------------------------------------------------------- */

static int
accept_fd(int fd, struct sockaddr_storage *peer)
{
    socklen_t n = sizeof *peer;

#ifdef SOCK_NONBLOCK
    return accept4(fd, (struct sockaddr *)peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    int s = accept(fd, (struct sockaddr *)peer, &n);

    if (s >= 0) {
        fcntl(s, F_SETFL, O_NONBLOCK);
        fcntl(s, F_SETFD, FD_CLOEXEC);
    }
    return s;
#endif
}

/* Stop accepting for a moment: what comes waits in the kernel's queue, those connected go on. */
static void accept_timer_fired(struct timer *t);

static void
accept_pause(struct jim *j)
{
    j->accept_paused = true;
    for (size_t i = 0; i < j->listeners; i++)
        loop_set(j->loop, j->listen[i].fd, 0);
    loop_timer(j->loop, &j->accept_timer, loop_now(j->loop) + RETRY_ACCEPT_MS, accept_timer_fired);
}

static void
accept_more(struct jim *j)
{
    if (!j->accept_paused || j->draining)
        return;
    j->accept_paused = false;
    loop_timer_clear(j->loop, &j->accept_timer);
    for (size_t i = 0; i < j->listeners; i++)
        loop_set(j->loop, j->listen[i].fd, LOOP_READ);
}

static void
accept_timer_fired(struct timer *t)
{
    accept_more(container_of(t, struct jim, accept_timer));
}

static void
listener_readable(void *arg, unsigned events)
{
    struct listener *l = arg;
    struct jim *j = l->jim;

    (void)events;
    for (int i = 0; i < MAX_ACCEPT; i++) {
        struct sockaddr_storage peer = {0};
        /* Before the system says so: the store needs some, too. */
        if (j->conns + j->files >= j->conns_max) {
            accept_pause(j);
            return;
        }
        int fd = accept_fd(l->fd, &peer);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
            log_write(&j->log, LOG_LEVEL_WARN, "accepting paused: %s", strerror(errno));
            accept_pause(j);
            return;
        }
        if (fd < 0)
            return; /* none left, or one that gave up while waiting */
        if (j->opt.connections_max > 0 && j->conns >= (size_t)j->opt.connections_max) {
            j->stats.refused++;
            j->stats.refused_max++;
            close(fd);
        } else {
            conn_new(l, fd, &peer);
        }
    }
}

/* --- starting --------------------------------------------------------------------------------- */

struct jim *
jim_new(void)
{
    struct jim *j = xcalloc(1, sizeof *j);

    conf_init(&j->opt);
    j->log = (struct log){stderr, LOG_LEVEL_INFO};
    j->attend_end = &j->attend;
    j->bulk_end = &j->bulk;
    bounds_init(j); /* before a chroot hides /proc */
    embed_init(j);
    return j;
}

int
jim_set(struct jim *j, const char *key, const char *value, char *err, size_t errsize)
{
    /* A list key given twice by hand grows; by hand after a file it starts anew. */
    int result = conf_set(&j->opt, key, value, conf_has(&j->by_hand, key), NULL, err, errsize);

    conf_note(&j->by_hand, key);
    return result;
}

int
jim_load(struct jim *j, const char *file, char *err, size_t errsize)
{
    if (conf_load(&j->opt, file, &j->by_hand, &j->notices, err, errsize) != 0)
        return -1;
    free(j->conf_file);
    j->conf_file = xstrndup(file, strlen(file));
    return 0;
}

static int
log_open(struct jim *j)
{
    FILE *f = stderr;

    j->log.level = (int)j->opt.log_level;
    if (j->opt.log_file[0] != '\0' && (f = fopen(j->opt.log_file, "a")) == NULL) {
        log_write(&j->log, LOG_LEVEL_ERROR, "%s: %s", j->opt.log_file, strerror(errno));
        return -1;
    }
    if (j->log.file != stderr)
        fclose(j->log.file);
    j->log.file = f;
    return 0;
}

static void
log_notices(struct jim *j)
{
    struct str rest = {j->notices.p, j->notices.len}, line;

    while (str_split(&rest, '\n', &line))
        if (line.n > 0 && !(j->opt.cluster && line.n > 10 && memcmp(line.p, "jim.redis.", 10) == 0))
            log_write(&j->log, LOG_LEVEL_WARN, "%.*s", (int)line.n, line.p);
    if (!j->opt.ssl && (j->opt.ssl_cert[0] != '\0' || j->opt.ssl_client_ca[0] != '\0'))
        log_write(&j->log, LOG_LEVEL_WARN, "jim.ssl is off: jim.ssl.* is ignored");
    buf_free(&j->notices);
}

static void
listener_name(struct listener *l)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(l->fd, (struct sockaddr *)&a, &n) != 0 ||
        getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    snprintf(l->name, sizeof l->name, a.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static int
bind_to(const struct addrinfo *a, bool shared)
{
    int on = 1, fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
#ifdef SO_REUSEPORT_LB /* FreeBSD: there SO_REUSEPORT alone does not share connections out */
    if (shared)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT_LB, &on, sizeof on);
#else
    if (shared)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
#endif
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static int
bind_port(struct jim *j, const struct port_spec *spec)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list, *a;
    char port[8];
    const char *host = j->opt.bind_ip[0] == '\0' ? NULL : j->opt.bind_ip;
    struct listener *l = &j->listen[j->listeners];

    snprintf(port, sizeof port, "%u", spec->port);
    int e = getaddrinfo(host, port, &hints, &list);
    if (e != 0) {
        log_write(&j->log, LOG_LEVEL_ERROR, "%s: %s", j->opt.bind_ip, gai_strerror(e));
        return -1;
    }
    *l = (struct listener){.jim = j, .fd = -1};
    l->tls = spec->tls || j->opt.ssl_only;
    l->protos = spec->protos != 0 ? spec->protos
                                  : (unsigned)j->opt.protocols | PROTO_BIT(PROTO_OWN);
    for (a = list; a != NULL && l->fd < 0; a = a->ai_next)
        l->fd = bind_to(a, j->opt.reuseport);
    freeaddrinfo(list);
    if (l->fd < 0) {
        log_write(&j->log, LOG_LEVEL_ERROR, "cannot listen on %s port %s: %s",
                  host == NULL ? "any address" : host, port, strerror(errno));
        return -1;
    }
    listener_name(l);
    j->listeners++;
    return 0;
}

/* Only now that the store is there may anybody come: till then the ports refuse. */
static int
open_ports(struct jim *j)
{
    for (size_t i = 0; i < j->listeners; i++) {
        struct listener *l = &j->listen[i];
        if (listen(l->fd, 1024) != 0 ||
            loop_add(j->loop, l->fd, LOOP_READ, listener_readable, l) != 0) {
            log_write(&j->log, LOG_LEVEL_ERROR, "cannot listen on %s: %s", l->name,
                      strerror(errno));
            return -1;
        }
    }
    return 0;
}

static struct jim *
jim_of(void *chat)
{
    return container_of(chat, struct jim, chat);
}

static void
store_ready(void *arg)
{
    loop_wake(jim_of(arg)->loop);
}

bool
jim_keeps_log(const struct jim *j)
{
    bool own = j->hooks != NULL && j->hooks->has_store;

    return j->opt.store && !own && !j->opt.cluster; /* a cluster keeps its messages in Redis */
}

static int
open_store(struct jim *j)
{
    struct store_options o = {.dir = j->opt.store_dir, .policy = j->opt.store_sync,
                              .segment = (uint64_t)j->opt.store_segment, .log = &j->log,
                              .io = j->disk, .ready = store_ready, .replay = record_replay,
                              .span = record_span, .recent = record_recent,
                              .recent_max = MAX_RETRY,
                              .recent_ms = j->chat.now_ms() - RETRY_MS, .arg = &j->chat};

    if (j->hooks != NULL && j->hooks->has_store)
        j->store = own_store_open(j->hooks, &o);
    else
        j->store = jim_keeps_log(j) ? store_open(&o) : store_open_none();
    if (j->store == NULL)
        return -1;
    if (jim_keeps_log(j) && j->opt.store_sync != STORE_GROUP)
        log_write(&j->log, LOG_LEVEL_WARN,
                  "jim.store.sync is not 'group': a power cut may lose acknowledged messages");
    j->chat.store = j->store;
    log_write(&j->log, LOG_LEVEL_INFO, "%zu users, %zu conversations", j->chat.roster.nusers,
              j->chat.roster.convs.count);
    return 0;
}

/* Use all the descriptors we may have, and leave some for files. */
static void
limit_connections(struct jim *j)
{
    struct rlimit r;

    j->conns_max = SIZE_MAX;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur == RLIM_INFINITY)
        return;
    if (r.rlim_cur < r.rlim_max) {
        rlim_t soft = r.rlim_cur;
        r.rlim_cur = r.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0)
            r.rlim_cur = soft;
    }
    if (r.rlim_cur == RLIM_INFINITY)
        return;
    j->conns_max = r.rlim_cur > 2 * RESERVED_FDS ? (size_t)r.rlim_cur - RESERVED_FDS
                                                 : (size_t)r.rlim_cur / 2;
}

/* Ports while root may; users file, threads and store as who will read and write them. Returns
 * JIM_OK or an enum jim_exit. */
static int
open_all(struct jim *j)
{
    for (size_t i = 0; i < j->opt.ports; i++)
        if (bind_port(j, &j->opt.port[i]) != 0)
            return JIM_CANNOT_START;
    if (jail_drop(j) != 0)
        return JIM_CANNOT_START;
    jail_close(j);
    if (j->opt.auth != AUTH_OPEN && (j->auth = j->chat.auth = auth_new(j)) == NULL)
        return JIM_BAD_CONFIG;
    if (j->opt.cluster && (j->cluster = j->chat.cluster = cluster_new(j)) == NULL)
        return JIM_BAD_CONFIG;
    return open_store(j) == 0 && open_ports(j) == 0 ? JIM_OK : JIM_CANNOT_START;
}

int
jim_start(struct jim *j)
{
    char err[512];

    j->log.level = (int)j->opt.log_level;
    if (jail_enter(j) != 0 || log_open(j) != 0)
        return JIM_BAD_CONFIG;
    log_notices(j);
    if (j->hooks != NULL && j->hooks->login != NULL && j->opt.auth == AUTH_OPEN)
        j->opt.auth = AUTH_EMBED;
    if (conf_check(&j->opt, err, sizeof err) != 0 || http_check(&j->opt, err, sizeof err) != 0 ||
        auth_check(&j->opt, err, sizeof err) != 0 ||
        cluster_check(j, err, sizeof err) != 0) {
        log_write(&j->log, LOG_LEVEL_ERROR, "%s", err);
        return JIM_BAD_CONFIG;
    }
    if (j->opt.ssl) {
        j->tls = tls_server_new(&j->opt, &j->stats, err, sizeof err);
        if (err[0] != '\0')
            log_write(&j->log, j->tls != NULL ? LOG_LEVEL_WARN : LOG_LEVEL_ERROR, "%s", err);
        if (j->tls == NULL)
            return JIM_BAD_CONFIG;
    }
    j->start_ms = time_wall_ms();
    j->loop = loop_new();
    if (j->loop == NULL) {
        log_write(&j->log, LOG_LEVEL_ERROR, "%s: %s", loop_backend(), strerror(errno));
        return JIM_CANNOT_START;
    }
    j->started_ms = loop_now(j->loop);
    limit_connections(j);
    j->input = xmalloc(MAX_READ);
    j->gather = xmalloc(MAX_GATHER);
    chat_init(&j->chat, &j->opt, &j->log, &j->stats);
    j->chat.msgs = &j->msgs;
    j->chat.hooks = j->hooks;
    int status = open_all(j);
    if (status == JIM_OK)
        memory_print(j);
    return status;
}

const char *
jim_listening(const struct jim *j, size_t n)
{
    return n < j->listeners ? j->listen[n].name : NULL;
}

/* --- the turn --------------------------------------------------------------------------------- */

void
jim_attend_now(struct jim *j)
{
    j->fresh = 0;
    for (int i = 0; i < MAX_ATTEND && j->attend != NULL; i++) {
        struct conn *c = j->attend;
        j->attend = c->next_attend;
        if (j->attend == NULL)
            j->attend_end = &j->attend;
        c->attend = false;
        conn_turn(c);
    }
}

/* Those who can wait, for SLICE_US. */
static void
attend_bulk(struct jim *j)
{
    int64_t until = j->bulk != NULL ? time_mono_us() + SLICE_US : 0;

    for (; j->patience > 0 && j->bulk != NULL; j->patience--) {
        struct conn *c = j->bulk;
        j->bulk = c->next_bulk;
        FETCH(c->next_bulk); /* of a thousand it has left the cache */
        if (j->bulk == NULL)
            j->bulk_end = &j->bulk;
        c->bulk = false;
        if (!c->attend) /* else its turn comes soon */
            conn_turn(c);
        if (j->patience % 8 == 0 && time_mono_us() >= until)
            return;
    }
}

static bool
is_fanning(const struct chat *c)
{
    return c->wave_n > 0 || c->announce_n > 0;
}

/*
 * Large fan-outs go in rounds: a share of what they have to say is queued, then some of those it
 * was queued to are written to, so that one write finds several messages. Of a round a turn does no
 * more than a slice: what others say in the meantime is not kept waiting for the rest of it.
 */
static void
jim_fan(struct jim *j)
{
    if (j->share == 0 && (j->patience == 0 || j->bulk == NULL)) {
        j->share = MAX_ROUND;
        j->patience = MAX_PATIENT;
        if (j->broadcasts != NULL)
            broadcast_step(j);
    }
    struct chat *c = &j->chat;
    uint32_t work = j->share > 0 && is_fanning(c) ? deliver_waves(c) + group_announce(c) : 0;
    j->share = work < j->share && is_fanning(c) ? j->share - work : 0;
    c->told = 0;
}

static void
jim_attend(struct jim *j)
{
    jim_attend_now(j);
    if (j->share == 0)
        attend_bulk(j);
}

static void
save_timer_fired(struct timer *t)
{
    struct jim *j = container_of(t, struct jim, save_timer);

    record_save(&j->chat, MAX_SAVE);
}

static void
keep_timer_fired(struct timer *t)
{
    struct jim *j = container_of(t, struct jim, keep_timer);

    keep_begin(&j->chat);
}

/* Retention: looked after when a segment has been begun, but for that not all the time; and now and
 * then on an idle server, too. Returns whether it wants another turn at once. */
static bool
jim_keep(struct jim *j)
{
    if (j->opt.keep_days > 0 || j->opt.keep_bytes > 0) {
        int64_t now = loop_now(j->loop);
        uint32_t segments = store_segments(j->store);
        bool begun = j->segments != segments;
        j->segments = segments;
        if (begun && now >= j->keep_at && keep_begin(&j->chat))
            j->keep_at = now + KEEP_MS;
        if (j->keep_timer.slot == 0)
            loop_timer(j->loop, &j->keep_timer, now + KEEP_MS, keep_timer_fired);
    }
    return keep_step(&j->chat);
}

/* Call fn for every connection. */
static void
each_conn(struct jim *j, void (*fn)(struct conn *c))
{
    for (int fd = 0; fd < loop_top(j->loop); fd++) {
        struct conn *c = conn_at(j, fd);
        if (c != NULL)
            fn(c);
    }
}

/* A heartbeat that has just been configured counts for those who are here already. */
static void
reload_conn(struct conn *c)
{
    if (c->user != NULL && c->state == CONN_OPEN)
        conn_logged_in(c);
}

static void
reload(struct jim *j)
{
    struct options fresh;
    char err[512];

    j->reload = 0;
    notify_send(j, "RELOADING=1\nMONOTONIC_USEC=%lld\n", (long long)time_mono_us());
    if (j->conf_file != NULL) {
        conf_init(&fresh);
        if (conf_load(&fresh, j->conf_file, &j->by_hand, NULL, err, sizeof err) != 0)
            log_write(&j->log, LOG_LEVEL_ERROR, "configuration not reloaded: %s", err);
        else
            conf_copy_live(&j->opt, &fresh, &j->by_hand);
        conf_free(&fresh);
    }
    log_open(j);
    if (j->auth != NULL)
        auth_reload(j->auth);
    j->segments = 0; /* there may be less to be kept now */
    if (j->tls != NULL && tls_server_load(j->tls, &j->opt, err, sizeof err) != 0)
        log_write(&j->log, LOG_LEVEL_ERROR, "certificates not reloaded: %s", err);
    else if (j->tls != NULL && err[0] != '\0')
        log_write(&j->log, LOG_LEVEL_WARN, "%s", err);
    each_conn(j, reload_conn);
    log_write(&j->log, LOG_LEVEL_INFO, "reloaded");
    notify_send(j, "READY=1\n");
}

static void
close_listeners(struct jim *j)
{
    for (size_t i = 0; i < j->listeners; i++) {
        if (j->listen[i].fd < 0)
            continue;
        loop_del(j->loop, j->listen[i].fd);
        close(j->listen[i].fd);
        j->listen[i].fd = -1;
    }
    loop_timer_clear(j->loop, &j->accept_timer);
}

static void
drain_conn(struct conn *c)
{
    if (c->jim->cluster != NULL && c->user != NULL)
        cluster_hint(c->jim->cluster, c);
    conn_finish(c, WS_GOING_AWAY);
}

static void
begin_drain(struct jim *j)
{
    j->draining = true;
    j->chat.stopping = true;
    j->drain_until = loop_now(j->loop) + j->opt.drain_ms;
    notify_send(j, "STOPPING=1\n");
    log_write(&j->log, LOG_LEVEL_INFO, "stopping: %zu connections", j->conns);
    close_listeners(j);
    each_conn(j, drain_conn);
    if (j->auth != NULL)
        auth_drain(j->auth);
}

/* Nobody is connected any more: does Redis still have to hear of it? */
static bool
jim_owes(struct jim *j)
{
    if (j->cluster == NULL)
        return false;
    cluster_stop(j->cluster);
    return cluster_busy(j->cluster);
}

/* How long may a turn that may wait `most` ms (-1: for ever) wait? */
static int64_t
turn_wait(const struct jim *j, int64_t most)
{
    bool more = j->attend != NULL || j->bulk != NULL || j->broadcasts != NULL || j->called ||
                j->keeping || deliver_waits(&j->chat) || (j->tls != NULL && tls_waiting(j->tls));

    if (more || !j->draining)
        return more ? 0 : most;
    int64_t left = j->drain_until - loop_now(j->loop);
    if (left <= 0 || (j->conns == 0 && j->cluster == NULL))
        return 0;
    return most < 0 || left < most ? left : most;
}

static bool
turn(struct jim *j, int64_t most)
{
    int64_t wait = turn_wait(j, most);

    if (j->draining &&
        ((j->conns == 0 && !jim_owes(j)) || j->drain_until <= loop_now(j->loop)))
        return false;
    j->called = false;
    j->stats.turns++;
    if (loop_turn(j->loop, wait) < 0) {
        log_write(&j->log, LOG_LEVEL_ERROR, "%s: %s", loop_backend(), strerror(errno));
        return false;
    }
    if (j->stop && !j->draining)
        begin_drain(j);
    if (j->reload)
        reload(j);
    embed_posted(j);
    if (j->auth != NULL)
        auth_poll(j->auth);
    if (j->tls != NULL)
        conn_handshakes(j);
    deliver_committed(&j->chat);
    j->keeping = jim_keep(j);
    store_commit(j->store); /* now: the disk is slow, and fan-outs need not be waited for */
    j->fanning = true;
    jim_fan(j);
    j->fanning = false;
    jim_attend(j);
    store_commit(j->store); /* what resumed connections have added */
    if (j->cluster != NULL)
        cluster_turn(j->cluster);
    if (j->room && j->accept_paused)
        accept_more(j);
    j->room = false;
    if (j->save_timer.slot == 0 && record_unsaved(&j->chat))
        loop_timer(j->loop, &j->save_timer, loop_now(j->loop) + SAVE_MS, save_timer_fired);
    return true;
}

bool
jim_turn(struct jim *j)
{
    return turn(j, -1);
}

/* Drop whoever has not gone by himself. */
static void
drop_conn(struct conn *c)
{
    conn_close(c, "server stopped");
}

static void
drop_all(struct jim *j)
{
    each_conn(j, drop_conn);
    while (j->attend != NULL || j->bulk != NULL) {
        jim_attend_now(j);
        j->patience = MAX_PATIENT;
        attend_bulk(j);
    }
}

/* It is over: what is left goes, what is known is kept. Returns an enum jim_exit. */
static int
end(struct jim *j)
{
    drop_all(j);
    record_save(&j->chat, SIZE_MAX);
    int failed = store_close(j->store);
    j->store = j->chat.store = NULL;
    log_write(&j->log, LOG_LEVEL_INFO, "stopped");
    return failed ? JIM_STORE_FAILED : JIM_OK;
}

int
jim_run(struct jim *j)
{
    while (jim_turn(j))
        ;
    return end(j);
}

int
jim_fd(const struct jim *j)
{
    return loop_fd(j->loop);
}

int
jim_timeout(const struct jim *j)
{
    return j->stop && !j->draining ? 0 : loop_wait(j->loop, turn_wait(j, -1));
}

int
jim_poll(struct jim *j, int timeout_ms)
{
    return turn(j, timeout_ms) ? 1 : -end(j);
}

void
jim_stop(struct jim *j)
{
    j->stop = 1;
    if (j->loop != NULL)
        loop_wake(j->loop);
}

void
jim_reload(struct jim *j)
{
    j->reload = 1;
    if (j->loop != NULL)
        loop_wake(j->loop);
}

void
jim_free(struct jim *j)
{
    if (j == NULL)
        return;
    if (j->loop != NULL) {
        close_listeners(j);
        drop_all(j);
        auth_free(j->auth);
        broadcast_free(j);
        cluster_free(j->cluster);
        j->cluster = j->chat.cluster = NULL;
        chat_free(&j->chat);
        drop_all(j); /* and those who were still owed an answer when they went */
    }
    if (j->store != NULL)
        store_close(j->store);
    embed_free(j);
    extend_free(j->hooks);
    conn_free_spares(j);
    bounds_free(j);
    tls_server_free(j->tls);
    loop_free(j->loop);
    free(j->input);
    free(j->gather);
    free(j->conf_file);
    buf_free(&j->notices);
    if (j->log.file != stderr)
        fclose(j->log.file);
    conf_free(&j->opt);
    free(j);
}
