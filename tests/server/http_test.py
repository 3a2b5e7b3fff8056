#!/usr/bin/env python3
"""The server under clients that misbehave: malformed, slow, gone, too many; and its start and end. Standard library only.

usage: http_test.py         (TESSERA_PROGRAM: the program; default build/release/tessera)
"""
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import ASK, COURAGE, MODEL, PROGRAM, Server, request_bytes  # noqa: E402

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "Define courage."}], "ignore_eos": True, "max_tokens": 3500}


def status_of(raw):
    return int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.") else 0


class Malformed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--read-timeout", "1.5", "--max-body", "1MiB")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def tearDown(self):
        self.assertEqual(self.server.ask("/health").status, 200, "the others are not disturbed")

    def refused(self, data, status, param=None, **options):
        raw = self.server.raw(data, **options)
        self.assertEqual(status_of(raw), status, (data[:120], raw[:300]))
        self.assertEqual(raw.count(b"HTTP/1.1 "), 1, (data[:120], raw))  # nothing behind it was taken for a request
        error = json.loads(raw.split(b"\r\n\r\n", 1)[1])["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertEqual((error["type"], error["param"]), ("invalid_request_error", param), (data[:120], error))

    def test_heads(self):
        inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        get = b"GET /health HTTP/1.1\r\nHost: x\r\n"
        for data, status, param in [
                (b"\r\n\r\n\r\n\x00\x01", 400, None), (b"GET\r\n\r\n", 400, None), (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, None),
                (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 400, None), (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400, None),
                (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400, None), (b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400, None),
                (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, None),  # TLS
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, None), (b"GET /health HTTP/1.1\r\n\r\n", 400, "Host"),
                (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host"),
                (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host"), (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, None),
                (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, None), (get + b"A : b\r\n\r\n", 400, None),
                (get + b"A\r\n\r\n", 400, None), (get + b": b\r\n\r\n", 400, None), (get + b"A: b\x00c\r\n\r\n", 400, None),
                (get + b"A: b\rc\r\n\r\n", 400, None), (get + b"A: b\nC: d\r\n\r\n", 400, None),  # bare CR, bare LF
                (b"GET / HTTP/1.1\nHost: x\n\n", 400, None), (get + b"\n" + inner, 400, None),
                (get + b" folded: y\r\n\r\n", 400, None), (get + b"A: b\r\n\tc\r\n\r\n", 400, None),
                (b"GET / HTTP/1.1\r\nHost:\r\n x\r\n\r\n", 400, None),
                (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20000 + b"\r\n\r\n", 431, None),
                (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20000 + b"\r\n", 431, None),
                (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, None)]:
            self.refused(data, status, param)

    def test_lengths_that_proxies_could_read_differently(self):
        head, inner = b"POST /tokenize HTTP/1.1\r\nHost: x\r\n", b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        length, coding = b"Content-Length", b"Transfer-Encoding"
        for lines, status, param in [
                ([b"Content-Length: 5", b"Content-Length: 6"], 400, "Content-Length"), ([b"Content-Length: 5", b"Content-Length: 5"], 400, "Content-Length"),
                ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400, "Transfer-Encoding"),
                ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], 400, "Content-Length"),
                ([b"Transfer-Encoding: chunked"] * 2, 400, "Transfer-Encoding"), ([b"Transfer-Encoding: gzip, chunked"], 400, "Transfer-Encoding"),
                ([b"Transfer-Encoding: xchunked"], 400, "Transfer-Encoding"),
                ([b"Transfer-Encoding: chunked, identity"], 400, "Transfer-Encoding"),
                ([b"Transfer-Encoding: identity"], 400, "Transfer-Encoding"), ([b"Transfer-Encoding : chunked"], 400, None),
                ([b"Transfer-Encoding:\r\n chunked"], 400, None), ([b"Transfer-Encoding: \x0bchunked"], 400, None),
                ([b"Content-Length:\r\n 5"], 400, None), ([b"Content-Length: 5\r\n 6"], 400, None), ([b"Content-Length: -1"], 400, "Content-Length"),
                ([b"Content-Length: +5"], 400, "Content-Length"), ([b"Content-Length: 5, 5"], 400, "Content-Length"), ([b"Content-Length: 0x5"], 400, "Content-Length"),
                ([b"Content-Length: 5 6"], 400, "Content-Length"), ([b"Content-Length: 5.0"], 400, "Content-Length"), ([b"Content-Length:"], 400, "Content-Length"),
                ([b"Content-Length: 99999999999999999999"], 400, "Content-Length"), ([b"Content-Length: 100000000"], 413, "Content-Length"),
                ([b"Content-Encoding: gzip", b"Content-Length: 5"], 415, "Content-Encoding"),
                ([b"Expect: the-moon", b"Content-Length: 5"], 417, "Expect")]:
            with self.subTest(lines=lines):
                data = head + b"\r\n".join(lines) + b"\r\n\r\n"
                raw = self.server.raw(data + b"0\r\n\r\n" + inner)
                self.assertEqual(status_of(raw), status, raw[:300])
                self.assertEqual(raw.count(b"HTTP/1.1 "), 1, "the second request was answered")
                error = json.loads(raw.split(b"\r\n\r\n", 1)[1])["error"]
                self.assertEqual(set(error), {"message", "type", "param", "code"})
                self.assertEqual(error["param"], param, error)
        self.refused(b"POST /tokenize HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 400, "Transfer-Encoding")

    def test_chunks(self):
        head, inner = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        for chunks, status in [
                (b"zz\r\nhello\r\n0\r\n\r\n", 400), (b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", 413),
                (b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", 400), (b"5\r\nhelloXX0\r\n\r\n", 400),
                (b"5\nhello\r\n0\r\n\r\n", 400), (b"5\r\nhello\n0\r\n\r\n", 400), (b"5;\n\r\nhello\r\n0\r\n\r\n", 400),
                (b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400), (b" 5\r\nhello\r\n0\r\n\r\n", 400), (b"+5\r\nhello\r\n0\r\n\r\n", 400),
                (b"-5\r\nhello\r\n0\r\n\r\n", 400), (b"0x5\r\nhello\r\n0\r\n\r\n", 400), (b"\r\n5\r\nhello\r\n0\r\n\r\n", 400),
                (b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", 400), (b"5 \x00\r\nhello\r\n0\r\n\r\n", 400),
                (b"5;" + b"x" * 300000, 400), (b"0\r\n" + b"A: b\r\n" * 50000, 400), (b"1000000\r\n", 413)]:
            self.refused(head + chunks + inner, status)

    def test_100_megabytes(self):
        def sent_before(begin, block, status):
            with self.server.socket() as s:
                s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\n" + begin)
                sent, reply = 0, b""
                try:
                    while sent < 100 << 20 and not select.select([s], [], [], 0)[0]:
                        s.sendall(block)
                        sent += len(block)
                    while chunk := s.recv(65536):
                        reply += chunk
                except ConnectionError:  # what it has said before can be read
                    reply += s.recv(65536)
            self.assertEqual(status_of(reply), status)
            self.assertIn(b'"invalid_request_error"', reply)
            return sent
        self.assertLess(sent_before(b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n", 413), 32 << 20)
        self.assertLess(sent_before(b"Content-Length: 104857600\r\n\r\n", b" " * 65536, 413), 32 << 20)
        self.assertEqual(self.server.ask("/tokenize", b" " * (2 << 20)).status, 413)

    def test_good_bytes_in_pieces_and_pipelines(self):
        data = request_bytes("/tokenize", {"prompt": "hello"})
        with self.server.socket() as s:
            for byte in data:
                s.sendall(bytes([byte]))
            self.assertEqual(status_of(s.recv(65536)), 200)
            s.sendall(data * 5)  # the same connection, five at once
            out = b""
            while out.count(b"HTTP/1.1 200") < 5 or not out.endswith(b"}\n"):
                out += s.recv(65536)
        chunked = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\n{\"prom\r\na\r\npt\": \"hi\"}\r\n0\r\n\r\n"
        self.assertEqual(status_of(self.server.raw(chunked)), 200)
        self.assertEqual(status_of(self.server.raw(b"GET /health HTTP/1.0\r\n\r\n")), 200)
        with self.server.socket() as s:
            body = b'{"prompt": "hello"}'
            s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertIn(b"100 Continue", s.recv(65536))
            s.sendall(body)
            self.assertEqual(status_of(s.recv(65536)), 200)

    def test_slowloris(self):
        head, body, chunks = self.server.socket(), self.server.socket(), self.server.socket()
        head.sendall(b"POST /tokenize HTTP/1.1\r\n")
        body.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
        chunks.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n")
        for s in (head, body, chunks):
            answer, sent = b"", 0
            s.settimeout(0.2)
            while not answer and sent < 200:  # a byte now and then does not help
                try:
                    answer = s.recv(65536)
                    break
                except socket.timeout:
                    s.sendall(b"x")
                    sent += 1
            self.assertEqual(status_of(answer), 408)
            self.assertIn(b'"invalid_request_error"', answer)
            s.close()
        idle = [self.server.socket() for _ in range(50)]  # that never say anything hold nobody up
        self.assertEqual(self.server.ask("/tokenize", {"prompt": "x"}).status, 200)
        for s in idle:
            s.close()

    def test_half_closed(self):
        for data in (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", b"POST /tokeni",
                     b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"):
            self.refused(data, 400, half_close=True)
        self.assertEqual(self.server.raw(b"", half_close=True), b"")
        # A generation is not made for a client that may have gone; it is told. What takes no time is answered.
        self.refused(request_bytes(CHAT, LONG), 400, half_close=True)
        self.assertEqual(status_of(self.server.raw(request_bytes("/tokenize", {"prompt": "x"}), half_close=True)), 200)
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_requests_running") == 0 and
                                             self.server.metric("tessera_cache_pages_held") == 0))


class Gone(unittest.TestCase):
    """A client that leaves frees its pages; one that does not read holds nobody up."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--write-timeout", "3")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def free(self):
        return self.server.metric("tessera_requests_running") == 0 and self.server.metric("tessera_cache_pages_held") == 0 \
            and self.server.metric("tessera_requests_waiting") == 0

    def leave(self, stream, reset):
        s = self.server.socket()
        s.sendall(request_bytes(CHAT, {**LONG, "stream": stream}))
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_cache_pages_held") > 0))
        if reset:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        begin = time.monotonic()
        self.assertTrue(self.server.wait_for(self.free))
        return time.monotonic() - begin

    def test_leaving_cancels(self):
        for stream in (False, True):
            for reset in (False, True):
                self.leave(stream, reset)
        self.assertGreaterEqual(self.server.metric("tessera_answers_cancelled_total"), 1)

    def test_leaving_the_queue_cancels(self):
        sockets = []
        for _ in range(60):  # more than run at once
            s = self.server.socket()
            s.sendall(request_bytes(CHAT, {**LONG, "stream": True}))
            sockets.append(s)
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_requests_waiting") > 0))
        for s in sockets:
            s.close()
        self.assertTrue(self.server.wait_for(self.free))

    def test_slow_reader(self):
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((self.server.host, self.server.port))
        slow.sendall(request_bytes(CHAT, {**LONG, "stream": True, "logprobs": True, "top_logprobs": 20}))
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_requests_running") > 0))
        self.assertEqual(self.server.ask(CHAT, ASK).json["choices"][0]["message"]["content"], COURAGE)
        self.assertTrue(self.server.wait_for(self.free, 60), "it is cut off, or its answer has ended")
        slow.close()


class Many(unittest.TestCase):
    """2,000 streams at once, though the server was started with 256 open files allowed."""
    COUNT = 2000

    def setUp(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < self.COUNT + 512:
            self.skipTest(f"only {hard} open files are allowed here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        self.server = Server("--threads", "1")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.sockets = []

    def tearDown(self):
        for s in self.sockets:
            s.close()
        self.server.stop()

    def open_all(self, body):
        for _ in range(self.COUNT):
            s = self.server.socket()
            s.sendall(request_bytes(CHAT, {**body, "stream": True}))
            self.sockets.append(s)

    def read_until(self, end):
        for s in self.sockets:
            got = b""
            while end not in got:
                chunk = s.recv(65536)
                self.assertTrue(chunk, f"a stream was cut: {got!r}")
                got += chunk
            self.assertEqual(status_of(got) or 200, 200)

    def test_open_at_once(self):
        self.open_all(LONG)
        self.read_until(b"data: {")
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_requests_running") + self.server.metric(
            "tessera_requests_waiting") == self.COUNT), "all are held at once")
        self.assertGreaterEqual(self.server.metric("tessera_http_connections"), self.COUNT)
        with open(f"/proc/{self.server.process.pid}/status") as f:
            threads = next(int(line.split()[1]) for line in f if line.startswith("Threads:"))
        self.assertLess(threads, 16)
        for s in self.sockets:
            s.close()
        self.sockets.clear()
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_requests_running") == 0 and
                                             self.server.metric("tessera_requests_waiting") == 0 and
                                             self.server.metric("tessera_cache_pages_held") == 0, 60))

    def test_all_are_answered(self):
        self.open_all({**ASK, "max_tokens": 2})
        self.read_until(b"data: [DONE]")
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_cache_pages_held") == 0))


class Limits(unittest.TestCase):
    def test_queue(self):
        with Server("--max-requests", "1", "--max-queue", "2") as server:
            sockets = []
            for _ in range(3):
                s = server.socket()
                s.sendall(request_bytes(CHAT, {**LONG, "stream": True}))
                sockets.append(s)
                self.assertTrue(server.wait_for(lambda: server.metric("tessera_requests_running") == 1 and server.metric(
                    "tessera_requests_waiting") == len(sockets) - 1))
            reply = server.ask(CHAT, ASK)
            self.assertEqual((reply.status, reply.json["error"]["code"]), (429, "queue_full"))
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
            self.assertEqual(server.ask(CHAT, {**ASK, "stream": True}).status, 429)
            self.assertEqual(server.metric('tessera_http_refused_total{reason="queue_full"}'), 2)
            for s in sockets:
                s.close()
            self.assertTrue(server.wait_for(lambda: server.ask(CHAT, {**ASK, "max_tokens": 1}).status == 200))

    def test_queue_tokens_and_time(self):
        with Server("--max-requests", "1", "--max-queue-tokens", "200", "--request-timeout", "1") as server:
            first = server.socket()
            first.sendall(request_bytes(CHAT, {**LONG, "stream": True}))
            self.assertTrue(server.wait_for(lambda: server.metric("tessera_requests_running") == 1))
            self.assertEqual(server.ask(CHAT, {"messages": [{"role": "user", "content": "word " * 300}]}).status, 429)
            self.assertEqual(server.ask(CHAT, {**LONG, "timeout": 0.2}).status, 504)
            stream = b""
            while b"[DONE]" not in stream:
                chunk = first.recv(65536)
                self.assertTrue(chunk, stream[-300:])
                stream += chunk
            self.assertIn(b'"error":{"message":"the request\'s time limit has passed"', stream)

    def test_key_of_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = os.path.join(folder, "keys")
            with open(keys, "w") as f:
                f.write("secret\n")
            with Server("--api-key-file", keys) as server:
                self.assertEqual(server.ask("/v1/models").status, 401)
                self.assertEqual(server.ask("/v1/models", headers={"Authorization": "Bearer secret"}).status, 200)

    def test_key(self):
        with Server(env={"TESSERA_API_KEY": "secret"}) as server:
            for path, body in [("/", None), ("/v1/models", None), (CHAT, ASK), ("/v1/completions", {}), ("/v1/responses", {}),
                               ("/v1/messages", {}), ("/tokenize", {}), ("/detokenize", {}), ("/metrics", None),
                               ("/openapi.json", None), ("/nothing", None)]:
                for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer secret2"},
                                {"Authorization": "Bearer "}, {"x-api-key": "x"}, {"Authorization": "Basic !!"}):
                    self.assertEqual(server.ask(path, body, headers=headers).status, 401, (path, headers))
            self.assertEqual(server.ask("/health").status, 200)
            for headers in ({"Authorization": "Bearer secret"}, {"x-api-key": "secret"},
                            {"Authorization": "Basic dXNlcjpzZWNyZXQ="}):
                self.assertEqual(server.ask("/v1/models", headers=headers).status, 200)

    def test_origins(self):
        with Server() as server:
            self.assertEqual(server.host, "127.0.0.1", "loopback unless told otherwise")
            self.assertEqual(server.ask("/v1/models", headers={"Origin": "https://evil.example"}).status, 403)
            self.assertEqual(server.ask("/v1/models", headers={"Origin": server.url}).status, 200)
            self.assertNotIn("Access-Control-Allow-Origin", server.ask("/v1/models").headers)
        with Server("--cors-origin", "https://good.example") as server:
            reply = server.ask("/v1/models", headers={"Origin": "https://good.example"})
            self.assertEqual(reply.headers["Access-Control-Allow-Origin"], "https://good.example")
            reply = server.ask(CHAT, method="OPTIONS", headers={"Origin": "https://good.example",
                                                                "Access-Control-Request-Method": "POST"})
            self.assertEqual((reply.status, reply.headers["Access-Control-Allow-Origin"]), (204, "https://good.example"))
            self.assertEqual(server.ask("/v1/models", headers={"Origin": "https://evil.example"}).status, 403)


class Life(unittest.TestCase):
    def test_drain(self):
        server = Server("--drain-timeout", "300")
        s = server.socket()
        s.sendall(request_bytes(CHAT, {**LONG, "stream": True, "max_tokens": 300}))
        stream = s.recv(1000)
        idle = server.socket()
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b'"ok"', idle.recv(10000))
        server.process.send_signal(signal.SIGTERM)
        s.settimeout(120)
        while not stream.endswith(b"0\r\n\r\n"):
            chunk = s.recv(65536)
            self.assertTrue(chunk, "the running answer was cut")
            stream += chunk
        self.assertIn(b"[DONE]", stream)
        self.assertEqual(idle.recv(10), b"")
        self.assertEqual(server.stop(), 0)

    def test_second_signal_ends_at_once(self):
        server = Server()
        s = server.socket()
        s.sendall(request_bytes(CHAT, {**LONG, "n": 16, "stream": True}))
        stream = s.recv(1000)
        idle = server.socket()
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b'"ok"', idle.recv(10000))
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(idle.recv(10), b"", "the first signal has been seen")
        self.assertEqual(server.stop(signal.SIGINT), 130)
        try:
            while chunk := s.recv(65536):
                stream += chunk
        except ConnectionError:
            pass
        self.assertNotIn(b"[DONE]", stream, "the answer was waited for")

    def test_killed_and_started_again(self):
        server = Server()
        port = str(server.port)
        s = server.socket()
        s.sendall(request_bytes(CHAT, {**LONG, "stream": True}))
        s.recv(1000)
        server.stop(signal.SIGKILL)
        with Server("--port", port) as again:
            self.assertEqual(str(again.port), port)
            self.assertEqual(again.ask(CHAT, ASK).status, 200)

    def run_program(self, *arguments, **options):
        return subprocess.run([PROGRAM, "serve", *arguments], capture_output=True, text=True, timeout=60, **options)

    def test_wrong_starts(self):
        with Server() as server:
            taken = self.run_program(MODEL, "--port", str(server.port))
            self.assertEqual(taken.returncode, 1)
            self.assertIn("is taken", taken.stderr)
        for arguments, code, text in [([], 2, "MODEL"), (["/nowhere"], 1, "nowhere"), ([MODEL, "--port", "99999"], 2, "port"),
                                      ([MODEL, "--port", "x"], 2, "port"), ([MODEL, "--host", "256.1.1.1"], 2, "--host"),
                                      ([MODEL, "--max-queue", "0"], 2, "max-queue"), ([MODEL, "--nonsense"], 2, "nonsense"),
                                      ([MODEL, "--api-key-file", "/nowhere"], 1, "nowhere"),
                                      ([MODEL, "--max-body", "0"], 2, "max-body")]:
            done = self.run_program(*arguments)
            self.assertEqual(done.returncode, code, (arguments, done.stderr))
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_prompts_are_not_logged(self):
        server = Server("--log-level", "debug")
        server.ask(CHAT, ASK)
        server.ask(CHAT, b'{"secret words')
        server.stop()
        self.assertIn(CHAT, server.stderr)
        self.assertNotIn("courage", server.stderr)
        self.assertNotIn("secret", server.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
