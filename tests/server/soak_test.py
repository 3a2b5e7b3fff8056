#!/usr/bin/env python3
"""A short soak (tools/soak.py): clients that read, leave, read slowly and send nonsense, more than the server takes.
TESSERA_SOAK_CLIENTS and TESSERA_SOAK_SECONDS make it longer. Standard library only.
"""
import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import ASK, COURAGE, ROOT, Server  # noqa: E402

CLIENTS = int(os.environ.get("TESSERA_SOAK_CLIENTS", "150"))
SECONDS = int(os.environ.get("TESSERA_SOAK_SECONDS", "10"))


class Soak(unittest.TestCase):
    def test_overload(self):
        with Server("--max-requests", "16", "--max-queue", str(CLIENTS // 4), "--cache-memory", "8MiB", "--log-level", "warn") as s:
            done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "soak.py"), s.url, "--pid", str(s.process.pid),
                                   "--clients", str(CLIENTS), "--seconds", str(SECONDS), "--max-growth", "1"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            report = json.loads(done.stdout)
            for outcome in ("answered", "refused with 429", "refused with 400", "left"):
                self.assertGreater(report["outcomes"].get(outcome, 0), 0, outcome)
            self.assertEqual((report["not_clean"], report["without_end"], report["pages_held"]), ({}, 0, 0))
            self.assertEqual(s.ask("/v1/chat/completions", ASK).json["choices"][0]["message"]["content"], COURAGE)


if __name__ == "__main__":
    unittest.main(verbosity=1)
