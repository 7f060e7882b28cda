// SPDX-License-Identifier: MIT
// jim.js - the chat page: one WebSocket, JSON both ways.
//
// Three rules hold everywhere:
// 1. What people wrote is text: it enters the page through textContent only, never as HTML.
// 2. The server's `seq` (1, 2, 3, ... in a conversation) is the order of messages; a hole in it
//    means that something was missed and has to be asked for.
// 3. A message keeps its `id` until it is acknowledged: the server takes a second copy for a retry.

const PAGE = 50; // messages asked for at a time
const WINDOW = 500; // messages of one conversation held, and drawn, at most
const ROWS = 150; // people listed: searching finds the others
const RECENT = 30; // conversations looked up at login
const MAX_BYTES = 65536; // of one message, as in the server

// --- helpers ---

const $ = (id) => document.getElementById(id);
const log = $('log'), field = $('text');

function el(tag, cls, ...children) {
  const e = document.createElement(tag);
  e.className = cls;
  e.append(...children);
  return e;
}

const put = (e, s) => { if (e.textContent !== s) e.textContent = s; };

// Storage may be full or forbidden: then the page forgets, and works.
function load(store, key, otherwise) {
  try { return JSON.parse(store.getItem(key)) ?? otherwise; } catch { return otherwise; }
}
function save(store, key, value) {
  try { store.setItem(key, JSON.stringify(value)); } catch { /* see above */ }
}

// --- language: the English text is the key, so the code reads like the page ---

const ZH = {
  'Pick a name and start talking.': '取个名字，开始聊天。', 'Your name': '你的名字',
  'Password or token': '密码或令牌', 'Log in': '登录', 'Log out': '退出登录', 'Conversations': '会话',
  'Search, or enter a new name': '搜索，或输入新的名称', 'Groups': '群组', 'People': '联系人',
  'Join the group “{id}”': '加入群组“{id}”', 'Write to “{id}”': '发消息给“{id}”', 'Close': '关闭',
  'Choose a conversation.': '请选择一个会话。', 'Back to the list': '返回列表', 'Members': '群成员',
  'Messages': '消息', 'Write a message': '输入消息', 'Send': '发送',
  'online': '在线', 'offline': '离线', 'connecting…': '正在连接…',
  'no connection, trying again…': '连接已断开，正在重试…', '{n} online': '{n} 人在线',
  'Nobody else is online.': '暂时没有其他人在线。',
  'New messages': '新消息', '{n} new': '{n} 条新消息', 'Latest messages': '最新消息',
  'No messages yet. Say hello!': '还没有消息，打个招呼吧！', 'sending': '发送中', 'sent': '已发送',
  '{name} is offline. Kept until they return.': '{name} 不在线，消息已保留，上线后送达。',
  'Not sent': '发送失败', 'Not allowed': '没有权限', 'Too long: a message holds 64 KiB.': '消息过长：上限为 64 KiB。',
  'Try again': '重试', 'Discard': '删除', 'Cannot reach the server.': '无法连接服务器。',
  'Login refused. Check name and password.': '登录被拒绝，请检查名字和密码。',
  'Logins cannot be checked right now. Try again later.': '暂时无法验证登录，请稍后再试。',
  'You logged in somewhere else.': '你已在别处登录。',
  'image': '图片', 'voice': '语音', 'video': '视频', 'music': '音乐', 'news': '图文',
};
const lang = navigator.language || 'en';
const chinese = /^zh/i.test(lang);

function t(s, values) {
  return ((chinese && ZH[s]) || s).replace(/\{(\w+)\}/g, (_, k) => values[k]);
}

function translatePage() {
  document.documentElement.lang = chinese ? 'zh-CN' : 'en';
  for (const e of document.querySelectorAll('[data-t]')) {
    if (!e.children.length) put(e, t(e.textContent));
    for (const a of ['title', 'placeholder', 'aria-label'])
      if (e.hasAttribute(a)) e.setAttribute(a, t(e.getAttribute(a)));
  }
}

const format = (options) => new Intl.DateTimeFormat(lang, options).format;
const clock = format({ hour: '2-digit', minute: '2-digit' });
const shortDay = format({ day: 'numeric', month: 'short' });
const longDay = format({ dateStyle: 'full' });
const relative = new Intl.RelativeTimeFormat(lang, { numeric: 'auto' });
const dayOf = (ms) => new Date(ms).setHours(0, 0, 0, 0);

