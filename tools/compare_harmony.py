#!/usr/bin/env python3
"""Compares the C++ harmony code with the openai-harmony wheel and with gpt-oss's chat template.

    compare_harmony.py render     generated conversations: the same token ids
    compare_harmony.py parse      generated well-formed streams: the same messages
    compare_harmony.py malformed  damaged streams: counts where the wheel fails and C++ gives messages
    compare_harmony.py template   generated chats: the same text as the chat template where both define it
    compare_harmony.py golden     writes tests/data/harmony/*_cases.json from the wheel

Needs openai-harmony and jinja2, and build/<preset>/harmony_probe. Works offline: the wheel's vocabulary is rebuilt
from the tokenizer.json of the fixtures. Exits 1 when something differs that is not listed as a known difference.
"""

import argparse
import base64
import collections
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from harmony_cases import Chats, Generator, Streams, NAMES, SPECIALS

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT.parent / "shared" / "fixtures"


class Vocabulary:
    """Bytes of every token of o200k_harmony, from its tokenizer.json."""

    def __init__(self, path):
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [b for b in range(256) if b not in visible]
        table = {chr(b): b for b in visible}
        table.update({chr(256 + i): b for i, b in enumerate(hidden)})
        self.bytes = {i: bytes(table[c] for c in t) for t, i in data["model"]["vocab"].items()}
        self.specials = {t["id"]: t["content"] for t in data["added_tokens"]}

    def write_tiktoken(self, folder):
        with open(pathlib.Path(folder) / "o200k_base.tiktoken", "wb") as file:
            for rank in sorted(self.bytes):
                file.write(base64.b64encode(self.bytes[rank]) + b" %d\n" % rank)

    def pair(self, token):
        """A token as the probe reads it. Other special tokens are text to the wheel, so they are text here."""
        if token in NAMES:
            return [token, ""]
        raw = self.bytes.get(token) or self.specials[token].encode()
        return [-1 if token in self.specials else token, raw.hex()]


class Probe:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8")

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


# ---------------------------------------------------------------------------------------------------------------
# The wheel

class Wheel:
    def __init__(self, vocabulary):
        self.folder = tempfile.TemporaryDirectory()
        vocabulary.write_tiktoken(self.folder.name)
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = self.folder.name
        import openai_harmony
        self.lib = openai_harmony
        self.encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
        self.cache = {}

    def plain(self, text):
        if text not in self.cache:
            self.cache[text] = self.encoding.encode(text, disallowed_special=())
        return self.cache[text]

    def special(self, text):
        return self.encoding.encode(text, allowed_special="all")

    def ids(self, pieces):
        out = []
        for kind, text in pieces:
            out += [SPECIALS[text]] if kind == "special" else self.plain(text)
        return out

    def render(self, messages, mode, drop, next_role="assistant", has_tools=False):
        inner = self.encoding._inner  # the JSON goes in as it is, without the typed layer between
        conversation = json.dumps({"messages": messages})
        config = {"auto_drop_analysis": drop == "library"}
        if mode == "conversation":
            return inner.render_conversation(conversation_json=conversation, config=config)
        if mode == "training":
            return inner.render_conversation_for_training(conversation_json=conversation, config=config)
        if mode == "message":
            return inner.render(message_json=json.dumps(messages[0]),
                                render_options={"conversation_has_function_tools": has_tools})
        return inner.render_conversation_for_completion(conversation_json=conversation, next_turn_role=next_role,
                                                        config=config)

    def parse(self, tokens, role, strict=True):
        parser = self.lib.StreamableParser(self.encoding, self.lib.Role(role) if role else None, strict=strict)
        for token in tokens:
            parser.process(token)
        parser.process_eos()
        return json.loads(parser._inner.messages)


def runs(wheel, tokens):
    """Token ids as [special name or text], text whole between the specials."""
    out, text = [], []
    for token in [*tokens, None]:
        if token is None or token in NAMES:
            if text:
                out.append(["text", wheel.encoding.decode(text)])
            text = []
            if token is not None:
                out.append(["special", NAMES[token]])
        else:
            text.append(token)
    return out


