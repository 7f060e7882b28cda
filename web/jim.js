// SPDX-License-Identifier: MIT
// jim.js - the chat page: one WebSocket, JSON both ways (docs and contract: commands 5 to 20).
//
// Reading order: helpers and language, state, the connection, commands in, conversations (a window
// onto each one's history), the outbox, drawing, and last what the user does.
//
// Three rules hold everywhere:
// 1. What people wrote is text. It reaches the page through textContent only, never as HTML.
// 2. The server's `seq` (1, 2, 3, ... per conversation) is the only order. A jump in it means that
//    something was missed, and we ask for it.
// 3. A message keeps its `id` until it is acknowledged, however often it is sent: the server takes
//    a second copy for a retry, so sending again is always safe.

const PAGE = 50;                // messages asked for at a time
const WINDOW = 500;             // messages of one conversation held, and drawn, at most
const ROWS = 150;               // people listed without searching
const RECENT = 30;              // conversations looked up at login
const MAX_BYTES = 65536;        // of one message: the server's own default limit
const LATEST = Number.MAX_SAFE_INTEGER;         // "before this seq" = the newest page

// --- helpers -------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);
const bytes = (s) => new TextEncoder().encode(s).length;
const clear = (o) => { for (const k of Object.keys(o)) delete o[k]; };

function el(tag, cls, ...children) {
    const e = document.createElement(tag);
    if (cls) e.className = cls;
    e.append(...children);
    return e;
}

function setText(e, s) {
    if (e.textContent !== s) e.textContent = s;
}

// Storage may be full or forbidden; the page then forgets, and works.
function load(store, key, otherwise) {
    try { return JSON.parse(store.getItem(key)) ?? otherwise; } catch { return otherwise; }
}
function save(store, key, value) {
    try { store.setItem(key, JSON.stringify(value)); } catch { /* see above */ }
}

// English is the key, so the code reads as what it shows.
const ZH = {
    'Pick a name and start talking.': '取个名字，开始聊天。', 'Your name': '你的名字',
    'Password or token': '密码或令牌', 'Log in': '登录', 'Log out': '退出登录',
    'Conversations': '会话', 'Search people and groups': '搜索联系人和群组', 'Groups': '群组',
    'People': '联系人', 'Join a group': '加入群组', 'Write to someone': '发起私聊',
    'Choose a conversation.': '请选择一个会话。', 'Back to the list': '返回列表', 'Members': '群成员',
    'Messages': '消息', 'Message': '消息', 'Write a message': '输入消息', 'Send': '发送',
    'Dismiss': '关闭', 'Cancel': '取消', 'Join': '加入', 'Open': '打开',
    'Group id': '群组 ID', 'User id': '用户 ID', 'online': '在线', 'offline': '离线',
    'connecting…': '正在连接…', 'no connection, trying again…': '连接已断开，正在重试…',
    '{n} online': '{n} 人在线', '{n} unread': '{n} 条未读', '{n} more: search to find them':
    '还有 {n} 人，可搜索查找', 'Nobody else is online yet.': '暂时没有其他人在线。',
    'New messages': '新消息', '{n} new': '{n} 条新消息', 'Latest messages': '最新消息',
    'No messages yet. Say hello!': '还没有消息，打个招呼吧！', 'Beginning of the conversation': '会话开始',
    'You are not in this group.': '你不在该群组中。', 'sending': '发送中', 'sent': '已发送',
    '{name} is offline. Kept until they return.': '{name} 不在线，消息已保留，上线后送达。',
    'Not sent': '发送失败', 'Not sent: not allowed': '发送失败：没有权限',
    'Not sent: too long': '发送失败：消息过长', 'Not sent: the server cannot store messages now':
    '发送失败：服务器暂时无法保存消息', 'Try again': '重试', 'Discard': '删除',
    'Too long: a message holds 64 KiB.': '消息过长：上限为 64 KiB。',
    'Cannot reach the server.': '无法连接服务器。', 'Login refused. Check name and password.':
    '登录被拒绝，请检查名字和密码。', 'You logged in somewhere else.': '你已在别处登录。',
    'That name is too long.': '名字过长。', 'Could not join this group.': '无法加入该群组。',
    'New message from {name}': '{name} 发来新消息', 'image': '图片', 'voice': '语音',
    'video': '视频', 'music': '音乐', 'news': '图文',
};
const chinese = /^zh/i.test(navigator.language);
const lang = chinese ? 'zh-CN' : navigator.language || 'en';

function t(s, values = {}) {
    return ((chinese && ZH[s]) || s).replace(/\{(\w+)\}/g, (_, k) => values[k]);
}

function translatePage() {
    document.documentElement.lang = chinese ? 'zh-CN' : 'en';
    for (const e of document.querySelectorAll('[data-t]')) {
        if (!e.children.length && e.textContent.trim()) setText(e, t(e.textContent.trim()));
        for (const a of ['aria-label', 'title', 'placeholder'])
            if (e.hasAttribute(a)) e.setAttribute(a, t(e.getAttribute(a)));
    }
}

const clock = new Intl.DateTimeFormat(lang, { hour: '2-digit', minute: '2-digit' });
const shortDay = new Intl.DateTimeFormat(lang, { day: 'numeric', month: 'short' });
const longDay = new Intl.DateTimeFormat(lang, { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });
const relative = new Intl.RelativeTimeFormat(lang, { numeric: 'auto' });
const dayOf = (ms) => new Date(ms).setHours(0, 0, 0, 0);

