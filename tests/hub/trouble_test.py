#!/usr/bin/env python3
"""tessera download against servers that misbehave, full disks and kills: a clear line, no corrupt cache, partial work kept."""
import json
import os
import random
import resource
import signal
import subprocess
import threading
import time
import unittest

from fake_hub import etag_of
from hub_case import MODEL, MODEL_FILES, HubCase, sharded_model, some_bytes

BIG = {"config.json": b"{}", "model.safetensors": some_bytes(6_000_000)}
BIG_ETAG = etag_of(BIG["model.safetensors"])


class Once:
    """A fault for the first `times` requests."""

    def __init__(self, action, times=1):
        self.action, self.left = action, times

    def __call__(self, handler, content, begin, end):
        if self.left <= 0:
            return False
        self.left -= 1
        self.action(handler, content, begin, end)
        return True


class Connections(HubCase):
    def survives(self, fault, **environment):
        sha = self.publish(BIG)
        self.hub.store_fault = fault
        result = self.download(**environment)
        self.check_cache(sha, BIG, BIG)
        return result

    def test_a_truncated_body(self):
        self.survives(Once(lambda h, c, b, e: h.send_content(c, b, e, 206, stop_at=1_000_000), 3))
        ranges = [r[3].get("Range") for r in self.hub.requests("store", "GET")]
        self.assertEqual(ranges[1:], [f"bytes={n}000000-5999999" for n in (1, 2, 3)])

    def test_a_connection_that_dies_at_once(self):
        self.survives(Once(lambda h, c, b, e: h.die(), 2))

    def test_a_stalled_connection(self):
        over = threading.Event()
        self.addCleanup(over.set)

        def stall(handler, content, begin, end):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[:500_000])
            handler.wfile.flush()
            over.wait(100)

        self.survives(Once(stall), HF_HUB_DOWNLOAD_TIMEOUT="2")  # while that connection is still open

    def test_slow_but_alive(self):
        self.hub.rate = 2_500_000
        self.survives(None)

    def test_too_many_requests(self):
        self.hub.status_queue = [(429, {"Retry-After": "1"}), (503, {})]
        start = time.time()
        self.survives(Once(lambda h, c, b, e: h.answer(429, {"Retry-After": "1"}), 2))
        self.assertGreater(time.time() - start, 2.5)

    def test_server_errors_of_the_store(self):
        self.survives(Once(lambda h, c, b, e: h.answer(502, {}, b"<html>bad gateway"), 2))

    def test_a_server_without_ranges(self):
        files = {"config.json": b"{}", "model.safetensors": some_bytes(20_000_000)}
        sha = self.publish(files)
        self.hub.store_fault = lambda h, c, b, e: h.send_content(c, 0, len(c), 200) or True
        self.download()
        self.check_cache(sha, files, files)

    def test_no_ranges_and_a_dying_connection(self):
        state = {"n": 0}

        def fault(handler, content, begin, end):
            state["n"] += 1
            handler.send_content(content, 0, len(content), 200, stop_at=2_500_000 * state["n"])
            return True

        self.survives(fault)

    def test_an_expired_signature(self):
        self.survives(Once(lambda h, c, b, e: h.answer(403, {}, b"Request has expired"), 1))
        self.assertEqual(len([r for r in self.hub.requests("hub", "HEAD") if "safetensors" in r[2]]), 2)

    def test_a_redirect_of_the_store(self):
        def move(handler, content, begin, end):
            if "moved" in handler.path:
                return False
            handler.answer(307, {"Location": handler.path + "&moved"})
            return True

        self.survives(move)

    def test_trouble_that_stays(self):
        sha = self.publish(BIG)
        self.hub.store_fault = lambda h, c, b, e: h.answer(503, {}) or True
        self.fails("download", MODEL, says=["gave up after 6 attempts", "503"])
        self.hub.store_fault = None
        self.download()
        self.check_cache(sha, BIG, BIG)


