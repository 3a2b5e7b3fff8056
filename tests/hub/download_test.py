#!/usr/bin/env python3
"""tessera download, cache and hub ids against a server that behaves."""
import json
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

from fake_hub import etag_of
from hub_case import MODEL, MODEL_FILES, PROGRAM, HubCase, sharded_model, some_bytes

GLOSSARY = pathlib.Path(__file__).resolve().parents[2] / "models" / "glossary"


class Download(HubCase):
    def test_a_model_comes_whole_and_once(self):
        sha = self.publish()
        first = self.download()
        self.assertEqual(first["commit"], sha)
        self.assertEqual([f["name"] for f in first["files"]], MODEL_FILES)
        self.assertEqual(first["left_out"]["files"], 3)
        self.assertEqual(first["bytes_fetched"], sum(len(sharded_model()[n]) for n in MODEL_FILES))
        self.check_cache(sha, MODEL_FILES)
        tree = json.loads((self.repo_folder / "trees" / (sha + ".json")).read_text())
        self.assertEqual(sorted(tree["files"]), sorted(sharded_model()))
        self.hub.forget()
        second = self.download()
        self.assertEqual(second["bytes_fetched"], 0)
        self.assertTrue(all(f["was_cached"] for f in second["files"]))
        self.assertEqual(len(self.hub.requests("hub")), 1)
        self.assertEqual(self.hub.requests("store"), [])

    def test_plain_output_is_the_folder(self):
        sha = self.publish()
        done = self.run_tessera("download", MODEL)
        self.assertEqual(done.stdout, f"{self.repo_folder}/snapshots/{sha}\n")
        self.assertIn("left out: 3 files", done.stderr)
        self.assertNotIn("\r", done.stderr)

    def test_ranges_are_fetched_in_parallel(self):
        files = {"config.json": b"{}", "model.safetensors": some_bytes(40_000_000)}
        sha = self.publish(files)
        self.download()
        self.check_cache(sha, files, files)
        ranges = [r[3].get("Range") for r in self.hub.requests("store", "GET")]
        self.assertEqual(len(ranges), 5)  # pieces of 8 MiB
        self.assertEqual(len(set(ranges)), 5)

    def test_choosing_files(self):
        sha = self.publish()
        self.download("--include", "*.json", "--exclude", "tok*")
        self.check_cache(sha, [n for n in sharded_model() if n.endswith(".json") and not n.startswith("tok")])
        self.download("--include", "original/")
        self.assertTrue((self.repo_folder / "snapshots" / sha / "original/consolidated.safetensors").exists())
        self.download("--all")
        self.check_cache(sha, sharded_model())
        self.fails("download", MODEL, "--include", "nothing.txt", says="none of its 10 files matches nothing.txt")
        self.assertTrue((self.repo_folder / ".no_exist" / sha / "nothing.txt").exists())

    def test_revisions(self):
        old = self.publish({"config.json": b"old"}, refs=("v1", "refs/pr/7"))
        new = self.publish({"config.json": b"new"})
        only_config = ("--include", "config.json")
        self.assertEqual(self.download(*only_config)["commit"], new)
        self.assertEqual(self.download(*only_config, name=MODEL + "@v1")["commit"], old)
        self.assertEqual(self.download(*only_config, "--revision", "refs/pr/7")["commit"], old)
        self.assertEqual(self.download(*only_config, "--revision", old)["commit"], old)
        self.assertEqual((self.repo_folder / "refs/refs/pr/7").read_text(), old)
        self.assertFalse((self.repo_folder / "refs" / old).exists())
        self.fails("download", MODEL + "@v9", says="no such revision")
        self.fails("download", MODEL + "@v1", "--revision", "main", code=2, says="give the revision once")
        self.fails("download", "a/../b", code=2, says="is no hub id")

    def test_a_branch_that_moves(self):
        self.publish({"config.json": b"old", "model.safetensors": some_bytes(5000, 1)})
        self.download()
        sha = self.publish({"config.json": b"new", "model.safetensors": some_bytes(5000, 1)})
        again = self.download()
        self.assertEqual(again["commit"], sha)
        self.assertEqual(again["bytes_fetched"], 3)  # the weights' blob is the same
        self.assertEqual((self.repo_folder / "refs/main").read_text(), sha)

    def test_the_token_goes_to_the_hub_alone(self):
        self.publish()
        self.download(HF_TOKEN="hf_good")
        for host, method, path, headers in self.hub.log:
            self.assertEqual(headers.get("Authorization"), "Bearer hf_good" if host == "hub" else None, path)
        self.assertTrue(self.hub.requests("store"))

    def test_the_token_file(self):
        self.publish()
        self.hub.repo(MODEL).private = True
        home = self.root / "home"
        home.mkdir()
        (home / "token").write_text("hf_good\n")
        self.download()

    def test_through_a_proxy(self):
        self.publish({"config.json": b"{}", "model.safetensors": b"small"})
        self.download(HF_ENDPOINT="http://hub.invalid", http_proxy=self.hub.endpoint)
        self.assertTrue(all(r[2].startswith("http://hub.invalid/") for r in self.hub.log))

    def test_two_processes_at_once(self):
        sha = self.publish()
        self.hub.rate = 4_000_000
        both = [self.start("download", MODEL) for _ in range(2)]
        for process in both:
            _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, err)
        self.check_cache(sha, MODEL_FILES)
        large = sum(len(c) for n, c in sharded_model().items() if n in MODEL_FILES and len(c) >= 4096)
        self.assertEqual(self.hub.bytes_sent, large, "every byte came once")

    def test_ctrl_c_keeps_what_has_come(self):
        files = {"config.json": b"{}", "model.safetensors": some_bytes(6_000_000)}
        sha = self.publish(files)
        self.hub.rate = 3_000_000
        partial = self.repo_folder / "blobs" / (etag_of(files["model.safetensors"]) + ".incomplete")
        process = self.start("download", MODEL)
        while not partial.exists() or partial.stat().st_size < 1_000_000:
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn("what has come is kept", err)
        self.assertFalse((self.repo_folder / "refs/main").exists())
        kept = partial.stat().st_size
        self.assertGreaterEqual(kept, 1_000_000)
        self.hub.rate = None
        self.assertEqual(self.download()["bytes_fetched"], 6_000_000 - kept)
        self.check_cache(sha, files, files)

    def test_a_progress_bar_on_a_terminal(self):
        import pty
        self.publish({"config.json": b"{}", "model.safetensors": some_bytes(3_000_000)})
        self.hub.rate = 3_000_000
        master, slave = pty.openpty()
        process = subprocess.Popen([PROGRAM, "download", MODEL], env=self.environment(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=slave)
        process.communicate(timeout=30)
        os.close(slave)
        seen = os.read(master, 1 << 20).decode()
        os.close(master)
        self.assertIn(f"{MODEL} [####", seen)
        self.assertIn(" of 3.0 MB", seen)
        self.assertIn("left", seen)


@unittest.skipUnless(shutil.which("openssl"), "needs the program openssl to make a certificate")
class Tls(HubCase):
    def prepare_hub(self):
        self.certificate = self.root / "both.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hub",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.certificate,
                        "-out", self.root / "cert.pem"], check=True, capture_output=True)
        with open(self.certificate, "a") as both:
            both.write((self.root / "cert.pem").read_text())
        self.hub.use_tls(self.certificate)

    def test_over_tls(self):
        sha = self.publish()
        self.fails("download", MODEL, says=["does not answer", "certificate"])
        self.assertEqual(self.hub.log, [], "nothing was said to a host that nobody vouches for")
        self.download(SSL_CERT_FILE=str(self.root / "cert.pem"))
        self.check_cache(sha, MODEL_FILES)

    def test_no_way_back_from_tls(self):
        self.publish()
        self.hub.store = self.hub.store.replace("https:", "http:")
        self.fails("download", MODEL, SSL_CERT_FILE=str(self.root / "cert.pem"), says=["https after https"])