function dayName(ms) {
    const ago = Math.round((dayOf(Date.now()) - dayOf(ms)) / 864e5);
    return ago === 0 || ago === 1 ? relative.format(-ago, 'day') : longDay.format(ms);
}

// --- state ---------------------------------------------------------------------------------------

let me = null;                  // { id, nick, password } from the login form until logout
let current = null;             // the open conversation
let atEnd = true;               // the log is scrolled to its end, and stays there
let marks = {};                 // per conversation: { read, time }; survives in localStorage
const users = new Map();        // userId -> { nick, status }
const groups = new Map();       // groupId -> { name, online, ids } as of the last refresh
const convs = new Map();        // key -> conversation; 'g:100' is a group, 'p:bob' a person

const nameOf = (id) => users.get(id)?.nick || id;
const isOnline = (id) => users.get(id)?.status === 'online';
const titleOf = (c) => (c.group ? groups.get(c.id)?.name || c.id : nameOf(c.id));
const unread = (c) => (c.read < 0 ? 0 : Math.max(0, c.newest - c.read));
// Does the user see what arrives? Otherwise it stays unread.
const attended = () => document.visibilityState === 'visible' && document.hasFocus();

// A conversation. `msgs` is a window: a piece of the history without holes, ascending by seq, at
// most WINDOW long. It ends before `newest` only while the user reads far up.
function conv(key) {
    let c = convs.get(key);
    if (!c) {
        c = {
            key, group: key[0] === 'g', id: key.slice(2), msgs: [], last: null,
            newest: 0,          // highest seq known to exist
            read: marks[key]?.read ?? -1,       // highest seq seen by the user; -1 = never here
            fresh: 0,           // "new messages" is drawn after this seq; 0 = nowhere
            place: false,       // to be scrolled to its first unread message
            top: false,         // the window starts at the first message there is
            denied: false, busy: false, draft: '',
        };
        convs.set(key, c);
    }
    return c;
}

const tail = (c) => c.msgs.at(-1)?.seq ?? 0;
const attached = (c) => tail(c) >= c.newest;

// --- connection ----------------------------------------------------------------------------------

let socket = null;
let online = false;             // logged in on this socket
let entered = false;            // the chat is shown, not the login form
let attempt = 0;                // failed connections in a row
let retryTimer = 0;
let heard = 0, probed = 0, opened = 0;          // ms: last frame in, heartbeat without answer, connect
const waiting = {};             // answer command -> callbacks, in the order of the requests

function connect() {
    clearTimeout(retryTimer);
    const url = new URL('./', location);
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const s = socket = new WebSocket(url);
    opened = heard = Date.now();
    probed = 0;
    showLink();
    // Logging in by command 5 instead of ?username=&password= keeps the password out of the
    // access logs of every proxy on the way.
    s.onopen = () => {
        const secret = /^eyJ[\w-]*\.[\w-]+\.[\w-]+$/.test(me.password) ? 'token' : 'password';
        send({ cmd: 5, userId: me.id, [secret]: me.password });
    };
    s.onmessage = (e) => { if (s === socket) receive(e.data); };
    s.onclose = (e) => { if (s === socket) lost(e.code); };
}

function send(request) {
    socket.send(JSON.stringify(request));
}

// Answers carry no request number but come in order, so a queue per command pairs them.
// Resolves to null when the connection goes first.
function call(answer, request) {
    if (!online) return Promise.resolve(null);
    return new Promise((done) => {
        (waiting[answer] ??= []).push(done);
        send(request);
    });
}

// The old socket may take a minute to notice that it is dead: its events are no longer ours.
function drop() {
    const s = socket;
    socket = null;
    s?.close();
    lost();
}

function lost(code) {
    socket = null;
    online = false;
    for (const queue of Object.values(waiting)) for (const done of queue) done(null);
    clear(waiting);
    // 1009: the server cut us off for this very message; repeating it would end the same way.
    if (code === 1009 && flying) fail(flying, 10025);
    flying = null;
    if (!me) return;
    if (!entered) return leave(t('Cannot reach the server.'));
    // Doubling, up to 30 s, and scattered: after a restart not everybody returns at once.
    const delay = Math.min(30000, 500 * 2 ** attempt++) * (0.5 + Math.random());
    retryTimer = setTimeout(connect, delay);
    showLink();
    draw();
}

// Every 5 s: is the other end alive? A slept laptop or a dead network closes no socket by itself.
function tick() {
    if (!socket) return;
    const now = Date.now();
    if (!online) return now - opened > 45000 && drop();  // a refusal may be 30 s late on purpose
    if ((probed && now - probed > 10000) || (flying && now - flying.sent > 20000)) return drop();
    if (now - heard > 25000) probe();
}

function probe() {
    if (!online || probed) return;
    probed = Date.now();
    send({ cmd: 13 });
}

// The network is back, or the user is: do not sit out the delay.
function wake() {
    if (!me || !entered) return;
    if (!socket) { attempt = 0; connect(); } else probe();
}

// --- commands in ---------------------------------------------------------------------------------

const commands = {
    6(a) {
        if (a.code !== 10007) return leave(t('Login refused. Check name and password.'));
        welcome(a.user ?? {});
    },
    9(a) { presence(a.group, a.user, 'online'); },
    10(a) { presence(a.data?.group, a.data?.user, 'offline'); },
    11(a) { if (a.data) arrived(a.data); },
    12: acknowledged,
    14(a) { if (a.code === 10026) leave(t('You logged in somewhere else.')); },
};

