"""A stand-in for the server: serves the chat page and answers with fixed streams, so that a browser test sees every case.

The last user message picks the answer (see ANSWERS). `StandIn(html)` is a context manager; `.url`, `.requests` (bodies as
they came) and the switches `.key` and `.loading` belong to the test.
"""
import base64
import hashlib
import http.server
import json
import re
import threading
import time

MARKDOWN = """# A heading
Some *emphasis*, **strength**, ***both***, ~~gone~~ and `code with <b>`; a [link](https://example.org/a_(b)?c=1 "t") and https://example.org/x.
Snake_case_names and 2 * 3 * 4 stay.

- one
- two
  1. inner
  2. inner *two*
- [x] done

> quoted
> > twice

| word | count |
|:-----|------:|
| a    | 1     |
| b \\| c | 22  |

```python
def hello(name):  # greets
    return f"hello {name}" * 3
```

---
3. three
4. four
"""

HOSTILE = """<script>window.hacked=1</script><img src=x onerror="window.hacked=1"><svg onload=window.hacked=1>
[a](javascript:window.hacked=1) [b](JaVaScRiPt:window.hacked=1) [c](data:text/html,<script>window.hacked=1</script>) [d](java\tscript:hacked)
![pixel](https://outside.invalid/pixel.png) <https://outside.invalid/"onmouseover="window.hacked=1>
[e](https://outside.invalid/"><script>window.hacked=1</script>) `</code><script>window.hacked=1</script>`

```html"><img src=x onerror=window.hacked=1>
</code></pre><script>window.hacked=1</script>
```
| <img src=x onerror=window.hacked=1> | b |
|---|---|
| </td><script>window.hacked=1</script> | \u202eevil\u0000\ufeff |

<iframe src="javascript:window.hacked=1"></iframe><style>body{display:none}</style><base href="https://outside.invalid/">
"""

# Each would take minutes in a renderer that backtracks or nests without bound.
MONSTERS = ["[" * 40000, "*a " * 20000 + "b* " * 20000, "_a *b " * 15000 + "c* d_ " * 15000, ">" * 40000, "`" * 300 + "` `` ``` " * 8000, " ".join("`" * i for i in range(1, 500)),
            "- " * 20000, "](" * 20000, "|" * 20000 + "\n" + "|-" * 10000, "# " + "#" * 40000 + "x", "---" + " " * 40000 + "x",
            "https://" * 8000, "\n".join(" " * i + "- x" for i in range(400)), "![" * 20000, "~~" * 20000 + "x", "**" * 20000 + "x" + "**" * 20000,
            "```js\n" + "/*" * 20000 + "`" * 20001 + "\n```", "a" * 100000, "1. " * 20000, "\\" * 40000, "<br" * 20000]


def sentence(text):
    return re.findall(r"\S+\s*|\s+", text)


def deltas(key, text):
    return [{key: piece} for piece in sentence(text)]


def call(index, name, arguments):
    """The deltas of one tool call, its arguments in small pieces."""
    first = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"index": index, "function": {"arguments": arguments[i:i + 4]}} for i in range(0, len(arguments), 4)]
    return [{"tool_calls": [part]} for part in [first] + rest]


ANSWERS = {
    "markdown": deltas("reasoning_content", "The user wants to see markdown. So be it.") + deltas("content", MARKDOWN),
    "hostile": deltas("reasoning_content", HOSTILE) + [{"content": HOSTILE}],
    "hostile tool": call(0, "<img src=x onerror=window.hacked=1>", '{"a": "<script>window.hacked=1</script>"}'),
    "tool": deltas("reasoning_content", "A tool knows.") + call(0, "get_weather", '{"location": "Paris"}'),
    "tools": call(0, "add", '{"a": 1, "b": 2}') + call(1, "add", '{"a": 3, "b": 4}'),
    "slow": [{"content": f"word{i} "} for i in range(2000)],
    "think slowly": [{"reasoning_content": f"thought{i} "} for i in range(2000)],
    "long": [{"content": f"Paragraph {i}. " + "Some words follow here, and then some more. " * 3 + "\n\n"} for i in range(60)],
}
REFUSALS = {
    "refuse": (400, {"error": {"message": "Temperature <b>must</b> be at most 2.", "param": "temperature", "type": "invalid_request_error"}}, {}),
    "busy": (429, {"error": {"message": "The queue is full.", "type": "rate_limit_error"}}, {"Retry-After": "3"}),
    "plain 500": (500, "<h1>Bad gateway</h1>", {}),
}