const isToday = (ms) => dayOf(ms) === dayOf(Date.now());
const dayName = (ms) => (isToday(ms) ? relative.format(0, 'day') : longDay(ms));

// --- state ---

let me = null; // { id, nick, password } from the login form until logout
let current = null; // the open conversation
let atEnd = true; // the log is scrolled to its end, and is to stay there
let marks = {}; // conversation key -> { read, time }, as in localStorage
const users = new Map(); // userId -> { nick, status }
const groups = new Map(); // groupId -> { name, online, ids }, as of the last refresh
const convs = new Map(); // key -> conversation: 'g:100' is a group, 'p:bob' a person

const nameOf = (id) => users.get(id)?.nick || id;
const statusOf = (id) => (users.get(id)?.status === 'online' ? 'online' : 'offline');
const isOnline = (c) => statusOf(c.id) === 'online';
const titleOf = (c) => (c.group ? groups.get(c.id)?.name || c.id : nameOf(c.id));
const aboutOf = (c) => (c.group ? t('{n} online', { n: groups.get(c.id)?.online ?? 0 }) : t(statusOf(c.id)));
const unread = (c) => (c.read < 0 ? 0 : Math.max(0, c.newest - c.read));
const tail = (c) => c.msgs.at(-1)?.seq ?? 0;
const attached = (c) => tail(c) >= c.newest;
// Does somebody look at this page?
const attended = () => !document.hidden && document.hasFocus();

// `msgs` is a window on the history: no holes, ascending. It ends before `newest` only while the user
// reads further up.
function conv(key) {
  if (!convs.has(key)) convs.set(key, {
    key, group: key[0] === 'g', id: key.slice(2), msgs: [], last: null, draft: '', busy: false,
    newest: 0, // highest seq known to exist
    read: marks[key]?.read ?? -1, // highest seq the user has seen; -1: never been here
    fresh: 0, // "new messages" is drawn after this seq; 0: nowhere
    place: false, // to be scrolled to that line
    top: false, // the window begins where the history does
  });
  return convs.get(key);
}

// --- connection ---

let socket = null;
let online = false; // logged in on this socket
let entered = false; // the chat is shown, not the login form
let attempt = 0; // failed connections in a row
let retryTimer = 0;
let heard = 0, probed = 0; // ms: last frame in, heartbeat unanswered since
let waiting = {}; // answer command -> callbacks, in the order of the requests

function connect() {
  clearTimeout(retryTimer);
  const url = new URL('./', location);
  url.protocol = url.protocol.replace('http', 'ws');
  const s = socket = new WebSocket(url);
  heard = Date.now();
  probed = 0;
  // Login by command 5, not by ?username=&password=: addresses end up in the logs of every proxy.
  const secret = /^eyJ[\w-]+\.[\w-]+\.[\w-]+$/.test(me.password) ? 'token' : 'password';
  s.onopen = () => send({ cmd: 5, userId: me.id, [secret]: me.password });
  s.onmessage = (e) => { if (s === socket) receive(e.data); };
  s.onclose = (e) => { if (s === socket) lost(e.code); };
  draw();
}

const send = (request) => socket.send(JSON.stringify(request));

// Answers carry no number but keep the order: a queue per command pairs them with their requests. A
// lost connection answers null.
function call(answer, request) {
  if (!online) return Promise.resolve(null);
  return new Promise((done) => {
    (waiting[answer] ??= []).push(done);
    send(request);
  });
}

function lost(code) {
  const queues = Object.values(waiting);
  socket = null;
  online = false;
  waiting = {};
  for (const done of queues.flat()) done(null);
  // 1009: cut off for the size of this very message; repeating it would end the same way.
  if (code === 1009 && flying) fail(flying, 10025);
  flying = null;
  if (!me) return;
  if (!entered) return leave('Cannot reach the server.');
  // Doubled up to 30 s, and scattered: not everybody knocks at once after a restart.
  retryTimer = setTimeout(connect, Math.min(30000, 500 * 2 ** attempt++) * (0.5 + Math.random()));
  draw();
}

// A dead socket may take minutes to notice. We do not wait; its events are not ours any more.
function drop() {
  const s = socket;
  lost();
  s?.close();
}