function receive(text) {
    heard = Date.now();
    probed = 0;
    let a;
    try { a = JSON.parse(text); } catch { return; }
    if (commands[a.command]) commands[a.command](a);
    else waiting[a.command]?.shift()?.(a);
}

async function welcome(user) {
    online = true;
    attempt = 0;
    me.id = user.userId || me.id;
    me.nick = user.nick || me.id;
    if (!entered) enter();
    showLink();
    flush();
    refresh();
    // What came while we were away: the server moves our mark as it answers, and says if there is more.
    for (let more = true; more;) {
        const a = await call(20, { cmd: 19, type: 0, userId: me.id });
        if (!a) return;
        for (const list of [...Object.values(a.data?.friends ?? {}), ...Object.values(a.data?.groups ?? {})])
            for (const m of list) arrived(m, true);
        more = a.data?.more === true;
    }
    // And what "delivered" never reached us: bytes can die with their connection. The newest
    // message of each conversation tells, and makes its line in the list.
    const known = [...convs.values()].filter((c) => c.newest || c.read >= 0 || groups.has(c.id));
    known.sort((a, b) => (marks[b.key]?.time ?? 0) - (marks[a.key]?.time ?? 0));
    for (const c of known.slice(0, RECENT)) if (c !== current) fetchPage(c, 'latest', 1);
    if (current) fetchPage(current, current.msgs.length && attached(current) ? 'newer' : 'latest');
}

function presence(group, user, status) {
    if (!user?.userId) return;
    if (user.userId === me.id) {
        if (group) groups.get(group) ?? groups.set(group, { name: group, online: 1, ids: [] });
    } else setUser(user, status);
    refreshSoon();
    draw();
}

function setUser(u, status = u.status) {
    if (u?.userId) users.set(u.userId, { nick: u.nick || u.userId, status });
}

// People come and go in crowds: one refresh for all of them, and not more often than every 5 s.
let refreshTimer = 0, refreshed = 0;
function refreshSoon() {
    refreshTimer ||= setTimeout(refresh, Math.max(1000, refreshed + 5000 - Date.now()));
}

async function refresh() {
    clearTimeout(refreshTimer);
    refreshTimer = 0;
    refreshed = Date.now();
    const a = await call(18, { cmd: 17, type: 2, userId: me.id });
    if (!a?.data) return;
    for (const u of users.values()) u.status = '';
    for (const f of a.data.friends ?? []) for (const u of f.users ?? []) setUser(u);
    groups.clear();
    for (const g of a.data.groups ?? []) {
        const list = g.users ?? [];
        for (const u of list) setUser(u);
        conv('g:' + g.groupId).denied = false;
        groups.set(g.groupId, {
            name: g.name || g.groupId, ids: list.map((u) => u.userId),
            online: g.online ?? list.filter((u) => u.status === 'online').length,
        });
    }
    draw();
    // People we talk with but share no group with are asked for one by one.
    const alone = [...convs.values()].filter((c) => !c.group && (c.newest || c === current) && !users.get(c.id)?.status);
    await Promise.all(alone.slice(0, RECENT).map(async (c) => {
        const b = await call(18, { cmd: 17, userId: c.id });
        if (b?.data) setUser(b.data);
    }));
    draw();
}

// --- conversations -------------------------------------------------------------------------------

// A message by command 11, or out of the offline queue (`old`).
function arrived(m, old = false) {
    if (m.chatType === 0) return toast(`${nameOf(m.from)}: ${m.content}`);      // a broadcast
    const c = conv(m.groupId ? 'g:' + m.groupId : 'p:' + (m.from === me.id ? m.to : m.from));
    const before = c.newest;
    place(c, m);
    if (old || m.from === me.id || c.newest === before) return;
    setText($('announce'), c === current && attended() ? `${nameOf(m.from)}: ${m.content}`
        : t('New message from {name}', { name: c.group ? titleOf(c) : nameOf(m.from) }));
}

// Put one new message where it belongs; ask for what is missing before it.
function place(c, m) {
    m.seq ??= c.newest + 1;     // a server that stores nothing may number nothing
    const whole = attached(c);
    if (c.read < 0) c.read = m.seq - 1;
    if (c === current && !attended() && !unread(c)) c.fresh = c.read;
    note(c, m);
    if (m.from === me.id) c.read = Math.max(c.read, m.seq);
    if (m.seq <= tail(c)) {
        const twin = c.msgs.find((x) => x.seq === m.seq);
        if (twin && twin.id !== m.id) {         // numbers began anew: the server lost its store
            Object.assign(c, { msgs: [m], newest: m.seq, last: m, read: m.seq - 1, top: false });
        } else if (m.seq > c.msgs[0].seq) merge(c, [m]);
    } else if (!c.msgs.length || (whole && m.seq === tail(c) + 1)) {
        // Reading far up in a full window: what is under the user's eyes is not dropped for what is not.
        if (c !== current || atEnd || c.msgs.length < WINDOW) merge(c, [m]);
    } else if (c !== current) {
        c.msgs = [m];
        c.top = false;
    } else if (whole) fetchPage(c, 'newer');
    draw();
    seen();
}

