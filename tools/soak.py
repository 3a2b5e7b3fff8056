#!/usr/bin/env python3
"""Loads a running `tessera serve` with clients that read, leave, read slowly and send nonsense, and reports what became
of their requests, of the server's memory and of its cache pages. Standard library only.

usage: soak.py URL --pid PID [--clients 2000] [--seconds 600] [--seed 1]

Exits 1 when a request was neither answered nor cleanly refused, a page is lost, or resident memory has grown by more
than 2 % between a fifth of the time and its end.
"""
import argparse
import asyncio
import collections
import json
import os
import random
import resource
import sys
import time
import urllib.request

WORDS = "courage house river happy storm music garden window bridge letter winter paper silver friend market".split()


def resident(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def metrics(url):
    out = {}
    with urllib.request.urlopen(url + "/metrics", timeout=120) as response:
        for line in response.read().decode().splitlines():
            if not line.startswith("#") and "{" not in line:
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
    return out


class Client:
    def __init__(self, host, port, rng, tally, end):
        self.host, self.port, self.rng, self.tally, self.end = host, port, rng, tally, end

    async def run(self):
        await asyncio.sleep(self.rng.random() * 5)
        while time.monotonic() < self.end:
            kind = self.rng.choices(["stream", "whole", "leave", "slow", "nonsense"], [50, 25, 15, 5, 5])[0]
            try:
                await asyncio.wait_for(self.request(kind), 300)
            except asyncio.TimeoutError:
                self.tally[f"{kind}: no answer in 300 s"] += 1
            except (ConnectionError, asyncio.IncompleteReadError, OSError) as e:
                self.tally[f"{kind}: {type(e).__name__}"] += 1

    def body(self, kind):
        if kind == "nonsense":
            return self.rng.choice([b"{", b'{"messages": 5}', b"\xff\xff", b'{"messages": [{"role": "user"}]}', b"[" * 9999])
        n = self.rng.randint(1, 6)
        text = " ".join(self.rng.choice(WORDS) for _ in range(n * n))
        return json.dumps({"messages": [{"role": "user", "content": f"What does {text} mean?"}],
                           "max_tokens": self.rng.randint(1, 80), "stream": kind in ("stream", "slow") or
                           (kind == "leave" and self.rng.random() < 0.5)}).encode()

    async def request(self, kind):
        body = self.body(kind)
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 16)
        try:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                         b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            if kind == "leave":
                await asyncio.sleep(self.rng.random() * 3)
                self.tally["left"] += 1
                return
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            rest = await (self.read_slowly(reader) if kind == "slow" else reader.read(-1))
            self.judge(kind, status, head, rest)
            if status == 429:
                await asyncio.sleep(float(head.lower().split(b"retry-after: ")[1].split(b"\r\n")[0]) * (0.5 + self.rng.random()))
        finally:
            writer.close()

    @staticmethod
    async def read_slowly(reader):
        out = b""
        while chunk := await reader.read(200):
            out += chunk
            await asyncio.sleep(0.2)
        return out

    def judge(self, kind, status, head, rest):
        if status == 200:
            whole = rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") if b"chunked" in head else rest.endswith(b"}\n")
            self.tally["answered" if whole else f"{kind}: cut answer"] += 1
        elif status == 429 and b"Retry-After" in head:
            self.tally["refused with 429"] += 1
        elif status == 400 and kind == "nonsense":
            self.tally["refused with 400"] += 1
        else:
            self.tally[f"{kind}: status {status}"] += 1


async def watch(url, pid, end, begin, rows):
    while time.monotonic() < end:
        m = await asyncio.to_thread(metrics, url)
        rows.append((time.monotonic() - begin, resident(pid)))
        print(f"{rows[-1][0]:6.0f} s  {rows[-1][1] / 1e6:8.1f} MB  running {m['tessera_requests_running']:.0f}  waiting "
              f"{m['tessera_requests_waiting']:.0f}  connections {m['tessera_http_connections']:.0f}", flush=True)
        await asyncio.sleep(5)


async def soak(options):
    host, port = options.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    tally, rows = collections.Counter(), []
    begin = time.monotonic()
    end = begin + options.seconds
    clients = [Client(host, int(port), random.Random(options.seed * 100003 + i), tally, end) for i in range(options.clients)]
    await asyncio.gather(watch(options.url, options.pid, end, begin, rows), *(c.run() for c in clients))
    for _ in range(100):
        last = await asyncio.to_thread(metrics, options.url)
        if last["tessera_requests_running"] + last["tessera_requests_waiting"] + last["tessera_cache_pages_held"] == 0:
            break
        await asyncio.sleep(0.1)
    early = next((r for t, r in rows if t >= options.seconds / 5), rows[-1][1])
    growth = rows[-1][1] / early - 1
    clean = ("answered", "refused with 429", "refused with 400", "left")
    report = {"seconds": round(time.monotonic() - begin, 1), "clients": options.clients, "requests": sum(tally.values()),
              "outcomes": dict(tally), "not clean": {k: v for k, v in tally.items() if k not in clean},
              "resident_early": early, "resident_late": rows[-1][1], "growth": round(growth, 4),
              "pages_held": last["tessera_cache_pages_held"], "running": last["tessera_requests_running"]}
    print(json.dumps(report, indent=2))
    return 1 if report["not clean"] or report["pages_held"] or growth > 0.02 else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    return asyncio.run(soak(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