def compare_render(args, wheel, probe):
    generator = Generator(args.seed)
    same = failed_both = tools = 0
    for number in range(args.count):
        messages = generator.conversation()
        mode = generator.random.choice(["conversation", "completion", "completion", "training", "message"])
        if mode == "message" and not messages:
            mode = "conversation"
        drop = generator.random.choice(["library", "library", "none"])
        next_role = generator.random.choice(["assistant", "user", "developer", "system"])
        has_tools = generator.chance(0.5)
        try:
            expected = wheel.render(messages, mode, drop, next_role, has_tools)
        except Exception as error:  # the wheel's own error type
            expected = None
            reason = str(error)
        got = probe.ask(op="render", messages=messages, mode=mode, drop=drop, next=next_role,
                        has_function_tools=has_tools)
        if expected is None:
            if "error" not in got:
                print(f"case {number}: the wheel refuses ({reason}), C++ renders")
                return 1
            failed_both += 1
            continue
        actual = None if "error" in got else wheel.ids(got["pieces"])
        if actual != expected:
            print(f"case {number} ({mode}, {drop}) differs")
            print("messages", json.dumps(messages, ensure_ascii=False))
            print("wheel", wheel.encoding.decode(expected))
            print("C++  ", got.get("error") or wheel.encoding.decode(actual))
            return 1
        same += 1
        tools += any("tools" in part for m in messages for part in m["content"])
    print(f"render: {same} conversations with the same ids ({tools} of them with tools), {failed_both} refused by both")
    return 0


# ---------------------------------------------------------------------------------------------------------------
# Parsing

def simple(message):
    content = message.get("content", "")
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content)
    return {"role": message["role"], "name": message.get("name"), "channel": message.get("channel"),
            "recipient": message.get("recipient"), "content_type": message.get("content_type"), "content": content}


def show(wheel, tokens):
    return "".join(text for _, text in runs(wheel, tokens))


def compare_parse(args, wheel, probe, vocabulary):
    streams = Streams(Generator(args.seed), wheel, vocabulary)
    same = total = 0
    for number in range(args.count):
        tokens, role = streams.well_formed()
        try:
            expected = [simple(m) for m in wheel.parse(tokens, role)]
        except Exception as error:
            print(f"stream {number}: the wheel refuses a stream meant to be well-formed: {error}")
            print(show(wheel, tokens))
            return 1
        got = probe.ask(op="parse", role=role, tokens=[vocabulary.pair(t) for t in tokens])
        actual = [simple(m) for m in got.get("messages", [])]
        if actual != expected or got["streamed"] != "".join(m["content"] for m in expected):
            print(f"stream {number} differs: role {role}\n{show(wheel, tokens)}")
            print("wheel", json.dumps(expected, ensure_ascii=False))
            print("C++  ", json.dumps(got, ensure_ascii=False))
            return 1
        same += 1
        total += len(expected)
    print(f"parse: {same} well-formed streams with the same {total} messages")
    return 0


def compare_malformed(args, wheel, probe, vocabulary):
    streams = Streams(Generator(args.seed), wheel, vocabulary)
    counts = collections.Counter()
    reasons = collections.Counter()
    examples = {}
    for _ in range(args.count):
        tokens, role = streams.damaged()
        got = probe.ask(op="parse", role=role, tokens=[vocabulary.pair(t) for t in tokens])
        if "messages" not in got:
            print(f"C++ fails: {got}\n{show(wheel, tokens)}")
            return 1
        actual = [simple(m) for m in got["messages"]]
        for name, strict in (("strict", True), ("lenient", False)):
            try:
                expected = [simple(m) for m in wheel.parse(tokens, role, strict)]
            except Exception as error:
                counts[f"{name}: the wheel fails, C++ gives messages"] += 1
                reason = str(error).split(":")[0].split("[")[0].strip()
                reason = " ".join("N" if w.isdigit() else w for w in reason.split())
                if strict:
                    reasons[reason] += 1
                    examples.setdefault(reason, (show(wheel, tokens), actual))
                continue
            key = "the same messages" if actual == expected else "other messages"
            counts[f"{name}: {key}"] += 1
            if args.verbose and actual != expected and not strict:
                print(show(wheel, tokens).replace("\n", "\\n"), role)
                print("   wheel", [{k: v for k, v in m.items() if v} for m in expected])
                print("   C++  ", [{k: v for k, v in m.items() if v} for m in actual])
    for key in sorted(counts):
        print(f"malformed, {key}: {counts[key]}")
    for reason, number in reasons.most_common():
        print(f"  {number} x {reason}")
        if args.verbose:
            print(f"      {examples[reason][0]!r}\n      -> {examples[reason][1]}")
    return 0


