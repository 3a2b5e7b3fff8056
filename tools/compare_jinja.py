#!/usr/bin/env python3
"""Compares tessera's Jinja engine with Python's jinja2, set up as transformers sets it up (jinja_oracle.py).

  compare_jinja.py live PROGRAM [--count N] [--seed S] [--show K]
      PROGRAM is build/release/render_template. Renders the fixed snippets, N random templates and N random conversations
      for each chat template on both sides; exits 1 on the first K differences, which it prints.
  compare_jinja.py golden FOLDER [--seed S]
      Writes FOLDER/snippets.json and FOLDER/conversations.json (cases with what jinja2 makes of them) for the unit tests.

Chat templates: --template NAME=FOLDER (repeatable; default: those in tests/data/jinja/<name>).
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys

import jinja_conversations
import jinja_fuzz
import jinja_oracle
import jinja_snippets

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# What a template prints for objects without a value is a memory address there and is not compared.
ADDRESS = re.compile(r" at 0x[0-9a-f]+|%20at%200x|<built-in|<function|<bound method|<class|<generator|<\w+_?\w*iterator|<jinja2\.|<filter")
# Limits of ours that jinja2 does not have: numbers beyond 128 bits, complex numbers, sizes. And jinja2 makes a slice of a
# constant that has none undefined, because it folds constants; a slice of a variable is an error on both sides.
REFUSALS = re.compile(r"object is not subscriptable|128 bits|complex numbers|not supported|more than \d+ (bytes|levels|steps|MiB)|too large|is out of range")
KINDS = {"syntax": (2,), "render": (0,)}  # ErrorCode: kCorrupt, kInvalidArgument


class Program:
    def __init__(self, path):
        env = dict(os.environ, TZ="UTC")
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def ask(self, request):
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the program died on {json.dumps(request)}")
        return json.loads(line)


def difference(expected, answer):
    """None when both sides agree, else a line that says how they do not."""
    kind, text = expected
    if "error" in answer and REFUSALS.search(answer["error"]):
        return None
    if kind == "text":
        if ADDRESS.search(text):
            return None
        if "error" in answer:
            return f"jinja2 renders {text!r}, ours fails: {answer['error']}"
        return None if answer["text"] == text else f"jinja2: {text!r}\nours:   {answer['text']!r}"
    if "text" in answer:
        return f"jinja2 fails ({text}), ours renders {answer['text']!r}"
    if answer["code"] not in KINDS[kind]:
        return f"jinja2 fails with a {kind} error ({text}), ours with code {answer['code']}: {answer['error']}"
    return None


def chat_templates(arguments):
    named = dict(item.split("=", 1) for item in arguments)
    if not named:
        data = os.path.join(ROOT, "tests", "data", "jinja")
        named = {name: os.path.join(data, name) for name in sorted(os.listdir(data)) if os.path.isdir(os.path.join(data, name))}
    return {name: (folder, *jinja_conversations.load(folder)) for name, folder in named.items()}


def live(options):
    program = Program(options.program)
    rng = random.Random(options.seed)
    shown = total = 0

    def check(what, request, expected, answer):
        nonlocal shown, total
        total += 1
        problem = difference(expected, answer)
        if problem is None:
            return
        shown += 1
        print(f"--- {what}: {json.dumps(request)[:3000]}\n{problem}\n")
        if shown >= options.show:
            raise SystemExit(f"{shown} differences in {total} cases")

    for text, variables in jinja_snippets.snippets():
        answer = program.ask({"template": text, "variables": variables, "now": jinja_oracle.NOW})
        check("snippet", text, jinja_oracle.render(text, variables), answer)
    snippets = total
    for _ in range(options.count):
        text = jinja_fuzz.template(rng) if rng.random() < 0.5 else "{{ " + jinja_fuzz.expression(rng) + " }}"
        answer = program.ask({"template": text, "variables": jinja_snippets.V, "now": jinja_oracle.NOW})
        check("random template", text, jinja_oracle.render(text, jinja_snippets.V), answer)
        jinja_oracle._compiled.clear()
    conversations = 0
    for name, (folder, source, tokens) in chat_templates(options.template).items():
        for _ in range(options.count):
            request = jinja_conversations.conversation(rng, name)
            answer = program.ask({"folder": os.path.abspath(folder), "now": jinja_oracle.NOW, **request})
            check(name, request, jinja_oracle.apply(source, tokens, request), answer)
            conversations += 1
    print(f"{snippets} snippets, {options.count} random templates, {conversations} conversations: {shown} differences")
    return 1 if shown else 0


def golden(options):
    cases = []
    for text, variables in jinja_snippets.snippets():
        kind, result = jinja_oracle.render(text, variables)
        if kind == "text" and ADDRESS.search(result):
            continue
        cases.append([text, kind, result if kind == "text" else ""])
    write(os.path.join(options.folder, "snippets.json"),
          {"made by": "tools/compare_jinja.py golden", "now": jinja_oracle.NOW, "variables": jinja_snippets.V}, cases)
    rng = random.Random(options.seed)
    cases = []
    for name, (_, source, tokens) in chat_templates(options.template).items():
        for _ in range(180):
            request = jinja_conversations.conversation(rng, name, small=True)
            kind, result = jinja_oracle.apply(source, tokens, request)
            cases.append({"template": name, **request, "kind": kind, "expected": result if kind == "text" else ""})
    write(os.path.join(options.folder, "conversations.json"),
          {"made by": "tools/compare_jinja.py golden", "now": jinja_oracle.NOW}, cases)
    return 0


def write(path, head, cases):
    """One case a line, so that a change of one is a small difference."""
    with open(path, "w", encoding="utf-8") as out:
        out.write(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"cases": [\n')
        out.write(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases))
        out.write("\n]}\n")
    print(f"{path}: {len(cases)} cases, {os.path.getsize(path)} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    a = modes.add_parser("live")
    a.add_argument("program")
    a.add_argument("--count", type=int, default=1000)
    a.add_argument("--show", type=int, default=10)
    b = modes.add_parser("golden")
    b.add_argument("folder")
    for mode in (a, b):
        mode.add_argument("--seed", type=int, default=1)
        mode.add_argument("--template", action="append", default=[], metavar="NAME=FOLDER")
    options = parser.parse_args()
    return live(options) if options.mode == "live" else golden(options)


if __name__ == "__main__":
    sys.exit(main())
