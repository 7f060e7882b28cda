/* SPDX-License-Identifier: MIT */
/*
 * own_proto.c - wire protocols of the embedding program on the server's ports: found by the first
 * bytes, before jim's own; then bytes to commands (input.c) and commands to bytes (output.c).
 */
#include "jim.h"

int
jim_on_protocol(struct jim *j, const struct jim_protocol *p)
{
    struct hooks *h = extend_get(j);

    if (h->protos == MAX_OWN_PROTOS)
        return -1;
    h->proto[h->protos++].p = *p;
    return 0;
}

enum own_detect
own_detect(struct conn *c, const char *p, size_t n)
{
    struct hooks *h = c->jim->hooks;
    bool more = false;

    for (size_t i = 0; i < h->protos; i++) {
        int mine = h->proto[i].p.detect(h->proto[i].p.arg, p, n);
        if (mine > 0) {
            own_get(c)->proto = &h->proto[i];
            return OWN_FOUND;
        }
        more = more || mine < 0;
    }
    return more && n < MAX_DETECT ? OWN_MORE : OWN_NONE;
}

size_t
own_input(struct conn *c, const char *p, size_t n,
          void (*command)(struct conn *c, int cmd, uint32_t seq, struct str json))
{
    struct hooks *h = c->jim->hooks;
    const struct jim_protocol *own = &c->own->proto->p;
    struct buf *json = &h->decoded.b;
    int number = 0;

    json->len = 0;
    ptrdiff_t used = own->decode(own->arg, h->jim, conn_public_id(c), p, n, &number, &h->decoded);
    if (used < 0 || (size_t)used > n || (used == 0 && n > (size_t)c->jim->opt.frame_max)) {
        conn_drop(c, DROP_PROTOCOL, "not what its protocol allows");
        return n;
    }
    if (used > 0 && number > 0)
        command(c, number, 0, (struct str){json->p, json->len});
    return (size_t)used;
}

struct msg *
own_encode(struct conn *c, struct msg *m)
{
    struct own_proto *own = c->own->proto;
    struct jim_out out = {.written = false};

    if (own->last == m && own->last != NULL && m->fetched == NULL)
        return own->encoded;
    if (m->command != 0) /* a command, not a frame of another protocol's control */
        own->p.encode(own->p.arg, m->command, m->data, m->len, &out);
    struct msg *fresh = NULL;
    if (out.b.len > 0) {
        fresh = msg_new(m->command, 0, out.b.p, out.b.len);
        fresh->raw = true;
        fresh->chat_seq = m->chat_seq;
        fresh->fetched = m->fetched; /* his alone, as all answers are */
        m->fetched = NULL;
        c->jim->stats.encoded++;
    }
    buf_free(&out.b);
    own_forget(own);
    own->encoded = fresh;
    m->refs++;
    own->last = m;
    return fresh;
}

void
own_forget(struct own_proto *own)
{
    if (own->last != NULL)
        msg_unref(own->last);
    if (own->encoded != NULL)
        msg_unref(own->encoded);
    own->last = own->encoded = NULL;
}
