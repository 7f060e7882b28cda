#!/usr/bin/env python3
# c.py - what an example in C does, over real sockets: c.py NAME PORT. Exits with 0 when it did it.
import json
import socket
import struct
import sys
import urllib.request

name, port = sys.argv[1], int(sys.argv[2])


class Peer:
    """TCP-IM by hand: version, mask, command, length, body."""

    def __init__(self, user=None, **more):
        self.s = socket.create_connection(("127.0.0.1", port), 120)
        if user:
            self.say(5, userId=user, **more)
            answer = self.hear(6)
            assert answer["code"] == 10007, answer
            self.user = answer["user"]

    def say(self, cmd, **body):
        data = json.dumps(body).encode()
        self.s.sendall(struct.pack(">BBBI", 1, 0x51, cmd, len(data)) + data)

    def bytes(self, n):
        got = b""
        while len(got) < n:
            more = self.s.recv(n - len(got))
            assert more, "the connection has ended"
            got += more
        return got

    def hear(self, cmd):
        """The next of this command; others are passed over."""
        while True:
            _, mask, got, n = struct.unpack(">BBBI", self.bytes(7))
            assert not mask & 0x20
            body = json.loads(self.bytes(n))
            if got == cmd:
                return body

    def chat(self, to, content):
        self.say(11, chatType=2, to=to, content=content)


def echo_bot():
    ann = Peer("ann")
    for text in ("hello", 'with "quotes" and \\', "grüß Gott\n你好"):
        ann.chat("echo", text)
        got = ann.hear(11)["data"]
        assert (got["from"], got["content"]) == ("echo", text), got


def login():
    ann = Peer("ann", password="secret-a")
    assert ann.user["nick"] == "ann the member", ann.user
    assert ann.hear(9)["group"] == "members"
    wrong = Peer()
    wrong.say(5, userId="bob", password="secret-a")
    assert wrong.hear(6)["code"] == 10008
    many = [Peer() for _ in range(20)]
    for p in many:
        p.say(5, userId="bob", password="secret-b")
    for p in many:
        assert p.hear(6)["code"] == 10007


def filter():
    ann, bob = Peer("ann"), Peer("bob")
    ann.chat("bob", "what the heck")
    got = bob.hear(11)["data"]
    assert got["content"] == "what the ****" and got["extras"] == {"filtered": True}, got
    assert ann.hear(12)["code"] == 10000
    ann.chat("bob", "fine")
    got = bob.hear(11)["data"]
    assert got["content"] == "fine" and "extras" not in got, got
    assert ann.hear(12)["code"] == 10000
    ann.chat("bob", "darn heck darn heck")
    assert ann.hear(12)["code"] == 10024
    ann.chat("bob", "x" * 1001)
    assert ann.hear(12)["code"] == 10025


def command():
    early = Peer()
    early.say(40, groupId="g")
    assert early.hear(40)["code"] == 10022
    ann, bob = Peer("ann"), Peer("bob")
    for p in (ann, bob):
        p.say(7, groupId="g")
        assert p.hear(8)["code"] == 10011
    ann.say(40, groupId="g")
    assert ann.hear(41) == {"command": 41, "members": 2, "online": 2}
    ann.say(40, groupId="nowhere")
    assert ann.hear(41)["members"] == 0


def telnet():
    ann = Peer("ann")
    line = socket.create_connection(("127.0.0.1", port), 120)
    file = line.makefile("r")
    for piece in (b"lo", b"gin bob\r", b"\nann hel", b'lo "there"\n'):
        line.sendall(piece)
    assert json.loads(file.readline())["user"]["terminal"] == "telnet"
    got = ann.hear(11)["data"]
    assert (got["from"], got["content"]) == ("bob", 'hello "there"'), got
    ann.chat("bob", "and back")
    assert json.loads(file.readline())["data"]["content"] == "and back"
    page = urllib.request.urlopen("http://127.0.0.1:%d/healthz" % port, timeout=120)
    assert page.status == 200  # the same port


def embed():
    ann, bob = Peer("ann"), Peer("bob")
    with open("console", "wb", buffering=0) as console:
        console.write(b"hear ye\nhear")
        console.write(b" more\n")
    for p in (ann, bob):
        for text in ("hear ye", "hear more"):
            got = p.hear(11)["data"]
            assert (got["from"], got["content"]) == ("console", text), got


globals()[name]()
