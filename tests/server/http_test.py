#!/usr/bin/env python3
"""The server under clients that misbehave: malformed, slow, gone, too many; and its start and end. Standard library only.

usage: http_test.py         (TESSERA_PROGRAM: the program; default build/release/tessera)
"""
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
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

    def test_shapes(self):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        for data, statuses in [
                (b"\r\n\r\n\r\n\x00\x01", (400,)), (b"GET\r\n\r\n", (400,)), (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", (400, 505)),
                (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),  # TLS
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)), (b"GET / HTTP/1.1\r\n\r\n", (400,)),  # no Host
                (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400,)),
                (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
                (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
                (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", (400,)),
                (b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", (400,)),
                (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", (400, 200)),
                (b"GET / HTTP/1.1\nHost: x\n\n", (400, 505)),
                (head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", (400,)),
                (head + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", (400,)),
                (head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
                (head + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", (400,)),
                (head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
                (head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, 501)),
                (head + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400, 501)),
                (head + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", (400, 501)),
                (head + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", (400,)),
                (head + b"Content-Length: -1\r\n\r\n", (400,)), (head + b"Content-Length: +5\r\n\r\nhello", (400,)),
                (head + b"Content-Length: 5, 5\r\n\r\nhello", (400,)), (head + b"Content-Length: 0x5\r\n\r\nhello", (400,)),
                (head + b"Content-Length: 99999999999999999999\r\n\r\n", (400, 413)),
                (head + b"Content-Length: 100000000\r\n\r\n", (413,)),
                (head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", (400,)),
                (head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n", (400, 413)),
                (head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", (400,)),
                (head + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", (415,)),
                (head + b"Expect: the-moon\r\nContent-Length: 5\r\n\r\nhello", (417,)),
                (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20000 + b"\r\n\r\n", (431,)),
                (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (431, 400))]:
            raw = self.server.raw(data)
            self.assertIn(status_of(raw), statuses, (data[:120], raw[:200]))
            if status_of(raw) >= 400:
                body = json.loads(raw.split(b"\r\n\r\n", 1)[1])
                self.assertEqual(set(body["error"]), {"message", "type", "param", "code"}, data[:120])

    def test_smuggled_request_is_not_answered(self):
        inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        raw = self.server.raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner)
        self.assertEqual(raw.count(b"HTTP/1.1 "), 1)

    def test_100_megabytes(self):
        with self.server.socket() as s:
            s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + b" " * 65536 + b"\r\n"
            sent = 0
            try:
                while sent < 100 << 20:
                    s.sendall(block)
                    sent += 65536
            except OSError:
                pass
        self.assertLess(sent, 64 << 20, "the server has not closed")
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
        begin = time.monotonic()
        head, body = self.server.socket(), self.server.socket()
        head.sendall(b"POST /tokenize HTTP/1.1\r\n")
        body.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        for s in (head, body):
            try:
                while time.monotonic() - begin < 6:  # a byte now and then does not help
                    s.settimeout(0.3)
                    try:
                        answer = s.recv(65536)
                        break
                    except socket.timeout:
                        s.sendall(b"x")
            except OSError:
                answer = b""
            self.assertIn(status_of(answer), (408, 0))
            self.assertLess(time.monotonic() - begin, 6)
            s.close()

    def test_half_closed(self):
        self.assertEqual(self.server.raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", half_close=True), b"")
        self.assertEqual(self.server.raw(b"", half_close=True), b"")
        self.server.raw(request_bytes(CHAT, LONG), half_close=True)
        self.assertTrue(self.server.wait_for(lambda: self.server.metric("tessera_requests_running") == 0))


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
                server.wait_for(lambda: server.metric("tessera_requests_running") == 1, 5)
            reply = server.ask(CHAT, ASK)
            self.assertEqual((reply.status, reply.json["error"]["code"]), (429, "queue_full"))
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
            self.assertEqual(server.ask(CHAT, {**ASK, "stream": True}).status, 429)
            for s in sockets:
                s.close()
            self.assertTrue(server.wait_for(lambda: server.ask(CHAT, {**ASK, "max_tokens": 1}).status == 200))

    def test_queue_tokens_and_time(self):
        with Server("--max-requests", "1", "--max-queue-tokens", "200", "--request-timeout", "1") as server:
            first = server.socket()
            first.sendall(request_bytes(CHAT, {**LONG, "stream": True}))
            server.wait_for(lambda: server.metric("tessera_requests_running") == 1)
            self.assertEqual(server.ask(CHAT, {"messages": [{"role": "user", "content": "word " * 300}]}).status, 429)
            self.assertEqual(server.ask(CHAT, {**LONG, "timeout": 0.2}).status, 504)
            stream = b""
            while b"[DONE]" not in stream:
                stream += first.recv(65536)
            self.assertIn(b'"error":{"message":"the request\'s time limit has passed"', stream)

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
        server = Server()
        s = server.socket()
        s.sendall(request_bytes(CHAT, {**LONG, "stream": True, "max_tokens": 300}))
        stream = s.recv(1000)
        idle = server.socket()
        server.process.send_signal(signal.SIGTERM)
        s.settimeout(60)
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
        s.sendall(request_bytes(CHAT, {**LONG, "stream": True}))
        s.recv(1000)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        begin = time.monotonic()
        self.assertEqual(server.stop(signal.SIGINT), 130)
        self.assertLess(time.monotonic() - begin, 5)

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
