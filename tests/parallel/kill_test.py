#!/usr/bin/env python3
"""A server over several ranks, each a process, from outside: whatever rank is killed, stopped or out of memory, whenever,
all of them end within seconds, with one line that names rank and cause; every client hears of it, /health never turns
green again, nothing is left behind and no GPU stays busy. Standard library only.

usage: kill_test.py [--device cuda|cpu] [--ranks N] [--plan "--tp 2"] [--kills N] [--model FOLDER]

Without --device: GPUs when there are so many (`tessera launch`), else CPUs (mpirun); skipped (77) without either.
TESSERA_KILLS: how often each rank is killed (default 2); TESSERA_PROGRAM: the program.
"""
import argparse
import ctypes
import http.client
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("TESSERA_PROGRAM", os.path.join(ROOT, "build/release/tessera"))
SILENCE = 10  # seconds, of docs/parallel.md


def gpus():
    """[(MiB in use)] of every GPU; none without a driver."""
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(line) for line in said.stdout.split()] if said.returncode == 0 else []


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ranks_below(pid):
    """{rank: process} of the processes that a launcher started."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if parent != pid:
            continue
        for variable in (b"RANK", b"OMPI_COMM_WORLD_RANK"):
            if variable in variables:
                found[int(variables[variable])] = int(entry)
                break
    return found


class Run:
    """A server, its clients, and what became of them."""

    def __init__(self, options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.options = options
        serve = [PROGRAM] if options.device == "cpu" else []
        serve += ["serve", options.model, "--device", options.device, "--port", str(self.port), "--max-context", "2048",
                  "--log-level", "error"] + shlex.split(options.plan)
        environment = dict(os.environ, TESSERA_LOG="error")
        if options.device == "cpu":
            serve += ["--threads", "1"]
            environment["MASTER_PORT"] = str(random.randint(20000, 30000))
            root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
            command = ["mpirun", *root, "--oversubscribe", "-n", str(options.ranks), *serve]
        else:
            command = [PROGRAM, "launch", str(options.ranks), *serve]
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self.errors)
        self.ranks = {}
        self.clients, self.unheard, self.healths = [], [], []
        self.mpirun_hung = False

    def health(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
            connection.request("GET", "/health")
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def note_ranks(self):
        self.ranks.update(ranks_below(self.process.pid))
        return len(self.ranks) == self.options.ranks

    def wait_until_ready(self, seconds=120):
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if self.health() == 200:
                assert self.note_ranks(), f"ranks: {self.ranks}"
                return
            time.sleep(0.05)
        status = self.process.poll()
        what = f"not ready after {seconds} s" if status is None else f"ended with status {status} before it was ready"
        raise AssertionError(f"{what}: {self.lines() or self.said()}")

    def client(self, number):
        """Asks for long answers until the server is gone; an answer that just stops, without a word, is unheard."""
        body = json.dumps({"prompt": f"Word {number} means", "max_tokens": 1500, "ignore_eos": True,
                           "stream": number % 2 == 0, "temperature": 0})
        while True:
            ended = False
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode("utf-8", "replace")
                ended = "[DONE]" in text or "error" in text or (answer.status == 200 and number % 2 == 1)
                if answer.status != 200:
                    return
            except (http.client.HTTPException, OSError) as error:
                if isinstance(error, (TimeoutError, socket.timeout)):
                    self.unheard.append(f"client {number} waited 60 s")
                return  # the connection is gone: so is rank 0
            finally:
                connection.close()
            if not ended:
                self.unheard.append(f"client {number}: {text[-80:]!r}")
                return

    def start_clients(self, count=4):
        for number in range(count):
            thread = threading.Thread(target=self.client, args=(number,), daemon=True)
            thread.start()
            self.clients.append(thread)

    def said(self):
        self.errors.seek(0)
        return [line.rstrip("\n") for line in self.errors]

    def lines(self):
        said = self.said()
        mine = [line for line in said if line.startswith("tessera: ")]
        # mpirun ends all others itself once one is killed, and is quicker than they are.
        theirs = [re.sub(r".*noticed that process rank (\d+) .* on node \S+ exited on (signal \d+).*",
                         rf"tessera: rank \1 of {self.options.ranks}: killed by \2", line)
                  for line in said if "noticed that process rank" in line]
        return mine or theirs

    def left(self):
        return {rank: pid for rank, pid in self.ranks.items() if alive(pid)}

    def end(self, seconds):
        """The exit status; watches /health meanwhile."""
        start = time.monotonic()
        while self.process.poll() is None:
            # mpirun at times waits for ever when a rank is killed while MPI starts: the ranks are what must be gone.
            if self.options.device == "cpu" and time.monotonic() - start > seconds and not self.left():
                self.mpirun_hung = True
                self.process.kill()
                self.process.wait()
                break
            if time.monotonic() - start > seconds:
                raise AssertionError(f"still there after {seconds} s: ranks {self.left()}: {self.lines()}")
            self.healths.append(self.health())
            time.sleep(0.02)
        self.took = time.monotonic() - start
        for thread in self.clients:
            thread.join(timeout=70)
            assert not thread.is_alive(), "a client waits for ever"
        return self.process.returncode

    def close(self):
        for pid in [self.process.pid, *self.ranks.values()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.process.wait()


class Check:
    def __init__(self, options):
        self.options = options
        self.idle = gpus() if options.device == "cuda" else []
        self.random = random.Random(options.seed)
        self.red = 0
        self.mpirun_hung, self.mpirun_named_none = 0, 0

    def clean(self, run):
        """No process and no GPU memory is left."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            left = [pid for pid in run.ranks.values() if alive(pid)]
            used = gpus() if self.idle else []
            busy = [now - before for now, before in zip(used, self.idle) if now - before > 64]
            if not left and not busy:
                return
            time.sleep(0.1)
        raise AssertionError(f"left behind: processes {left}, MiB of GPU memory {busy}")

    def judge(self, run, rank, causes, seconds, starting=False):
        status = run.end(seconds)
        assert status != 0, "ended with status 0"
        self.clean(run)
        lines = run.lines()
        assert starting or not run.mpirun_hung, "mpirun waits for ever"
        self.mpirun_hung += run.mpirun_hung
        if starting and not lines and any("Primary job  terminated" in line for line in run.said()):
            self.mpirun_named_none += 1
            return
        wanted = re.compile(rf"tessera: .*rank {rank} of {self.options.ranks}: .*({causes})")
        assert lines, f"nobody said why: {run.said()}"
        assert all(wanted.match(line) for line in lines), f"expected rank {rank} and one of {causes}: {lines}"
        if self.options.device == "cuda":  # mpirun shows what every rank says
            assert len(lines) == 1, f"more than one line: {lines}"
        assert not run.unheard, run.unheard
        bad = next((i for i, h in enumerate(run.healths) if h not in (200, 0)), len(run.healths))
        assert 200 not in run.healths[bad:], f"/health turned green again: {run.healths[bad:]}"
        self.red += bad < len(run.healths)

    def killed(self, rank, number):
        run = Run(self.options)
        try:
            starting = number % 3 == 2
            if starting:  # while ranks start, meet and load
                until = time.monotonic() + 20
                while not run.note_ranks() and time.monotonic() < until:
                    time.sleep(0.002)
                time.sleep(self.random.random() * (4 if self.options.device == "cuda" else 0.5))
            else:
                run.wait_until_ready()
                run.start_clients()
                time.sleep(self.random.random() * 1.5)
            run.note_ranks()
            os.kill(run.ranks[rank], signal.SIGKILL)
            self.judge(run, rank, "its connection closed|killed by signal 9|ended while|did not join|has left", 30,
                       starting)
            return run.took
        finally:
            run.close()

    def stopped(self, rank):
        run = Run(self.options)
        try:
            run.wait_until_ready()
            run.start_clients()
            time.sleep(0.5)
            os.kill(run.ranks[rank], signal.SIGSTOP)
            # mpirun waits for a process that is stopped: it is let go once the others are gone.
            if self.options.device == "cpu":
                others = [pid for r, pid in run.ranks.items() if r != rank]
                until = time.monotonic() + 2 * SILENCE + 10
                while any(map(alive, others)) and time.monotonic() < until:
                    time.sleep(0.1)
                assert not any(map(alive, others)), "the others wait for a rank that is stopped"
                os.kill(run.ranks[rank], signal.SIGKILL)
            self.judge(run, rank, f"silent for {SILENCE} s", 2 * SILENCE + 10)
            return run.took
        finally:
            run.close()

    def out_of_memory(self):
        """The last rank has too little memory from the start."""
        rank = self.options.ranks - 1
        hog = Hog(rank)
        self.idle = gpus()
        run = Run(self.options)
        try:
            self.judge(run, rank, "memory", 60)
            return run.took
        finally:
            run.close()
            hog.free()


