#!/usr/bin/env python3
"""client.py - a client of jim in Python's standard library alone, over TCP-IM or WebSocket.

    client.py [-n COUNT] [-b SECONDS] URL USER [PASSWORD]    URL: tcp://host:8888 or ws://host:8888

With TLS tcps:// or wss://; trusted is whom the system trusts, or the file SSL_CERT_FILE names.
Lines on stdin are sent: `bob hello` to bob, `#200 hello` to group 200; `/join 200` joins it. Every
message, the answer to each and to the login is a JSON line on stdout. Ends when stdin has ended and all is
answered; with -n when COUNT messages have come. -b: the heartbeat, 30 seconds.

What docs/protocol.md asks of a client is here: frames by their length, an id made here for each
message and kept until its answer, a heartbeat, a new connection after growing, random waits, and
then first what was missed and once more what has had no answer. A message is shown once, in order.
"""
import argparse, asyncio, base64, collections, hashlib, json, os, random, ssl, struct, sys
import threading, uuid
from urllib.parse import urlsplit

FOR_NOW = (10023, 10027, 10028)  # refusals that pass

class TcpIm:  # 01 mask [seq:4 if mask & 0x20] cmd len:4 body, big-endian
    async def open(self, url, address):
        self.r, self.w = await asyncio.open_connection(**address)

    def send(self, cmd, body):
        text = json.dumps(body).encode()
        self.w.write(struct.pack('>BBBI', 1, 0x51, cmd, len(text)) + text)

    async def recv(self):
        mask = (await self.r.readexactly(2))[1]
        if mask & 0x20:
            await self.r.readexactly(4)  # a sequence number; we ask for none
        size = struct.unpack('>BI', await self.r.readexactly(5))[1]
        return json.loads(await self.r.readexactly(size))

