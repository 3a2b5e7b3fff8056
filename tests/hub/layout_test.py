#!/usr/bin/env python3
"""The cache as Python's huggingface_hub sees it: each side reads what the other has written.

Skipped (exit code 77) where the wheel is absent. TESSERA_HUB_PYTHON names an interpreter that has it:
    TESSERA_PROGRAM=build/release/tessera TESSERA_HUB_PYTHON=venv/bin/python tests/hub/layout_test.py
"""
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time
import unittest

from hub_case import MODEL, MODEL_FILES, HubCase, sharded_model

PYTHON = os.environ.get("TESSERA_HUB_PYTHON", sys.executable)


def tree(root):
    """Everything in a repository's folder: files with their content, links with their target."""
    found = {}
    for path in sorted(pathlib.Path(root).rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_file():
            found[name] = json.loads(path.read_text()) if name.startswith("trees/") else path.read_bytes()
    return found


class Layout(HubCase):
    def python(self, code, **environment):
        """Runs code with huggingface_hub imported as hub; what it prints as JSON."""
        program = "import json, os, huggingface_hub as hub\n" + textwrap.dedent(code)
        done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, timeout=120,
                              env=self.environment(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1",
                                                   HF_HUB_DISABLE_TELEMETRY="1", **environment))
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout or "null")

    def test_python_reads_what_tessera_wrote(self):
        sha = self.publish()
        self.download("--all")
        folder = str(self.repo_folder / "snapshots" / sha)
        self.hub.forget()
        self.assertEqual(self.python(f"print(json.dumps(hub.snapshot_download('{MODEL}', local_files_only=True)))"), folder)
        offline = f"print(json.dumps([hub.snapshot_download('{MODEL}'), hub.hf_hub_download('{MODEL}', 'config.json')]))"
        self.assertEqual(self.python(offline, HF_HUB_OFFLINE="1"), [folder, folder + "/config.json"])
        self.assertEqual(self.hub.log, [])
        self.assertEqual(self.python(f"print(json.dumps(hub.snapshot_download('{MODEL}')))"), folder)
        self.assertEqual(self.python(f"print(json.dumps(hub.hf_hub_download('{MODEL}', 'tokenizer.json')))"),
                         folder + "/tokenizer.json")
        self.assertEqual(self.hub.requests("store"), [], "nothing was fetched again")

    def test_python_sees_that_a_part_is_missing(self):
        self.publish()
        self.download()
        code = f"""
            try:
                hub.snapshot_download('{MODEL}', local_files_only=True)
                print('"whole"')
            except hub.errors.LocalEntryNotFoundError as e:
                print(json.dumps(type(e).__name__))
        """
        self.assertEqual(self.python(code), "IncompleteSnapshotError")

    def test_tessera_reads_what_python_wrote(self):
        sha = self.publish()
        self.python(f"hub.snapshot_download('{MODEL}')")
        self.hub.forget()
        again = self.download("--all")
        self.assertEqual(again["bytes_fetched"], 0)
        self.assertEqual(again["folder"], str(self.repo_folder / "snapshots" / sha))
        self.assertEqual(self.hub.requests("store"), [])
        self.check_cache(sha, sharded_model())

    def test_both_write_the_same(self):
        self.publish(refs=("main", "refs/pr/3"))
        for revision in ("main", "refs/pr/3"):
            self.download("--all", "--revision", revision)
            self.python(f"hub.snapshot_download('{MODEL}', revision='{revision}')", HF_HUB_CACHE=str(self.root / "theirs"))
        theirs = tree(self.root / "theirs" / self.repo_folder.name)
        self.assertEqual(tree(self.repo_folder), theirs)
        self.assertEqual(sorted(p.name for p in (self.root / "theirs").iterdir() if p.name != ".locks"),
                         sorted(p.name for p in self.cache.iterdir() if p.name != ".locks"))
        locks = lambda cache: {p.name for p in (cache / ".locks" / self.repo_folder.name).iterdir()}
        self.assertLessEqual(locks(self.root / "theirs"), locks(self.cache))

    def test_scans_agree(self):
        self.publish()
        self.publish({"config.json": b"old", "README.md": b"# a model"}, refs=("v1",))
        self.download()
        self.download("--all", name=MODEL + "@v1")
        theirs = self.python("""
            info = hub.scan_cache_dir()
            assert not info.warnings, info.warnings
            print(json.dumps([[r.repo_id, r.repo_type, r.size_on_disk, r.nb_files, r.size_on_disk_str,
                               sorted([v.commit_hash, v.size_on_disk, v.nb_files, sorted(v.refs)] for v in r.revisions)]
                              for r in info.repos]))
        """)
        ours = json.loads(self.run_tessera("cache", "scan", "--json").stdout)
        self.assertEqual(ours["warnings"], [])
        mine = [[r["id"], r["type"], r["bytes"], r["files"],
                 sorted([v["commit"], v["bytes"], v["files"], v["refs"]] for v in r["revisions"])] for r in ours["repos"]]
        self.assertEqual(mine, [[*r[:4], r[5]] for r in theirs])
        self.assertIn(theirs[0][4], self.run_tessera("cache", "scan").stdout)

    def test_after_tessera_deleted_python_scans_clean(self):
        self.publish({"config.json": b"old", "README.md": b"# a model"}, refs=("v1",))
        sha = self.publish()
        self.python(f"[hub.snapshot_download('{MODEL}', revision=r) for r in ('main', 'v1')]")
        self.run_tessera("cache", "delete", MODEL + "@v1", "--yes")
        code = "i = hub.scan_cache_dir(); print(json.dumps([[str(w) for w in i.warnings], [v.commit_hash for r in i.repos for v in r.revisions]]))"
        self.assertEqual(self.python(code), [[], [sha]])
        self.check_cache(sha, sharded_model())

    def test_known_absent_files(self):
        self.publish()
        self.run_tessera("download", MODEL, "--include", "added_tokens.json")
        code = f"r = hub.try_to_load_from_cache('{MODEL}', 'added_tokens.json'); print(json.dumps(r is hub._CACHED_NO_EXIST))"
        self.download("--include", "config.json")
        self.assertTrue(self.python(code))

    def test_locks_keep_each_other_out(self):
        files = sharded_model()
        sha = self.publish(files)
        from fake_hub import etag_of
        etag = etag_of(files["model-00001-of-00002.safetensors"])
        lock = self.cache / ".locks" / self.repo_folder.name / (etag + ".lock")
        lock.parent.mkdir(parents=True)
        holder = subprocess.Popen([PYTHON, "-c", f"from huggingface_hub.utils import WeakFileLock\nimport sys\n"
                                   f"with WeakFileLock({str(lock)!r}):\n    print('held', flush=True)\n    sys.stdin.read()"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment())
        self.addCleanup(holder.wait)
        self.addCleanup(holder.stdin.close)
        self.addCleanup(holder.stdout.close)
        holder.stdout.readline()
        process = self.start("download", MODEL)
        time.sleep(1.5)
        self.assertIsNone(process.poll(), "it waits for the lock")
        self.assertFalse((self.repo_folder / "blobs" / etag).exists())
        holder.stdin.close()
        _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, err)
        self.check_cache(sha, MODEL_FILES)

    def test_both_at_once(self):
        sha = self.publish()
        self.hub.rate = 4_000_000
        process = self.start("download", MODEL, "--all")
        self.python(f"hub.snapshot_download('{MODEL}')")
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.check_cache(sha, sharded_model())


if __name__ == "__main__":
    probe = subprocess.run([PYTHON, "-c", "import huggingface_hub; print(huggingface_hub.__version__)"],
                           capture_output=True, text=True)
    if probe.returncode != 0:
        print(f"skipped: {PYTHON} has no huggingface_hub; pip install it somewhere and set TESSERA_HUB_PYTHON")
        sys.exit(77)
    print("huggingface_hub", probe.stdout.strip(), flush=True)
    unittest.main()
