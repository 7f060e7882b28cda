/* SPDX-License-Identifier: MIT */
/*
 * profile.c - what is known of a user beside his id: nick, avatar, sign, extras, and his friends in
 * friend groups. It comes as a User object from the users file, a token, the login hook, the API or
 * the log; here it is checked, kept, and shown.
 *
 *   members    which there are, and what each must be
 *   friends    made into one form, and shown with their status
 *   profiles   checked as a whole; taken over
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- members ---------------------------------------------------------------------------------- */

static const struct part {
    const char *name; /* as name_is() wants it */
    size_t at;        /* in struct profile */
    enum json_type type;
    uint32_t max;     /* bytes, as they stand in the text */
} parts[] = {
    {"avatar", offsetof(struct profile, avatar), JSON_STRING, MAX_PROFILE},
    {"extras", offsetof(struct profile, extras), JSON_OBJECT, MAX_PROFILE},
    {"friends", offsetof(struct profile, friends), JSON_ARRAY, MAX_FRIENDS},
    {"nick", offsetof(struct profile, nick), JSON_STRING, MAX_PROFILE},
    {"sign", offsetof(struct profile, sign), JSON_STRING, MAX_PROFILE},
};
#define PARTS (sizeof parts / sizeof parts[0])

static const struct part *
part_of(const struct json *key)
{
    for (size_t i = 0; i < PARTS; i++)
        if (name_is(key, parts[i].name))
            return &parts[i];
    return NULL;
}

/* An entry of a list that names a user or group: its id, or an object with the id under `key`. */
static bool
entry_id(const struct json *entry, const char *key, char dst[MAX_ID], struct str *id)
{
    struct json_iter it;
    struct json name, value, found = *entry;

    if (entry->type == JSON_OBJECT) {
        found.type = JSON_NONE;
        json_enter(&it, entry);
        while (json_next(&it, &name, &value) > 0)
            if (name_is(&name, key))
                found = value;
    } else if (entry->type != JSON_STRING && entry->type != JSON_NUMBER) {
        return false;
    }
    return value_id(&found, dst, id);
}

/* A text member of an object; absent when it is none, or too long. */
static struct json
entry_text(const struct json *entry, const char *key)
{
    struct json_iter it;
    struct json name, value, found = {0};

    if (entry->type != JSON_OBJECT)
        return found;
    json_enter(&it, entry);
    while (json_next(&it, &name, &value) > 0)
        if (name_is(&name, key) && value.type == JSON_STRING && value.n > 0 &&
            value.n <= MAX_PROFILE)
            found = value;
    return found;
}

/* --- friends ---------------------------------------------------------------------------------- */

static const char *
put_friend_users(struct buf *b, const struct json *users)
{
    struct json_iter it;
    struct json user;
    char text[MAX_ID];
    struct str id;

    if (users->type != JSON_ARRAY)
        return "a friend group's users are no list";
    json_enter(&it, users);
    while (json_next(&it, NULL, &user) > 0) {
        if (!entry_id(&user, "userid", text, &id))
            return "a friend has no userId that can be one";
        struct json nick = entry_text(&user, "nick");
        json_put_comma(b);
        buf_add(b, "{", 1);
        if (nick.type != JSON_NONE) {
            json_put_key(b, "nick");
            json_put_value(b, &nick);
        }
        put_text(b, "userId", id);
        buf_add(b, "}", 1);
    }
    return NULL;
}

static const char *
put_friend_group(struct buf *b, const struct json *group)
{
    struct json_iter it;
    struct json key, value, users = {.p = "[]", .n = 2, .type = JSON_ARRAY};
    char text[MAX_ID];
    struct str id;

    if (group->type != JSON_OBJECT)
        return "friends are no list of groups";
    if (!entry_id(group, "groupid", text, &id))
        return "a friend group has no groupId that can be one";
    json_enter(&it, group);
    while (json_next(&it, &key, &value) > 0)
        if (name_is(&key, "users") && value.type != JSON_NULL)
            users = value;
    struct json name = entry_text(group, "name");
    json_put_comma(b);
    buf_add(b, "{", 1);
    put_text(b, "groupId", id);
    json_put_key(b, "name");
    if (name.type != JSON_NONE)
        json_put_value(b, &name);
    else
        json_put_string(b, id.p, id.n);
    json_put_key(b, "users");
    buf_add(b, "[", 1);
    const char *why = put_friend_users(b, &users);
    buf_add(b, "]}", 2);
    return why;
}