// Every 5 s: no socket closes by itself when a laptop slept or a network went.
function tick() {
  const since = (ms) => Date.now() - ms;
  if (!socket) return;
  if (online ? (probed && since(probed) > 10000) || (flying && since(flying.sent) > 20000)
    : since(heard) > 45000) drop(); // not sooner: a server may hold a refusal back for 30 s
  else if (online && since(heard) > 25000) probe();
}

function probe() {
  if (!online || probed) return;
  probed = Date.now();
  send({ cmd: 13 });
}

// The network is back, or the user is: do not sit out the delay.
function wake() {
  if (!entered) return;
  if (socket) return probe();
  attempt = 0;
  connect();
}

// --- commands in ---

const commands = {
  6: (a) => (a.code === 10007 ? welcome(a.user) : refused(a.msg)),
  9: (a) => presence(a.user),
  10: (a) => presence(a.data.user), // online: has left the group for good
  11: (a) => arrived(a.data),
  12: acknowledged,
  14: (a) => a.code === 10026 && leave('You logged in somewhere else.'),
};

function receive(text) {
  const a = JSON.parse(text);
  heard = Date.now();
  probed = 0;
  if (commands[a.command]) commands[a.command](a);
  else waiting[a.command]?.shift()?.(a);
}

// Not our fault, and we were in before: the connection ends now, and lost() tries again.
function refused(msg) {
  if (!/^try later/.test(msg)) leave('Login refused. Check name and password.');
  else if (!entered) leave('Logins cannot be checked right now. Try again later.');
}

async function welcome(user) {
  online = true;
  attempt = 0;
  me.id = user?.userId || me.id;
  me.nick = user?.nick || me.id;
  enter();
  flush();
  refresh();
  // What was kept for us: the server moves its mark as it answers.
  for (let more = true; more;) {
    const a = await call(20, { cmd: 19, type: 0, userId: me.id });
    if (!a?.data) break;
    for (const map of [a.data.friends, a.data.groups]) Object.values(map).flat().forEach(arrived);
    more = a.data.more;
  }
  // And what died with the connection on its way: the newest message of each conversation tells. It
  // is also the line in the list.
  const known = [...convs.values()].filter((c) => c.newest || c.read >= 0 || c.group).sort(byTime);
  if (current) fetchPage(current, 'latest');
  for (const c of known.slice(0, RECENT)) fetchPage(c, 'latest', 1);
}

function presence(user) {
  learn(user);
  refreshTimer ||= setTimeout(refresh, Math.max(1000, refreshed + 5000 - Date.now()));
  draw();
}

const learn = (u) => users.set(u.userId, { nick: u.nick, status: u.status });

// Who is there? People come and go in crowds: presence() asks every 5 s at most.
let refreshTimer = 0, refreshed = 0;
async function refresh() {
  clearTimeout(refreshTimer);
  refreshTimer = 0;
  refreshed = Date.now();
  const a = await call(18, { cmd: 17, type: 2, userId: me?.id });
  if (!a?.data) return;
  for (const u of users.values()) u.status = '';
  groups.clear();
  for (const g of [...a.data.friends, ...a.data.groups]) g.users.forEach(learn);
  for (const g of a.data.groups) {
    conv('g:' + g.groupId);
    groups.set(g.groupId, { name: g.name, online: g.online, ids: g.users.map((u) => u.userId) });
  }
  // A wide screen has room for a conversation at once.
  if (!current && !narrow.matches && groups.size) go('g:' + groups.keys().next().value);
  draw();
  // People we talk with but share no group with.
  const alone = [...convs.values()].filter((c) => !c.group && (c.newest || c === current) && !users.get(c.id)?.status);
  for (const c of alone.slice(0, RECENT))
    call(18, { cmd: 17, userId: c.id }).then((b) => { if (b?.data) { learn(b.data); draw(); } });
}

// --- conversations ---

function arrived(m) {
  if (m.chatType === 0) return toast(`${nameOf(m.from)}: ${m.content}`); // to everybody, kept nowhere
  place(conv(m.chatType === 1 ? 'g:' + m.groupId : 'p:' + (m.from === me.id ? m.to : m.from)), m);
}

