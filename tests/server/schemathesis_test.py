#!/usr/bin/env python3
"""Requests that schemathesis makes from /openapi.json, good and bad, against a running server.

usage: schemathesis_test.py [EXAMPLES]      exits 77 where schemathesis is not installed

Left out: that every body which fits the description is accepted (it does not say that top_logprobs needs logprobs, say),
that an answer comes within ten seconds. A 504 is what a request with a timeout of a millisecond asks for.
"""
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
if importlib.util.find_spec("schemathesis") is None:
    print("schemathesis_test: the schemathesis package is not installed; skipped")
    sys.exit(77)
from harness import Server  # noqa: E402

EXAMPLES = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1].isdigit() else "8"
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "503", "504"]
"""


class Schemathesis(unittest.TestCase):
    def test_requests_from_the_description(self):
        with Server("--max-context", "256", "--request-timeout", "60") as server, tempfile.TemporaryDirectory() as folder:
            config = os.path.join(folder, "schemathesis.toml")
            with open(config, "w") as f:
                f.write(CONFIG)
            done = subprocess.run([sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run",
                                   server.url + "/openapi.json", "--checks", "all", "--exclude-checks",
                                   "positive_data_acceptance", "--max-response-time", "120", "--max-examples", EXAMPLES,
                                   "--request-timeout", "120", "--phases", "coverage,fuzzing", "--continue-on-failure",
                                   "--seed", "1"], capture_output=True, text=True, cwd=folder)
            self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])
            self.assertEqual(server.ask("/health").status, 200)
            print(next((line for line in done.stdout.splitlines() if "generated" in line), "").strip())


if __name__ == "__main__":
    unittest.main(verbosity=1)