class Commands(HubCase):
    def test_a_hub_id_is_a_model(self):
        files = {p.name: p.read_bytes() for p in GLOSSARY.iterdir() if p.is_file()}
        self.publish(files, name="org/glossary")
        ask = ("chat", "org/glossary", "--greedy", "What does serendipity mean?")
        first = self.run_tessera(*ask)
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("serendipity (noun)", first.stdout)
        self.hub.forget()
        again = self.run_tessera(*ask, HF_HUB_OFFLINE="1")
        self.assertEqual(again.stdout, first.stdout)
        self.assertEqual(self.run_tessera(*ask).stdout, first.stdout)
        self.assertEqual(self.hub.log, [], "the cache has all, so nobody is asked")

    def test_inspect_needs_config_json_alone(self):
        files = {p.name: p.read_bytes() for p in GLOSSARY.iterdir() if p.is_file()}
        sha = self.publish(files)
        done = self.run_tessera("inspect", MODEL, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        forecast = json.loads(done.stdout)
        self.assertFalse(forecast["weight_files_read"])
        self.assertEqual(os.listdir(self.repo_folder / "snapshots" / sha), ["config.json"])
        self.assertEqual(self.hub.requests("store"), [])
        self.download()
        whole = json.loads(self.run_tessera("inspect", MODEL, "--json", HF_HUB_OFFLINE="1").stdout)
        self.assertTrue(whole["weight_files_read"])
        for key in ("memory", "memory_dequantize", "parameters", "cache", "file_bytes"):
            self.assertEqual(whole[key], forecast[key], key)
        from_file = self.run_tessera("inspect", str(GLOSSARY / "config.json"), "--json", "--fit", "2.5")
        self.assertEqual(json.loads(from_file.stdout)["memory"], forecast["memory"])
        self.assertIn("a card of 2.5 GB", from_file.stdout)

    def test_offline_and_absent(self):
        self.publish()
        self.fails("inspect", MODEL, HF_HUB_OFFLINE="1", says=["is not in the cache", "HF_HUB_OFFLINE", "tessera download"])
        self.fails("download", MODEL, HF_HUB_OFFLINE="1", says=["is not in the cache", "HF_HUB_OFFLINE"])
        self.fails("download", MODEL, "--all", HF_HUB_OFFLINE="1", says="nothing is fetched")
        self.assertEqual(self.hub.log, [])
        folder = self.download()["folder"]
        self.hub.forget()
        done = self.run_tessera("download", MODEL, HF_HUB_OFFLINE="1")
        self.assertEqual((done.returncode, done.stdout), (0, folder + "\n"), done.stderr)
        self.assertEqual(self.hub.log, [])
        pathlib.Path(folder, "model-00002-of-00002.safetensors").unlink()
        self.fails("download", MODEL, HF_HUB_OFFLINE="1", says="model-00002-of-00002.safetensors is not in the cache")

    def test_no_network(self):
        self.fails("chat", MODEL, "hi", HF_ENDPOINT="http://127.0.0.1:9", says="does not answer")

    def test_a_folder_wins(self):
        (self.root / "org/model").mkdir(parents=True)
        done = subprocess.run([PROGRAM, "inspect", "org/model"], cwd=self.root, env=self.environment(),
                              capture_output=True, text=True)
        self.assertIn("config.json", done.stderr)
        self.assertEqual(self.hub.log, [])


class Cache(HubCase):
    def test_scan_prints_the_known_table(self):
        sha = self.publish()
        self.download()
        out = self.run_tessera("cache", "scan").stdout.splitlines()
        self.assertEqual(out[0].split("  ")[0], "REPO ID")
        for column in ("REPO TYPE", "SIZE ON DISK", "NB FILES", "LAST_ACCESSED", "LAST_MODIFIED", "REFS", "LOCAL PATH"):
            self.assertIn(column, out[0])
        self.assertRegex(out[1], r"^-+( -+)+$")
        self.assertRegex(out[2], rf"^org/model +model +6\.1M +7 a few seconds ago +a few seconds ago +main +{self.repo_folder}$")
        self.assertRegex(out[-1], r"^Done in \d+\.\ds\. Scanned 1 repo\(s\) for a total of 6\.1M\.$")
        self.assertIn(sha, self.run_tessera("cache", "scan", "-v").stdout)
        self.assertEqual(self.run_tessera("cache", "scan", HF_HUB_CACHE=str(self.root / "none")).returncode, 0)
        wrong = self.run_tessera("cache", "scan", "--dir", str(self.root / "none"))
        self.assertNotEqual(wrong.returncode, 0)
        self.assertIn("no such folder", wrong.stderr)

    def test_delete_beside_a_reader(self):
        sha = self.publish()
        old = self.publish({"config.json": b"old", "model.safetensors": some_bytes(9000, 9)}, refs=("v1",))
        self.download()
        self.download(name=MODEL + "@v1")
        self.fails("cache", "delete", MODEL, code=2, says="--yes")
        self.run_tessera("cache", "delete", MODEL + "@v1", "--dry-run")
        self.assertTrue((self.repo_folder / "snapshots" / old).exists())
        self.run_tessera("cache", "delete", MODEL + "@v1", "--yes")
        self.assertFalse((self.repo_folder / "snapshots" / old).exists())
        self.check_cache(sha, MODEL_FILES)
        name = "model-00001-of-00002.safetensors"
        with open(self.repo_folder / "snapshots" / sha / name, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        done = self.run_tessera("cache", "delete", MODEL, "--yes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertFalse(self.repo_folder.exists())
        self.assertEqual(mapped[:], sharded_model()[name], "a running model's files stay until it ends")
        self.fails("cache", "delete", MODEL, "--yes", says="not in the cache")

    def test_delete_while_a_model_answers(self):
        files = {p.name: p.read_bytes() for p in GLOSSARY.iterdir() if p.is_file()}
        self.publish(files, name="org/glossary")
        ask = ("generate", "org/glossary", "-p", "The", "--greedy", "--max-tokens", "200", "--ignore-eos")
        expected = self.run_tessera(*ask).stdout
        process = self.start(*ask)
        process.stdout.read(1)  # it has loaded and speaks
        self.assertEqual(self.run_tessera("cache", "delete", "org/glossary", "--yes").returncode, 0)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertTrue(expected.endswith(out) and out)


if __name__ == "__main__":
    unittest.main()