// Take notice of a message without showing it.
function note(c, m) {
    if (m.seq >= c.newest) {
        c.newest = m.seq;
        c.last = m;
        saveSoon();
    }
}

// Unite a page with the window it touches or overlaps. `end` says which side is let go of when the
// window is full.
function merge(c, page, end = 'head') {
    const all = new Map(page.map((m) => [m.seq, m]));
    for (const m of c.msgs) all.set(m.seq, m);          // ours know more: they may be marked `kept`
    c.msgs = [...all.values()].sort((a, b) => a.seq - b.seq);
    const over = c.msgs.length - WINDOW;
    if (over > 0 && end === 'head') {
        c.msgs.splice(0, over);
        c.top = false;
    } else if (over > 0) c.msgs.length = WINDOW;
    // Sent, acknowledged, and the acknowledgement lost: then it is found here, and is done.
    const ids = new Set(page.map((m) => m.id));
    if (outbox.some((m) => ids.has(m.id) && m !== flying)) {
        outbox = outbox.filter((m) => !ids.has(m.id) || m === flying);
        saveOutbox();
    }
}

// Fetch a page of history: 'latest', or 'older' or 'newer' than the window.
async function fetchPage(c, which, count = PAGE) {
    if (c.busy || !online) return;
    c.busy = true;
    const request = { cmd: 19, type: 1, userId: me.id, count, [c.group ? 'groupId' : 'fromUserId']: c.id };
    if (which === 'newer') request.afterSeq = tail(c);
    else request.beforeSeq = which === 'older' ? c.msgs[0].seq : LATEST;
    const a = await call(20, request);
    c.busy = false;
    if (a?.code === 10024) { c.denied = true; draw(); }
    if (a?.code !== 10018) return;
    const page = a.data?.[c.group ? 'groups' : 'friends']?.[c.id] ?? [];
    if (which === 'latest' && page.length) {
        const hole = c.msgs.length && page[0].seq > tail(c) + 1;
        if (hole || page.at(-1).seq < tail(c)) c.msgs = [], c.top = false;
    }
    merge(c, page, which === 'older' ? 'tail' : 'head');
    if (page.length) note(c, page.at(-1));
    if (which !== 'newer' && !a.data?.more && (page.length < count || page[0].seq === 1)) c.top = true;
    if (c.read < 0) c.read = c.newest;          // first time here: the past is no news
    if (which === 'newer' && !page.length) c.newest = tail(c);
    else if (which === 'newer' && !attached(c) && atEnd)
        // Far behind: jump rather than walk through everything missed.
        fetchPage(c, c.newest - tail(c) > WINDOW ? 'latest' : 'newer');
    draw();
}

// Whatever is above the lower edge of the log counts as read.
function seen() {
    const c = current;
    if (!c || !attended() || !unread(c) || c.place) return;
    let seq = c.read;
    if (atEnd && attached(c)) seq = c.newest;
    else {
        const edge = $('log').getBoundingClientRect().bottom + 4;
        for (let e = $('log').lastElementChild; e; e = e.previousElementSibling)
            if (e.dataset.seq && e.getBoundingClientRect().bottom <= edge) {
                seq = Math.max(seq, +e.dataset.seq);
                break;
            }
    }
    if (seq === c.read) return;
    c.read = seq;
    saveSoon();
    draw();
}

// What was read is kept per browser. Only the newest 200 conversations, lest it grow for ever.
let saveTimer = 0;
function saveSoon() {
    saveTimer ||= setTimeout(saveMarks, 300);
}
function saveMarks() {
    clearTimeout(saveTimer);
    saveTimer = 0;
    if (!me) return;
    for (const c of convs.values())
        if (c.newest) marks[c.key] = { read: c.read, time: c.last?.createTime ?? 0 };
    marks = Object.fromEntries(Object.entries(marks).sort((a, b) => b[1].time - a[1].time).slice(0, 200));
    save(localStorage, 'jim.read:' + me.id, marks);
}

// --- outbox --------------------------------------------------------------------------------------

// Messages the server has not acknowledged, oldest first. One flies at a time: order holds, and a
// refusal, which names no message, is for that one. Kept in sessionStorage, so a reload sends on.
let outbox = [];
let flying = null;

function post(c, content) {
    const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
    outbox.push({ id, key: c.key, content, createTime: Date.now(), state: 'sending' });
    saveOutbox();
    flush();
    c.fresh = 0;
    atEnd = true;
    if (!attached(c)) fetchPage(c, 'latest');
    draw();
}

function flush() {
    if (!online || flying) return;
    flying = outbox.find((m) => m.state === 'sending') ?? null;
    if (!flying) return;
    flying.sent = Date.now();
    const { id, key, content, createTime } = flying;
    const where = key[0] === 'g' ? { chatType: 1, groupId: key.slice(2) } : { chatType: 2, to: key.slice(2) };
    send({ cmd: 11, ...where, msgType: 0, content, createTime, id });
}

function acknowledged(a) {
    const m = flying;
    if (!m || (a.data?.id && a.data.id !== m.id)) return;
    flying = null;
    if (a.code === 10000 || a.code === 10001) {
        outbox = outbox.filter((x) => x !== m);
        const c = conv(m.key);
        place(c, {
            id: m.id, seq: a.data?.seq, from: me.id, content: m.content, kept: a.code === 10001,
            createTime: a.data?.createTime ?? m.createTime,
        });
    } else if (a.code === 10023) return setTimeout(flush, 1000);        // too fast: a moment, then again
    else if (a.code === 10028) return;          // stopping: it goes out on the next connection
    else if (a.code === 10022) return drop();
    else fail(m, a.code);
    saveOutbox();
    flush();
    draw();
}