// Put a new message where it belongs, or ask for what is missing.
function place(c, m) {
  const whole = attached(c);
  m.seq ??= c.newest + 1; // a server that stores nothing need not number
  if (c.read < 0) c.read = m.seq - 1;
  if (c === current && !attended() && !unread(c)) c.fresh = c.read;
  note(c, m);
  if (m.from === me.id) c.read = Math.max(c.read, m.seq);
  if (!c.msgs.length || (whole && m.seq === tail(c) + 1)) {
    // A full window stays while its upper part is being read.
    if (c !== current || atEnd || c.msgs.length < WINDOW) merge(c, [m]);
  } else if (m.seq <= tail(c)) {
    if (m.seq > c.msgs[0].seq) merge(c, [m]);
  } else if (c === current) {
    if (whole && atEnd) fetchPage(c, 'latest'); // else scrolling down gets there
  } else {
    c.msgs = [m];
    c.top = false;
  }
  draw();
}

function note(c, m) {
  if (m.seq < c.newest) return;
  c.newest = m.seq;
  c.last = m;
}

const isIn = (list, m) => list.some((x) => x.id === m.id && x.from === me.id);

// Unite a page with the window it touches; a full window gives way at its other end.
function merge(c, page, upwards) {
  const all = new Map([...page, ...c.msgs].map((m) => [m.seq, m]));
  c.msgs = [...all.values()].sort((a, b) => a.seq - b.seq);
  const over = c.msgs.length - WINDOW;
  if (over > 0) {
    c.msgs.splice(upwards ? WINDOW : 0, over);
    if (!upwards) c.top = false;
  }
  // Sent, but the acknowledgement was lost: found here, it is done.
  outbox = outbox.filter((m) => m === flying || !isIn(page, m));
}

// Fetch a page: the 'latest', or what is 'older' or 'newer' than the window.
async function fetchPage(c, which, count = PAGE) {
  if (c.busy || !online) return;
  c.busy = true;
  const a = await call(20, {
    cmd: 19, type: 1, userId: me.id, count, [c.group ? 'groupId' : 'fromUserId']: c.id,
    [which === 'newer' ? 'afterSeq' : 'beforeSeq']: { latest: Number.MAX_SAFE_INTEGER, older: c.msgs[0]?.seq, newer: tail(c) }[which],
  });
  c.busy = false;
  if (a?.code !== 10018) {
    if (a?.code === 10024 && c === current) toast(t('Not allowed'));
    c.top ||= a && a.code !== 10023; // refused, but not for asking too often: ask no more
    return;
  }
  const page = a.data[c.group ? 'groups' : 'friends']?.[c.id] ?? [];
  const end = page.at(-1)?.seq ?? 0;
  if (which === 'latest') {
    const hole = c.msgs.length && page[0]?.seq > tail(c) + 1;
    c.newest = end; // it may also have gone down: a server that lost its store counts from 1 again
    c.last = page.at(-1) ?? null;
    c.read = c.read < 0 ? end : Math.min(c.read, end); // at the first visit the past is no news
    if (end < tail(c) || (hole && (c !== current || atEnd))) {
      c.msgs = [];
      c.top = false;
    } else if (hole) return draw(); // somebody reads up there: the window stays
  } else if (which === 'newer' && !end) c.newest = tail(c);
  if (end > c.newest) note(c, page.at(-1));
  merge(c, page, which === 'older');
  c.top ||= c.msgs[0]?.seq === 1 || (which !== 'newer' && !a.data.more && page.length < count);
  draw();
}

// What was read is kept in this browser, for the 200 newest conversations.
function saveMarks() {
  if (!me) return;
  for (const c of convs.values()) if (c.newest) marks[c.key] = { read: c.read, time: timeOf(c) };
  marks = Object.fromEntries(Object.entries(marks).sort((a, b) => b[1].time - a[1].time).slice(0, 200));
  save(localStorage, 'jim.read:' + me.id, marks);
}

// --- outbox ---

// Messages not acknowledged, oldest first. One flies at a time: that keeps their order, and a refusal,
// which names no message, is clear. sessionStorage keeps them over a reload.
let outbox = [];
let flying = null;

function flush() {
  if (me) save(sessionStorage, 'jim.out:' + me.id, outbox);
  draw();
  if (!online || flying) return;
  flying = outbox.find((m) => m.state === 'sending');
  if (!flying) return;
  flying.sent = Date.now();
  const { id, key, content, createTime } = flying;
  const { group, id: to } = conv(key);
  send({ cmd: 11, chatType: group ? 1 : 2, [group ? 'groupId' : 'to']: to, msgType: 0, content, createTime, id });
}

