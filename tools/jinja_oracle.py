"""jinja2 as transformers sets it up, with a fixed clock: what compare_jinja.py compares with. Needs jinja2 >= 3.1.5."""
import datetime
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = (2025, 6, 28, 13, 4, 5)


class GenerationTag(jinja2.ext.Extension):
    """{% generation %}: renders its body; transformers also notes where, for training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _render(self, context, caller):
        return caller()


def make_environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(fmt):
        return datetime.datetime(*NOW).strftime(fmt)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


ENV = make_environment()
_compiled = {}


def render(template, variables):
    """("text", str), ("syntax", message) when it does not compile, or ("render", message) when rendering raises."""
    if template not in _compiled:
        try:
            _compiled[template] = ENV.from_string(template)
        except Exception as error:  # Python's own compiler adds errors that jinja2 does not know
            _compiled[template] = error
    compiled = _compiled[template]
    if isinstance(compiled, Exception):
        return "syntax", f"{type(compiled).__name__}: {compiled}"
    try:
        text = compiled.render(**variables)
        text.encode("utf-8")
        return "text", text
    except Exception as error:
        return "render", f"{type(error).__name__}: {error}"


CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "


def apply(template, special_tokens, request):
    """transformers' apply_chat_template for one conversation, without its conversion of Python functions."""
    messages = json.loads(json.dumps(request["messages"]))
    proceed = request.get("continue_final_message", False)
    final = None
    if proceed:
        final = messages[-1].get("content")
        if final is None or "content" not in template:
            return "render", "nothing to continue"
        if isinstance(final, list):
            for block in reversed(final):
                if isinstance(block, dict) and isinstance(block.get("text"), str):
                    final = block["text"]
                    block["text"] += CONTINUE
                    break
            else:
                return "render", "no text to continue"
        elif isinstance(final, str):
            messages[-1]["content"] = final + CONTINUE
        else:
            return "render", "no text to continue"
    variables = {**special_tokens, **request.get("kwargs", {})}
    variables.update(messages=messages, tools=request.get("tools"), documents=request.get("documents"),
                     add_generation_prompt=request.get("add_generation_prompt", False))
    kind, text = render(template, variables)
    if kind != "text" or not proceed:
        return kind, text
    if final.strip() not in text or CONTINUE.strip() not in text:
        return "render", "final message not in the prompt"
    at = text.rindex(CONTINUE.strip())
    kept_spacing = text[at:at + len(CONTINUE)] == CONTINUE
    return "text", text[:at] if kept_spacing else text[:at].rstrip()