class WebSocket:  # RFC 6455
    async def open(self, url, address):
        self.r, self.w = await asyncio.open_connection(**address)
        key = base64.b64encode(os.urandom(16)).decode()
        path = (url.path or '/') + ('?' + url.query if url.query else '')
        self.w.write(f'GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\n'
                     f'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
                     f'Sec-WebSocket-Key: {key}\r\n\r\n'.encode())
        head = (await self.r.readuntil(b'\r\n\r\n')).decode()
        accept = hashlib.sha1((key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()
        if base64.b64encode(accept).decode() not in head:
            raise ConnectionError(head.split('\r\n')[0])

    def frame(self, opcode, data):
        n, key = len(data), os.urandom(4)
        size = (bytes([128 | n]) if n < 126 else
                struct.pack('>BH', 254, n) if n < 65536 else struct.pack('>BQ', 255, n))
        self.w.write(bytes([128 | opcode]) + size + key +
                     bytes(b ^ key[i & 3] for i, b in enumerate(data)))

    def send(self, cmd, body):
        self.frame(1, json.dumps({**body, 'cmd': cmd}).encode())

    async def recv(self):
        text = b''
        while True:
            first, n = await self.r.readexactly(2)
            if n >= 126:
                n = int.from_bytes(await self.r.readexactly(2 if n == 126 else 8), 'big')
            data = await self.r.readexactly(n)
            if first & 15 == 8:
                raise ConnectionError('closed by the server')
            if first & 15 == 9:
                self.frame(10, data)  # a PING gets its PONG
            elif first & 15 < 3:
                text += data
                if first & 128:
                    return json.loads(text)

WIRES = {'tcp': (TcpIm, 8888), 'tcps': (TcpIm, 8888), 'ws': (WebSocket, 80), 'wss': (WebSocket, 443)}

class Client:
    def __init__(self, url, user, password, beat, on_chat, on_answer):
        self.url = urlsplit(url)
        if self.url.scheme not in WIRES:
            raise SystemExit(f'{url}: not one of ' + ' '.join(f'{k}://' for k in WIRES))
        self.kind, port = WIRES[self.url.scheme]
        self.address = {'host': self.url.hostname, 'port': self.url.port or port}
        if self.url.scheme in ('tcps', 'wss'):
            self.address['ssl'] = ssl.create_default_context()
        self.user, self.password, self.beat = user, password, beat
        self.on_chat, self.on_answer = on_chat, on_answer
        self.unanswered = {}  # id -> message, in the order in which they were sent
        self.later = {}  # those refused for now, that wait to be sent again
        self.last = {}  # conversation -> the highest seq there
        self.welcome = False  # logged in

    async def run(self):
        wait = 0.1
        while True:
            try:
                await self.session()
            except (OSError, EOFError, asyncio.TimeoutError) as e:
                print(f'connection lost: {e}', file=sys.stderr)
            wait = 0.1 if self.welcome else min(wait * 2, 30)
            self.welcome = False
            await asyncio.sleep(wait * random.uniform(1, 2))

    async def session(self):
        self.wire, self.heard, self.asked, self.held = self.kind(), True, collections.deque(), []
        self.refused, self.caught_up = [], False
        await asyncio.wait_for(self.wire.open(self.url, self.address), 10)
        beating = asyncio.create_task(self.heartbeat())
        try:
            self.wire.send(5, {'userId': self.user, 'password': self.password})
            while True:
                self.handle(await self.wire.recv())
                self.heard = True
        finally:
            beating.cancel()
            self.wire.w.transport.abort()

    async def heartbeat(self):
        while self.heard:  # anything at all since the last one
            self.heard = False
            self.wire.send(13, {})
            await asyncio.sleep(self.beat)
        self.wire.w.transport.abort()

    def handle(self, m):
        command, code = m['command'], m.get('code')
        if code == 10026 or command == 6 and code == 10008 and not m['msg'].startswith('try later'):
            raise SystemExit(m['msg'])  # elsewhere, or refused: not again by itself
        if command == 6 and code == 10007:
            self.welcome = True
            for where in self.last:  # what is known of first: an answer may have died
                self.fetch(where)
            self.go_on()
            for message in self.unanswered.values():
                self.wire.send(11, message)
            self.on_answer(m)
        elif command == 11 and (self.asked or self.refused):
            self.held.append(m['data'])  # older ones are on their way
        elif command == 11:
            self.take(m['data'])
        elif command == 12:
            self.answered(m)
        elif command == 20:
            self.fetched(m)

    def fetch(self, where):
        """Offline messages (None), or what a conversation has behind the last that is known."""
        self.asked.append(where)  # answers come in the order of the requests
        self.wire.send(19, {'userId': self.user, 'type': 0} if where is None else
                       {'userId': self.user, 'type': 1, where[0]: where[1],
                        'afterSeq': self.last[where]})

    def fetched(self, m):
        where, data = self.asked.popleft(), m.get('data', {})
        if m.get('code') in FOR_NOW:  # too many at once: again, soon
            self.refused.append(where)
            if len(self.refused) == 1:
                asyncio.get_running_loop().call_later(1, self.fetch_again, self.wire)
        for chats in [*data.get('friends', {}).values(), *data.get('groups', {}).values()]:
            for chat in chats:
                self.take(chat, complete=True)
        if data.get('more'):
            self.fetch(where)
        self.go_on()

    def fetch_again(self, wire):
        if wire is self.wire:
            wheres, self.refused = self.refused, []
            for where in wheres:
                self.fetch(where)

    def go_on(self):
        """When all that was asked for is there: what waits, and then what has come meanwhile."""
        if not (self.asked or self.refused or self.caught_up):
            self.caught_up = True
            self.fetch(None)
        while self.held and not (self.asked or self.refused):
            self.take(self.held.pop(0))

    def take(self, chat, complete=False):
        """Show it, unless it has been; if some before it have not come, get them, and it, anew."""
        where, seq = self.conversation(chat), chat.get('seq')
        last = self.last.get(where)
        if seq and last is not None and seq > last + 1 and not complete:
            self.fetch(where)
        elif not seq or last is None or seq > last:  # to everybody: without a number
            self.last.update({where: seq} if seq else {})
            self.on_chat(chat)

    def conversation(self, chat):
        if chat.get('chatType') == 1:
            return 'groupId', chat['groupId']
        return 'fromUserId', chat.get('to') if chat['from'] == self.user else chat['from']

    def answered(self, m):
        data = m.get('data', {})
        key = data.get('id') or next(iter(self.unanswered))  # a refusal: of the oldest
        message = self.unanswered.pop(key, None)
        if message and m['code'] in FOR_NOW:
            self.later[key] = message
            asyncio.get_running_loop().call_later(1, lambda: self.send(**self.later.pop(key)))
        elif message:
            where = self.conversation({**message, 'from': self.user})
            if self.last.get(where) == data.get('seq', 0) - 1:
                self.last[where] = data['seq']  # else what is between comes with the next
            self.on_answer({**m, 'id': key})

    def send(self, **message):
        """Send it now, and after each reconnect again until there is an answer."""
        self.unanswered[message.setdefault('id', uuid.uuid4().hex)] = message
        if self.welcome:
            self.wire.send(11, message)

    def idle(self):
        return self.welcome and not self.unanswered and not self.later

async def main():
    args = argparse.ArgumentParser(usage=__doc__.split('\n')[2].strip())
    args.add_argument('-n', type=int)
    args.add_argument('-b', type=float, default=30)
    args.add_argument('who', nargs='+')
    a = args.parse_args()
    loop, over, got, ended = asyncio.get_running_loop(), asyncio.Event(), [], []

    def leave():
        if len(got) == a.n or a.n is None and ended and client.idle():
            over.set()

    def show(m):
        print(json.dumps(m, ensure_ascii=False), flush=True)
        got.extend([m] if 'content' in m else [])
        leave()

    def typed(line):
        to, _, text = line.strip().partition(' ')
        if to == '/join' and not client.welcome:
            loop.call_later(0.1, typed, line)
        elif to == '/join':
            client.wire.send(7, {'groupId': text})
        elif to.startswith('#'):
            client.send(chatType=1, groupId=to[1:], content=text)
        elif to:
            client.send(chatType=2, to=to, content=text)

    def type_in():  # a thread: stdin may be a file, which is never waited for
        for line in sys.stdin:
            loop.call_soon_threadsafe(typed, line)
        loop.call_soon_threadsafe(lambda: (ended.append(True), leave()))

    url, user, password = (a.who + [None])[:3]
    client = Client(url, user, password, a.b, show, show)
    threading.Thread(target=type_in, daemon=True).start()
    running = asyncio.create_task(client.run())
    await asyncio.wait({running, asyncio.create_task(over.wait())},
                       return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()

asyncio.run(main())