function acknowledged(a) {
  const m = flying;
  if (!m || (a.data?.id && a.data.id !== m.id) || a.code === 10028) return; // 10028: stopping; later
  flying = null;
  if (a.code === 10023) return setTimeout(flush, 1000); // too many at once
  if (a.code === 10000 || a.code === 10001) {
    outbox = outbox.filter((x) => x !== m);
    const { id, content, createTime } = m;
    place(conv(m.key), { id, content, createTime, from: me.id, ...a.data, kept: a.code === 10001 });
  } else fail(m, a.code);
  flush();
}

function fail(m, code) {
  m.state = 'failed';
  m.why = { 10024: 'Not allowed', 10025: 'Too long: a message holds 64 KiB.' }[code] ?? 'Not sent';
}

// --- drawing ---

// Changes come in bursts and are drawn once a frame.
let drawing = false;
function draw() {
  const n = [...convs.values()].reduce((sum, c) => sum + unread(c), 0);
  document.title = n ? `(${n}) jim` : 'jim'; // now: hidden pages get no frames
  if (drawing || !entered) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!entered) return;
    put($('me-name'), me.nick);
    put($('link'), t(online ? 'online' : socket ? 'connecting…' : 'no connection, trying again…'));
    avatar($('me-avatar'), me.id, me.nick, online ? 'online' : 'offline');
    drawLists();
    drawConv();
  });
}

