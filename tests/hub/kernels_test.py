#!/usr/bin/env python3
"""Kernels from a hub, from outside: the right variant alone is fetched, checked, cached; everything bad is refused by name.

    TESSERA_PROGRAM=build/release/tessera tests/hub/kernels_test.py
"""
import hashlib
import json
import os
import pathlib
import unittest

from fake_hub import etag_of
from kernel_case import CPU, CUDA, KERNEL, NOARCH, TORCH, KernelCase, kernel_repo, variant_files
from hub_case import some_bytes

SYSTEM = ("--system", "cpu-x86_64-linux")
V1 = (KERNEL, "--version", "1", *SYSTEM)


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


class Download(KernelCase):
    def test_only_the_matching_variant_comes_and_the_second_use_is_offline(self):
        sha = self.publish_kernel()
        first = self.get("--version", "1", *SYSTEM)
        self.assertEqual((first["variant"], first["commit"], first["revision"]), (CPU, sha, "v1"))
        expected = sorted("build/%s/%s" % (CPU, n) for n in variant_files(CPU))
        self.assertEqual(self.cached_files(sha), expected)
        self.assertEqual(first["folder"], str(self.kernel_folder / "snapshots" / sha / "build" / CPU))
        self.assertEqual(first["library"], "_relu_1.so")
        for file in first["files"]:
            self.assertEqual(file["sha256"], hashlib.sha256(variant_files(CPU)[file["name"]]).hexdigest())
        self.hub.forget()
        for offline in (None, "1"):
            again = self.get("--version", "1", *SYSTEM, HF_HUB_OFFLINE=offline)
            self.assertEqual(again, first)
        self.assertEqual(self.hub.log, [], "nothing was asked again")

    def test_another_system_gets_its_own_variant(self):
        sha = self.publish_kernel(kernel_repo(CUDA, "tvm-ffi01-cu126-x86_64-linux", backend="cuda"))
        self.assertEqual(self.get("--version", "1", "--system", "cu132-x86_64-linux")["variant"], CUDA)
        self.assertTrue(all(CUDA in f for f in self.cached_files(sha)))
        self.assertEqual(self.get("--revision", "main", "--system", "cu128-x86_64-linux")["variant"],
                         "tvm-ffi01-cu126-x86_64-linux")

    def test_revision_branch_and_commit(self):
        sha = self.publish_kernel()
        self.assertEqual(self.get("--revision", sha, *SYSTEM)["commit"], sha)
        self.assertEqual(self.get("--revision", "main", *SYSTEM)["commit"], sha)
        self.assertEqual((self.kernel_folder / "refs/main").read_text(), sha)

    def test_a_newer_version_is_mentioned(self):
        old = self.publish_kernel(refs=("v1",))
        self.publish_kernel(kernel_repo(CPU, digest="sha512"), refs=("v2", "main"))
        self.assertEqual(self.get("--version", "1", *SYSTEM)["commit"], old)
        self.assertIn("You are using version 1 of 'org/relu', but version 2 is available.", self.said)
        self.assertEqual(self.get("--version", "2", *SYSTEM)["variant"], CPU)

    def test_a_long_list_comes_by_pages(self):
        self.publish_kernel()
        self.hub.page = 3
        self.assertEqual(self.get("--version", "1", *SYSTEM)["variant"], CPU)
        self.assertGreater(len([r for r in self.hub.log if "/tree/" in r[2]]), 2)

    def test_kernels_cache_and_local_kernels(self):
        self.publish_kernel()
        elsewhere = self.root / "kernels"
        self.assertTrue(self.get("--version", "1", *SYSTEM, KERNELS_CACHE=str(elsewhere))["folder"].startswith(str(elsewhere)))
        self.assertFalse(self.kernel_folder.exists())
        mine = self.root / "mine"
        for name, content in kernel_repo(CPU).items():
            (mine / name).parent.mkdir(parents=True, exist_ok=True)
            (mine / name).write_bytes(content)
        self.hub.forget()
        for folder in (mine, mine / "build", mine / "build" / CPU):
            local = self.get("--version", "9", *SYSTEM, LOCAL_KERNELS="org/other=/x:%s=%s" % (KERNEL, folder))
            self.assertEqual((local["folder"], local["commit"]), (str(mine / "build" / CPU), ""))
        self.assertEqual(self.hub.log, [])
        (mine / "build" / CPU / "_relu_1.so").write_bytes(b"tampered")
        self.refused("download", *V1, says="File hash mismatch for _relu_1.so", LOCAL_KERNELS="%s=%s" % (KERNEL, mine))
        self.refused("download", *V1, code=2, says="LOCAL_KERNELS: 'nonsense'", LOCAL_KERNELS="nonsense")

    def test_all_variants(self):
        sha = self.publish_kernel()
        self.get("--version", "1", "--all-variants")
        self.assertEqual(self.cached_files(sha), sorted(n for n in kernel_repo() if n.startswith("build/") and not n.endswith(".pyc")))

    def test_the_cache_commands_know_kernels(self):
        self.publish_kernel()
        self.get("--version", "1", *SYSTEM)
        found = json.loads(self.run_tessera("cache", "scan", "--json").stdout)
        self.assertEqual([(r["id"], r["type"], r["revisions"][0]["refs"]) for r in found["repos"]], [(KERNEL, "kernel", ["v1"])])
        self.assertEqual(found["warnings"], [])
        self.assertEqual(self.run_tessera("cache", "delete", KERNEL, "--yes").returncode, 0)
        self.assertFalse(self.kernel_folder.exists())

    def test_redirect(self):
        moved = b'kind = "redirect"\ndestination = "org/relu2"\nrevision = "v3"\n'
        self.publish_kernel({"kernel-status.toml": moved})
        sha = self.publish_kernel(name="org/relu2", refs=("v3",))
        got = self.get("--version", "1", *SYSTEM)
        self.assertEqual((got["repo_id"], got["commit"], got["revision"]), ("org/relu2", sha, "v3"))
        self.assertIn("'org/relu' redirected to 'org/relu2'", self.said)
        self.hub.forget()
        self.assertEqual(self.get("--version", "1", *SYSTEM, HF_HUB_OFFLINE="1"), got)
        listed = json.loads(self.run_tessera("kernels", "list", KERNEL, "--version", "1", "--json").stdout)
        self.assertEqual(listed["redirected_from"], KERNEL)

    def test_redirects_in_circles_and_broken_ones(self):
        self.publish_kernel({"kernel-status.toml": b'kind = "redirect"\ndestination = "org/b"'})
        self.publish_kernel({"kernel-status.toml": b'kind = "redirect"\ndestination = "org/relu"'}, name="org/b")
        self.refused("download", *V1, says="send on to another one; refused")
        self.publish_kernel({"kernel-status.toml": b'kind = "redirect"\ndestination = "../../etc"'}, refs=("v2",))
        self.refused("download", KERNEL, "--version", "2", says="destination is '../../etc'")