function fail(m, code) {
    m.state = 'failed';
    m.code = code;
    saveOutbox();
}

function saveOutbox() {
    if (me) save(sessionStorage, 'jim.out:' + me.id, outbox);
}

// --- drawing -------------------------------------------------------------------------------------

// Changes come in bursts, a drawing comes once a frame: everything below is called from draw() alone.
let drawing = false;
function draw() {
    const n = [...convs.values()].reduce((sum, c) => sum + unread(c), 0);
    document.title = me && n ? `(${n}) jim` : 'jim';    // at once: hidden tabs get no frames
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
        drawing = false;
        if (!me || !entered) return;
        drawLists();
        drawConv();
        if ($('members').open) drawMembers();
    });
}

// Make parent's children match items, by key, touching as little as possible: nodes are reused, and
// those that stay in order are not moved (a moved node would lose the keyboard focus).
const drawn = new WeakMap();
function reconcile(parent, items, make, update) {
    const old = drawn.get(parent) ?? new Map();
    const now = new Map(items.map((item) => [item.key, old.get(item.key)]));
    for (const [key, node] of old) if (!now.has(key)) node.remove();
    const focus = document.activeElement;
    let at = parent.firstChild;
    for (const item of items) {
        const node = now.get(item.key) ?? make(item);
        now.set(item.key, node);
        update(node, item);
        if (node === at) at = at.nextSibling;
        else parent.insertBefore(node, at);
    }
    drawn.set(parent, now);
    if (focus !== document.activeElement && parent.contains(focus)) focus.focus();
}

// A letter on a colour that follows from the id: no picture is fetched from anywhere.
function avatar(e, id, name, group, status) {
    let h = 0;
    for (const ch of id) h = (h * 31 + ch.codePointAt(0)) % 360;
    e.style.setProperty('--hue', h);
    e.classList.toggle('group', group);
    setText(e, ([...name.trim()][0] ?? '?').toUpperCase());
    if (status) e.dataset.status = status;
    else delete e.dataset.status;
}

function showLink() {
    setText($('link'), t(online ? 'online' : socket || !entered ? 'connecting…' : 'no connection, trying again…'));
    if (me) avatar($('me-avatar'), me.id, me.nick, false, online ? 'online' : 'offline');
    setText($('me-name'), me?.nick ?? '');
}

function drawLists() {
    const wanted = $('filter').value.trim().toLowerCase();
    const found = (c) => !wanted || c.id.toLowerCase().includes(wanted) || titleOf(c).toLowerCase().includes(wanted);
    const time = (c) => c.last?.createTime ?? marks[c.key]?.time ?? 0;
    const order = (a, b) => time(b) - time(a) || isOnline(b.id) - isOnline(a.id) || titleOf(a).localeCompare(titleOf(b), lang);
    for (const [id] of users) if (id !== me.id) conv('p:' + id);
    const all = [...convs.values()].filter(found).sort(order);
    reconcile($('groups'), all.filter((c) => c.group && (groups.has(c.id) || c.newest)), makeRow, updateRow);
    const people = all.filter((c) => !c.group && (wanted || time(c) || isOnline(c.id) || c === current));
    reconcile($('people'), people.slice(0, ROWS), makeRow, updateRow);
    const more = people.length - ROWS;
    $('people-note').hidden = people.length && more <= 0;
    setText($('people-note'), people.length ? t('{n} more: search to find them', { n: more })
        : wanted ? '' : t('Nobody else is online yet.'));
}

function makeRow(c) {
    const row = el('button', 'row', el('span', 'avatar'), el('span', 'body',
        el('span', 'line', el('span', 'name'), el('span', 'when')),
        el('span', 'line', el('span', 'preview'), el('span', 'badge'))));
    row.querySelector('.name').dir = row.querySelector('.preview').dir = 'auto';
    row.querySelector('.avatar').ariaHidden = 'true';
    row.dataset.key = c.key;
    row.onclick = () => { go(c.key); if ($('members').open) $('members').close(); };
    return el('li', '', row);
}

function updateRow(li, c) {
    const row = li.firstChild, name = titleOf(c), n = unread(c), m = c.last;
    avatar(row.firstChild, c.id, name, c.group, c.group ? '' : isOnline(c.id) ? 'online' : 'offline');
    row.setAttribute('aria-current', c === current);
    const put = (cls, s) => setText(row.querySelector('.' + cls), s);
    put('name', name);
    put('when', !m ? '' : (dayOf(m.createTime) === dayOf(Date.now()) ? clock : shortDay).format(m.createTime));
    put('preview', m ? (c.group && m.from !== me.id ? nameOf(m.from) + ': ' : '') + plain(m)
        : c.group ? t('{n} online', { n: groups.get(c.id)?.online ?? 0 }) : t(isOnline(c.id) ? 'online' : 'offline'));
    const badge = row.querySelector('.badge');
    badge.hidden = !n;
    setText(badge, n > 99 ? '99+' : String(n));
    row.setAttribute('aria-label', [name, c.group ? '' : t(isOnline(c.id) ? 'online' : 'offline'),
        n ? t('{n} unread', { n }) : ''].filter(Boolean).join(', '));
}