class Content(HubCase):
    def test_a_wrong_hash(self):
        sha = self.publish(BIG)

        def flip(handler, content, begin, end):
            wrong = bytearray(content)
            wrong[1234] ^= 1
            handler.send_content(bytes(wrong), begin, end, 200 if begin == 0 else 206)
            return True

        self.hub.store_fault = flip
        self.fails("download", MODEL, says=["SHA-256", BIG_ETAG, "thrown away"])
        self.assertEqual([b for b in self.blobs() if b.startswith(BIG_ETAG)], [])
        self.assertFalse((self.repo_folder / "refs/main").exists())
        self.hub.store_fault = None
        self.download()
        self.check_cache(sha, BIG, BIG)

    def test_a_wrong_hash_of_a_small_file(self):
        self.publish(BIG)
        real = self.hub.repo(MODEL).commits
        self.hub.head_override = {}
        sha = next(iter(real))
        etag = etag_of(b"{}")
        self.hub.head_override = {"ETag": f'"{etag}"'}
        listing = {"sha": sha, "siblings": [{"rfilename": "config.json", "size": 2, "blobId": etag}]}
        self.hub.raw_listing = json.dumps(listing).encode()
        real[sha]["config.json"] = b"[]"
        self.fails("download", MODEL, "--include", "config.json", says=["git SHA-1", etag])

    def test_a_stale_partial_file(self):
        sha = self.publish(BIG)
        (self.repo_folder / "blobs").mkdir(parents=True)
        for junk in (b"x" * 1_000_000, b"x" * 7_000_000):  # other bytes; more than there should be
            (self.repo_folder / "blobs" / (BIG_ETAG + ".incomplete")).write_bytes(junk)
            self.download()
            self.check_cache(sha, BIG, BIG)
            (self.repo_folder / "blobs" / BIG_ETAG).unlink()

    def test_a_python_clients_partial_file_is_continued(self):
        sha = self.publish(BIG)
        (self.repo_folder / "blobs").mkdir(parents=True)
        (self.repo_folder / "blobs" / (BIG_ETAG + ".incomplete")).write_bytes(BIG["model.safetensors"][:4_000_000])
        self.assertEqual(self.download()["bytes_fetched"], 2_000_002)
        self.check_cache(sha, BIG, BIG)

    def test_a_file_that_changes_meanwhile(self):
        self.publish(BIG)
        first = Once(lambda h, c, b, e: h.send_content(c, b, e, 206, stop_at=1_000_000))
        grown = lambda h, c, b, e: first(h, c, b, e) or (h.send_content(c, b, e, 206, claimed=7_000_000) or True)
        self.hub.store_fault = grown
        self.fails("download", MODEL, says=["changed on the server", "7000000"])
        self.assertNotIn(BIG_ETAG, self.blobs())

    def test_list_and_file_disagree(self):
        self.publish(BIG)
        self.hub.head_override = {"X-Linked-ETag": '"%s"' % ("0" * 64)}
        self.fails("download", MODEL, says="disagree")
        self.hub.head_override = {"X-Repo-Commit": "1" * 40}
        self.fails("download", MODEL, says="answers for " + "1" * 40)

    def test_a_blob_cut_short_in_the_cache(self):
        sha = self.publish(BIG)
        self.download()
        os.truncate(self.repo_folder / "blobs" / BIG_ETAG, 1000)
        self.assertEqual(self.download()["bytes_fetched"], 6_000_000)
        self.check_cache(sha, BIG, BIG)

    def test_a_shard_missing_from_the_repository(self):
        files = sharded_model()
        del files["model-00002-of-00002.safetensors"]
        self.publish(files)
        self.fails("download", MODEL, says=["model.safetensors.index.json", "model-00002-of-00002.safetensors, which is not"])

    def test_a_repository_without_safetensors(self):
        self.publish({"config.json": b"{}", "pytorch_model.bin": b"x"})
        self.fails("download", MODEL, says="no *.safetensors")