// Make parent's children match items, by key. Nodes are reused, and moved only when out of order.
function reconcile(parent, items, make, update) {
  const old = parent.drawn ?? new Map();
  const now = new Map(items.map((item) => [item.key, old.get(item.key)]));
  const focus = document.activeElement;
  for (const [key, node] of old) if (!now.has(key)) node.remove();
  let at = parent.firstChild;
  for (const item of items) {
    const node = now.get(item.key) ?? make(item);
    now.set(item.key, node);
    update(node, item);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  parent.drawn = now;
  if (focus !== document.activeElement && parent.contains(focus)) focus.focus();
}

// A letter on a colour made from the id: no picture is fetched from anywhere.
function avatar(e, id, name, status) {
  let h = 7;
  for (const ch of id) h = (h * 31 + ch.codePointAt(0)) % 9973;
  e.parentNode.style.setProperty('--hue', (h * 137) % 360);
  put(e, [...name.trim()][0]?.toUpperCase() ?? '?');
  e.dataset.status = status || '';
  e.role = 'img';
  e.ariaLabel = t(status || '');
  e.ariaHidden = !status;
}

function convAvatar(e, c) {
  e.classList.toggle('group', c.group);
  avatar(e, c.id, titleOf(c), c.group ? '' : statusOf(c.id));
}

const timeOf = (c) => c.last?.createTime ?? marks[c.key]?.time ?? 0;
const byTime = (a, b) => timeOf(b) - timeOf(a);
const collate = new Intl.Collator(lang).compare;
const byName = (a, b) => isOnline(b) - isOnline(a) || collate(titleOf(a), titleOf(b));

function drawLists() {
  const typed = $('filter').value.trim(), wanted = typed.toLowerCase();
  for (const id of users.keys()) if (id !== me.id) conv('p:' + id);
  const all = [...convs.values()]
    .filter((c) => (c.id + '\n' + titleOf(c)).toLowerCase().includes(wanted))
    .sort((a, b) => byTime(a, b) || byName(a, b));
  const people = all.filter((c) => !c.group && (wanted || timeOf(c) || c === current || (isOnline(c) && c.id !== me.id)));
  reconcile($('groups'), all.filter((c) => c.group && (groups.has(c.id) || c.newest)), makeRow, updateRow);
  reconcile($('people'), people.slice(0, ROWS), makeRow, updateRow);
  put($('people-note'), people.length || wanted ? '' : t('Nobody else is online.'));
  // What is not there can be made.
  for (const [id, key, text] of [['join', 'g:', 'Join the group “{id}”'], ['write', 'p:', 'Write to “{id}”']]) {
    $(id).hidden = !typed || all.some((c) => c.key === key + typed && (!c.group || groups.has(c.id)));
    put($(id), '+ ' + t(text, { id: typed }));
  }
  if (!$('members').open) return;
  const members = (groups.get(current?.id)?.ids ?? []).map((id) => conv('p:' + id)).sort(byName);
  put($('members-title'), t('Members') + ' · ' + aboutOf(current));
  reconcile($('members-list'), members, makeRow, updateRow);
}

function makeRow(c) {
  const [name, when, preview, badge] = ['name', 'when', 'preview', 'badge'].map((cls) => el('span', cls));
  const row = el('button', 'row', el('span', 'avatar'), el('span', 'body',
    el('span', 'line', name, when), el('span', 'line', preview, badge)));
  row.parts = [name, when, preview, badge];
  row.dataset.key = c.key;
  row.onclick = () => go(c.key);
  return el('li', '', row);
}

function updateRow(li, c) {
  const row = li.firstChild, m = c.last, n = unread(c);
  const [name, when, preview, badge] = row.parts;
  convAvatar(row.firstChild, c);
  row.ariaCurrent = c === current;
  put(name, titleOf(c));
  put(when, !m ? '' : (isToday(m.createTime) ? clock : shortDay)(m.createTime));
  put(preview, !m ? aboutOf(c) : (c.group && m.from !== me.id ? nameOf(m.from) + ': ' : '') + plain(m).slice(0, 200));
  put(badge, n > 99 ? '99+' : String(n));
  badge.hidden = !n;
}

// Pictures and the like: a word, and usually an address.
function plain(m) {
  const kind = ['', 'image', 'voice', 'video', 'music', 'news'][m.msgType | 0];
  return (kind ? `[${t(kind)}] ` : '') + (m.content ?? '');
}

function drawConv() {
  const c = current;
  if (!c) return;
  convAvatar($('conv-avatar'), c);
  put($('conv-name'), titleOf(c));
  put($('conv-info'), aboutOf(c) + (titleOf(c) === c.id ? '' : ' · ' + c.id));
  $('show-members').hidden = !c.group;
  log.classList.toggle('private', !c.group);

  // Keep the place: the end, or else the first message in view.
  const box = (e) => e.getBoundingClientRect();
  const edge = box(log).top;
  const anchor = !atEnd && [...log.querySelectorAll('.msg')].find((e) => box(e).bottom > edge);
  const was = anchor && box(anchor).top;
  // Read aloud what is new, not what comes in above, nor a whole page at once.
  log.ariaLive = atEnd && log.children.length ? 'polite' : 'off';
  reconcile(log, logItems(c), makeItem, updateItem);
  const fresh = c.place && !c.busy && log.querySelector('.fresh');
  if (fresh) log.scrollTop += box(fresh).top - edge - log.clientHeight / 4;
  else if (atEnd) log.scrollTop = log.scrollHeight;
  else if (anchor?.isConnected) log.scrollTop += box(anchor).top - was;
  if (c.msgs.length && !c.busy) c.place = false;
  scrolled();
}

// What stands in the log, from top to bottom.
function logItems(c) {
  const items = [], out = attached(c) ? outbox.filter((m) => m.key === c.key && !isIn(c.msgs, m)) : [];
  let before = null;
  for (const m of [...c.msgs, ...out]) {
    const mine = !m.seq || m.from === me.id, key = m.seq ?? m.id; // not the id: other clients choose theirs
    const newDay = !before || dayOf(before.m.createTime) !== dayOf(m.createTime);
    const fresh = c.fresh && m.seq > c.fresh && !(before?.m.seq > c.fresh);
    if (newDay) items.push({ key: 'day' + key, cls: 'day', text: dayName(m.createTime) });
    if (fresh) items.push({ key: 'fresh', cls: 'fresh', text: t('New messages') });
    // What one person says in a row stands together under one name.
    const first = newDay || fresh || before.mine !== mine || (!mine && before.m.from !== m.from)
      || m.createTime - before.m.createTime > 300000; 
    before = { key, m, mine, first, c };
    items.push(before);
  }
  if (before) before.last = true;
  else if (c.top) items.push({ key: 'none', cls: 'day', text: t('No messages yet. Say hello!') });
  return items;
}

function makeItem({ m, cls }) {
  if (!m) return el('div', cls);
  const text = el('span', 'text', ...linked(plain(m)));
  text.dir = 'auto';
  return el('div', '', el('span', 'avatar'), el('div', 'column', el('div', 'who'),
    el('div', 'bubble', text, el('span', 'meta')), el('div', 'note')));
}

function updateItem(e, { m, text, mine, first, last, c }) {
  if (!m) return put(e, text);
  const state = m.seq ? 'sent' : m.state, name = nameOf(m.from ?? me.id);
  const kept = m.kept && last && !isOnline(c);
  const look = [state, first, kept, m.seq, name].join();
  if (e.look === look) return; // up to 500 are looked at for every change: most end here
  e.look = look;
  e.className = `msg ${state} ${first ? 'first' : ''} ${mine ? 'mine' : ''}`;
  if (m.seq) e.dataset.seq = m.seq;
  const [who, bubble, note] = e.lastChild.children, meta = bubble.lastChild;
  avatar(e.firstChild, m.from ?? me.id, name);
  put(who, name);
  who.title = m.from ?? '';
  put(meta, clock(m.createTime) + (!mine ? '' : state === 'sent' ? ' ✓' : state === 'sending' ? ' …' : ''));
  meta.title = mine ? t(m.why ?? state) : '';
  note.hidden = state !== 'failed' && !kept;
  if (state === 'failed') note.replaceChildren(t(m.why), button('Try again', () => { m.state = 'sending'; }),
    button('Discard', () => { outbox = outbox.filter((x) => x !== m); }));
  else put(note, kept ? t('{name} is offline. Kept until they return.', { name: titleOf(c) }) : '');
}

function button(label, act) {
  const b = el('button', '', t(label));
  b.onclick = () => { act(); flush(); };
  return b;
}

// Web addresses become links. Still no HTML: text, and <a> elements made here.
function linked(s) {
  return s.split(/(https?:\/\/[^\s<>"]*[^\s<>".,;:!?)\]}'，。；：！？）])/).map((part, i) => {
    if (i % 2 === 0) return part;
    return Object.assign(el('a', '', part), { href: part, target: '_blank', rel: 'noopener noreferrer' });
  });
}

