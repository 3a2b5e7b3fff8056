#!/usr/bin/env python3
"""Checks the chat page without a browser: its size, that it reaches for nothing outside, its structure, and its policy.

usage: page_check.py GENERATED_PAGE_CC
Prints one line per fault and exits 1, or says what was checked and exits 0.
"""
import html.parser
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from page_stand_in import policy  # noqa: E402

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/server/page/index.html")
LIMIT = 60000
VOID = {"meta", "link", "input", "br", "hr", "img"}
# Strings that would make HTML or code of a text, or fetch something.
FORBIDDEN = [r"\binnerHTML", r"\bouterHTML", r"insertAdjacentHTML", r"document\.write", r"\beval\b", r"new Function", r"srcdoc", r"javascript:",
             r"createContextualFragment", r"DOMParser", r"setHTML", r"@import", r"\burl\(", r"\bimport\(", r"XMLHttpRequest", r"WebSocket", r"sendBeacon"]
FETCHED = {"v1/models", "v1/chat/completions"}


class Structure(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.faults, self.open, self.ids, self.targets, self.counts = [], [], set(), set(), {}

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attributes)
        if len(values) != len(attributes):
            self.fault(f"<{tag}> names an attribute twice")
        for name, value in attributes:
            if name.startswith("on") or name == "style":
                self.fault(f"<{tag} {name}> is refused by the policy")
            if name in ("src", "href", "action", "data", "poster") and not (value or "").startswith(("data:", "#")):
                self.fault(f"<{tag} {name}> points outside: {value}")
            if name in ("for", "aria-describedby", "aria-controls", "aria-labelledby"):
                self.targets.update(value.split())
        if "id" in values:
            if values["id"] in self.ids:
                self.fault(f"id {values['id']} is used twice")
            self.ids.add(values["id"])
        if tag == "button" and not values.get("title") and not values.get("id") in ("example", "defaults"):
            self.fault("a button has no name")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.fault(f"</{tag}> closes {self.open[-1] if self.open else 'nothing'}")
        else:
            self.open.pop()

    def fault(self, text):
        self.faults.append(f"index.html:{self.getpos()[0]}: {text}")


def check(page, generated):
    text = page.decode("utf-8")
    structure = Structure()
    structure.feed(text)
    structure.close()
    faults = structure.faults
    if structure.open:
        faults.append(f"never closed: {structure.open}")
    for tag in ("html", "head", "title", "style", "script", "body", "main", "h1"):
        if structure.counts.get(tag) != 1:
            faults.append(f"{structure.counts.get(tag, 0)} <{tag}>, expected one")
    if len(page) >= LIMIT:
        faults.append(f"{len(page)} bytes, expected less than {LIMIT}")
    if "\r" in text or "\t" in text:
        faults.append("has tabs or carriage returns")
    for pattern in FORBIDDEN:
        for match in re.finditer(pattern, text):
            faults.append(f"index.html:{text.count(chr(10), 0, match.start()) + 1}: {match.group()} is not allowed")
    outside = set(re.findall(r"(?:https?|wss?)://[\w.-]+", text)) - {"http://www.w3.org"}  # the name of SVG, never fetched
    faults += [f"names {url}" for url in sorted(outside)]
    fetched = set(re.findall(r"\bfetch\('([^']*)'", text))
    if fetched != FETCHED or len(re.findall(r"\bfetch\(", text)) != len(FETCHED):
        faults.append(f"fetches {sorted(fetched)}, expected {sorted(FETCHED)}")
    script = re.search(r"<script>(.*)</script>", text, re.S).group(1)
    made = {name for name in re.findall(r"\['([a-z_]+)', '", script)}  # the table of number fields
    used = set(re.findall(r"\$\('([\w-]+)'\)", script)) | set(re.findall(r"\bon\('([\w-]+)'", script)) | structure.targets
    faults += [f"no element has the id {name}" for name in sorted(used - structure.ids - made)]
    embedded = re.search(rb'R"page\((.*?)\)page"', generated, re.S)
    if not embedded or embedded.group(1) != page:
        faults.append("the build's page.cc does not hold the file as it is")
    if policy(page).encode() not in re.sub(rb'"\s*\n\s*"', b"", generated):
        faults.append(f"the build's policy is not {policy(page)}")
    return faults


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    with open(PAGE, "rb") as file, open(arguments[0], "rb") as made:
        page, generated = file.read(), made.read()
    faults = check(page, generated)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"page_check: {len(page)} bytes, nothing from outside, structure and policy right")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