function drawMembers() {
    const ids = groups.get(current?.id)?.ids ?? [];
    const list = ids.map((id) => conv('p:' + id));
    list.sort((a, b) => isOnline(b.id) - isOnline(a.id) || titleOf(a).localeCompare(titleOf(b), lang));
    reconcile($('members-list'), list, makeRow, updateRow);
    setText($('members-title'), `${t('Members')} · ${t('{n} online', { n: groups.get(current?.id)?.online ?? 0 })}`);
}

const KINDS = ['', 'image', 'voice', 'video', 'music', 'news'];
const kind = (m) => (KINDS[m.msgType] ? t(KINDS[m.msgType]) : '');
const plain = (m) => (kind(m) ? `[${kind(m)}] ` : '') + (m.content ?? '').slice(0, 200);

function drawConv() {
    const c = current, log = $('log');
    $('conv').hidden = !c;
    $('empty').hidden = !!c;
    if (!c) return;
    const name = titleOf(c);
    avatar($('conv-avatar'), c.id, name, c.group, c.group ? '' : isOnline(c.id) ? 'online' : 'offline');
    setText($('conv-name'), name);
    const about = c.group ? t('{n} online', { n: groups.get(c.id)?.online ?? 0 }) : t(isOnline(c.id) ? 'online' : 'offline');
    setText($('conv-info'), name === c.id ? about : `${about} · ${c.id}`);
    $('show-members').hidden = !c.group;
    log.classList.toggle('private', !c.group);

    // Keep the place: the end if we are there, else the topmost message in view.
    const edge = log.getBoundingClientRect().top;
    const topOf = (e) => e.getBoundingClientRect().top - edge;
    const anchor = atEnd ? null : [...log.querySelectorAll('.msg')].find((e) => e.getBoundingClientRect().bottom > edge);
    const was = anchor && topOf(anchor);
    reconcile(log, logItems(c), makeItem, updateItem);
    const fresh = c.place && !c.busy && log.querySelector('.fresh');
    if (fresh) {
        log.scrollTop += topOf(fresh) - log.clientHeight / 4;
    } else if (atEnd) log.scrollTop = log.scrollHeight;
    else if (anchor?.isConnected) log.scrollTop += topOf(anchor) - was;
    if (c.msgs.length && !c.busy) c.place = false;
    scrolled();
}

// What stands in the log, from top to bottom.
function logItems(c) {
    const items = [], ids = new Set(c.msgs.map((m) => m.id));
    const out = attached(c) ? outbox.filter((m) => m.key === c.key && !ids.has(m.id)) : [];
    if (c.denied) items.push({ key: 'denied', cls: 'start', text: t('You are not in this group.'), join: c.id });
    else if (c.top) items.push({ key: 'top', cls: 'start', text: t(c.msgs.length || out.length
        ? 'Beginning of the conversation' : 'No messages yet. Say hello!') });
    let before = null;
    for (const m of [...c.msgs, ...out]) {
        const mine = !m.seq || m.from === me.id;
        const day = dayOf(m.createTime);
        const newDay = !before || dayOf(before.m.createTime) !== day;
        if (newDay) items.push({ key: 'd' + (m.seq ?? m.id), cls: 'day', text: dayName(m.createTime) });
        const fresh = c.fresh && m.seq > c.fresh && !(before?.m.seq > c.fresh);
        if (fresh) items.push({ key: 'fresh', cls: 'fresh', text: t('New messages') });
        // One person's messages in a row stand together under one name.
        const first = newDay || fresh || before.mine !== mine || before.m.from !== m.from
            || m.createTime - before.m.createTime > 300000;
        before = { key: m.id ?? 's' + m.seq, m, mine, first, c, last: false };
        items.push(before);
    }
    if (before) before.last = true;
    return items;
}

function makeItem({ m, cls, join: group }) {
    if (!m) {
        const e = el('div', cls, el('span'));
        if (group) e.append(' ', button('Join', () => join(group)));
        return e;
    }
    const text = el('span', 'text', ...linked(m.content ?? ''));
    text.dir = 'auto';
    const bubble = el('div', 'bubble', text, el('span', 'meta', el('time'), el('span', 'state')));
    if (kind(m)) bubble.prepend(el('span', 'kind', `[${kind(m)}]`));
    const e = el('div', 'msg', el('span', 'avatar'), el('div', 'side', el('div', 'who'), bubble, el('div', 'note')));
    e.firstChild.ariaHidden = 'true';
    return e;
}

function updateItem(e, { m, text, mine, first, last, c }) {
    if (!m) return setText(e.firstChild, text);
    const state = m.seq ? 'sent' : m.state;
    const kept = m.kept && last && !isOnline(c.id);
    const look = [state, first, kept, m.seq, nameOf(m.from ?? me.id)].join();
    if (e.look === look) return;        // 500 of these are drawn at every message: most end here
    e.look = look;
    e.className = `msg ${first ? 'first' : ''} ${mine ? 'mine' : ''} ${state}`;
    if (m.seq) e.dataset.seq = m.seq;
    e.dataset.id = m.id ?? '';
    const name = nameOf(m.from ?? me.id), [who, bubble, note] = e.lastChild.children;
    if (!mine && first) avatar(e.firstChild, m.from, name, false);
    who.style.setProperty('--hue', e.firstChild.style.getPropertyValue('--hue'));
    setText(who, name);
    who.title = m.from ?? '';
    const [time, mark] = bubble.lastChild.children;
    time.dateTime = new Date(m.createTime).toISOString();
    setText(time, clock.format(m.createTime));
    setText(mark, !mine || state === 'failed' ? '' : state === 'sent' ? ' ✓' : ' …');
    mark.title = mine ? t(state) : '';
    note.className = state === 'failed' ? 'note bad' : 'note';
    note.hidden = state !== 'failed' && !kept;
    if (state === 'failed') {
        const why = { 10024: 'Not sent: not allowed', 10025: 'Not sent: too long',
            10027: 'Not sent: the server cannot store messages now' }[m.code] ?? 'Not sent';
        note.replaceChildren(t(why), button('Try again', () => again(m)), button('Discard', () => discard(m)));
    } else setText(note, kept ? t('{name} is offline. Kept until they return.', { name: titleOf(c) }) : '');
}