class Hog:
    """Takes all but 300 MiB of a GPU."""

    def __init__(self, device):
        cuda = self.cuda = ctypes.CDLL("libcuda.so.1")
        handle, self.context, self.memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(handle), device)
        self.call("cuCtxCreate_v2", ctypes.byref(self.context), 0, handle)
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        self.call("cuMemAlloc_v2", ctypes.byref(self.memory), ctypes.c_size_t(free.value - (300 << 20)))

    def call(self, name, *arguments):
        result = getattr(self.cuda, name)(*arguments)
        assert result == 0, f"{name}: error {result}"

    def free(self):
        self.call("cuCtxDestroy_v2", self.context)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--plan", default="")
    parser.add_argument("--kills", type=int, default=int(os.environ.get("TESSERA_KILLS", "2")))
    parser.add_argument("--model", default=os.path.join(ROOT, "models/glossary"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.device:
        options.device = "cuda" if len(gpus()) >= options.ranks else "cpu"
    if options.device == "cpu" and not shutil.which("mpirun"):
        print("skipped: neither enough GPUs nor mpirun")
        return 77
    options.plan = options.plan or f"--tp {options.ranks}"
    check, failed = Check(options), 0

    def attempt(name, body):
        nonlocal failed
        try:
            return body()
        except (AssertionError, KeyError, OSError) as error:
            failed += 1
            print(f"{name}: WRONG: {error}", flush=True)
            return 0

    for rank in range(options.ranks):
        took = [attempt(f"rank {rank}, kill {i}", lambda: check.killed(rank, i)) for i in range(options.kills)]
        print(f"rank {rank} killed {options.kills} times: all ended within {max(took, default=0):.1f} s", flush=True)
    for rank in range(options.ranks):
        print(f"rank {rank} stopped: all ended within {attempt(f'rank {rank} stopped', lambda: check.stopped(rank)):.1f} s",
              flush=True)
    if options.device == "cuda":
        print(f"out of memory: all ended within {attempt('out of memory', check.out_of_memory):.1f} s",
              flush=True)
    if check.mpirun_hung or check.mpirun_named_none:
        print(f"of ranks killed while MPI started mpirun named none {check.mpirun_named_none} times, and hung itself, all ranks "
              f"gone, {check.mpirun_hung} times")
    print(f"{options.device}, {options.ranks} ranks, {options.plan}: {failed} wrong; /health was seen red {check.red} times")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