class Hostile(HubCase):
    def listing(self, *names):
        sha = self.publish(BIG)
        self.hub.raw_listing = json.dumps({"sha": sha, "siblings": [{"rfilename": n} for n in names]}).encode()

    def refused(self, *says):
        before = sorted(str(p) for p in self.root.rglob("*"))
        self.fails("download", MODEL, "--all", says=says)
        self.assertEqual(sorted(str(p) for p in self.root.rglob("*")), before, "nothing was written")

    def test_names(self):
        for name, why in (("../../../evil", "leaves its folder"), ("/etc/evil", "absolute"), ("a/../../evil", "leaves"),
                          ("x" * 300, "255"), ("a\x1b[2Jb", "control"), ("a\\..\\b", "backslash"), ("", "empty")):
            with self.subTest(name):
                self.listing("config.json", name)
                self.refused("refused", why)

    def test_answers_that_are_no_listing(self):
        self.publish(BIG)
        for raw, why in ((b"<html>login</html>", "JSON object"), (b"[" * 200_000, "JSON"), (b'{"sha": "../../x"}', "commit"),
                         (b"", "JSON object"), (b'{"sha": "' + b"a" * 40 + b'"}', "siblings")):
            with self.subTest(raw[:20]):
                self.hub.raw_listing = raw
                self.refused(why)

    def test_a_huge_answer(self):
        self.publish(BIG)
        self.hub.raw_listing = b" " * (65 << 20)
        self.refused("larger than")

    def test_an_etag_that_is_a_path(self):
        self.listing("config.json")
        self.hub.head_override = {"ETag": '"../../../../evil"'}
        self.fails("download", MODEL, "--all", says=["refused", "ETag"])
        self.assertEqual([p for p in self.root.rglob("*evil*")], [])

    def test_a_redirect_to_a_file(self):
        self.publish(BIG)
        self.hub.head_override = {"Location": "file:///etc/passwd"}
        self.fails("download", MODEL, says=["file:///etc/passwd", "refused"])

    def test_redirects_in_circles(self):
        self.publish(BIG)
        self.hub.status_queue = [(307, {"Location": "/api/models/org/model/revision/main"})] * 20
        self.fails("download", MODEL, says="in circles")


class Access(HubCase):
    def test_private_or_absent(self):
        self.fails("download", "org/none", says=["not found, or private, or gated", "HF_TOKEN"])
        self.fails("download", "org/none", HF_TOKEN="hf_good", says="check the name")

    def test_gated(self):
        self.publish()
        self.hub.repo(MODEL).gated = True
        self.fails("download", MODEL, says=["gated", "no token", "ask for access at " + self.hub.endpoint + "/" + MODEL])
        self.fails("download", MODEL, HF_TOKEN="hf_good", says=["gated", "HF_TOKEN", "accept the conditions"])
        self.hub.tokens.add("hf_member")
        self.download(HF_TOKEN="hf_member")

    def test_a_revoked_token(self):
        self.publish()
        self.fails("download", MODEL, HF_TOKEN="hf_old", says=["HF_TOKEN", "wrong, expired or revoked"])
        self.fails("download", MODEL, HF_TOKEN="hf a\nb", code=2, says="spaces or control characters")

    def test_a_token_revoked_in_the_middle(self):
        self.publish(BIG)
        self.hub.tokens.add("hf_x")

        def revoke(handler, content, begin, end):
            self.hub.tokens.discard("hf_x")
            handler.answer(403, {})

        part = Once(lambda h, c, b, e: h.send_content(c, b, e, 206, stop_at=1_000_000))
        refused = Once(revoke)
        self.hub.store_fault = lambda *request: part(*request) or refused(*request)
        self.fails("download", MODEL, HF_TOKEN="hf_x", says="revoked")
        kept = (self.repo_folder / "blobs" / (BIG_ETAG + ".incomplete")).stat().st_size
        self.assertEqual(kept, 1_000_000)
        sha = self.publish(BIG)
        self.assertEqual(self.download(HF_TOKEN="hf_good")["bytes_fetched"], 5_000_000)
        self.check_cache(sha, BIG, BIG)