let toastTimer = 0;
function toast(s) {
  put($('toast'), s);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => put($('toast'), ''), 10000);
}

// --- what the user does ---

function login(name, password) {
  me = { id: name, nick: name, password };
  save(localStorage, 'jim.name', name);
  marks = load(localStorage, 'jim.read:' + name, {});
  Object.keys(marks).forEach(conv);
  outbox = load(sessionStorage, 'jim.out:' + name, []);
  put($('login-error'), '');
  connect();
}

// Show the chat. A reload comes back here, unless there is a password: that is stored nowhere.
function enter() {
  if (entered) return;
  entered = true;
  if (!me.password) save(sessionStorage, 'jim.session', me.id);
  $('login').hidden = true;
  $('app').hidden = false;
  route();
}

// Back to the login form. A reload forgets the rest.
function leave(why = '') {
  const reload = entered;
  saveMarks();
  me = null;
  entered = false;
  drop();
  put($('login-error'), t(why));
  if (!reload) return;
  save(sessionStorage, 'jim.session', null);
  save(sessionStorage, 'jim.why', why);
  location.replace('./');
}

// The address names the open conversation: reload, bookmarks and a telephone's back button work.
const narrow = matchMedia('(max-width: 720px)');
let stacked = false; // the list is one step back in the browser's history

function go(key) {
  const hash = '#' + encodeURIComponent(key);
  $('members').close();
  stacked ||= narrow.matches && !current;
  if (stacked && !current) location.hash = hash;
  else location.replace(hash);
}

const back = () => (stacked ? history.back() : location.replace('#'));