function button(label, act) {
    const b = el('button', '', t(label));
    b.type = 'button';
    b.onclick = act;
    return b;
}

// Text, with web addresses as links. Still no HTML: split into text nodes and <a> elements.
function linked(s) {
    return s.split(/(https?:\/\/[^\s<>"]*[^\s<>".,;:!?)\]}'，。；：！？）])/).map((part, i) => {
        if (i % 2 === 0) return part;
        const a = el('a', '', part);
        a.href = part;
        a.target = '_blank';
        a.rel = 'noopener noreferrer';
        return a;
    });
}

let toastTimer = 0;
function toast(s) {
    setText($('toast').firstChild, s);
    $('toast').hidden = false;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { $('toast').hidden = true; }, 15000);
}

// --- what the user does --------------------------------------------------------------------------

function login(name, password) {
    me = { id: name, nick: name, password };
    save(localStorage, 'jim.name', name);
    marks = load(localStorage, 'jim.read:' + name, {});
    for (const key of Object.keys(marks)) conv(key);
    outbox = load(sessionStorage, 'jim.out:' + name, []);
    $('login-error').hidden = true;
    connect();
}

// Show the chat. Without a password a reload logs in again by itself; a password is never stored.
function enter() {
    entered = true;
    if (!me.password) save(sessionStorage, 'jim.session', me.id);
    $('login').hidden = true;
    $('app').hidden = false;
    showLink();
    route();
    // A wide screen has room for a conversation at once.
    if (!current && !narrow.matches && online) firstGroup();
}

function firstGroup() {
    call(18, { cmd: 17, type: 2, userId: me.id }).then((a) => {
        const g = a?.data?.groups?.[0];
        if (g && !current) go('g:' + g.groupId);
    });
}

// Back to the login form, with the reason if it was not the user's wish.
function leave(why = '') {
    saveMarks();
    me = null;
    const s = socket;
    socket = null;
    s?.close();
    lost();
    clearTimeout(retryTimer);
    entered = false;
    current = null;
    outbox = [];
    marks = {};
    for (const map of [users, groups, convs]) map.clear();
    for (const id of ['groups', 'people', 'log', 'members-list']) {
        drawn.delete($(id));
        $(id).replaceChildren();
    }
    save(sessionStorage, 'jim.session', null);
    $('members').close();
    $('app').hidden = true;
    $('login').hidden = false;
    setText($('login-error'), why);
    $('login-error').hidden = !why;
    $('name').focus();
    draw();
}

// The open conversation is in the address: reload, bookmarks and the phone's back button work.
const narrow = matchMedia('(max-width: 720px)');
let stacked = false;            // the list is one step back in the browser's history

function go(key) {
    const hash = '#' + encodeURIComponent(key);
    if (narrow.matches && !current) { stacked = true; location.hash = hash; } else location.replace(hash);
    if (current?.key === key) $('text').focus();
}

function back() {
    if (stacked) history.back();
    else location.replace('#');
}

function route() {
    if (!entered) return;
    let key = '';
    try { key = decodeURIComponent(location.hash.slice(1)); } catch { /* a broken address opens nothing */ }
    if (!/^[gp]:./.test(key)) key = '';
    if (key === (current?.key ?? '')) return show();
    if (current) {
        current.draft = $('text').value;
        current.fresh = 0;
        // A closed conversation needs no more memory than its newest messages.
        if (attached(current)) current.top &&= current.msgs.length <= PAGE;
        current.msgs = attached(current) ? current.msgs.slice(-PAGE) : [];
    }
    const was = current;
    current = key ? conv(key) : null;
    drawn.delete($('log'));
    $('log').replaceChildren();
    atEnd = true;
    if (!current) stacked = false;
    else {
        $('text').value = current.draft;
        grow();
        const n = unread(current);
        current.fresh = n ? current.read : 0;
        current.place = n > 0;
        if (current.msgs.length < PAGE && !current.top || !attached(current)) fetchPage(current, 'latest', Math.min(n + PAGE, WINDOW));
    }
    show();
    if (current && matchMedia('(pointer: fine)').matches) $('text').focus();
    if (!current && was) document.querySelector(`[data-key="${CSS.escape(was.key)}"]`)?.focus();
}

function show() {
    $('app').dataset.pane = current ? 'talk' : 'list';
    if (!current && !narrow.matches) $('app').dataset.pane = 'list';
    draw();
}

async function join(id) {
    const a = await call(8, { cmd: 7, groupId: id });
    if (a?.code !== 10011) return false;
    const c = conv('g:' + id);
    c.denied = false;
    if (c === current) fetchPage(c, 'latest');
    await refresh();
    return true;
}