class Refusals(KernelCase):
    def test_version_and_revision(self):
        self.publish_kernel()
        self.refused("download", KERNEL, code=2, says="a version or a revision must be given")
        self.refused("download", KERNEL, "--version", "1", "--revision", "main", code=2, says="only one of version and revision")
        self.refused("list", KERNEL, "--version", "1", "--revision", "main", code=2, says="only one of version and revision")
        self.refused("download", KERNEL, "--version", "7", says="version 7 not found, available versions: 1")
        self.refused("download", KERNEL, "--revision", "nightly", says="no such revision")
        self.refused("download", "../relu", "--version", "1", code=2, says="expected ORG/NAME")
        self.assertFalse(self.kernel_folder.exists() and any((self.kernel_folder / "snapshots").rglob("*.so")))

    def test_no_variant_serves(self):
        self.publish_kernel(kernel_repo(TORCH, NOARCH, CUDA))
        line = self.refused("download", *V1, says="Cannot find a build variant for this system in org/relu (revision: v1)")
        self.assertIn("tvm-ffi01-cu130-x86_64-linux: backend (cu130) does not match selected backend (cpu)", line)
        self.assertIn("Torch version (2.12) does not match environment Torch version (None)", line)
        self.assertIn("torch-cuda: backend (cuda) does not match system backend (cpu) and is not universal", line)

    def test_repository_gone(self):
        self.refused("download", "org/gone", "--version", "1", "--trust-remote-code", "org/gone", says="org/gone: not found")
        self.publish_kernel()
        self.refused("download", "org/gone", "--version", "1", says="org/gone: not found")

    def test_gated(self):
        self.publish_kernel()
        self.hub.repo("kernels/" + KERNEL).gated = True
        self.refused("download", *V1, says=("gated", self.hub.endpoint + "/kernels/org/relu"), HF_TOKEN="hf_good")
        self.hub.tokens.add("hf_member")
        self.assertEqual(self.get("--version", "1", *SYSTEM, HF_TOKEN="hf_member")["variant"], CPU)

    def test_publisher_must_be_trusted(self):
        self.hub.trusted = set()
        self.publish_kernel()
        line = self.refused("download", *V1, code=2, says="org/relu: is not from a trusted publisher")
        self.assertIn("--trust-remote-code org/relu", line)
        self.assertEqual(self.hub.requests("store"), [])
        self.refused("download", *V1, "--trust-remote-code", "org/other", code=2, says="not from a trusted publisher")
        self.get("--version", "1", *SYSTEM, "--trust-remote-code", KERNEL)
        self.refused("download", *V1, code=2, says="not from a trusted publisher")  # in the cache, and still not trusted
        self.assertEqual(self.run_tessera("kernels", "list", KERNEL).returncode, 0, "looking runs nothing")
        self.get("--version", "1", *SYSTEM, HF_HUB_OFFLINE="1")
        self.assertIn("trust cannot be checked", self.said)

    def test_offline_and_absent(self):
        self.publish_kernel()
        self.refused("download", *V1, says=("is not in the cache", "HF_HUB_OFFLINE"), HF_HUB_OFFLINE="1")
        self.assertEqual(self.hub.log, [])
        self.get("--version", "1", *SYSTEM)
        self.refused("download", KERNEL, "--version", "1", "--system", "cu130-x86_64-linux", says="HF_HUB_OFFLINE", HF_HUB_OFFLINE="1")

    def test_digests(self):
        for damage, says in ((lambda f: f.update({"_relu_1.so": some_bytes(30_000, 9)}), "File hash mismatch for _relu_1.so"),
                             (lambda f: f.update({"extra.py": b"import os"}), "Unknown file: extra.py"),
                             (lambda f: f.pop("__init__.py"), "Missing file: __init__.py"),
                             (lambda f: f.update({"metadata.json": b"{"}), "is no JSON"),
                             (lambda f: f.pop("metadata.json"), "metadata.json")):
            files = variant_files(CPU)
            damage(files)
            self.publish_kernel({"build/%s/%s" % (CPU, n): c for n, c in files.items()})
            self.refused("download", KERNEL, "--revision", "main", *SYSTEM, says=says)
            self.cache.rename(self.root / ("old" + says[:7] + str(len(list(self.root.iterdir())))))

    def test_signatures(self):
        for bundle, says in ((b"{", "is no JSON"), (b"{}", "mediaType"),
                             (json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}).encode(), "messageSignature")):
            files = kernel_repo(CPU)
            files["build/%s/metadata.json.sigstore" % CPU] = bundle
            self.publish_kernel(files)
            line = self.refused("download", KERNEL, "--revision", "main", *SYSTEM, says=says)
            self.assertIn("metadata.json.sigstore", line)
            self.cache.rename(self.root / ("old" + str(len(list(self.root.iterdir())))))

    def test_no_library_or_two(self):
        files = variant_files(CPU, digest=None)
        files["second.so"] = b"x"
        self.publish_kernel({"build/%s/%s" % (CPU, n): c for n, c in files.items()})
        self.assertEqual(self.get("--version", "1", *SYSTEM)["library"], "_relu_1.so")
        del files["_relu_1.so"], files["second.so"]
        self.publish_kernel({"build/%s/%s" % (CPU, n): c for n, c in files.items()}, refs=("v2",))
        self.refused("download", KERNEL, "--version", "2", *SYSTEM, says="has 0 shared objects")

    def test_a_tampered_byte_in_the_cache(self):
        self.publish_kernel(kernel_repo(CPU, digest=None))
        got = self.get("--version", "1", *SYSTEM)
        path = os.path.realpath(got["folder"] + "/" + got["library"])
        content = bytearray(pathlib.Path(path).read_bytes())
        content[1000] ^= 1
        pathlib.Path(path).write_bytes(content)
        line = self.refused("download", *V1, says=("deviates from what the hub published", "File hash mismatch for _relu_1.so"))
        self.assertIn(etag_of(bytes(content)), line)
        done = self.run_tessera("kernels", "verify", KERNEL, "--version", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("❌ " + CPU, done.stdout)

    def test_a_stray_file_in_the_cache(self):
        self.publish_kernel(kernel_repo(CPU, digest=None))
        got = self.get("--version", "1", *SYSTEM)
        pathlib.Path(got["folder"], "evil.so").write_bytes(b"x")
        self.refused("download", *V1, says="Unknown file: evil.so")

    def test_a_hostile_list(self):
        self.publish_kernel()
        entry = {"type": "file", "path": "build/../../../x", "size": 1, "oid": "0" * 40}
        for raw, says in ((json.dumps([entry]).encode(), "leaves its folder"), (b"{}", "expected a list of files"),
                          (b"[", "is something else answering"), (b'[{"type": "fifo"}]', "neither file nor directory")):
            self.hub.raw_listing = raw
            self.refused("download", *V1, says=says)
        self.assertFalse(any("snapshots" in str(p) for p in self.root.rglob("*.so")))


class BuiltIn(KernelCase):
    """Whatever is wrong with a kernel, the model runs on built-in kernels, and a line says why."""

    def generate(self, kernel="RMSNorm=%s@v1" % KERNEL, **environment):
        folder = pathlib.Path(__file__).parents[2] / "models" / "glossary"
        done = self.run_tessera("generate", str(folder), "-p", "Tea", "--greedy", "--max-tokens", "2", "--device", "cpu",
                                "--threads", "1", "--use-kernels", kernel, **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.strip())
        return done.stderr

    def test_kernels_that_depend_on_others(self):
        self.publish_kernel(kernel_repo(CPU, **{"kernel-depends": [{"repo-id": "org/base", "version": 2}]}))
        said = self.generate()
        self.assertIn("it depends on other kernels, which only Python's client hands over: org/base (version: 2)", said)
        self.assertIn("the built-in kernel is used", said)
        self.get("--version", "1", *SYSTEM)  # to look at, or for Python

    def test_a_tampered_byte_in_a_folder(self):
        folder = self.root / "mine" / "build" / CPU
        for name, content in variant_files(CPU).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        library = folder / "_relu_1.so"
        content = bytearray(library.read_bytes())
        content[1000] ^= 1
        library.write_bytes(content)
        says = "deviates from the digest of its metadata.json: File hash mismatch for _relu_1.so"
        for source in (self.root / "mine", folder):
            self.assertIn(says, self.generate("RMSNorm=%s" % source))
            self.refused("check", str(source), says=says)
        self.refused("check", str(library), says="%s: not a 64-bit ELF shared library" % library)

    def test_check_takes_a_repository(self):
        self.publish_kernel()
        self.refused("check", KERNEL + "@v1", says="_relu_1.so: not a 64-bit ELF shared library")
        self.publish_kernel(name="stranger/relu")
        self.refused("check", "stranger/relu@v1", code=2, says="--trust-remote-code stranger/relu")
        self.refused("check", "stranger/relu@v1", "--trust-remote-code", "stranger/relu", says="not a 64-bit ELF")
        self.refused("check", "no kernel", code=2, says="is neither there nor ORG/NAME[@REVISION]")

    def test_switched_off(self):
        self.publish_kernel()
        for name, value in (("DISABLE_KERNEL_MAPPING", "1"), ("USE_HUB_KERNELS", "no")):
            self.hub.forget()
            said = self.generate(**{name: value})
            self.assertIn("--use-kernels: %s=%s is set; built-in kernels are used" % (name, value.upper()), said)
            self.assertEqual(self.hub.log, [])
        for name, value in (("DISABLE_KERNEL_MAPPING", "0"), ("USE_HUB_KERNELS", "YES")):
            self.assertNotIn(" is set; built-in kernels are used", self.generate(**{name: value}))

    def test_every_bad_repository(self):
        self.assertIn("org/gone", self.generate("RMSNorm=org/gone@v1"))
        self.publish_kernel(kernel_repo(CUDA))
        self.assertIn("Cannot find a build variant for this system", self.generate())
        self.publish_kernel(kernel_repo(CPU, digest=None), refs=("v2",))
        folder = self.get("--version", "2", *SYSTEM)["folder"]
        library = pathlib.Path(os.path.realpath(folder + "/_relu_1.so"))
        library.write_bytes(library.read_bytes()[:-1] + b"!")
        self.assertIn("File hash mismatch for _relu_1.so", self.generate("RMSNorm=%s@v2" % KERNEL))
        self.hub.trusted = set()
        self.publish_kernel(kernel_repo(CPU), name="other/relu")
        self.assertIn("not from a trusted publisher", self.generate("RMSNorm=other/relu@v1"))


class Lock(KernelCase):
    def project(self, text='[tool.kernels.dependencies]\n"org/relu" = 1\n'):
        folder = self.root / "project"
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").write_text(text)
        return str(folder)

    def lock(self):
        folder = self.project()
        done = self.run_tessera("kernels", "lock", folder, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return folder, json.loads(done.stdout)

    def test_every_file_of_every_variant(self):
        sha = self.publish_kernel()
        folder, said = self.lock()
        self.assertEqual(read_json(folder + "/kernels.lock"),
                         [{"dependency": {"repo-id": KERNEL, "version": 1}, "lock": {"commit": sha}}])
        files = read_json(folder + "/kernels.files.lock")["kernels"][0]["files"]
        self.assertEqual(files, {n: hashlib.sha256(c).hexdigest() for n, c in kernel_repo().items()
                                 if n.startswith("build/") and not n.endswith(".pyc")})
        self.assertEqual(said["kernels"][0]["files"], len(files))
        large = [p for p in (self.kernel_folder / "snapshots" / sha).rglob("*.so")]
        self.assertEqual(large, [], "libraries are known by the hub's list")

    def test_the_lock_decides(self):
        sha = self.publish_kernel()
        folder, _ = self.lock()
        self.publish_kernel(kernel_repo(CPU))  # v1 moves on
        got = self.get(*SYSTEM, name=folder)
        self.assertEqual([k["commit"] for k in got["kernels"]], [sha])
        self.assertEqual(self.get("--version", "1", "--lock", folder, *SYSTEM)["commit"], sha)
        self.refused("download", "org/other", "--version", "1", "--lock", folder, "--trust-remote-code", "org/other", code=2,
                     says="org/other (version: 1): is not locked")
        self.hub.forget()
        verified = self.run_tessera("kernels", "verify", folder, HF_HUB_OFFLINE="1")
        self.assertEqual(verified.returncode, 0, verified.stderr)
        self.assertIn("✅ %s: 4 files are what the hub published, and metadata.json's digest, and kernels.lock" % CPU, verified.stdout)
        self.assertIn("- %s: not in the cache" % CUDA, verified.stdout)
        self.assertEqual(self.hub.log, [])

    def test_a_hash_that_differs(self):
        self.publish_kernel()
        folder, _ = self.lock()
        path = folder + "/kernels.files.lock"
        lock = read_json(path)
        name = "build/%s/_relu_1.so" % CPU
        lock["kernels"][0]["files"][name] = "0" * 64
        pathlib.Path(path).write_text(json.dumps(lock))
        self.refused("download", *V1, "--lock", folder, says=("kernels.files.lock", "File hash mismatch for _relu_1.so: expected: 0000"))
        del lock["kernels"][0]["files"][name]
        pathlib.Path(path).write_text(json.dumps(lock))
        self.refused("download", *V1, "--lock", folder, says="Unknown file: _relu_1.so")
        lock["kernels"][0]["commit"] = "0" * 40
        pathlib.Path(path).write_text(json.dumps(lock))
        self.refused("download", *V1, "--lock", folder, says="lock again")

    def test_dependencies_are_locked_too(self):
        needs = [{"repo-id": "org/base", "version": 2}]
        self.publish_kernel(kernel_repo(CPU, **{"kernel-depends": needs}))
        base = self.publish_kernel(name="org/base", refs=("v2",))
        folder, _ = self.lock()
        self.assertEqual([row["lock"]["commit"] for row in read_json(folder + "/kernels.lock")][0], base)

    def test_bad_projects(self):
        self.publish_kernel()
        self.refused("lock", self.project("[tool]\n"), says="has no [tool.kernels.dependencies]")
        self.refused("lock", self.project('[tool.kernels.dependencies]\n"org/relu" = "1"\n'), says="expected \"ORG/NAME\" = VERSION")
        self.refused("lock", self.project("x = ["), says="pyproject.toml: line")
        self.refused("download", str(self.root), says="kernels.lock: no such file")


class Looking(KernelCase):
    def test_list_gives_a_reason_for_every_variant(self):
        sha = self.publish_kernel()
        said = json.loads(self.run_tessera("kernels", "list", KERNEL, *SYSTEM, "--json").stdout)
        self.assertEqual((said["repo_id"], said["revision"], said["commit"], said["chosen"]), (KERNEL, "v1", sha, CPU))
        self.assertEqual(said["variants"][0], {"variant": CPU, "compatible": True, "preferred": True})
        self.assertEqual({v["variant"]: v.get("reason") for v in said["variants"][1:]}, {
            CUDA: "backend (cu130) does not match selected backend (cpu)",
            TORCH: "Torch version (2.12) does not match environment Torch version (None)",
            NOARCH: "backend (cuda) does not match system backend (cpu) and is not universal"})
        text = self.run_tessera("kernels", "list", KERNEL, *SYSTEM).stdout
        self.assertIn(CPU + " compatible, preferred ✅", text)
        self.assertIn("No variant serves this system", self.run_tessera("kernels", "list", KERNEL, "--system", "rocm71-x86_64-linux").stdout)
        self.assertFalse(self.kernel_folder.exists(), "nothing was fetched")

    def test_versions(self):
        self.publish_kernel(refs=("v1",))
        self.publish_kernel(kernel_repo(CUDA), refs=("v2", "main", "version", "v02", "vx"))
        said = json.loads(self.run_tessera("kernels", "versions", KERNEL, "--json").stdout)
        self.assertEqual([v["version"] for v in said["versions"]], [1, 2])
        text = self.run_tessera("kernels", "versions", KERNEL, *SYSTEM).stdout
        self.assertIn("Version 1:\n\n" + CPU + " compatible, preferred ✅", text)

    def test_info(self):
        self.publish_kernel()
        said = json.loads(self.run_tessera("kernels", "info", KERNEL, "--json").stdout)
        self.assertEqual(said, {"repo_id": KERNEL, "revision": "v1", "name": "relu", "version": 1, "kernels_minver": None,
                                "license": "Apache-2.0", "upstream": None, "source": None, "python_depends": [],
                                "backends": ["cpu", "cuda"]})
        text = self.run_tessera("kernels", "info", KERNEL).stdout
        self.assertIn("Repository: org/relu\nRevision: v1\nName: relu\nVersion: 1\nMinimum kernels version: -\n", text)


if __name__ == "__main__":
    unittest.main()
