"""What the tests of this folder share: the program, a cache of their own, a fake hub, a model's files."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import unittest

from fake_hub import FakeHub

PROGRAM = os.environ.get("TESSERA_PROGRAM", "tessera")
MODEL = "org/model"


def some_bytes(size, seed=1):
    return random.Random(seed).randbytes(size)


def sharded_model(shard_bytes=3_000_000):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    return {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "generation_config.json": b"{}",
        "tokenizer.json": some_bytes(50_000, 2),
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": some_bytes(shard_bytes, 3),
        "model-00002-of-00002.safetensors": some_bytes(shard_bytes + 12_345, 4),
        "README.md": b"# a model",
        "original/consolidated.safetensors": some_bytes(100_000, 5),
        "metal/model.bin": some_bytes(20_000, 6),
    }


MODEL_FILES = sorted(n for n in sharded_model(8192) if "/" not in n and n != "README.md")


class HubCase(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="tessera-hub-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.cache = self.root / "hub"
        self.hub = FakeHub()
        self.prepare_hub()
        self.hub.__enter__()
        self.addCleanup(self.hub.__exit__)

    def prepare_hub(self):
        """Before it starts to serve."""

    def publish(self, files=None, name=MODEL, refs=("main",)):
        return self.hub.repo(name).commit(sharded_model() if files is None else files, *refs)

    def environment(self, **more):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        kept.update(HF_HUB_CACHE=str(self.cache), HF_HOME=str(self.root / "home"), HF_ENDPOINT=self.hub.endpoint,
                    HF_HUB_DOWNLOAD_TIMEOUT="30", HOME=str(self.root), TESSERA_LOG="warn")
        kept.update(more)
        return {k: v for k, v in kept.items() if v is not None}

    def start(self, *arguments, preexec_fn=None, **environment):
        return subprocess.Popen([PROGRAM, *arguments], env=self.environment(**environment), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=preexec_fn,
                                restore_signals=preexec_fn is None)

    def run_tessera(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def download(self, *arguments, name=MODEL, **environment):
        """The parsed --json answer of a download that must succeed."""
        done = self.run_tessera("download", name, "--json", *arguments, **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def fails(self, *arguments, code=1, says=(), **environment):
        done = self.run_tessera(*arguments, **environment)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("tessera: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        for part in [says] if isinstance(says, str) else says:
            self.assertIn(part, lines[0])
        return lines[0]

    @property
    def repo_folder(self):
        return self.cache / ("models--" + MODEL.replace("/", "--"))

    def blobs(self):
        folder = self.repo_folder / "blobs"
        return sorted(p.name for p in folder.iterdir()) if folder.exists() else []

    def check_cache(self, sha, names, files=None, ref="main"):
        """Exactly these files, bit for bit, in the published layout; nothing half-done beside them."""
        files = sharded_model() if files is None else files
        snapshot = self.repo_folder / "snapshots" / sha
        found = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if not p.is_dir())
        self.assertEqual(found, sorted(names))
        for name in names:
            path = snapshot / name
            self.assertTrue(path.is_symlink())
            target = os.readlink(path)
            self.assertEqual(target, "../" * (2 + name.count("/")) + "blobs/" + pathlib.Path(target).name)
            self.assertEqual(path.read_bytes(), files[name], name)
        self.assertEqual((self.repo_folder / "refs" / ref).read_text(), sha)
        self.assertEqual([b for b in self.blobs() if "incomplete" in b or "tmp" in b], [])
