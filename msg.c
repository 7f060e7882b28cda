/* SPDX-License-Identifier: MIT */
/*
 * msg.c - struct msg: one encoded text, shared by all its receivers, and the pool that the memory
 * of short ones goes back to. Knows neither connections nor what a text says.
 *
 *   making, heads, pieces, freeing, counting, what an answer proves delivered
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a message in each of the pool's sizes. */
static const uint32_t pool_bytes[POOLS] = {512, 2048, MAX_POOLED};

struct msg *
msg_take(struct msg_pool *pool, uint8_t command, uint32_t seq, const char *data, size_t n)
{
    struct msg *m;
    size_t bytes = sizeof *m + n;
    unsigned size = 0;

    while (size < POOLS && bytes > pool_bytes[size])
        size++;
    if (pool == NULL || size == POOLS) {
        m = xmalloc(bytes);
        pool = NULL;
    } else {
        bytes = pool_bytes[size];
        m = pool->size[size].free;
        if (m == NULL) {
            m = xmalloc(bytes);
            pool->made++;
        } else {
            pool->size[size].free = m->next_free;
            pool->size[size].n--;
            FETCH(m->next_free);
        }
    }
    zero(m, sizeof *m); /* of a list of what is not 0 gcc makes `rep stos`, which costs more */
    m->refs = 1;
    m->len = (uint32_t)n;
    m->seq = seq;
    m->command = command;
    m->opcode = WS_TEXT;
    m->size = (uint8_t)size;
    m->bytes = (uint32_t)bytes;
    m->pool = pool;
    if (data != NULL)
        memcpy(m->data, data, n);
    return m;
}

struct msg *
msg_new(uint8_t command, uint32_t seq, const char *data, size_t n)
{
    return msg_take(NULL, command, seq, data, n);
}

struct str
msg_encode(struct msg *m, unsigned proto, uint64_t *encoded)
{
    if (proto == PROTO_TCP) {
        if (m->pkt_len == 0) {
            m->pkt_len = (uint8_t)pkt_head(m->pkt, m->command, m->seq, m->len);
            ++*encoded;
        }
        return (struct str){(const char *)m->pkt, m->pkt_len};
    }
    if (m->ws_len == 0) {
        m->ws_len = (uint8_t)ws_head(m->ws, (enum ws_opcode)m->opcode, m->len);
        ++*encoded;
    }
    return (struct str){(const char *)m->ws, m->ws_len};
}

struct msg *
msg_piece(struct msg_pool *pool, uint8_t command, uint32_t seq, size_t room)
{
    struct msg *m = msg_take(pool, command, seq, NULL, room);

    m->len = 0;
    m->raw = true;
    return m;
}

char *
msg_put(struct msg *piece, unsigned proto, uint8_t command, uint32_t seq, size_t n,
        uint64_t *encoded)
{
    char *to = piece->data + piece->len;
    size_t head = 0;

    if (proto == PROTO_TCP)
        head = pkt_head((uint8_t *)to, command, seq, (uint32_t)n);
    else if (proto == PROTO_WS)
        head = ws_head((uint8_t *)to, WS_TEXT, n);
    *encoded += head > 0;
    piece->len += (uint32_t)(head + n);
    return to + head;
}

void
msg_unref(struct msg *m)
{
    assert(m->refs > 0);
    if (--m->refs > 0)
        return;
    if (m->held != NULL)
        *m->held -= m->bytes;
    if (m->fetched != NULL)
        free(m->fetched);
    struct msg_pool *pool = m->pool;
    unsigned size = m->size;
    if (pool == NULL || pool->size[size].n * (size_t)m->bytes >= MAX_POOL) {
        free(m);
        return;
    }
    m->next_free = pool->size[size].free;
    pool->size[size].free = m;
    pool->size[size].n++;
}

void
msg_pool_free(struct msg_pool *pool)
{
    for (int i = 0; i < POOLS; i++) {
        struct msg *m;
        while ((m = pool->size[i].free) != NULL) {
            pool->size[i].free = m->next_free;
            free(m);
        }
        pool->size[i].n = 0;
    }
}

void
msg_hold(struct msg *m, size_t *held)
{
    if (m->held != NULL)
        return;
    m->held = held;
    *held += m->bytes;
}

void
fetched_add(struct fetched **f, struct member *m, uint64_t upto)
{
    size_t n = *f == NULL ? 0 : (*f)->n, cap = *f == NULL ? 0 : (*f)->cap;

    if (n == cap) {
        cap = cap == 0 ? 8 : 2 * cap;
        *f = xrealloc(*f, sizeof **f + cap * sizeof (*f)->mark[0]);
        (*f)->cap = cap;
    }
    (*f)->mark[n].member = m;
    (*f)->mark[n].upto = upto;
    (*f)->n = n + 1;
}
