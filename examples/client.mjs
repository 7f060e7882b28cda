#!/usr/bin/env node
// client.mjs - a client of jim for Node.js without packages, over TCP-IM or WebSocket.
//
//     client.mjs [-n COUNT] [-b SECONDS] URL USER [PASSWORD]    URL: tcp://host:8888, ws://host:8888
//
// With TLS tcps:// or wss://; trusted is whom Node trusts, and the file NODE_EXTRA_CA_CERTS names.
// The same as client.py, line by line where that makes sense; see there for what it does. WebSocket
// is Node's own where it has one (22, or 20 with --experimental-websocket), else the one below.
import net from 'node:net';
import tls from 'node:tls';
import http from 'node:http';
import https from 'node:https';
import crypto from 'node:crypto';
import readline from 'node:readline';
import { parseArgs } from 'node:util';

const FOR_NOW = [10023, 10027, 10028]; // refusals that pass

const hostOf = (url) => url.hostname.replace(/^\[|\]$/g, ''); // of IPv6 without brackets

// A wire has send(cmd, body) and abort(), and calls onopen(), onjson(object), onclose(why).
class TcpIm { // 01 mask [seq:4 if mask & 0x20] cmd len:4 body, big-endian
  constructor(url) {
    this.input = Buffer.alloc(0);
    const { connect } = url.protocol === 'tcps:' ? tls : net;
    this.socket = connect({ port: url.port || 8888, host: hostOf(url) }, () => this.onopen());
    this.socket.on('data', (bytes) => this.received(bytes));
    this.socket.on('error', (e) => { this.why = e.message; });
    this.socket.on('close', () => this.onclose(this.why ?? 'closed'));
  }

  received(bytes) {
    this.input = Buffer.concat([this.input, bytes]);
    while (this.input.length >= 7) {
      const at = this.input[1] & 0x20 ? 7 : 3; // behind a sequence number; we ask for none
      if (this.input.length < at + 4) return;
      const end = at + 4 + this.input.readUInt32BE(at);
      if (this.input.length < end) return;
      const body = this.input.subarray(at + 4, end);
      this.input = this.input.subarray(end);
      this.onjson(JSON.parse(body));
    }
  }

  send(cmd, body) {
    const text = Buffer.from(JSON.stringify(body));
    const head = Buffer.from([1, 0x51, cmd, 0, 0, 0, 0]);
    head.writeUInt32BE(text.length, 3);
    this.socket.write(Buffer.concat([head, text]));
  }

  abort() { this.socket.destroy(); }
}

class NativeWebSocket {
  constructor(url) {
    this.ws = new WebSocket(url);
    this.ws.onopen = () => this.onopen();
    this.ws.onmessage = (e) => this.onjson(JSON.parse(e.data));
    this.ws.onerror = () => this.ended('connection failed');
    this.ws.onclose = (e) => this.ended(`closed with ${e.code}`);
  }

  ended(why) {
    if (!this.over) this.onclose(why);
    this.over = true;
  }

  send(cmd, body) { this.ws.send(JSON.stringify({ ...body, cmd })); }

  abort() { this.ws.close(); this.ended('given up'); }
}

class OwnWebSocket { // RFC 6455 over http's upgrade
  constructor(url) {
    const key = crypto.randomBytes(16).toString('base64');
    this.input = Buffer.alloc(0);
    this.parts = [];
    const { get } = url.protocol === 'wss:' ? https : http; // their ports are the defaults
    this.request = get({ host: hostOf(url), port: url.port, path: url.pathname + url.search,
      agent: false, headers: { Connection: 'Upgrade', Upgrade: 'websocket',
        'Sec-WebSocket-Version': 13, 'Sec-WebSocket-Key': key } });
    this.request.on('upgrade', (response, socket, early) => {
      const accept = crypto.createHash('sha1')
        .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      this.socket = socket;
      socket.on('data', (bytes) => this.received(bytes));
      socket.on('error', () => {});
      socket.on('close', () => this.onclose('closed'));
      if (response.headers['sec-websocket-accept'] !== accept) return socket.destroy();
      this.onopen();
      this.received(early);
    });
    this.request.on('response', (r) => { r.destroy(); this.onclose(`HTTP ${r.statusCode}`); });
    this.request.on('error', (e) => this.onclose(e.message));
  }

