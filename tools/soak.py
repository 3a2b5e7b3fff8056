#!/usr/bin/env python3
"""Loads an OpenAI server with clients that read, leave, read slowly and send nonsense, and tells what became of every
request, of the server's memory and, where its /metrics tells, of its cache pages. Standard library only.

usage: soak.py URL [--pid PID] [--clients 2000] [--seconds 600] [--seed 1] [--max-growth 0.02] [--patience 300]

The summary on stdout is JSON; a line every five seconds goes to stderr. Exits 1 when a request was neither answered
nor cleanly refused, a page is lost, or resident memory was ever more than --max-growth above what it was after a fifth
of the time.
"""
import argparse
import asyncio
import collections
import json
import os
import random
import re
import resource
import socket
import struct
import sys
import time
import urllib.request

WORDS = "courage house river happy storm music garden window bridge letter winter paper silver friend market".split()
KINDS = {"stream": 50, "whole": 25, "leave": 15, "slow": 5, "nonsense": 5}
NONSENSE = [b"{", b'{"messages": 5}', b"\xff\xff", b'{"messages": [{"role": "user", "content": 7}]}', b"[" * 9999]
USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
REFUSALS = (429, 503)


def resident(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def metrics(url):
    """Those without labels; nothing where the server does not tell."""
    out = {}
    try:
        with urllib.request.urlopen(url + "/metrics", timeout=60) as response:
            for line in response.read().decode().splitlines():
                if not line.startswith("#") and "{" not in line:
                    name, value = line.rsplit(" ", 1)
                    out[name] = float(value)
    except (OSError, ValueError):
        pass
    return out


class Tally:
    """What all clients saw."""

    def __init__(self):
        self.outcomes = collections.Counter()
        self.sent = 0
        self.tokens = 0
        self.open_streams = self.most_open_streams = 0
        self.first, self.whole = [], []  # seconds to the first event of a stream; to the end of an answer

    def opened(self, seconds):
        self.first.append(seconds)
        self.open_streams += 1
        self.most_open_streams = max(self.most_open_streams, self.open_streams)


class Client:
    def __init__(self, options, address, rng, tally, end):
        self.options, self.address, self.rng, self.tally, self.end = options, address, rng, tally, end

    async def run(self):
        await asyncio.sleep(self.rng.random() * min(5, self.options.seconds / 4))
        while time.monotonic() < self.end:
            kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
            self.tally.sent += 1
            try:
                outcome = await asyncio.wait_for(self.request(kind), self.options.patience)
            except asyncio.TimeoutError:
                outcome = f"{kind}: no answer in time"
            except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
                outcome = f"{kind}: {type(e).__name__}"
                await asyncio.sleep(1)
            self.tally.outcomes[outcome] += 1

    def body(self, kind):
        if kind == "nonsense":
            return self.rng.choice(NONSENSE)
        n = self.rng.randint(1, 4)
        text = " ".join(self.rng.choice(WORDS) for _ in range(n * n))
        out = {"messages": [{"role": "user", "content": f"What does {text} mean?"}], "max_tokens": self.rng.randint(1, 80)}
        if self.options.model:
            out["model"] = self.options.model
        if kind in ("stream", "slow") or (kind == "leave" and self.rng.random() < 0.5):
            out |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(out).encode()

    async def request(self, kind):
        body = self.body(kind)
        begin = time.monotonic()
        reader, writer = await asyncio.open_connection(*self.address, limit=1 << 16)
        streams = [False]
        try:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
                         b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            if kind == "leave":
                return await self.leave(reader, writer)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            rest = await self.read(reader, kind, begin, streams, status == 200 and b"event-stream" in head)
            if status == 200:
                self.tally.whole.append(time.monotonic() - begin)
            if status in REFUSALS:
                await asyncio.sleep(self.pause(head))
            return self.judge(kind, status, head, rest)
        finally:
            self.tally.open_streams -= streams[0]
            writer.close()

    async def leave(self, reader, writer):
        """Reads for a while and goes, at times with a reset, at times before the server has answered."""
        try:
            await asyncio.wait_for(reader.read(-1), self.rng.random() * 3)
        except asyncio.TimeoutError:
            pass
        if self.rng.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "left"

    async def read(self, reader, kind, begin, streams, stream):
        out = await reader.read(200)
        if stream:
            self.tally.opened(time.monotonic() - begin)
            streams[0] = True
        while chunk := await reader.read(200 if kind == "slow" else 65536):
            out += chunk
            if kind == "slow":
                await asyncio.sleep(0.2)
        return out

    def pause(self, head):
        found = re.search(rb"(?i)retry-after: (\d+)", head)
        return (float(found[1]) if found else 1) * (0.5 + self.rng.random())

    def judge(self, kind, status, head, rest):
        if status == 200:
            length = re.search(rb"(?i)content-length: (\d+)", head)
            done = rest.endswith(b"0\r\n\r\n") if b"chunked" in head else length is None or len(rest) == int(length[1])
            if b"event-stream" in head:
                done = done and b"data: [DONE]" in rest[-64:]
            if not done:
                return f"{kind}: cut answer"
            if kind == "nonsense":
                return "nonsense: answered"
            self.tally.tokens += sum(map(int, USAGE.findall(rest[-1500:])[-1:]))
            return "answered"
        if status in REFUSALS:
            return f"refused with {status}" if b"retry-after" in head.lower() else f"{kind}: status {status} without Retry-After"
        if status == 400 and kind == "nonsense":
            return "refused with 400"
        return f"{kind}: status {status}"


async def watch(options, tally, end, begin, rows):
    while time.monotonic() < end:
        m = await asyncio.to_thread(metrics, options.url)
        rows.append((round(time.monotonic() - begin, 1), resident(options.pid) if options.pid else 0))
        running = m.get("tessera_requests_running", m.get("llamacpp:requests_processing", -1))
        waiting = m.get("tessera_requests_waiting", m.get("llamacpp:requests_deferred", -1))
        print(f"{rows[-1][0]:6.0f} s {rows[-1][1] / 1e6:8.1f} MB, running {running:.0f}, waiting {waiting:.0f}, open streams "
              f"{tally.open_streams}, answered {tally.outcomes['answered']}, {tally.sent} sent", file=sys.stderr, flush=True)
        await asyncio.sleep(min(5, options.seconds / 12))


async def last_metrics(url):
    for _ in range(600):
        m = await asyncio.to_thread(metrics, url)
        busy = ("tessera_requests_running", "tessera_requests_waiting", "tessera_cache_pages_held")
        if sum(m.get(name, 0) for name in busy) == 0:
            break
        await asyncio.sleep(0.1)
    return m


def quantiles(values):
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3) for p in (50, 90, 99)} if ordered else {}