class StandIn:
    def __init__(self, html, models=("stand-in",), context=4096):
        self.html, self.models, self.context = html, models, context
        self.key, self.loading, self.requests, self.aborted = None, False, [], 0
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                stand_in.get(self)

            def do_POST(self):
                stand_in.post(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def send(handler, status, body, headers=()):
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        handler.send_response(status)
        for name, value in dict({"Content-Type": "application/json"}, **dict(headers)).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def refused(self, handler):
        """Answers 401 or 503 where the switches say so."""
        if self.key and handler.headers.get("Authorization") != "Bearer " + self.key:
            self.send(handler, 401, {"error": {"message": "Incorrect API key provided.", "type": "authentication_error"}})
        elif self.loading:
            self.send(handler, 503, {"error": {"message": "The model is loading.", "type": "service_unavailable"}})
        else:
            return False
        return True

    def get(self, handler):
        if handler.path == "/":
            self.send(handler, 200, self.html, {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy(self.html)})
        elif handler.path == "/v1/models":
            if not self.refused(handler):
                self.send(handler, 200, {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": self.context}
                                                                    for name in self.models]})
        else:
            self.send(handler, 404, {"error": {"message": f"no route {handler.path}"}})

    def post(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.requests.append(body)
        if self.refused(handler):
            return
        last = body["messages"][-1]
        text = last["content"] if last["role"] == "user" else "result"
        if text in REFUSALS:
            status, answer, headers = REFUSALS[text]
            self.send(handler, status, answer, headers)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        try:
            self.stream(handler, text, body)
        except OSError:
            self.aborted += 1

    def stream(self, handler, text, body):
        def event(data, end="\n\n"):
            handler.wfile.write(("data: " + (data if isinstance(data, str) else json.dumps(data)) + end).encode())
            handler.wfile.flush()

        def chunk(delta, finish=None):
            event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        if text.startswith("monster "):
            pieces = [{"content": MONSTERS[int(text.split()[1])]}]
        elif text == "result":
            pieces = deltas("content", "The tool said: " + body["messages"][-1]["content"])
        else:
            pieces = ANSWERS.get(text, deltas("content", f"You said: {text}"))
        handler.wfile.write(b": a comment\r\n\r\n")
        chunk({"role": "assistant", "content": ""})
        for i, piece in enumerate(pieces):
            if text == "cut" and i == 2:
                return
            if text == "fail midway" and i == 2:
                event({"error": {"message": "The engine died.", "type": "server_error"}})
                event("[DONE]")
                return
            if text == "not json" and i == 2:
                event("{broken")
                return
            chunk(piece)
            if text in ("slow", "think slowly", "markdown", "long"):
                time.sleep(0.02)
        chunk({}, "tool_calls" if "tool_calls" in pieces[-1] else "length" if text == "limit" else "stop")
        if body.get("stream_options", {}).get("include_usage"):
            prompt = sum(len(json.dumps(m)) // 4 for m in body["messages"])
            event({"object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": len(pieces),
                   "total_tokens": prompt + len(pieces), "prompt_tokens_details": {"cached_tokens": prompt // 2}}}, "\r\n\r\n")
        event("[DONE]")


def policy(html):
    """The Content-Security-Policy that allows the page's own script and style and connections to its server: the build makes the same."""
    def digest(tag):
        inside = re.search(f"<{tag}>(.*?)</{tag}>".encode(), html, re.S).group(1)
        return base64.b64encode(hashlib.sha256(inside).digest()).decode()
    return (f"default-src 'none'; script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