function again(m) {
    m.state = 'sending';
    saveOutbox();
    flush();
    draw();
}

function discard(m) {
    outbox = outbox.filter((x) => x !== m);
    saveOutbox();
    draw();
}

function submit() {
    const content = $('text').value.trim();
    if (!current || !content) return;
    if (bytes(content) > MAX_BYTES) return toast(t('Too long: a message holds 64 KiB.'));
    $('text').value = '';
    grow();
    post(current, content);
    $('text').focus();
}

// The field is as high as its text, up to the limit in the style sheet.
function grow() {
    $('text').style.height = 'auto';
    $('text').style.height = $('text').scrollHeight + 2 + 'px';
}

// After every scroll and every drawing: note where we are, fetch what is about to come into view.
function scrolled() {
    const c = current, log = $('log');
    if (!c) return;
    const below = log.scrollHeight - log.scrollTop - log.clientHeight;
    atEnd = below < 40 && attached(c);
    if (c.msgs.length && !c.top && log.scrollTop < 400) fetchPage(c, 'older');
    else if (!attached(c) && below < 400) fetchPage(c, 'newer');
    seen();
    const n = unread(c);
    $('jump').hidden = atEnd || (below < 200 && attached(c));
    setText($('jump'), '↓ ' + (n ? t('{n} new', { n }) : ''));
    $('jump').setAttribute('aria-label', t('Latest messages') + (n ? ', ' + t('{n} new', { n }) : ''));
}

async function jump() {
    if (!attached(current)) await fetchPage(current, 'latest');
    atEnd = true;
    draw();
}

let asking = '';
function ask(what) {
    asking = what;
    const group = what === 'group';
    setText($('ask-title'), t(group ? 'Join a group' : 'Write to someone'));
    setText($('ask-label'), t(group ? 'Group id' : 'User id'));
    setText($('ask-ok'), t(group ? 'Join' : 'Open'));
    $('ask-id').value = '';
    $('ask-error').hidden = true;
    $('ask').showModal();
}

async function answerAsk(e) {
    e.preventDefault();
    const id = $('ask-id').value.trim();
    if (!id) return;
    if (asking === 'group' && !await join(id)) {
        setText($('ask-error'), t(online ? 'Could not join this group.' : 'Cannot reach the server.'));
        $('ask-error').hidden = false;
        return;
    }
    $('ask').close();
    go((asking === 'group' ? 'g:' : 'p:') + id);
}

function keys(e) {
    const rows = [...document.querySelectorAll('#side .row')];
    const i = rows.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (step && (i >= 0 || document.activeElement === $('filter'))) {
        e.preventDefault();
        (rows[i + step] ?? $('filter')).focus();
    } else if (e.key === 'Escape' && current && !document.querySelector('dialog[open]') && !e.isComposing) {
        if (narrow.matches) back();
        else document.querySelector('.row[aria-current=true]')?.focus();
    }
}

translatePage();
$('login-form').onsubmit = (e) => {
    e.preventDefault();
    const name = $('name').value.trim();
    if (!name) return;
    if (bytes(name) > 64) {
        setText($('login-error'), t('That name is too long.'));
        $('login-error').hidden = false;
    } else if (!me) login(name, $('password').value);
};
$('logout').onclick = () => leave();
$('filter').oninput = draw;
$('add-group').onclick = () => ask('group');
$('add-person').onclick = () => ask('person');
$('ask').firstElementChild.onsubmit = answerAsk;
$('back').onclick = back;
$('jump').onclick = jump;
$('show-members').onclick = () => { refresh(); drawMembers(); $('members').showModal(); };
for (const b of document.querySelectorAll('dialog .close')) b.onclick = () => b.closest('dialog').close();
$('toast').lastElementChild.onclick = () => { $('toast').hidden = true; };
$('composer').onsubmit = (e) => { e.preventDefault(); submit(); };
$('text').oninput = grow;
$('text').onkeydown = (e) => {
    // Enter also ends the choice of characters in an input method: that one is not for us.
    if (e.key === 'Enter' && !e.shiftKey && !e.isComposing && e.keyCode !== 229) { e.preventDefault(); submit(); }
};
$('log').onscroll = scrolled;
// A keyboard that opens, or a growing text field, must not push the last message out of view.
new ResizeObserver(() => { if (atEnd) $('log').scrollTop = $('log').scrollHeight; }).observe($('log'));
document.onkeydown = keys;
onhashchange = route;
narrow.onchange = show;
ononline = wake;
onfocus = () => { seen(); draw(); };
onpagehide = saveMarks;
document.onvisibilitychange = () => { if (document.visibilityState === 'visible') { wake(); if (online) refresh(); } };
// Another tab of ours has read something.
onstorage = (e) => {
    if (!me || e.key !== 'jim.read:' + me.id) return;
    for (const [key, mark] of Object.entries(load(localStorage, e.key, {}))) {
        const c = conv(key);
        c.read = Math.max(c.read, mark.read);
    }
    draw();
};
setInterval(tick, 5000);
setInterval(() => { if (online && document.visibilityState === 'visible') refresh(); }, 30000);

$('name').value = load(localStorage, 'jim.name', '');
const session = load(sessionStorage, 'jim.session', null);
if (session) {
    login(session, '');
    enter();
} else $('name').focus();