# ---------------------------------------------------------------------------------------------------------------
# The chat template

def template_renderer(path):
    import jinja2
    import jinja2.sandbox

    def fail(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False, **kw)
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.datetime(2025, 6, 28).strftime(form)
    return environment.from_string(pathlib.Path(path).read_text(encoding="utf-8"))


def template_case(template, chats):
    """A chat and what the template makes of it, or nothing where the template refuses (channel tags in texts)."""
    import jinja2
    messages, tools = chats.chat()
    training = messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1] and chats.chance(0.3)
    effort = chats.random.choice(["low", "medium", "high"])
    try:
        text = template.render(messages=messages, tools=tools, add_generation_prompt=not training,
                               reasoning_effort=effort)
    except jinja2.TemplateError:
        return None
    return {"mode": "training" if training else "completion", "effort": effort, "messages": messages, "tools": tools,
            "text": text}


def compare_template(args, probe):
    template = template_renderer(args.template)
    chats = Chats(args.seed)
    same = 0
    for number in range(args.count):
        case = template_case(template, chats)
        if case is None:
            continue
        expected = case.pop("text")
        got = probe.ask(op="chat", current_date="2025-06-28", drop="finished", **case)
        actual = got.get("error") or "".join(text for _, text in got["pieces"])
        if actual != expected:
            print(f"chat {number} differs")
            print("chat", json.dumps(case, ensure_ascii=False))
            print("template", expected, "\nC++     ", actual)
            return 1
        same += 1
    print(f"template: {same} chats with the same text")
    return 0


# ---------------------------------------------------------------------------------------------------------------
# Data for the unit tests

def write_golden(args, wheel, vocabulary):
    folder = ROOT / "tests" / "data" / "harmony"
    generator = Generator(args.seed)
    cases = []
    while len(cases) < 60:
        messages = generator.conversation()
        mode = generator.random.choice(["conversation", "completion", "training"])
        drop = generator.random.choice(["library", "library", "none"])
        try:
            tokens = wheel.render(messages, mode, drop)
        except Exception:
            continue
        cases.append({"mode": mode, "drop": drop, "messages": messages, "pieces": runs(wheel, tokens)})
    write_lines(folder / "render_cases.json", cases)
    streams = Streams(Generator(args.seed + 1), wheel, vocabulary)
    cases = []
    while len(cases) < 150:
        tokens, role = streams.well_formed()
        messages = [{k: v for k, v in simple(m).items() if v is not None} for m in wheel.parse(tokens, role)]
        pieces = [NAMES[t] if t in NAMES else vocabulary.bytes[t].hex() for t in tokens]
        cases.append({"role": role, "tokens": pieces, "messages": messages})
    write_lines(folder / "parse_cases.json", cases)
    chats = Chats(args.seed + 2)
    cases = []
    while len(cases) < 60:
        case = template_case(template_renderer(args.template), chats)
        if case is not None:
            cases.append(case)
    write_lines(folder / "chat_cases.json", cases)
    used = {int(t) for f in ("test_simple_reasoning_response", "test_simple_tool_call")
            for t in (folder / f"{f}.txt").read_text().split()}
    table = {str(t): vocabulary.bytes[t].hex() for t in sorted(used) if t in vocabulary.bytes}
    (folder / "token_bytes.json").write_text(json.dumps(table, indent=0) + "\n")
    return 0


def write_lines(path, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    path.write_text("[\n" + lines + "\n]\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["render", "parse", "malformed", "template", "golden"])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--probe", default=str(ROOT / "build" / "release" / "harmony_probe"))
    parser.add_argument("--tokenizer", default=str(FIXTURES / "tokenizers" / "o200k_harmony" / "tokenizer.json"))
    parser.add_argument("--template", default=str(FIXTURES / "gpt-oss-20b" / "chat_template.jinja"))
    args = parser.parse_args()
    if args.what == "template":
        return compare_template(args, Probe(args.probe))
    vocabulary = Vocabulary(args.tokenizer)
    wheel = Wheel(vocabulary)
    if args.what == "golden":
        return write_golden(args, wheel, vocabulary)
    if args.what == "render":
        return compare_render(args, wheel, Probe(args.probe))
    compare = compare_parse if args.what == "parse" else compare_malformed
    return compare(args, wheel, Probe(args.probe), vocabulary)


if __name__ == "__main__":
    sys.exit(main())
