/* SPDX-License-Identifier: MIT */
/*
 * client_int.h - what the files of the client library share; programs include jim_client.h alone.
 */
#ifndef CLIENT_INT_H
#define CLIENT_INT_H

#include "jim_client.h"

/* --- client_msg.c: the server's JSON ---------------------------------------------------------- */

/* Is this the member's name, as the server writes it? */
bool client_key_is(const struct json *key, const char *name);
/* Make *m of a chat object; its strings are put into *text, in the place of what was there. -1: it
 * is none. */
int client_message(const struct json *chat, struct buf *text, struct jim_message *m);

#endif
