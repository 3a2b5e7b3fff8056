"""A kernel repository as kernel-builder writes it, for the tests of this folder."""
import base64
import hashlib
import json

from fake_hub import LARGE
from hub_case import HubCase, some_bytes

KERNEL = "org/relu"
CPU = "tvm-ffi01-cpu-x86_64-linux"
CUDA = "tvm-ffi01-cu130-x86_64-linux"
TORCH = "torch212-cxx11-cu130-x86_64-linux"
NOARCH = "torch-cuda"


def variant_files(variant, seed=1, digest="sha256", backend="cpu", **more):
    """name -> bytes below build/<variant>/."""
    files = {"__init__.py": b"# " + variant.encode(), "relu/__init__.py": b"from .. import *"}
    if "tvm" in variant:
        files["_relu_%d.so" % seed] = some_bytes(LARGE + 20_000, seed)
    metadata = {"id": "_relu_%d" % seed, "name": "relu", "version": 1, "license": "Apache-2.0", "python-depends": [],
                "backend": {"type": backend}, **more}
    if digest:
        hashes = {n: base64.b64encode(hashlib.new(digest, c).digest()).decode() for n, c in files.items()}
        metadata["digest"] = {"algorithm": digest, "files": hashes}
    files["metadata.json"] = json.dumps(metadata, indent=2).encode()
    return files


def kernel_repo(*variants, digest="sha256", **more):
    files = {"README.md": b"# relu", "benchmarks/benchmark.py": b"pass"}
    for seed, variant in enumerate(variants or (CPU, CUDA, TORCH, NOARCH), 1):
        for name, content in variant_files(variant, seed, digest, **more).items():
            files["build/%s/%s" % (variant, name)] = content
    files["build/%s/__pycache__/x.pyc" % (variants or (CPU,))[0]] = b"bytecode"
    return files


class KernelCase(HubCase):
    def publish_kernel(self, files=None, name=KERNEL, refs=("main", "v1")):
        return self.hub.repo("kernels/" + name).commit(kernel_repo() if files is None else files, *refs)

    def get(self, *arguments, name=KERNEL, **environment):
        """The parsed --json answer of a kernels download that must succeed."""
        done = self.run_tessera("kernels", "download", name, "--json", *arguments, **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.said = done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments, **more):
        """One line on standard error, exit code 1 unless said otherwise."""
        return self.fails("kernels", *arguments, **more)

    @property
    def kernel_folder(self):
        return self.cache / ("kernels--" + KERNEL.replace("/", "--"))

    def cached_files(self, sha):
        snapshot = self.kernel_folder / "snapshots" / sha
        return sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if not p.is_dir())
