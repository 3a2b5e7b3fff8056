"""Starts `tessera serve` for tests, and speaks HTTP to it: well, or byte by byte. Standard library only."""
import http.client
import json
import os
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("TESSERA_PROGRAM", os.path.join(ROOT, "build", "release", "tessera"))
MODEL = os.path.join(ROOT, "models", "glossary")
ASK = {"messages": [{"role": "user", "content": "Define courage."}], "temperature": 0}
COURAGE = "courage (noun): a quality of spirit that enables you to face danger or pain without showing fear."
THOUGHT = "The user asks what 'courage' means. It is a noun."
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Gets the weather.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}}}


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def events(self):
        """(event name or None, data) of a stream; data is parsed unless it is [DONE]."""
        out = []
        for block in self.body.decode().split("\n\n"):
            if not block.strip():
                continue
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            data = fields["data"]
            out.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
        return out


class Server:
    """A running server; `with Server("--flag") as s`."""

    def __init__(self, *arguments, env=None, model=MODEL):
        if "--port" not in arguments:
            arguments = ("--port", "0", *arguments)
        self.process = subprocess.Popen([PROGRAM, "serve", model, "--json", *arguments],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **(env or {})})
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server has ended: {self.process.stderr.read()}")
            text += line
        self.host, port = json.loads(text)["url"].removeprefix("http://").rsplit(":", 1)
        self.port = int(port)
        self.url = f"http://{self.host}:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.process.stdout.closed:  # stopped before
            return self.process.wait()
        self.process.stdout.close()
        self.stderr = self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait()

    def ask(self, path, body=None, method=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), path, body,
                           {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read())
        connection.close()
        return reply

    def socket(self):
        s = socket.create_connection((self.host, self.port), timeout=60)
        return s

    def raw(self, data, half_close=False):
        """What the server answers to these bytes before it closes, or until it has been silent for two seconds."""
        with self.socket() as s:
            try:
                s.sendall(data)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            out = b""
            try:
                while True:
                    s.settimeout(2 if out else 20)
                    chunk = s.recv(65536)
                    if not chunk:
                        return out
                    out += chunk
            except (socket.timeout, ConnectionError):
                return out

    def metric(self, name):
        for line in self.ask("/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0

    def wait_for(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def request_bytes(path, body, headers=""):
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data
