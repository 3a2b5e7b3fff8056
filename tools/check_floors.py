#!/usr/bin/env python3
"""Checks that includes point down: a folder under src/ may include lower floors and itself, nothing else.

usage: check_floors.py [ROOT] | --self-test
Prints one line per offending include and exits 1, or exits 0. There is no list of exceptions.
"""
import os
import re
import sys
import tempfile

FLOORS = {
    "core": 0,
    "quant": 1, "parallel": 1, "cache": 1, "text": 1, "hub": 1,
    "kernels": 2, "loading": 2,
    "layers": 3,
    "models": 4,
    "engine": 5, "train": 5,
    "api": 6,
    "server": 7,
    "cli": 8,
}
KERNEL_KINDS = {"reference", "cpu", "cuda", "hub"}  # implementations: strangers to each other and to the contracts
EXTENSIONS = (".h", ".cc", ".cu", ".cuh", ".inc")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
PUBLIC = "tessera"  # include/tessera: readable by every floor


def kernel_kind(parts):
    """The implementation folder of a path below kernels/, or None for the contracts and the table."""
    return parts[1] if len(parts) > 2 and parts[1] in KERNEL_KINDS else None


def objection(path, target, exists):
    """Why `path` (relative to src/) may not include `target`, or None. exists(p): is p a file under src/?"""
    parts, wanted = path.split("/"), target.split("/")
    folder, other = parts[0], wanted[0]
    if other == PUBLIC:
        return None
    if other not in FLOORS:
        beside = "/".join(parts[:-1] + wanted)
        return f'write it from the include root: "{os.path.normpath(beside)}"' if exists(beside) else None
    if folder == other:
        if folder == "kernels":
            mine, theirs = kernel_kind(parts), kernel_kind(wanted)
            if theirs and mine != theirs:
                return (f"kernels/{mine} may not include kernels/{theirs}" if mine
                        else f"the kernel contracts and table may not include kernels/{theirs}")
        return None
    if FLOORS[other] == FLOORS[folder]:
        return f"{folder} and {other} share floor {FLOORS[folder]}"
    if FLOORS[other] > FLOORS[folder]:
        return f"{folder} (floor {FLOORS[folder]}) may not include {other} (floor {FLOORS[other]})"
    return None


def includes(file):
    with open(file, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if match:
                yield number, match.group(1)


def sources(top):
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            if name.endswith(EXTENSIONS):
                yield os.path.join(folder, name)


def check(root):
    """All offences as lines of text."""
    found = []
    src = os.path.join(root, "src")
    exists = lambda p: os.path.isfile(os.path.join(src, p))
    for file in sources(src):
        path = os.path.relpath(file, src).replace(os.sep, "/")
        shown = os.path.relpath(file, root)
        if path.split("/")[0] not in FLOORS:
            found.append(f"{shown}:1: no floor is named for this folder")
            continue
        for number, target in includes(file):
            why = objection(path, target, exists)
            if why:
                found.append(f'{shown}:{number}: #include "{target}": {why}')
    for outside in ("include", "examples"):  # what users see and copy
        for file in sources(os.path.join(root, outside)):
            for number, target in includes(file):
                beside = os.path.isfile(os.path.join(os.path.dirname(file), target))  # a project's own header
                if target.split("/")[0] != PUBLIC and not beside:
                    found.append(f'{os.path.relpath(file, root)}:{number}: #include "{target}": '
                                 f"{outside}/ may include public headers only")
    return found


# (file, include, allowed)
CASES = [
    ("src/text/a.cc", "core/json.h", True),
    ("src/text/a.cc", "text/b.h", True),
    ("src/text/a.cc", "hwy/highway.h", True),
    ("src/core/a.h", "tessera/error.h", True),
    ("src/core/a.h", "text/b.h", False),
    ("src/text/a.cc", "quant/b.h", False),
    ("src/engine/a.cc", "train/b.h", False),
    ("src/train/a.cc", "models/b.h", True),
    ("src/models/a.cc", "engine/b.h", False),
    ("src/cli/a.cc", "server/b.h", True),
    ("src/server/a.cc", "cli/b.h", False),
    ("src/kernels/cpu/a.cc", "kernels/ops.h", True),
    ("src/kernels/cpu/a.cc", "kernels/cpu/b-inl.h", True),
    ("src/kernels/cpu/a.cc", "kernels/reference/b.h", False),
    ("src/kernels/cuda/device/a.cuh", "kernels/cuda/b.cuh", True),
    ("src/kernels/cuda/a.cu", "kernels/hub/b.h", False),
    ("src/kernels/table.h", "kernels/cpu/b.h", False),
    ("src/kernels/table.cc", "kernels/ops.h", True),
    ("src/kernels/hub/a.cc", "hub/b.h", True),
    ("src/kernels/a.cc", "loading/b.h", False),
    ("src/text/a.cc", "neighbour.h", False),
    ("src/new_folder/a.cc", "core/json.h", False),
    ("include/tessera/a.h", "core/json.h", False),
    ("include/tessera/a.h", "tessera/b.h", True),
    ("examples/hello/main.cc", "api/llm_impl.h", False),
]


def self_test():
    failed = 0
    for file, target, allowed in CASES:
        with tempfile.TemporaryDirectory() as root:
            for path, text in ((file, f'#pragma once\n  #  include "{target}"\n'), ("src/text/neighbour.h", "")):
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as out:
                    out.write(text)
            offences = check(root)
            if (not offences) != allowed:
                failed += 1
                print(f"self-test: {file} including {target}: expected {'no offence' if allowed else 'one'}, got {offences}")
    print(f"self-test: {len(CASES) - failed} of {len(CASES)} cases right")
    return 1 if failed else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    root = arguments[0] if arguments else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    offences = check(root)
    for line in offences:
        print(line)
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