  received(bytes) {
    this.input = Buffer.concat([this.input, bytes]);
    for (;;) {
      if (this.input.length < 2) return;
      const [first, length] = this.input;
      const at = length < 126 ? 2 : length === 126 ? 4 : 10;
      if (this.input.length < at) return;
      const n = length < 126 ? length
        : length === 126 ? this.input.readUInt16BE(2) : Number(this.input.readBigUInt64BE(2));
      if (this.input.length < at + n) return;
      const data = this.input.subarray(at, at + n);
      this.input = this.input.subarray(at + n);
      if ((first & 15) === 8) return this.socket.destroy();
      if ((first & 15) === 9) this.frame(10, data); // a PING gets its PONG
      if ((first & 15) > 2) continue;
      this.parts.push(data);
      if (first & 128) this.onjson(JSON.parse(Buffer.concat(this.parts.splice(0))));
    }
  }

  frame(opcode, data) {
    const n = data.length, key = crypto.randomBytes(4);
    const head = Buffer.alloc(n < 126 ? 2 : n < 65536 ? 4 : 10);
    head[0] = 128 | opcode;
    head[1] = 128 | (n < 126 ? n : n < 65536 ? 126 : 127);
    if (head.length === 4) head.writeUInt16BE(n, 2);
    if (head.length === 10) head.writeBigUInt64BE(BigInt(n), 2);
    this.socket.write(Buffer.concat([head, key, data.map((b, i) => b ^ key[i & 3])]));
  }

  send(cmd, body) { this.frame(1, Buffer.from(JSON.stringify({ ...body, cmd }))); }

  abort() { (this.socket ?? this.request).destroy(); }
}

const Ws = typeof WebSocket === 'undefined' ? OwnWebSocket : NativeWebSocket;
const WIRES = { 'tcp:': TcpIm, 'tcps:': TcpIm, 'ws:': Ws, 'wss:': Ws };

class Client {
  constructor(url, user, password, beat, onchat, onanswer) {
    Object.assign(this, { url: new URL(url), user, password, beat, onchat, onanswer });
    this.unanswered = new Map(); // id -> message, in the order in which they were sent
    this.later = new Map(); // those refused for now, that wait to be sent again
    this.last = new Map(); // conversation -> the highest seq there
    this.wait = 100;
  }

  connect() {
    const wire = new WIRES[this.url.protocol](this.url);
    Object.assign(this, { wire, heard: true, welcome: false, asked: [], held: [], refused: [],
      caughtUp: false });
    const beating = setInterval(() => {
      if (!this.heard) return wire.abort(); // nothing since the last one
      this.heard = false;
      if (this.welcome) wire.send(13, {});
    }, this.beat * 1000);
    wire.onopen = () => wire.send(5, { userId: this.user, password: this.password });
    wire.onjson = (m) => { this.heard = true; this.handle(m); };
    wire.onclose = (why) => {
      console.error(`connection lost: ${why}`);
      clearInterval(beating);
      this.wait = this.welcome ? 100 : Math.min(this.wait * 2, 30000);
      this.welcome = false;
      setTimeout(() => this.connect(), this.wait * (1 + Math.random()));
    };
  }

  handle(m) {
    if (m.code === 10026 ||
        (m.command === 6 && m.code === 10008 && !m.msg.startsWith('try later'))) {
      console.error(m.msg); // elsewhere, or refused: not again by itself
      process.exit(1);
    }
    if (m.command === 6 && m.code === 10007) {
      this.welcome = true; // what is known of first: an answer may have died
      for (const where of this.last.keys()) this.fetch(where);
      this.goOn();
      for (const message of this.unanswered.values()) this.wire.send(11, message);
      this.onanswer(m);
    } else if (m.command === 11 && this.asked.length + this.refused.length > 0) {
      this.held.push(m.data); // older ones are on their way
    } else if (m.command === 11) {
      this.take(m.data);
    } else if (m.command === 12) {
      this.answered(m);
    } else if (m.command === 20) {
      this.fetched(m);
    }
  }