class Disk(HubCase):
    def test_full_in_the_middle(self):
        sha = self.publish(BIG)

        def limit():  # writes past it fail, as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

        process = self.start("download", MODEL, preexec_fn=limit)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, err)
        self.assertIn("is full", err)
        self.assertIn("run this again", err)
        kept = (self.repo_folder / "blobs" / (BIG_ETAG + ".incomplete")).stat().st_size
        self.assertEqual(kept, 2_000_000)
        self.assertEqual(self.download()["bytes_fetched"], 4_000_000)
        self.check_cache(sha, BIG, BIG)

    def test_a_file_system_that_somebody_else_fills(self):
        sha = self.publish(BIG)
        self.cache.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(self.cache)]
        if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("may not mount a file system")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.cache)])
        self.hub.rate = 2_000_000
        process = self.start("download", MODEL)
        partial = self.repo_folder / "blobs" / (BIG_ETAG + ".incomplete")
        while not partial.exists() or partial.stat().st_size < 1_000_000:
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        filler = self.cache / "filler"
        with open(filler, "wb", buffering=0) as file, self.assertRaises(OSError):
            while True:
                file.write(bytes(100_000))
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, err)
        self.assertIn("is full", err)
        kept = partial.stat().st_size
        self.assertGreaterEqual(kept, 1_000_000)
        filler.unlink()
        self.hub.rate = None
        self.assertEqual(self.download()["bytes_fetched"], len(BIG["model.safetensors"]) - kept)
        self.check_cache(sha, BIG, BIG)

    def test_too_small_from_the_start(self):
        sha = self.publish(BIG)
        huge = {"rfilename": "model.safetensors", "size": 10 ** 13, "blobId": "0" * 40}
        self.hub.raw_listing = json.dumps({"sha": sha, "siblings": [huge]}).encode()
        line = self.fails("download", MODEL, "--all", says=["10000.00 GB are still to come", "HF_HUB_CACHE"])
        self.assertRegex(line, r" has (\d+\.\d\d GB|\d{1,3}\.\d MB) free")
        self.assertEqual(self.hub.requests("store"), [])

    @unittest.skipIf(os.geteuid() == 0, "root writes everywhere")
    def test_a_read_only_cache(self):
        self.publish(BIG)
        self.cache.mkdir()
        self.cache.chmod(0o500)
        self.fails("download", MODEL, says="cannot make the folder")

    def test_a_cache_that_is_a_file(self):
        self.publish(BIG)
        self.cache.write_text("x")
        self.fails("download", MODEL, says=["cannot make the folder", "HF_HUB_CACHE"])


class Kill(HubCase):
    def test_kill_at_any_moment(self):
        """TESSERA_KILLS runs, each killed at a random moment; then a run that is not. TESSERA_KILLS=50 is the full test."""
        files = sharded_model(1_500_000)
        sha = self.publish(files)
        self.hub.rate = 3_000_000  # a whole download takes about half a second
        seed = int(os.environ.get("TESSERA_KILL_SEED", "7"))
        moments = random.Random(seed)
        finished = 0
        for _ in range(int(os.environ.get("TESSERA_KILLS", "8"))):
            process = self.start("download", MODEL)
            time.sleep(moments.uniform(0.0, 0.7))
            process.kill()
            process.communicate()
            finished += process.returncode == 0
            if process.returncode == 0 or moments.random() < 0.2:  # begin anew, so that early moments come again
                self.run_tessera("cache", "delete", MODEL, "--yes")
            snapshot = self.repo_folder / "snapshots" / sha
            for path in snapshot.rglob("*"):  # whatever is visible is right
                if path.is_file():
                    self.assertEqual(path.read_bytes(), files[str(path.relative_to(snapshot))])
            ref = self.repo_folder / "refs/main"
            if ref.exists():
                self.assertEqual(ref.read_text(), sha)
        self.hub.rate = None
        self.download()
        self.check_cache(sha, MODEL_FILES, files)


if __name__ == "__main__":
    unittest.main()
