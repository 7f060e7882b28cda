/* SPDX-License-Identifier: MIT */
/*
 * msg.h - a part of jim.h: encoded messages and the memory of short ones. Included there, where all
 * it needs is declared.
 */
#ifndef MSG_H
#define MSG_H

/* --- msg.c: encoded messages ------------------------------------------------------------------ */

/*
 * One message on its way out: immutable, shared by every receiver, freed with the last reference.
 * The JSON is the same for all; only the head before it differs, and is encoded once a wire
 * format.
 */
struct msg {
    uint32_t refs;
    uint32_t len;          /* bytes of data */
    uint32_t seq;          /* TCP-IM sequence number to echo, 0: none (never shared then) */
    uint8_t command;       /* TCP-IM cmd byte */
    uint8_t opcode;        /* enum ws_opcode */
    uint8_t pkt_len, ws_len; /* length of the heads, 0: not encoded yet */
    bool raw;              /* the data is everything: heads are in it, or it is HTTP */
    bool large;            /* POOL_LARGE bytes */
    size_t *held;          /* where its bytes are counted; NULL: not yet */
    uint8_t pkt[MAX_PKT_HEAD];
    uint8_t ws[MAX_WS_HEAD];
    uint16_t room;         /* a piece: bytes that data has room for, as more are put behind */
    uint16_t chats;        /* a piece: chat messages of one conversation in it, besides the last */
    bool alone;            /* a chat message that goes to one user */
    uint64_t chat_seq;     /* a chat message, or the last of a piece: its number there */
    struct msg_pool *pool; /* where its memory goes back to; NULL: to free() */
    union {
        struct fetched *fetched;  /* an answer 20: owned; what its arrival proves delivered */
        struct msg *next_free;    /* while in the pool */
    };
    char data[];
};

/* Memory of short messages, used again: in the steady state they cost no malloc. */
struct msg_pool {
    struct {
        struct msg *free; /* owned: conn_free_spares() */
        uint32_t n;
    } size[POOLS];
    uint64_t made;    /* how often there was none, and malloc was called */
};

struct fetched { /* cursors an answer 20 moves once it is written */
    size_t n;
    struct {
        struct member *member;
        uint64_t upto;
    } mark[];
};

/* A message with one reference, for the caller. */
struct msg *msg_new(uint8_t command, uint32_t seq, const char *data, size_t n);
/* The same from a pool, which outlives it; NULL: none. For what every message needs. data NULL: the
 * caller fills in the n bytes. */
struct msg *msg_take(struct msg_pool *pool, uint8_t command, uint32_t seq, const char *data,
                     size_t n);
/* The head that goes before its data on a protocol, encoded on first use; counted there. */
struct str msg_encode(struct msg *m, unsigned proto, uint64_t *encoded);
static inline struct str
msg_head(struct msg *m, unsigned proto, uint64_t *encoded)
{
    return m->raw ? STR("") : msg_encode(m, proto, encoded);
}
/* A piece: several messages as one, behind each other with their heads. One of `room` bytes, empty;
 * and one more message at its end, which has room for it. */
struct msg *msg_piece(struct msg_pool *pool, uint8_t command, uint32_t seq, size_t room);
_Static_assert(MAX_PKT_HEAD < 16 && MAX_WS_HEAD < 16, "heads are short");
static inline void
msg_put(struct msg *piece, struct str head, const char *data, size_t n)
{
    copy_short(piece->data + piece->len, head.p, head.n & 15); /* & 15: gcc would not believe it */
    if (n > 0)
        memcpy(piece->data + piece->len + head.n, data, n);
    piece->len += (uint32_t)(head.n + n);
}
void msg_unref(struct msg *m);
void msg_hold(struct msg *m, size_t *held); /* count its bytes there until it is freed; once */

#endif
