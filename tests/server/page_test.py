#!/usr/bin/env python3
"""Drives the chat page in headless Chromium, as a user would.

usage: page_test.py [--serve PROGRAM | --url URL [--key KEY]] [--screens DIR] [TEST...]
Every case is played by a stand-in server (page_stand_in.py), or, with --serve, the cases that a real server must bear are
played with `PROGRAM serve models/glossary`, started for each, killed and crowded; with --url, those of them that leave a
server alone. --screens keeps screenshots. Needs Python's playwright and a Chromium (CHROMIUM names one that is not in
PATH); exits 77 saying so where they are missing, else 0 or 1.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import harness  # noqa: E402
from page_stand_in import HOSTILE, MARKDOWN, MONSTERS, StandIn  # noqa: E402

PAGE = os.path.join(HERE, "../../src/server/page/index.html")
WEATHER = json.dumps([{"name": "get_weather", "description": "Tells the weather of a place.",
                       "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}}])


class User:
    """A page in a browser context of its own, and what a user does with it. Notes every error and every foreign request."""
    screens = None  # folder for screenshots

    def __init__(self, browser, url, **options):
        self.url, self.faults = url, []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url.rstrip("/"))
        self.page = self.context.new_page()
        self.page.set_default_timeout(20000)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self.console)
        self.page.on("request", self.request)
        self.page.on("dialog", lambda dialog: (self.faults.append("dialog"), dialog.dismiss()))
        self.page.goto(url)

    def console(self, message):
        # Refusals are part of the tests; Chromium logs each.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def request(self, request):
        if not request.url.startswith((self.url, "data:")):
            self.faults.append(f"request to {request.url}")

    def close(self):
        self.context.close()

    def shot(self, name):
        if self.screens:
            self.page.screenshot(path=os.path.join(self.screens, name + ".png"))

    def find(self, selector):
        return self.page.locator(selector)

    def text(self, selector):
        return self.find(selector).first.inner_text()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def say(self, text, wait=True):
        self.find("#text").fill(text)
        self.press("Enter")
        if wait:
            self.done()

    def done(self, timeout=180):
        self.wait("!running", timeout)

    def answer(self):
        return self.find("article.assistant").last

    def until(self, condition, timeout=30):
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("waited in vain")
            self.page.wait_for_timeout(20)

    def wait(self, expression, timeout=30):
        """Until the page's own script says so (playwright's waiting needs eval, which the policy refuses)."""
        self.until(lambda: self.page.evaluate(expression), timeout)

    def settings(self, **fields):
        self.press("Control+,")
        for name, value in fields.items():
            self.find("#" + name).fill(value)
        self.press("Escape")


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def holds(text, *parts):
    for part in parts:
        assert part in text, f"no {part!r} in {text[:600]!r}"


# ---- With the stand-in -------------------------------------------------------------------------------------------------
def test_markdown(user, server):
    user.say("markdown")
    holds(user.text("summary"), "Thought for")
    assert not user.find(".think .md").is_visible()
    user.find("summary").click()
    user.until(lambda: user.text(".think .md") == "The user wants to see markdown. So be it.")
    body = "article > .md "
    same(user.text(body + "h3"), "A heading")
    same([user.text(body + tag) for tag in ("p > em", "p > strong", "s", "p > code")], ["emphasis", "strength", "gone", "code with <b>"])
    same(user.text(body + "strong > em"), "both")
    same(user.find(body + "a").evaluate_all("all => all.map(a => a.href)"), ["https://example.org/a_(b)?c=1", "https://example.org/x"])
    same(user.find(body + "a").first.get_attribute("rel"), "noopener noreferrer")
    holds(user.text(body), "Snake_case_names and 2 * 3 * 4 stay.", "☑ done")
    same(user.find(body + "ul > li > ol > li").all_inner_texts(), ["inner", "inner two"])
    same(user.text(body + "blockquote blockquote"), "twice")
    same(user.find(body + "td").all_inner_texts(), ["a", "1", "b | c", "22"])
    same(user.find(body + "td.right").count(), 2)
    same(user.find(body + "pre").text_content(), 'def hello(name):  # greets\n    return f"hello {name}" * 3')
    same(user.text(body + "pre .k"), "def")
    same(user.find(body + "ol[start='3'] > li").count(), 2)
    holds(user.text("small"), " tokens · ", " tokens/s")
    assert re.match(r"\d+ of 4,096 tokens$", user.text("#tokens"))
    user.find(".code button").click()
    user.until(lambda: user.page.evaluate("navigator.clipboard.readText()").startswith("def hello"))
    user.find("article.assistant [title^=Copy]").last.click()
    user.until(lambda: user.page.evaluate("navigator.clipboard.readText()") == MARKDOWN)


def test_reasoning_while_it_comes(user, server):
    user.say("think slowly", wait=False)
    user.wait("document.querySelector('.live summary i')?.textContent.includes('thought9')")
    same(user.text("summary b"), "Thinking")
    user.find("summary").click()
    user.wait("document.querySelector('.live .think .md').textContent.includes('thought30')")
    user.press("Escape")
    user.done()
    user.say("markdown")  # reasoning stays open once it was opened
    user.until(user.find(".think .md").last.is_visible)


def test_hostile_text(user, server):
    for question in ("hostile", "hostile tool", HOSTILE):
        user.say(question)
    for summary in user.find("summary:visible").all():
        summary.click()
    user.page.wait_for_timeout(200)
    same(user.page.evaluate("window.hacked"), None)
    same(user.find("#log :is(script, img, iframe, style, base, svg[onload], [onerror], [onmouseover])").count(), 0)
    hrefs = user.find("#log a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert hrefs and all(href.startswith("https://outside.invalid/") for href in hrefs), hrefs
    holds(user.find("article.assistant .md").nth(1).text_content(), "<script>window.hacked=1</script><img src=x", "[a](javascript:", 'html"><img')
    same(user.find("article.user .bubble").last.text_content(), HOSTILE.strip())
    user.page.reload()
    user.page.wait_for_timeout(200)
    same(user.page.evaluate("window.hacked"), None)


def test_monsters(user, server):
    for i in range(len(MONSTERS)):
        user.say(f"monster {i}")
        user.press("Alt+n")
    same(user.find("article").count(), 0)


def test_tool_round_trip(user, server):
    user.settings(tools=WEATHER)
    user.say("tool")
    holds(user.text(".call"), "get_weather", '"location": "Paris"', "waits for you")
    user.page.keyboard.type('{"sky": "clear"}')  # the field has the focus
    user.press("Enter")
    user.done()
    holds(user.answer().inner_text(), 'The tool said: {"sky": "clear"}')
    sent = server.requests[-1]
    same(sent["tools"][0]["type"], "function")
    same([m["role"] for m in sent["messages"]], ["user", "assistant", "tool"])
    same(sent["messages"][1], {"role": "assistant", "content": None, "reasoning_content": "A tool knows.", "tool_calls": [
        {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Paris"}'}}]})
    same(sent["messages"][2], {"role": "tool", "tool_call_id": "call_0", "content": '{"sky": "clear"}'})
    user.find("text=Change the result").click()
    same(user.find("article").count(), 2)
    user.find(".call textarea").fill("rain")
    user.find("text=Send the result").click()
    user.done()
    holds(user.answer().inner_text(), "The tool said: rain")


def test_several_calls(user, server):
    user.say("tools")
    fields = user.find(".call textarea")
    same(fields.count(), 2)
    fields.nth(0).fill("3")
    fields.nth(1).fill("7")
    user.find("text=Send the results").click()
    user.done()
    same([(m["tool_call_id"], m["content"]) for m in server.requests[-1]["messages"][2:]], [("call_0", "3"), ("call_1", "7")])
    user.say("tools")
    user.say("never mind")
    same([m["role"] for m in server.requests[-1]["messages"][-4:]], ["assistant", "tool", "tool", "user"])
    holds(user.answer().inner_text(), "You said: never mind")


def test_stop(user, server):
    user.say("slow", wait=False)
    user.wait("messages.at(-1).pieces > 5")
    holds(user.text("#tokens"), "~")
    same(user.find("#go").get_attribute("title"), "Stop (Esc)")
    user.press("Escape")
    user.done()
    holds(user.answer().inner_text(), "word0 word1", "Stopped.")
    user.until(lambda: server.aborted == 1)
    user.say("think slowly", wait=False)
    user.wait("messages.at(-1).pieces > 5")
    user.find("#go").click()
    user.done()
    user.until(lambda: server.aborted == 2)
    user.say("and now?")
    same([m["role"] for m in server.requests[-1]["messages"]], ["user", "assistant", "user", "assistant", "user"])


def test_retry_edit_undo(user, server):
    user.say("one")
    user.say("two")
    user.find("article.assistant [title='Answer again']").first.click()
    user.done()
    same(user.find("article").count(), 2)
    user.find("text=Undo").click()
    same(user.find("article").count(), 4)
    user.find("article.user [title='Edit message']").first.click()
    user.find(".edit textarea").fill("three")
    user.press("Shift+Enter")
    user.page.keyboard.type("lines")
    user.press("Enter")
    user.done()
    same(user.find("article").count(), 2)
    same(server.requests[-1]["messages"], [{"role": "user", "content": "three\nlines"}])
    user.find("article.user [title='Edit message']").first.click()
    user.press("Escape")
    same(user.text(".bubble"), "three\nlines")
    user.press("Alt+n")
    assert user.find("#empty").is_visible()
    user.find("text=Undo").click()
    same(user.find("article").count(), 2)


def test_keyboard_only(user, server):
    focus = lambda: user.page.evaluate("document.activeElement.id || document.activeElement.className")
    user.page.keyboard.type("one")
    user.press("Shift+Enter")
    user.page.keyboard.type("line")
    same(user.find("#text").input_value(), "one\nline")
    user.press("Enter")
    user.done()
    user.press("ArrowUp")
    same(focus(), "assistant")
    user.press("c")
    user.until(lambda: user.page.evaluate("navigator.clipboard.readText()") == "You said: one\nline")
    user.press("ArrowUp", "e")
    same(focus(), "field")
    user.press("Escape")
    same(focus(), "user")
    user.press("ArrowDown", "r")
    user.done()
    same(len(server.requests), 2)
    user.press("Control+,")
    same(focus(), "close")
    user.press("Escape")
    same(focus(), "text")
    user.press("Tab", "Control+k")
    same(focus(), "text")


def test_errors(user, server):
    for question, parts in {"refuse": ["Error 400", "Temperature <b>must</b> be", ], "busy": ["Error 429", "The queue is full.", "Try again in 3 s."],
                            "plain 500": ["Error 500", "<h1>Bad gateway</h1>"], "cut": ["Cut off", "ended before"],
                            "fail midway": ["Error", "The engine died."], "not json": ["Cut off", "not JSON"]}.items():
        user.say(question)
        holds(user.answer().inner_text(), *parts, "Try again")
    user.say("well")
    holds(user.answer().inner_text(), "You said: well")
    same([m["role"] for m in server.requests[-1]["messages"]][:4], ["user", "user", "user", "user"])  # refusals leave no answer
    user.say("limit")
    holds(user.answer().inner_text(), "Cut at the limit of tokens.")


def test_settings(user, server):
    user.say("first")
    same(sorted(server.requests[-1]), ["messages", "model", "stream", "stream_options"])
    user.find("#effort [value=high]").check()
    user.settings(system="Be brief.", tools=WEATHER, temperature="0.5", seed="7", max_completion_tokens="20", extra='{"stop": ["x"]}')
    user.press("Control+k")
    user.say("second")
    sent = server.requests[-1]
    same({name: sent[name] for name in ("reasoning_effort", "temperature", "seed", "max_completion_tokens", "stop")},
         {"reasoning_effort": "high", "temperature": 0.5, "seed": 7, "max_completion_tokens": 20, "stop": ["x"]})
    same(sent["messages"][0], {"role": "system", "content": "Be brief."})
    user.page.reload()
    user.say("third")
    same(server.requests[-1]["temperature"], 0.5)
    user.settings(tools='[{"name": ')
    requests = len(server.requests)
    user.find("#text").fill("fourth")
    user.press("Enter")
    assert user.find("#settings").is_visible() and user.find("#tools-hint.wrong").is_visible()
    same((user.page.evaluate("document.activeElement.id"), len(server.requests)), ("tools", requests))
    user.find("#example").click()
    holds(user.text("#tools-hint"), "get_weather")
    user.find("#defaults").click()
    same(user.find("#temperature").input_value(), "")


def test_api_key(user, server):
    server.key = "secret"
    user.page.reload()
    user.page.wait_for_selector("#key:focus")
    holds(user.text("#key-hint"), "asks for a key")
    user.page.keyboard.type("wrong")
    user.press("Enter")
    user.wait("document.querySelector('#key-hint').textContent.includes('does not accept')")
    user.find("#key").fill("secret")
    user.press("Enter")
    user.wait("document.querySelector('#one').textContent === 'stand-in'")
    user.press("Escape")
    user.say("hello")
    holds(user.answer().inner_text(), "You said: hello")
    assert "secret" not in user.page.evaluate("JSON.stringify(localStorage)")
    server.key = "changed"
    user.say("again")
    holds(user.answer().inner_text(), "Error 401", "Incorrect API key")


def test_loading(user, server):
    server.loading = True
    user.page.reload()
    user.page.wait_for_selector("text=loading the model")
    server.loading = False
    user.wait("document.querySelector('#one').textContent === 'stand-in'")


def test_server_gone(user, server):
    user.page.route("**/v1/**", lambda route: route.abort())
    user.say("anyone?")
    holds(user.answer().inner_text(), "No connection")
    user.page.unroute("**/v1/**")
    user.find("text=Try again").click()
    user.done()
    holds(user.answer().inner_text(), "You said: anyone?")


def test_models(user, server):
    server.models = ["one", "two <b>"]
    user.page.reload()
    user.find("#model").select_option("two <b>")
    user.say("hello")
    same(server.requests[-1]["model"], "two <b>")
    user.page.reload()
    user.wait("document.querySelector('#model').value === 'two <b>'")


def test_conversation_is_kept(user, server):
    user.say("tool")
    user.say("markdown")
    before = user.find("#log").inner_text()
    user.page.reload()
    same(user.find("#log").inner_text(), before)
    for broken in ("{", "null", "[1, null, {}, [[]]]", '[{"role": "assistant", "calls": [5, {"name": 3}], "usage": 7, "fault": []}]',
                   '[{"role": "user", "content": {"a": 1}}, {"__proto__": {"x": 1}, "role": "x"}]'):
        user.page.evaluate("text => { removeEventListener('pagehide', save); localStorage.setItem('tessera.chat', text); }", broken)
        user.page.evaluate("text => localStorage.setItem('tessera.settings', text)", broken)
        user.page.reload()
        user.say("hello")
        holds(user.answer().inner_text(), "You said: hello")


def luminance(color):
    parts = [int(x) / 255 for x in re.findall(r"\d+", color)[:3]]
    parts = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_themes(user, server):
    page = user.page
    background = lambda: page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    for scheme, dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        same(luminance(background()) < 0.1, dark)
        for ink in ("ink", "mute", "lapis", "bad", "green", "amber"):
            for ground in ("bg", "raised", "soft"):
                shades = [page.evaluate("""name => { const probe = document.body.appendChild(document.createElement('i'));
                    probe.style.color = `var(--${name})`; const color = getComputedStyle(probe).color; probe.remove(); return color; }""", name)
                          for name in (ink, ground)]
                light, shade = sorted(map(luminance, shades), reverse=True)
                ratio = (light + 0.05) / (shade + 0.05)
                assert ratio >= 4.5, f"{scheme}: {ink} on {ground} has a contrast of {ratio:.2f}"
    user.find("#theme").click()
    same(luminance(background()) > 0.5, True)
    page.reload()
    same(luminance(background()) > 0.5, True)
    page.emulate_media(color_scheme="light")
    user.press("Control+,")
    user.find("#theme-choice [value=dark]").check()
    same(luminance(background()) < 0.1, True)


def test_everything_has_a_name(user, server):
    user.say("markdown")
    user.say("tool")
    user.press("Control+,")
    tree = user.context.new_cdp_session(user.page).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "radio", "combobox", "spinbutton", "link", "meter", "log"}
    seen = set()
    for node in tree:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in roles:
            continue
        seen.add(role)
        assert node.get("name", {}).get("value"), f"a {role} has no name: {node}"
    assert {"button", "textbox", "radio", "spinbutton", "link", "meter", "log"} <= seen, seen


def test_widths(user, server):
    server.models = ["organisation/a-model-with-a-rather-long-name-20b-instruct"]
    user.page.reload()
    for question in ("markdown", "hostile", "tools", "refuse", "x" * 300):
        user.say(question)
    for width in (320, 390, 768, 1280, 1920):
        user.page.set_viewport_size({"width": width, "height": 800})
        user.page.wait_for_timeout(100)
        same(user.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), True)
        send = user.find("#go").bounding_box()
        assert send["x"] + send["width"] <= width and send["y"] + send["height"] <= 800, (width, send)


def test_phone(user, server):
    phone = User(user.page.context.browser, user.url, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    phone.find("#text").fill("a")
    phone.press("Enter")
    same((phone.find("#text").input_value(), len(server.requests)), ("a\n", 0))
    phone.find("#go").tap()
    phone.done()
    holds(phone.answer().inner_text(), "You said: a")
    phone.find("#set").tap()
    same(phone.page.evaluate("document.querySelector('main').inert"), True)
    phone.find("#close").tap()
    same(phone.page.evaluate("document.querySelector('main').inert"), False)
    user.faults += phone.faults
    phone.close()


def test_scrolling(user, server):
    at_end = lambda: user.page.evaluate("at_end()")
    user.say("long")
    assert at_end()
    user.say("long", wait=False)
    user.page.mouse.move(600, 300)
    user.page.mouse.wheel(0, -2000)
    user.page.wait_for_timeout(400)  # the wheel's scrolling is smooth
    before = user.page.evaluate("scrollY")
    user.done()
    same(user.page.evaluate("scrollY"), before)
    assert not at_end()
    user.find("#jump").click()
    user.until(at_end)


def test_unchanged_blocks_stay(user, server):
    user.say("long", wait=False)
    user.wait("document.querySelectorAll('.live p').length > 5")
    user.page.evaluate("window.first = document.querySelector('article.assistant .md p')")
    user.done()
    same(user.page.evaluate("window.first === document.querySelector('article.assistant > .md p')"), False if user.find(".think .md p").count() else True)


# ---- With a real server that has models/glossary -------------------------------------------------------------------------
# `flags` and `key` of a case are those of its server; a case with `own` set needs a server of its own.
ENDLESS = '{"ignore_eos": true, "max_completion_tokens": 3500}'


def real_chat(user, server):
    user.settings(temperature="0")
    user.say("What does serendipity mean?")
    holds(user.answer().inner_text(), "good luck in making unexpected and fortunate discoveries", "tokens/s")
    assert user.find("summary").is_visible() and not user.find(".think .md").is_visible()
    assert re.match(r"[1-9]\d* of 4,096 tokens$", user.text("#tokens")), user.text("#tokens")
    user.find("summary").click()
    user.until(lambda: "serendipity" in user.text(".think .md"))
    user.find("summary").click()
    user.until(lambda: not user.find(".think .md").is_visible())
    user.find("article.assistant [title^=Copy]").last.click()
    user.until(lambda: "fortunate discoveries" in user.page.evaluate("navigator.clipboard.readText()"))
    before = user.page.evaluate("used()")
    user.say("Which word did I ask about first?")
    holds(user.answer().inner_text(), "serendipity")
    assert user.page.evaluate("used()") > before
    user.find("article.assistant [title='Answer again']").last.click()
    user.done()
    holds(user.answer().inner_text(), "serendipity")


def real_streaming(user, server):
    user.settings(extra=ENDLESS)
    user.say("Define courage.", wait=False)
    user.wait("messages.at(-1).pieces > 2")
    assert user.page.evaluate("!!running")
    holds(user.text("#tokens"), "~")
    seen = user.page.evaluate("messages.at(-1).pieces")
    user.wait(f"messages.at(-1).pieces > {seen + 5}")
    user.until(lambda: "tokens/s" in user.text("#speed"))
    user.find("#go").click()
    user.done()
    holds(user.answer().inner_text(), "Stopped.")
    if server:
        user.until(lambda: server.metric("tessera_cache_pages_held") == 0)


def real_effort(user, server):
    user.settings(temperature="0")
    lengths = []
    for effort in ("low", "high"):
        user.find(f"#effort [value={effort}]").check()
        user.say("What is 347 + 258?")
        holds(user.answer().inner_text(), "605")
        lengths.append(user.page.evaluate("messages.at(-1).reasoning.length"))
        user.press("Alt+n")
    assert lengths[0] < lengths[1], lengths


def real_tool(user, server):
    user.settings(tools=WEATHER, temperature="0")
    user.say("What is the weather in Paris?")
    holds(user.text(".call"), "get_weather", "Paris", "waits for you")
    user.page.keyboard.type('{"temperature": 21, "sky": "clear"}')
    user.press("Enter")
    user.done()
    assert user.find("article.assistant").last.inner_text().strip()
    same(user.find(".fault").count(), 0)


def real_errors(user, server):
    user.settings(extra='{"temperature": "hot"}')
    user.say("Hello")
    holds(user.answer().inner_text(), "Error 400", "temperature", "Try again")
    user.settings(extra="")
    user.find("text=Try again").click()
    user.done()
    same(user.find(".fault").count(), 0)


def real_keyboard_only(user, server):
    user.page.keyboard.type("Define courage.")
    user.press("Enter")
    user.done()
    first = user.page.evaluate("messages.at(-1).content")
    user.press("ArrowUp", "c")
    user.until(lambda: user.page.evaluate("navigator.clipboard.readText()") == first)
    user.press("r")
    user.done()
    same(user.find("article").count(), 2)
    user.press("Control+k")
    for _ in range(20):  # to the effort, without a mouse
        user.press("Tab")
        if user.page.evaluate("document.activeElement.name === 'effort'"):
            break
    user.press("ArrowRight")
    same(user.page.evaluate("settings.effort"), "low")
    user.press("Control+,")
    for _ in range(20):
        if user.page.evaluate("document.activeElement.id === 'extra'"):
            break
        user.press("Tab")
    user.page.keyboard.type(ENDLESS)
    user.press("Escape")
    user.page.keyboard.type("Define river.")
    user.press("Enter")
    user.wait("messages.at(-1).pieces > 3")
    user.press("Escape")
    user.done()
    holds(user.answer().inner_text(), "Stopped.")


def real_killed(user, server):
    user.settings(extra=ENDLESS)
    user.say("Define courage.", wait=False)
    user.wait("messages.at(-1).pieces > 3")
    server.stop(signal.SIGKILL)
    user.done()
    holds(user.answer().inner_text(), "Cut off", "The connection broke before the answer ended.", "Try again")
    user.shot("killed")
    user.settings(extra="", temperature="0")
    user.say("Define courage.")
    holds(user.answer().inner_text(), "No connection", "The server cannot be reached.")
    user.shot("gone")
    user.until(lambda: user.text("#one") == "no connection")
    with harness.Server("--port", str(server.port)):
        user.until(lambda: user.text("#one") == "glossary")  # it looks by itself
        user.find("text=Try again").last.click()
        user.done()
        holds(user.answer().inner_text(), harness.COURAGE)


def real_busy(user, server):
    long = {"messages": [{"role": "user", "content": "Hello"}], "ignore_eos": True, "max_completion_tokens": 3500, "stream": True}
    others = [server.socket() for _ in range(2)]
    try:
        for i, other in enumerate(others):
            other.sendall(harness.request_bytes("/v1/chat/completions", long))
            assert server.wait_for(lambda: server.metric("tessera_requests_running") + server.metric("tessera_requests_waiting") == i + 1)
            assert server.wait_for(lambda: server.metric("tessera_requests_running") == 1)
        user.say("Define courage.")
        holds(user.answer().inner_text(), "Error 429", "the queue is full", "Try again in ", "Try again")
        user.shot("busy")
    finally:
        for other in others:
            other.close()
    assert server.wait_for(lambda: server.metric("tessera_requests_running") + server.metric("tessera_requests_waiting") == 0)
    user.find("text=Try again").last.click()
    user.done()
    same(user.find(".fault").count(), 0)


def real_key(user, server):
    user.say("Define courage.")  # the browser's password, which the page was opened with, serves its requests too
    same(user.find(".fault").all_inner_texts(), [])
    user.press("Control+,")
    user.find("#key").fill("wrong")
    user.press("Tab")
    user.until(lambda: user.text("#key-hint") == "The server does not accept this key.")
    user.find("#key").fill("secret")
    user.press("Tab")
    user.until(lambda: user.text("#one") == "glossary")


real_killed.own = real_busy.own = real_key.own = True
real_busy.flags = ("--max-requests", "1", "--max-queue", "1")
real_key.key = "secret"


def screens(browser, url, folder, real, **options):
    for scheme in ("light", "dark"):
        for width, height in ((1280, 900), (390, 800)):
            user = User(browser, url, color_scheme=scheme, viewport={"width": width, "height": height}, **options)
            shot = lambda name: user.page.screenshot(path=os.path.join(folder, f"{scheme}-{width}-{name}.png"))
            user.page.wait_for_timeout(400)
            shot("empty")
            user.settings(tools=WEATHER, temperature="0")
            for name, question in ((("answer", "What does serendipity mean?"), ("tool", "What is the weather in Paris?")) if real else
                                   (("answer", "markdown"), ("tool", "tool"), ("error", "busy"))):
                user.say(question, wait=False)
                user.page.wait_for_timeout(250)
                shot(name + "-live")
                user.done()
                shot(name)
            user.find("summary").first.click()
            shot("reasoning")
            user.press("Control+,")
            shot("settings")
            user.close()


@contextlib.contextmanager
def stage(options, test, page):
    """The server of a case and its URL: a stand-in, a real one, or None for one that is there already."""
    if options.serve:
        key = getattr(test, "key", None)
        with harness.Server(*getattr(test, "flags", ()), env={"TESSERA_API_KEY": key or ""}) as server:
            yield server, server.url + "/", key
    elif options.url:
        yield None, options.url, options.key
    else:
        with StandIn(page) as server:
            yield server, server.url, None


def browser_options(key):
    return {"http_credentials": {"username": "page", "password": key}} if key else {}


def run(browser, options):
    prefix = "real_" if options.url or options.serve else "test_"
    tests = [(name, test) for name, test in globals().items() if name.startswith(prefix) and (not options.tests or name in options.tests)
             and not (options.url and hasattr(test, "own"))]
    with open(PAGE, "rb") as file:
        page = file.read()
    failed = 0
    User.screens = options.screens
    if options.screens:
        os.makedirs(options.screens, exist_ok=True)
    for name, test in tests:
        with stage(options, test, page) as (server, url, key):
            user = User(browser, url, **browser_options(key))
            try:
                test(user, server)
                user.page.wait_for_timeout(50)
                assert not user.faults, user.faults
                print("ok", name, flush=True)
            except Exception:  # the next test is still worth running
                failed += 1
                print("FAILED", name, flush=True)
                traceback.print_exc()
                if user.faults:
                    print(user.faults)
            user.close()
    if options.screens:
        with stage(options, None, page) as (server, url, key):
            screens(browser, url, options.screens, prefix == "real_", **browser_options(key))
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", metavar="PROGRAM", help="tessera, to be started for each case")
    parser.add_argument("--url", help="of a running server, with a slash at the end")
    parser.add_argument("--key", help="its API key")
    parser.add_argument("--screens", metavar="DIR")
    parser.add_argument("tests", nargs="*", metavar="TEST")
    options = parser.parse_args()
    if options.serve:
        harness.PROGRAM = options.serve
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("page_test: skipped: this Python has no playwright")
        return 77
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        print("page_test: skipped: no Chromium in PATH")
        return 77
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.getuid() == 0 else [])
        try:
            return run(browser, options)
        finally:
            browser.close()


if __name__ == "__main__":
    sys.exit(main())
