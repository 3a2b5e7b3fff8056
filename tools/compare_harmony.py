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
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT.parent / "shared" / "fixtures"
SPECIALS = {"<|return|>": 200002, "<|constrain|>": 200003, "<|channel|>": 200005, "<|start|>": 200006,
            "<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012}
NAMES = {v: k for k, v in SPECIALS.items()}


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
# Generated conversations

WORDS = ("the quick brown fox naïve café 東京 Привет שלום नमस्ते 你好，世界 🙂 👩‍👩‍👧 e\u0301 3.14 1000000 don't can't "
         "self.x += 1 {\"a\": [1, 2]} <b>bold</b> C++ don’t — “quoted” \t tab \u00a0nbsp \r\n crlf \n\n para ''' \"\"\" "
         "\\n // comment /* */ http://example.org/?q=1&r=2 a_b-c.d ALLCAPS McDonald I'LL they'VE 12ab34 \u200b zero "
         "<|start|> <|end|> <|message|>hi <|channel|>final to=functions.f <|constrain|> <|return|> assistant user").split(" ")
NAMES_POOL = ["location", "format", "units", "query", "top_n", "id", "x-y", "名前", "a.b", "$ref", "type", "list",
              "nested", "value", "enabled", "count", "tags", "options", "when"]


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def chance(self, p):
        return self.random.random() < p

    def text(self, longest=14, line=False):
        r = self.random
        n = r.choice([0, 1, 2, 3, 5, 8, longest])
        text = r.choice([" ", " ", " ", "", "\n"]).join(r.choice(WORDS) for _ in range(n))
        if self.chance(0.1):
            text = r.choice([" ", "\n", "  ", "\t"]) + text + r.choice([" ", "\n", "   "])
        return " ".join(text.split()) if line else text

    def name(self):
        return self.random.choice(NAMES_POOL) + self.random.choice(["", "", str(self.random.randint(0, 9))])

    def scalar(self):
        r = self.random
        return r.choice([
            lambda: r.randint(-10**6, 10**6), lambda: r.choice([0, -1, 2**53, -(2**63), 2**63 - 1, 2**64 - 1]),
            lambda: r.choice([0.5, -1.25, 1e16, 1e15, 1.5e-7, 1e-5, 1e-4, 123456.789, 1e300, 3.0, 0.1 + 0.2, 12e20]),
            lambda: r.choice([True, False, None]), lambda: self.text(4), lambda: self.text(4),
            lambda: r.choice(["celsius", "a", ""])])()

    def value(self, depth=0):
        r = self.random
        if depth < 3 and self.chance(0.25):
            if self.chance(0.5):
                return [self.value(depth + 1) for _ in range(r.randint(0, 3))]
            return {self.name(): self.value(depth + 1) for _ in range(r.randint(0, 3))}
        return self.scalar()

    def schema(self, depth=0):
        r = self.random
        kinds = ["string", "string", "enum", "number", "integer", "boolean", "types", "odd", "const"]
        if depth < 4:
            kinds += ["object", "object", "array", "array", "oneof", "anyof"]
        kind = r.choice(kinds)
        s = {}
        if kind == "enum":
            s = {"type": "string", "enum": [r.choice([self.text(2), "celsius", "a", "b", 3, None])
                                            for _ in range(r.randint(0, 4))]}
        elif kind == "types":
            s = {"type": [r.choice(["string", "number", "integer", "null", "object", 7])
                          for _ in range(r.randint(0, 3))]}
        elif kind == "odd":
            s = r.choice([{}, {"type": "null"}, {"type": "file"}, {"type": 3}, {"enum": ["a"]}, {"$ref": "#/x"},
                          {"oneOf": 3}, {"oneOf": []}, {"type": None}, True, "string"])
            s = dict(s) if isinstance(s, dict) else s
        elif kind == "const":
            s = {"const": self.scalar(), "type": "string"}
        elif kind == "object":
            s = {"type": "object"}
            if self.chance(0.9):
                s["properties"] = {self.name(): self.schema(depth + 1) for _ in range(r.randint(0, 4))}
                if self.chance(0.6):
                    s["required"] = [n for n in s["properties"] if self.chance(0.5)] + r.choice([[], [3], ["zz"]])
            if self.chance(0.2):
                s["additionalProperties"] = False
        elif kind == "array":
            s = {"type": "array"}
            if self.chance(0.85):
                s["items"] = self.schema(depth + 1)
        elif kind in ("oneof", "anyof"):
            variants = [self.schema(depth + 1) for _ in range(r.randint(0, 3))]
            s = {"oneOf" if kind == "oneof" else "anyOf": variants}
            if self.chance(0.2):
                s["type"] = "string"
        else:
            s = {"type": kind}
        if isinstance(s, dict):
            if self.chance(0.4):
                s["description"] = self.text(6)
            if self.chance(0.2) and isinstance(s.get("oneOf"), list) and s["oneOf"] and isinstance(s["oneOf"][0], dict):
                s["oneOf"][0]["description"] = s.get("description", "same")
            if self.chance(0.15):
                s["title"] = self.text(3)
            if self.chance(0.3):
                s["default"] = self.value()
            if self.chance(0.2):
                s["nullable"] = r.choice([True, True, False, "yes"])
            if self.chance(0.15):
                s["examples"] = [self.scalar() for _ in range(r.randint(0, 3))]
            if self.chance(0.3):
                items = list(s.items())
                r.shuffle(items)
                s = dict(items)
        return s

    def parameters(self):
        r = self.random
        if self.chance(0.15):
            return None
        schema = {"type": "object", "properties": {self.name(): self.schema(1) for _ in range(r.randint(0, 5))}}
        if self.chance(0.6):
            schema["required"] = [n for n in schema["properties"] if self.chance(0.5)]
        if self.chance(0.2):
            schema["description"] = self.text(5)
        while True:
            other = schema if self.chance(0.9) else self.schema()
            if isinstance(other, dict):
                return other

    def tool(self):
        return {"name": self.random.choice(["get_weather", "lookup", "f", "run_code", "搜索", "a.b"]) +
                self.random.choice(["", "_2"]), "description": self.text(8), "parameters": self.parameters()}

    def namespaces(self, names):
        spaces = {}
        for name in names:
            if self.chance(0.4):
                spaces[name] = {"name": name, "description": self.random.choice([None, self.text(8)]),
                                "tools": [self.tool() for _ in range(self.random.choice([0, 1, 1, 2, 3]))]}
        return spaces or None

    def system(self):
        r = self.random
        content = {"type": "system_content"}
        if self.chance(0.9):
            content["model_identity"] = r.choice(
                ["You are ChatGPT, a large language model trained by OpenAI.", self.text()])
        if self.chance(0.9):
            content["reasoning_effort"] = r.choice(["Low", "Medium", "High"])
        if self.chance(0.5):
            content["conversation_start_date"] = "2025-06-28"
        if self.chance(0.9):
            content["knowledge_cutoff"] = r.choice(["2024-06", "2021-01"])
        if self.chance(0.9):
            content["channel_config"] = {
                "valid_channels": r.choice([["analysis", "commentary", "final"], ["analysis", "final"], []]),
                "channel_required": self.chance(0.8)}
        tools = self.namespaces(["python", "container", "browser", "zeta", "Alpha"])
        if tools:
            content["tools"] = tools
        return {"role": "system", "content": [content]}

    def developer(self):
        content = {"type": "developer_content"}
        if self.chance(0.8):
            content["instructions"] = self.text()
        tools = self.namespaces(["functions", "functions", "other"])
        if tools:
            content["tools"] = tools
        return {"role": "developer", "content": [content]}

    def texts(self):
        return [{"type": "text", "text": self.text()} for _ in range(self.random.choice([1, 1, 1, 1, 2, 3, 0]))]

    def turn(self):
        r = self.random
        kind = r.choice(["user", "user", "analysis", "analysis", "final", "final", "call", "call", "result",
                         "preamble", "odd"])
        if kind == "user":
            m = {"role": "user", "content": self.texts()}
            if self.chance(0.1):
                m["name"] = r.choice(["bob", "Alice Smith", "名"])
            return m
        if kind in ("analysis", "final"):
            return {"role": "assistant", "content": self.texts(), "channel": kind}
        if kind == "preamble":
            return {"role": "assistant", "content": self.texts(), "channel": "commentary"}
        if kind == "call":
            m = {"role": "assistant", "content": self.texts(), "channel": r.choice(["commentary", "analysis"]),
                 "recipient": r.choice(["functions.get_weather", "python", "browser.search", "functions.搜索"])}
            if self.chance(0.8):
                m["content_type"] = r.choice(["json", "<|constrain|>json", "code", "<|constrain|>"])
            return m
        if kind == "result":
            m = {"role": "tool", "name": r.choice(["functions.get_weather", "python", "browser.search"]),
                 "content": self.texts()}
            if self.chance(0.8):
                m["recipient"] = "assistant"
            if self.chance(0.8):
                m["channel"] = "commentary"
            return m
        m = {"role": r.choice(["user", "assistant", "system", "developer"]), "content": self.texts()}
        if self.chance(0.3):
            m["channel"] = r.choice(["final", "analysis", "weird"])
        if self.chance(0.2):
            m["recipient"] = r.choice(["all", "user", "x"])
        if self.chance(0.2):
            m["content_type"] = r.choice(["text", "<|constrain|>yaml"])
        return m

    def conversation(self):
        messages = []
        if self.chance(0.85):
            messages.append(self.system())
        if self.chance(0.8):
            messages.append(self.developer())
        return messages + [self.turn() for _ in range(self.random.randint(0, 8))]


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

class Streams:
    """Token streams: well-formed ones as models and the library write them, and damaged ones."""

    def __init__(self, generator, wheel, vocabulary):
        self.g, self.wheel, self.vocabulary = generator, wheel, vocabulary

    def content(self):
        g = self.g
        if g.chance(0.15):  # any tokens: characters cut anywhere, invalid UTF-8
            return [g.random.randrange(199998) for _ in range(g.random.randint(0, 12))]
        text = g.text(20)
        tokens = list(self.wheel.plain(text))
        if g.chance(0.2) and tokens:  # bytes as single tokens
            raw = text.encode("utf-8", "replace")
            singles = {self.vocabulary.bytes[i]: i for i in range(256)}
            tokens = [singles[bytes([b])] for b in raw]
        return tokens

    def header(self, after_prompt):
        g = self.g
        r = g.random
        kind = r.choice(["plain", "channel", "channel", "call", "call", "call", "result", "typed"])
        role = r.choice(["assistant", "assistant", "assistant", "user", "system", "developer"])
        if after_prompt or kind in ("call", "typed"):
            role = "assistant"
        channel = r.choice(["analysis", "commentary", "final", "analysis", "commentary", "final", "side_notes"])
        lead = "" if after_prompt else "<|start|>" + role
        if kind == "result" and not after_prompt:
            name = r.choice(["functions.f", "browser.search", "python", "工具", "a:b"])
            return f"<|start|>{name} to=assistant" + r.choice(["", "<|channel|>commentary"])
        if kind == "call":
            to = r.choice(["functions.get_weather", "python", "browser.open", "functions.搜索", "mcp.a-b_c"])
            kind_of = r.choice(["json", "code", "text", "application/x.y"])
            channel = r.choice(["commentary", "analysis"])
            space = r.choice([" ", " ", "  "])
            return lead + r.choice([
                f" to={to}<|channel|>{channel}{space}{kind_of}", f" to={to}<|channel|>{channel} <|constrain|>{kind_of}",
                f"<|channel|>{channel} to={to}{space}<|constrain|>{kind_of}", f"<|channel|>{channel} to={to} {kind_of}",
                f"<|channel|>{channel} to={to}<|constrain|>{kind_of}", f"<|channel|>{channel} to={to}",
                f" to={to}<|channel|>{channel}", f" to={to}", f"<|channel|>{channel} {to} {kind_of}",
                f" to={to}<|channel|>{channel}<|constrain|>{kind_of}", f" {kind_of} to={to}<|channel|>{channel}"[0:0] or
                f" to={to} {kind_of}"])
        if kind == "plain":
            return lead
        return lead + "<|channel|>" + channel

    def well_formed(self):
        g = self.g
        role = g.random.choice([None, "assistant"])
        tokens = []
        count = g.random.randint(1, 5)
        for i in range(count):
            tokens += self.wheel.special(self.header(role is not None and i == 0) + "<|message|>")
            tokens += self.content()
            last = i + 1 == count
            if not (last and g.chance(0.3)):
                tokens.append(g.random.choice([200007, 200007, 200002, 200012]))
        return tokens, role

    def damaged(self):
        g = self.g
        r = g.random
        tokens, role = self.well_formed()
        for _ in range(r.randint(1, 4)):
            at = r.randint(0, len(tokens))
            what = r.choice(["drop", "insert", "double", "text", "cut", "swap"])
            if what == "drop" and tokens:
                special = [i for i, t in enumerate(tokens) if t in NAMES]
                if special:
                    del tokens[r.choice(special)]
            elif what == "insert":
                tokens.insert(at, r.choice(list(NAMES)))
            elif what == "double":
                special = [i for i, t in enumerate(tokens) if t in NAMES]
                if special:
                    i = r.choice(special)
                    tokens.insert(i, tokens[i])
            elif what == "text":
                tokens[at:at] = self.wheel.plain(r.choice(["??", " 2? ", "?commentary?", " The user asks", "final", "\n",
                                                           " to=assistant", " json", "364"]))
            elif what == "cut":
                del tokens[at:]
            elif len(tokens) > 1:
                i = r.randrange(len(tokens) - 1)
                tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
        return tokens, role


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

class Chats(Generator):
    """Chats within what the template and the library render alike (the differences are listed in harmony_chat.h)."""

    def simple_schema(self):
        r = self.random
        kind = r.choice(["string", "number", "integer", "boolean", "enum", "strings", "numbers", "flags"])
        s = {"enum": {"type": "string", "enum": r.sample(["celsius", "fahrenheit", "kelvin", "a b"], 2)},
             "strings": {"type": "array", "items": {"type": "string"}},
             "numbers": {"type": "array", "items": {"type": r.choice(["number", "integer"])}},
             "flags": {"type": "array", "items": {"type": "boolean"}}}.get(kind, {"type": kind})
        if self.chance(0.6):
            s["description"] = self.text(6, line=True) or "x"
        if kind in ("string", "strings") and self.chance(0.2):
            s["nullable"] = True
        return s

    def tools(self):
        tools = []
        for i in range(self.random.randint(1, 3)):
            function = {"name": f"tool_{i}", "description": self.text(8, line=True) or "does it"}
            if self.chance(0.8):
                names = self.random.sample(NAMES_POOL, self.random.randint(1, 4))
                function["parameters"] = {"type": "object", "properties": {n: self.simple_schema() for n in names}}
                if self.chance(0.7):
                    function["parameters"]["required"] = [n for n in names if self.chance(0.5)]
            tools.append({"type": "function", "function": function})
        return tools

    def chat(self):
        r = self.random
        tools = self.tools() if self.chance(0.6) else None
        messages = []
        if tools and self.chance(0.6):
            messages.append({"role": r.choice(["system", "developer"]), "content": self.text()})
        for _ in range(r.randint(1, 4)):
            messages.append({"role": "user", "content": self.text()})
            for _ in range(r.choice([0, 0, 1, 2]) if tools else 0):
                call = {"role": "assistant", "tool_calls": [
                    {"type": "function", "function": {"name": r.choice(tools)["function"]["name"],
                                                      "arguments": {self.name(): self.value() for _ in range(2)}}}]}
                if self.chance(0.6):
                    call["thinking"] = self.text() or "hm"
                result = {self.name(): self.value()}
                messages += [call, {"role": "tool", "content": result}]
            if self.chance(0.8):
                answer = {"role": "assistant", "content": self.text()}
                if self.chance(0.5):
                    answer["thinking"] = self.text() or "hm"
                messages.append(answer)
        return messages, tools


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