  // Offline messages (null), or what a conversation has behind the last that is known.
  fetch(where) {
    this.asked.push(where); // answers come in the order of the requests
    const of = where === null ? { type: 0 }
      : { type: 1, ...JSON.parse(where), afterSeq: this.last.get(where) };
    this.wire.send(19, { userId: this.user, ...of });
  }

  fetched(m) {
    const where = this.asked.shift(), { friends = {}, groups = {}, more } = m.data ?? {};
    if (FOR_NOW.includes(m.code) && this.refused.push(where) === 1) { // too many at once
      const { wire } = this;
      setTimeout(() => {
        if (wire === this.wire) for (const again of this.refused.splice(0)) this.fetch(again);
      }, 1000);
    }
    for (const chats of [...Object.values(friends), ...Object.values(groups)])
      for (const chat of chats) this.take(chat, true);
    if (more) this.fetch(where);
    this.goOn();
  }

  // When all that was asked for is there: what waits, and then what has come meanwhile.
  goOn() {
    const waits = () => this.asked.length + this.refused.length > 0;
    if (!waits() && !this.caughtUp) {
      this.caughtUp = true;
      this.fetch(null);
    }
    while (this.held.length > 0 && !waits()) this.take(this.held.shift());
  }

  // Show it, unless it has been; if some before it have not come, get them, and it, anew.
  take(chat, complete = false) {
    const where = this.conversation(chat), last = this.last.get(where);
    if (chat.seq && last !== undefined && chat.seq > last + 1 && !complete) {
      this.fetch(where);
    } else if (!chat.seq || last === undefined || chat.seq > last) {
      if (chat.seq) this.last.set(where, chat.seq); // to everybody: without a number
      this.onchat(chat);
    }
  }

  conversation({ chatType, groupId, from, to }) {
    return JSON.stringify(chatType === 1 ? { groupId }
      : { fromUserId: from === this.user ? to : from });
  }

  answered(m) {
    const id = m.data?.id ?? this.unanswered.keys().next().value; // a refusal: of the oldest
    const message = this.unanswered.get(id);
    if (!this.unanswered.delete(id)) return;
    if (FOR_NOW.includes(m.code)) {
      this.later.set(id, message);
      setTimeout(() => { this.later.delete(id); this.send(message); }, 1000);
      return;
    }
    const where = this.conversation({ ...message, from: this.user });
    if (m.data && this.last.get(where) === m.data.seq - 1) this.last.set(where, m.data.seq);
    this.onanswer({ ...m, id }); // what is between comes with the next
  }

  idle() { return this.welcome && this.unanswered.size + this.later.size === 0; }

  // Send it now, and after each reconnect again until there is an answer.
  send(message) {
    message.id ??= crypto.randomUUID();
    this.unanswered.set(message.id, message);
    if (this.welcome) this.wire.send(11, message);
  }
}

const { values, positionals } = parseArgs({ allowPositionals: true,
  options: { n: { type: 'string', short: 'n' }, b: { type: 'string', short: 'b', default: '30' } } });
if (positionals.length < 2) {
  console.error('usage: client.mjs [-n COUNT] [-b SECONDS] URL USER [PASSWORD]');
  process.exit(2);
}
const count = values.n === undefined ? undefined : Number(values.n);
let got = 0, ended = false;
const leave = () => {
  if (got === count || (count === undefined && ended && client.idle()))
    process.exit(0);
};
const show = (m) => {
  console.log(JSON.stringify(m));
  if ('content' in m) got++;
  leave();
};
const [url, user, password] = positionals;
if (!WIRES[/^\w+:(?=\/\/)/.exec(url)]) {
  console.error(`${url}: not one of ${Object.keys(WIRES).map((kind) => `${kind}//`).join(' ')}`);
  process.exit(2);
}
const client = new Client(url, user, password, Number(values.b), show, show);
const lines = readline.createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const [, to, text] = /^(\S*)\s*(.*)$/.exec(line);
  if (to === '/join') (function join() {
    if (client.welcome) client.wire.send(7, { groupId: text });
    else setTimeout(join, 100);
  })();
  else if (to.startsWith('#')) client.send({ chatType: 1, groupId: to.slice(1), content: text });
  else if (to !== '') client.send({ chatType: 2, to, content: text });
});
lines.on('close', () => { ended = true; leave(); });
client.connect();
