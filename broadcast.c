/* SPDX-License-Identifier: MIT */
/*
 * broadcast.c - one message of the API, or of the program the server is embedded in, to everybody
 * who is logged in. It walks all connections, a slice a turn, so that a hundred thousand of them
 * never hold up anybody's login; a caller of the API is answered at the end of the walk with how
 * many it was sent to.
 *
 * The walk goes by descriptor: a connection keeps its own from its first to its last moment, so
 * that none is met twice or missed, whoever comes and goes. Who comes meanwhile is not sent to.
 * Nor is a peer who has not read what he was sent before: nothing would bring it to him later.
 */
#include "jim.h"

#include <stdlib.h>

struct broadcast {
    struct msg *msg;       /* ref */
    struct conn *conn;     /* who asked; its `deferred` holds it in memory; NULL: the program */
    uint64_t last_id;      /* the youngest connection there was */
    int fd;                /* the next to look at */
    uint64_t sent;         /* connections */
    char node[NODE_ID + 1], number[NODE_ID + 1]; /* cluster: who has to be told how many */
    struct broadcast *next;
};

bool
broadcast_begin(struct jim *j, struct conn *conn, struct msg *m, struct str node,
                struct str number)
{
    struct broadcast **at = &j->broadcasts;

    if (j->nbroadcasts == MAX_BROADCASTS)
        return false;
    while (*at != NULL)
        at = &(*at)->next;
    *at = xcalloc(1, sizeof **at);
    **at = (struct broadcast){.msg = m, .conn = conn, .last_id = j->next_id};
    m->refs++;
    if (conn != NULL)
        conn->deferred++;
    snprintf((*at)->node, sizeof (*at)->node, "%.*s", (int)node.n, node.p);
    snprintf((*at)->number, sizeof (*at)->number, "%.*s", (int)number.n, number.p);
    j->stats.broadcasts++;
    j->nbroadcasts++;
    return true;
}

static void
broadcast_end(struct jim *j)
{
    struct broadcast *b = j->broadcasts;

    j->broadcasts = b->next;
    j->nbroadcasts--;
    if (b->conn != NULL)
        conn_answered(b->conn);
    msg_unref(b->msg);
    free(b);
}

static void
answer(struct jim *j, const struct broadcast *b)
{
    struct buf *out = answer_begin(&j->chat, CODE_SENT, CMD_CHAT_RESP);

    json_put_key(out, "data");
    buf_add(out, "{", 1);
    json_put_key(out, "sent");
    json_put_int(out, (int64_t)b->sent);
    buf_add(out, "}", 1);
    put_msg(out, CODE_SENT);
    buf_add(out, "}", 1);
    api_sent(b->conn, CODE_SENT, out->p, out->len);
}

static bool
is_meant(const struct broadcast *b, const struct conn *c)
{
    return c != NULL && c->user != NULL && c->state == CONN_OPEN && c->id <= b->last_id &&
           conn_has_room(c, b->msg->len);
}

void
broadcast_step(struct jim *j)
{
    struct broadcast *b = j->broadcasts;

    if (b == NULL)
        return;
    for (int n = 0; n < MAX_ATTEND && b->fd < loop_top(j->loop); n++) {
        struct conn *c = conn_at(j, b->fd++);
        if (!is_meant(b, c))
            continue;
        conn_send(c, b->msg, NULL);
        b->sent++;
    }
    if (b->fd < loop_top(j->loop))
        return;
    if (b->conn != NULL)
        answer(j, b);
    else if (b->node[0] != '\0')
        broadcast_told(j->cluster, str_of(b->node), str_of(b->number), b->sent);
    broadcast_end(j);
}

void
broadcast_free(struct jim *j)
{
    while (j->broadcasts != NULL)
        broadcast_end(j);
}