/* Append [{"groupId":…,"name":…,"users":[{"nick":…,"userId":…}]}]. NULL, or what is wrong. */
static const char *
put_friends(struct buf *b, const struct json *friends)
{
    size_t start = b->len;
    struct json_iter it;
    struct json group;
    const char *why = NULL;

    buf_add(b, "[", 1);
    json_enter(&it, friends);
    while (why == NULL && json_next(&it, NULL, &group) > 0) {
        why = put_friend_group(b, &group);
        if (b->len - start > MAX_FRIENDS)
            why = "too many friends";
    }
    buf_add(b, "]", 1);
    return why;
}

/* A friend as he is now, if his status (0 online, 1 offline, 2 all) is asked for. */
static void
show_friend(struct chat *c, struct buf *b, const struct json *entry, int64_t type)
{
    char text[MAX_ID];
    struct str id;
    const struct user *u;

    if (!entry_id(entry, "userid", text, &id))
        return;
    u = user_find(&c->roster, id);
    if (type != 2 && (u != NULL && user_is_online(u)) != (type == 0))
        return;
    json_put_comma(b);
    if (u != NULL && u->known) {
        put_user(b, u);
        return;
    }
    struct json nick = entry_text(entry, "nick"); /* he has never been here: as he was announced */
    buf_add(b, "{", 1);
    json_put_key(b, "nick");
    if (nick.type != JSON_NONE)
        json_put_value(b, &nick);
    else
        json_put_string(b, id.p, id.n);
    put_text(b, "status", STR("offline"));
    put_text(b, "userId", id);
    buf_add(b, "}", 1);
}

/* A friend group; its members come in alphabetical order, and so go out. */
static void
show_group(struct chat *c, struct buf *b, const struct json *group, int64_t type, size_t room)
{
    struct json_iter it, users;
    struct json key, value, entry;

    json_put_comma(b);
    buf_add(b, "{", 1);
    json_enter(&it, group);
    while (json_next(&it, &key, &value) > 0) {
        json_put_comma(b);
        json_put_string(b, key.p, key.n);
        buf_add(b, ":", 1);
        if (value.type != JSON_ARRAY) {
            json_put_value(b, &value);
            continue;
        }
        buf_add(b, "[", 1);
        json_enter(&users, &value);
        while (b->len < room && json_next(&users, NULL, &entry) > 0)
            show_friend(c, b, &entry, type);
        buf_add(b, "]", 1);
    }
    buf_add(b, "}", 1);
}

void
profile_put_friends(struct chat *c, struct buf *b, const struct user *u, int64_t type, size_t room)
{
    const char *text = u->profile != NULL ? u->profile->friends : NULL;
    struct json_iter it;
    struct json group;

    buf_add(b, "[", 1);
    if (text != NULL && json_open(&it, text, strlen(text)) == 0)
        while (b->len < room && json_next(&it, NULL, &group) > 0)
            show_group(c, b, &group, type, room);
    buf_add(b, "]", 1);
}

/* --- profiles --------------------------------------------------------------------------------- */

static const char *
check_groups(const struct json *groups)
{
    struct json_iter it;
    struct json entry;
    char text[MAX_ID];
    struct str id;
    int n = 0;

    if (groups->type != JSON_ARRAY)
        return "groups are no list";
    json_enter(&it, groups);
    while (json_next(&it, NULL, &entry) > 0) {
        if (!entry_id(&entry, "groupid", text, &id))
            return "a group has no id that can be one";
        if (++n > MAX_GROUPS)
            return "too many groups";
    }
    return NULL;
}