def summary(options, tally, rows, seconds, last):
    early = next((i for i, (t, _) in enumerate(rows) if t >= options.seconds / 5), len(rows) - 1)
    most = max(bytes for _, bytes in rows[early:])
    clean = ("answered", "refused with 429", "refused with 503", "refused with 400", "left")
    report = {"clients": options.clients, "seconds": round(seconds, 1), "requests": tally.sent,
              "outcomes": dict(sorted(tally.outcomes.items())),
              "not_clean": {k: v for k, v in sorted(tally.outcomes.items()) if k not in clean},
              "without_end": tally.sent - sum(tally.outcomes.values()), "most_open_streams": tally.most_open_streams,
              "tokens_per_second": round(tally.tokens / seconds, 1), "answers_per_second": round(tally.outcomes["answered"] / seconds, 2),
              "first_event_seconds": quantiles(tally.first), "answer_seconds": quantiles(tally.whole),
              "resident_early": rows[early][1], "resident_most_later": most, "resident_last": rows[-1][1],
              "growth": round(most / rows[early][1] - 1, 4) if rows[early][1] else None,
              "pages_held": last.get("tessera_cache_pages_held"), "running": last.get("tessera_requests_running")}
    report["passed"] = not (report["not_clean"] or report["without_end"] or report["pages_held"] or report["running"] or
                            (report["growth"] or 0) > options.max_growth)
    return report


async def soak(options):
    url = options.url.removeprefix("http://").rstrip("/")
    options.url = "http://" + url
    host, port = url.rsplit(":", 1)
    tally, rows = Tally(), []
    begin = time.monotonic()
    end = begin + options.seconds
    clients = [Client(options, (host, int(port)), random.Random(options.seed * 100003 + i), tally, end)
               for i in range(options.clients)]
    await asyncio.gather(watch(options, tally, end, begin, rows), *(c.run() for c in clients))
    report = summary(options, tally, rows, time.monotonic() - begin, await last_metrics(options.url))
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, help="of the server, whose resident memory is watched")
    parser.add_argument("--model", help="what requests call the model; default: they do not")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--patience", type=float, default=300, help="seconds that a client waits for an answer's end")
    parser.add_argument("--max-growth", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    return asyncio.run(soak(options))


if __name__ == "__main__":
    sys.exit(main())
