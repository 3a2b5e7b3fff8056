"""Generated harmony conversations, token streams and chats, for compare_harmony.py. The same seed gives the same cases."""

import random

SPECIALS = {"<|return|>": 200002, "<|constrain|>": 200003, "<|channel|>": 200005, "<|start|>": 200006,
            "<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012}
NAMES = {v: k for k, v in SPECIALS.items()}

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
                f" to={to}<|channel|>{channel}<|constrain|>{kind_of}", f" to={to} {kind_of}"])
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