function route() {
  if (!entered) return;
  let key = '';
  try { key = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
  const was = current;
  current = /^[gp]:./.test(key) ? conv(key) : null;
  if (was && was !== current) {
    was.draft = field.value;
    was.fresh = 0;
    // A closed conversation keeps its newest page only.
    if (was.msgs.length > PAGE) was.top = false;
    was.msgs = attached(was) ? was.msgs.slice(-PAGE) : [];
  }
  $('app').dataset.pane = current ? 'talk' : 'list';
  $('conv').hidden = !current;
  $('empty').hidden = !!current;
  log.drawn = null;
  log.replaceChildren();
  atEnd = true;
  stacked &&= !!current;
  if (current) {
    const n = unread(current);
    current.fresh = n && current.read;
    current.place = n > 0;
    field.value = current.draft;
    if (matchMedia('(pointer: fine)').matches) field.focus();
    if (!current.top) fetchPage(current, 'latest', Math.min(n + PAGE, WINDOW));
  } else if (was) document.querySelector(`[data-key="${CSS.escape(was.key)}"]`)?.focus();
  draw();
  grow();
}

// Open what the search field names: a group, after joining it, or a person.
async function start(kind) {
  const id = $('filter').value.trim();
  if (kind === 'g:') {
    const a = await call(8, { cmd: 7, groupId: id });
    if (a?.code !== 10011) return toast(t(a ? 'Not allowed' : 'Cannot reach the server.'));
    conv('g:' + id).top = false; // it may have been closed to us before
    refresh();
  }
  $('filter').value = '';
  go(kind + id);
}

function submit(e) {
  const content = field.value.trim();
  e.preventDefault();
  if (!current || !content) return;
  if (new TextEncoder().encode(content).length > MAX_BYTES) return toast(t('Too long: a message holds 64 KiB.'));
  field.value = '';
  field.focus();
  grow();
  const random = crypto.getRandomValues(new Uint8Array(16));
  const id = Array.from(random, (b) => (b + 256).toString(16).slice(1)).join('');
  outbox.push({ id, key: current.key, content, createTime: Date.now(), state: 'sending' });
  current.fresh = 0;
  jump();
  flush();
}

// As high as its text; the style sheet sets the limit.
function grow() {
  field.style.height = 'auto';
  field.style.height = field.scrollHeight + 2 + 'px';
}

// After every scroll and drawing: see where we are, and fetch what is about to come into view.
function scrolled() {
  const c = current;
  if (!c) return;
  const below = log.scrollHeight - log.scrollTop - log.clientHeight;
  atEnd = below < 40 && (atEnd || attached(c)); // stays so while what is missing comes in
  if (c.msgs.length && !c.top && log.scrollTop < 400) fetchPage(c, 'older');
  else if (!attached(c) && below < 400) fetchPage(c, atEnd ? 'latest' : 'newer');
  if (atEnd && attached(c) && !c.place && unread(c) && attended()) {
    c.read = c.newest;
      draw();
  }
  const n = unread(c);
  $('jump').hidden = atEnd || (attached(c) && below < 200 && !n);
  put($('jump'), '↓ ' + t(n ? '{n} new' : 'Latest messages', { n }));
}

function jump() {
  atEnd = true;
  if (attached(current)) draw();
  else fetchPage(current, 'latest');
}

function keys(e) {
  const rows = [...document.querySelectorAll('#side .row:not([hidden])')];
  const i = rows.indexOf(e.target), step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  if (step && (i >= 0 || e.target === $('filter'))) {
    e.preventDefault();
    (rows[i + step] ?? $('filter')).focus();
  } else if (e.key === 'Escape' && current && !$('members').open && !e.isComposing) {
    if (narrow.matches) back();
    else $('filter').focus();
  }
}

translatePage();
$('login-form').onsubmit = (e) => {
  const name = $('name').value.trim();
  e.preventDefault();
  if (name && !me) login(name, $('password').value);
};
$('logout').onclick = () => leave();
$('filter').oninput = draw;
$('join').onclick = () => start('g:');
$('write').onclick = () => start('p:');
$('back').onclick = back;
$('jump').onclick = jump;
$('show-members').onclick = () => { $('members').showModal(); refresh(); draw(); };
$('composer').onsubmit = submit;
field.oninput = grow;
field.onkeydown = (e) => {
  // Enter that chooses a word in an input method is not for us; Safari tells by 229 only.
  if (e.key === 'Enter' && !e.shiftKey && !e.isComposing && e.keyCode !== 229) submit(e);
};
log.onscroll = scrolled;
// A keyboard that opens must not push the last message out of view.
new ResizeObserver(() => { if (atEnd) log.scrollTop = log.scrollHeight; }).observe(log);
document.onkeydown = keys;
onhashchange = route;
ononline = wake;
onfocus = draw;
onpagehide = saveMarks;
document.onvisibilitychange = () => {
  if (document.hidden) return saveMarks();
  wake();
  refresh();
};
setInterval(tick, 5000);
setInterval(() => { if (entered && !document.hidden) refresh(); }, 30000);

$('name').value = load(localStorage, 'jim.name', '');
if (load(sessionStorage, 'jim.session')) {
  login(load(sessionStorage, 'jim.session'), '');
  enter();
} else {
  put($('login-error'), t(load(sessionStorage, 'jim.why', '')));
  save(sessionStorage, 'jim.why', '');
  $('name').focus();
}
