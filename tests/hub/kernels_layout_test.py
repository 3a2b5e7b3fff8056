#!/usr/bin/env python3
"""Kernels as Python's `kernels` client sees them: one cache, one lock file, one choice of variants.

Skipped (exit code 77) where the wheel is absent. TESSERA_HUB_PYTHON names an interpreter that has it:
    TESSERA_PROGRAM=build/release/tessera TESSERA_HUB_PYTHON=venv/bin/python tests/hub/kernels_layout_test.py
"""
import json
import os
import random
import subprocess
import sys
import textwrap
import unittest

from kernel_case import CPU, KERNEL, NOARCH, TORCH, KernelCase, kernel_repo

PYTHON = os.environ.get("TESSERA_HUB_PYTHON", sys.executable)
SYSTEM = ("--system", "cpu-x86_64-linux")

# The client takes tvm-ffi variants when that package is there; here its version is enough.
PRELUDE = """
import json, sys, types
import kernels, kernels.variants as variants
sys.modules["tvm_ffi"] = types.ModuleType("tvm_ffi")
sys.modules["tvm_ffi"].__version__ = "0.1.15"
variants.has_tvm_ffi = True
"""


def tree(root):
    """Everything in a repository's folder but what only this program notes: the version's ref, the publisher's trust."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_file() and name not in ("refs/v1", "trusted-publisher"):
            found[name] = json.loads(path.read_text()) if name.startswith("trees/") else path.read_bytes()
    return found


class Layout(KernelCase):
    def python(self, code, **environment):
        """Runs code with the client imported; what it prints as JSON."""
        done = subprocess.run([PYTHON, "-c", PRELUDE + textwrap.dedent(code)], capture_output=True, text=True, timeout=120,
                              env=self.environment(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", **environment))
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout or "null")

    def install(self, more="", **environment):
        return self.python(f"print(json.dumps(str(kernels.install_kernel('{KERNEL}', backend='cpu', {more}))))", **environment)

    maxDiff = 4000

    def test_python_uses_what_tessera_fetched(self):
        # Nothing but the variant: offline, the client takes a snapshot only when it has all of the repository's files.
        self.publish_kernel({n: c for n, c in kernel_repo(CPU).items() if n.startswith("build/") and "pyc" not in n})
        folder = self.get("--version", "1", *SYSTEM)["folder"]
        self.hub.forget()
        self.assertEqual(self.install("version=1"), folder)
        self.assertEqual(self.hub.requests("store"), [], "nothing was fetched again")
        self.assertEqual(self.install("version=1, local_files_only=True"), folder)

    def test_tessera_uses_what_python_fetched(self):
        sha = self.publish_kernel()
        folder = self.install("version=1")
        self.hub.forget()
        got = self.get("--version", "1", *SYSTEM)
        self.assertEqual((got["folder"], got["variant"]), (folder, CPU))
        self.assertEqual(self.hub.requests("store"), [], "nothing was fetched again")
        self.assertEqual(self.get("--revision", sha, *SYSTEM, HF_HUB_OFFLINE="1")["folder"], folder)

    def test_both_write_the_same(self):
        self.publish_kernel()
        self.get("--version", "1", *SYSTEM)
        self.install("version=1", HF_HUB_CACHE=str(self.root / "theirs"))
        self.assertEqual(tree(self.kernel_folder), tree(self.root / "theirs" / self.kernel_folder.name))
        self.install("version=1", KERNELS_CACHE=str(self.root / "k"))
        self.get("--version", "1", *SYSTEM, KERNELS_CACHE=str(self.root / "k"))
        self.assertEqual(tree(self.root / "k" / self.kernel_folder.name), tree(self.kernel_folder))

    def test_lock_files(self):
        self.publish_kernel(kernel_repo(CPU, TORCH, **{"kernel-depends": [{"repo-id": "org/base", "version": 2}]}))
        self.publish_kernel(name="org/base", refs=("v2",))
        theirs, ours = self.root / "theirs", self.root / "ours"
        for folder in (theirs, ours):
            folder.mkdir()
            (folder / "pyproject.toml").write_text('[tool.kernels.dependencies]\n"org/relu" = 1\n')
        self.python(f"import kernels.cli; sys.argv = ['kernels', 'lock', '{theirs}']; kernels.cli.main()")
        done = self.run_tessera("kernels", "lock", str(ours))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((ours / "kernels.lock").read_text(), (theirs / "kernels.lock").read_text())
        done = self.run_tessera("kernels", "download", str(theirs), *SYSTEM)  # theirs, without hashes of files
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_info(self):
        self.publish_kernel()
        code = f"import kernels.cli; sys.argv = ['kernels', 'info', '{KERNEL}', '--json']; kernels.cli.main()"
        self.assertEqual(json.loads(self.run_tessera("kernels", "info", KERNEL, "--json").stdout), self.python(code))

    def test_the_same_choice_for_the_same_reasons(self):
        pick = random.Random(3)
        names = {NOARCH, "torch-cpu", "torch-universal"}
        while len(names) < 150:
            framework = pick.choice(["tvm-ffi01", "tvm-ffi01", "tvm-ffi01", "tvm-ffi02", "torch212", "torch213-cxx11",
                                     "torch29-cxx98", "torch-stable-abi29"])
            backend = pick.choice(["cpu", "cu118", "cu126", "cu128", "cu130", "cu132", "rocm71", "xpu20253", "cann85", "metal"])
            names.add("%s-%s-%s-%s" % (framework, backend, pick.choice(["x86_64"] * 4 + ["aarch64"]),
                                       pick.choice(["linux"] * 5 + ["darwin", "windows"])))
        self.publish_kernel({"build/%s/metadata.json" % n: b"{}" for n in names})
        for system in ("cpu-x86_64-linux", "cu130-x86_64-linux", "cu128-x86_64-linux", "rocm71-x86_64-linux", "cu126-aarch64-linux"):
            ours = json.loads(self.run_tessera("kernels", "list", KERNEL, "--system", system, "--json").stdout)
            backend, cpu, os_name = system.split("-")
            theirs = self.python(f"""
                from kernels.backends import parse_backend
                from packaging.version import Version
                accepted, trace = variants._resolve_variant_for_system(
                    [variants.parse_variant(n) for n in {sorted(names)!r}], parse_backend({backend!r}), {cpu!r}, {os_name!r},
                    None, None, Version("0.1"))
                print(json.dumps([[v.variant_str for v in accepted],
                                  {{d.variant.variant_str: getattr(d, "reason", None) for d in trace}}]))
            """)
            # Python code is what this program adds a reason against.
            accepted = [n for n in theirs[0] if n.startswith("tvm-ffi")]
            self.assertEqual([v["variant"] for v in ours["variants"] if v["compatible"]], accepted, system)
            for row in ours["variants"]:
                reason = theirs[1][row["variant"]]
                if reason is None and not row["compatible"]:
                    self.assertIn("Python code", row["reason"])
                else:
                    self.assertEqual(row.get("reason"), reason, row)


if __name__ == "__main__":
    probe = subprocess.run([PYTHON, "-c", "import kernels; print(kernels.__version__)"], capture_output=True, text=True)
    if probe.returncode != 0:
        print(f"skipped: {PYTHON} has no kernels; pip install it somewhere and set TESSERA_HUB_PYTHON")
        sys.exit(77)
    print("kernels", probe.stdout.strip(), flush=True)
    unittest.main()