static const char *
check_part(const struct json *key, const struct json *value)
{
    const struct part *p = part_of(key);
    struct buf scratch = {0};
    const char *why = NULL;

    if (value->type == JSON_NULL)
        return NULL;
    if (name_is(key, "groups"))
        return check_groups(value);
    if (p == NULL)
        return NULL; /* unknown members are nobody's business */
    if (value->type != p->type)
        return p->type == JSON_STRING   ? "nick, avatar and sign have to be texts"
               : p->type == JSON_OBJECT ? "extras have to be an object"
                                        : "friends are no list of groups";
    if (value->n > p->max)
        return p->type == JSON_ARRAY ? "too many friends" : "nick, avatar, sign or extras too long";
    if (p->type == JSON_ARRAY)
        why = put_friends(&scratch, value);
    buf_free(&scratch);
    return why;
}

const char *
profile_check(struct str json)
{
    struct json_iter it;
    struct json key, value;
    const char *why = NULL;
    int more = 0;

    if (json.n >= UINT32_MAX || json_open(&it, json.p, json.n) != 0 || it.close != '}')
        return "not a JSON object";
    while (why == NULL && (more = json_next(&it, &key, &value)) > 0)
        why = check_part(&key, &value);
    return more < 0 ? "not a JSON object" : why;
}

/* Replace a text when it is another; an empty one is none. */
static bool
replace(char **text, struct buf *fresh)
{
    bool none = strcmp(fresh->p, "\"\"") == 0 || strcmp(fresh->p, "[]") == 0 ||
                strcmp(fresh->p, "{}") == 0;
    const char *old = *text != NULL ? *text : "";

    if (strcmp(old, none ? "" : fresh->p) == 0) {
        buf_free(fresh);
        return false;
    }
    free(*text);
    *text = none ? NULL : fresh->p;
    if (none)
        buf_free(fresh);
    return true;
}

bool
profile_set(struct user *u, struct str json)
{
    struct json_iter it;
    struct json key, value;
    bool changed = false;

    if (json.n == 0 || json_open(&it, json.p, json.n) != 0)
        return false;
    while (json_next(&it, &key, &value) > 0) {
        const struct part *p = part_of(&key);
        struct buf b = {0};
        if (p == NULL || value.type != p->type)
            continue;
        if (p->type == JSON_ARRAY)
            put_friends(&b, &value);
        else
            json_put_value(&b, &value);
        buf_add(&b, "", 1);
        if (u->profile == NULL)
            u->profile = xcalloc(1, sizeof *u->profile);
        changed |= replace((char **)(void *)((char *)u->profile + p->at), &b);
    }
    return changed;
}

void
profile_put(struct buf *b, const struct user *u)
{
    for (size_t i = 0; u->profile != NULL && i < PARTS; i++)
        put_profile(b, parts[i].name, *(char *const *)(const void *)((const char *)u->profile +
                                                                     parts[i].at));
}

void
profile_free(struct user *u)
{
    for (size_t i = 0; u->profile != NULL && i < PARTS; i++)
        free(*(char **)(void *)((char *)u->profile + parts[i].at));
    free(u->profile);
    u->profile = NULL;
}

bool
profile_groups(struct json_iter *it, struct str json)
{
    struct json_iter members;
    struct json key, value;

    if (json.n == 0 || json_open(&members, json.p, json.n) != 0)
        return false;
    while (json_next(&members, &key, &value) > 0)
        if (name_is(&key, "groups") && value.type == JSON_ARRAY) {
            json_enter(it, &value);
            return true;
        }
    return false;
}

bool
profile_next_group(struct json_iter *it, char id_text[MAX_ID], struct str *id, struct json *name)
{
    struct json entry;

    if (json_next(it, NULL, &entry) <= 0 || !entry_id(&entry, "groupid", id_text, id))
        return false;
    *name = entry_text(&entry, "name");
    return true;
}
