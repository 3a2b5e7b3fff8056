"""Compares tessera's tokenizer with the `tokenizers` wheel, string by string.

    compare_tokenizers.py [--driver build/release/tokenize_batch] [--strings 100000] [--seed 1] [--synthetic FOLDER]
                          [--unicode] [--speed TEXT] [--vectors] [TOKENIZER.json ...]

Encodes random and natural strings with both (special tokens parsed, as text, and post-processed), decodes the ids and
random ids (with and without special tokens, and as a stream) and prints every difference. --synthetic also makes and
compares one small file of each kind (synthetic_tokenizers.py). Strings leave out code points that Python's
unicodedata (3.11: Unicode 14, as PCRE2 10.42) does not know or normalizes otherwise than the wheel, whose tables are
older. --unicode tries every code point, prints those that differ, and leaves out only these; one that is not among
the former is unexpected. --speed times loading and single-thread encoding of a text cut into documents of 4,000
characters. --vectors compares nothing: beside each TOKENIZER.json it writes what the wheel makes of 40 strings, for
unit tests. Exit 0 without unexpected differences, 1 with, 2 for wrong usage.
"""

import argparse
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer, normalizers  # noqa: E402  (after the environment)

import synthetic_tokenizers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = [
    (0x20, 0x7E, 30),
    (0xA0, 0x24F, 10),
    (0x250, 0x36F, 3),
    (0x370, 0x52F, 6),
    (0x590, 0x6FF, 6),
    (0x900, 0xDFF, 6),
    (0xE00, 0xFFF, 3),
    (0x1100, 0x11FF, 3),
    (0x1E00, 0x20CF, 6),
    (0x2100, 0x2BFF, 4),
    (0x3040, 0x30FF, 5),
    (0x4E00, 0x9FFF, 8),
    (0xAC00, 0xD7A3, 4),
    (0xE000, 0xF8FF, 1),
    (0xF900, 0xFFFD, 3),
    (0x10000, 0x1FFFF, 4),
    (0x1F300, 0x1FAFF, 6),
    (0x20000, 0x2FFFF, 2),
    (0xE0000, 0x10FFFF, 2),
]
SPACES = (
    [" "] * 12
    + ["\n"] * 5
    + [
        "\t",
        "\r",
        "\r\n",
        "\v",
        "\f",
        "\x85",
        "\xa0",
        "\u1680",
        "\u180e",
        "\u2003",
        "\u2028",
        "\u2029",
        "\u202f",
        "\u3000",
        "\u200b",
        "\ufeff",
    ]
)
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "🏳️‍🌈", "1️⃣", "❤️", "🧑🏿‍🚀", "🫠"]
SUFFIXES = ["s", "t", "re", "ve", "m", "ll", "d", "\u017f", "st", "x", ""]
MARKS = "\u0300\u0301\u0308\u0327\u0323\u0345\u093c\u1161\u11a8\u3099\u20dd\u0f71\u0f72"


class Driver:
    """Runs requests through tessera's tokenize_batch."""

    def __init__(self, program, tokenizer):
        self.command = [program, str(tokenizer)]

    def run(self, requests):
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, "requests"), os.path.join(folder, "answers")]
            with open(files[0], "wb") as out:
                for operation, payload in requests:
                    out.write(operation.encode() + struct.pack("<I", len(payload)) + payload)
            subprocess.run(self.command + files, check=True)
            data = pathlib.Path(files[1]).read_bytes()
        answers, at = [], 0
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            answers.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        return answers

    def encode(self, texts, operation):
        return [list(struct.unpack(f"<{len(a) // 4}i", a)) for a in self.run([(operation, t.encode()) for t in texts])]

    def decode(self, lists, operation):
        return [a.decode() for a in self.run([(operation, struct.pack(f"<{len(ids)}i", *ids)) for ids in lists])]


def natural_texts():
    """Text and code that is at hand: the fixtures' vectors, the repository's documents, Python's standard library."""
    texts = [synthetic_tokenizers.SAMPLES]
    fixtures = ROOT.parent / "shared" / "fixtures" / "tokenizers"
    for path in sorted(fixtures.glob("*/vectors.json")):
        texts += [v["text"] for v in json.loads(path.read_text(encoding="utf-8"))]
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob("*.py"))[:150] + sorted((ROOT.parent / "shared" / "models").glob("*.txt")):
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return [t for t in texts if t]


class Strings:
    """A seeded stream of strings of many kinds."""

    def __init__(self, seed, specials, avoid):
        self.random = random.Random(seed)
        self.natural = natural_texts()
        self.specials = specials + [
            "<|",
            "|>",
            "<|im_",
            "</s",
            "<0x0A>",
            "<0xFF>",
            "▁",
            "▁▁",
            "Ġ",
            "ĠĠ",
            "Ċ",
            "<|endoftext",
        ]
        self.avoid = avoid
        self.kinds = [
            self.slice,
            self.slice,
            self.unicode,
            self.script,
            self.spaces,
            self.words,
            self.digits,
            self.code,
            self.special,
            self.run,
            self.marks,
            self.mix,
        ]

    def character(self):
        r = self.random
        while True:
            low, high, _ = r.choices(SCRIPTS, weights=[s[2] for s in SCRIPTS])[0]
            code = r.randint(low, high)
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def slice(self):
        text = self.random.choice(self.natural)
        begin = self.random.randrange(len(text))
        return text[begin : begin + self.random.choice([5, 20, 80, 300])]

    def unicode(self):
        return "".join(self.character() for _ in range(self.random.randint(1, 30)))

    def script(self):
        low, high, _ = self.random.choice(SCRIPTS)
        codes = [self.random.randint(low, high) for _ in range(self.random.randint(1, 40))]
        return "".join(chr(c) if self.random.random() < 0.85 else " " for c in codes if not 0xD800 <= c < 0xE000)

    def spaces(self):
        r = self.random
        parts = [
            r.choice(SPACES) * r.choice([1, 1, 1, 2, 3, 7]) if r.random() < 0.7 else r.choice("aZ1.é中'/")
            for _ in range(12)
        ]
        return "".join(parts)

    def words(self):
        r = self.random
        word = "".join(r.choice("abcdefgßéΩж中Ʉǅ") for _ in range(r.randint(0, 6)))
        word = r.choice([word, word.upper(), word.title()])
        suffix = r.choice(SUFFIXES)
        return (
            r.choice(["", " ", "\n"])
            + word
            + r.choice("'’`")
            + r.choice([suffix, suffix.upper()])
            + r.choice(["", " x", "s"])
        )

    def digits(self):
        return "".join(self.random.choice("0123456789٣४๑²½Ⅷ①,. -") for _ in range(self.random.randint(1, 20)))

    def code(self):
        r = self.random
        parts = [
            "{",
            "}",
            "();",
            "->",
            "::",
            "//",
            "/*",
            "\n    ",
            "\n\t",
            "==",
            "_x",
            "camelCase",
            "HTTPServer",
            "0xFF",
            '"',
            "/",
        ]
        return "".join(r.choice(parts) for _ in range(r.randint(1, 25)))

    def special(self):
        r = self.random
        parts = [
            (
                r.choice(self.specials)
                if r.random() < 0.6
                else r.choice([" ", "  ", "\n", "a", "word", "wordy", "é", self.slice()[:9]])
            )
            for _ in range(r.randint(1, 7))
        ]
        return "".join(parts)

    def run(self):
        r = self.random
        text = r.choice(
            [
                "a",
                "A",
                "aB",
                " ",
                "\n",
                " \n",
                "é",
                "中",
                "1",
                "!",
                "😀",
                "▁",
                "\u0301",
                self.character(),
                self.slice()[:4],
            ]
        )
        return (
            r.choice(["", "x", " "])
            + text * r.choice([10, 50, 70, 200, 600] + [3000] * (r.random() < 0.1))
            + r.choice(["", "x"])
        )

    def marks(self):
        r = self.random
        return "".join(
            r.choice(MARKS) if r.random() < 0.5 else r.choice("aeouA가ᄀकか一") for _ in range(r.randint(2, 25))
        )

    def mix(self):
        return "".join(
            self.random.choice(self.kinds[:-1])()[:60] for _ in range(self.random.randint(2, 6))
        ) + self.random.choice(EMOJI)

    def next(self):
        text = self.random.choice(self.kinds)()
        return "".join(c for c in text if c not in self.avoid) if self.avoid else text


def ranges(codes):
    found = []
    for code in sorted(codes):
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return " ".join(f"U+{a:04X}" if a == b else f"U+{a:04X}-{b:04X}" for a, b in found)


MARKS_AROUND = "a\u0301@\u0327\u0301 D x\u0345@\u0334"  # @ among combining marks, D decomposed


def around(template, code):
    return template.replace("@", chr(code)).replace("D", unicodedata.normalize("NFD", chr(code)))


def doubtful():
    """Code points of which Unicode 14 and the wheel's tables have different views: unknown, or normalized differently."""
    found = set()
    forms = (("NFC", normalizers.NFC()), ("NFKC", normalizers.NFKC()))
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        text = around(MARKS_AROUND, code)
        if unicodedata.category(chr(code)) == "Cn" or any(
            wheel.normalize_str(text) != unicodedata.normalize(name, text) for name, wheel in forms
        ):
            found.add(code)
    return found


def sweep(driver, wheel):
    """The code points that make a difference between two programs."""
    differing = set()
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for template in ("@'S @@ ' @ x'@ \n@\n", MARKS_AROUND):
        for begin in range(0, len(codes), 50000):
            part = codes[begin : begin + 50000]
            texts = [around(template, code) for code in part]
            expected = [e.ids for e in wheel.encode_batch_fast(texts, add_special_tokens=False)]
            differing |= {c for c, ours, theirs in zip(part, driver.encode(texts, "e"), expected) if ours != theirs}
    return differing


def compare(driver, wheel, strings, count, report):
    """All operations on `count` strings, in portions."""
    size = wheel.get_vocab_size()
    specials = sorted(wheel.get_added_tokens_decoder())
    compared = 0
    while compared < count:
        texts = [strings.next() for _ in range(min(20000, count - compared))]
        compared += len(texts)
        results = {}
        for operation, parse, process in (("e", True, False), ("E", False, False), ("p", True, True)):
            wheel.encode_special_tokens = not parse
            theirs = [e.ids for e in wheel.encode_batch_fast(texts, add_special_tokens=process)]
            results[operation] = theirs
            for text, a, b in zip(texts, driver.encode(texts, operation), theirs):
                if a != b:
                    report(f"encode {operation} {text!r}\n  tessera {a}\n  wheel   {b}")
        wheel.encode_special_tokens = False
        r = strings.random
        lists = list(results["e"])
        for ids in results["e"][: len(texts) // 2]:
            ids = list(ids)
            r.shuffle(ids)  # broken characters
            lists.append(ids)
            lists.append(
                [
                    r.choice(specials) if specials and r.random() < 0.2 else r.randrange(size + 5)
                    for _ in range(r.randint(0, 30))
                ]
            )
            lists.append([r.randrange(min(size, 400)) for _ in range(r.randint(0, 12))])  # bytes, mostly
        for operation, skip in (("d", False), ("D", True), ("s", False)):
            theirs = [wheel.decode(ids, skip_special_tokens=skip) for ids in lists]
            for ids, a, b in zip(lists, driver.decode(lists, operation), theirs):
                if a != b:
                    report(f"decode {operation} {ids}\n  tessera {a!r}\n  wheel   {b!r}")
    return compared


def write_vectors(path, wheel, specials, seed):
    """The wheel's answers for a few strings of characters that Unicode 14 knows, for tests without Python."""
    strings = Strings(seed, specials, {chr(c) for c in doubtful()})
    strings.natural = [synthetic_tokenizers.SAMPLES]  # nobody else's text goes into the repository
    vectors = []
    while len(vectors) < 40:
        text = strings.next()[:120]
        vector = {
            "text": text,
            "ids": wheel.encode(text, add_special_tokens=False).ids,
            "processed": wheel.encode(text, add_special_tokens=True).ids,
        }
        wheel.encode_special_tokens = True
        vector["plain"] = wheel.encode(text, add_special_tokens=False).ids
        wheel.encode_special_tokens = False
        vector["decoded"] = wheel.decode(vector["ids"], skip_special_tokens=False)
        shuffled = list(vector["ids"])
        strings.random.shuffle(shuffled)
        vector["shuffled"] = [shuffled, wheel.decode(shuffled, skip_special_tokens=True)]
        vectors.append(vector)
    path.write_text("[" + ",\n".join(json.dumps(v, separators=(",", ":")) for v in vectors) + "]\n", encoding="ascii")


def speed(driver, wheel, path, text):
    documents = [text[i : i + 4000].replace("\0", " ") for i in range(0, len(text), 4000)]
    size = sum(len(d.encode()) for d in documents) / 1e6
    loads = []
    for _ in range(5):
        begin = time.perf_counter()
        Tokenizer.from_file(str(path))
        loads.append(time.perf_counter() - begin)
    ours = min(struct.unpack("<7d", driver.run([("l", b"x" * 7)])[0]))
    print(f"  load: tessera {ours * 1e3:.1f} ms, wheel {min(loads) * 1e3:.1f} ms: {ours / min(loads):.2f} of its time")
    rates = {}
    for name, encode in (("encode", wheel.encode), ("encode_batch_fast", lambda d: wheel.encode_batch_fast([d]))):
        best = 0.0
        for _ in range(5):
            begin = time.perf_counter()
            for document in documents:
                encode(document)
            best = max(best, size / (time.perf_counter() - begin))
        rates[name] = best
    rounds = struct.unpack("<10d", driver.run([("b", "\0".join(documents).encode())])[0])
    ours = size / min(rounds)
    print(
        f"  encode: tessera {ours:.1f} MB/s (first round {size / rounds[0]:.1f}), "
        f"wheel {rates['encode']:.1f} (encode), "
        f"{rates['encode_batch_fast']:.1f} (encode_batch_fast): {ours / max(rates.values()):.1f} times as fast"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="*", type=pathlib.Path)
    parser.add_argument("--driver", default=str(ROOT / "build" / "release" / "tokenize_batch"))
    parser.add_argument("--strings", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synthetic", metavar="FOLDER")
    parser.add_argument("--unicode", action="store_true")
    parser.add_argument("--speed", metavar="TEXT", type=pathlib.Path)
    parser.add_argument("--vectors", action="store_true")
    arguments = parser.parse_args()
    paths = arguments.tokenizers + (synthetic_tokenizers.write_all(arguments.synthetic) if arguments.synthetic else [])
    if not paths:
        parser.error("no tokenizer given")
    failed = False
    expected = set() if arguments.vectors else doubtful()
    for path in paths:
        print(path, flush=True)
        wheel = Tokenizer.from_file(str(path))
        specials = [t.content for t in wheel.get_added_tokens_decoder().values()]
        if arguments.vectors:
            write_vectors(path.with_suffix(".vectors.json"), wheel, specials, arguments.seed)
            continue
        driver = Driver(arguments.driver, path)
        avoid = expected
        if arguments.unicode:
            avoid = sweep(driver, wheel)
            failed = failed or not avoid <= expected
            print(
                f"  {len(avoid)} code points differ: {ranges(avoid)}\n"
                f"  unexpected: {ranges(avoid - expected) or 'none'}"
            )
        differences = []
        count = (
            compare(
                driver,
                wheel,
                Strings(arguments.seed, specials, {chr(c) for c in avoid}),
                arguments.strings,
                differences.append,
            )
            if arguments.strings
            else 0
        )
        print(f"  {count} strings, {len(differences)} differences", flush=True)
        for difference in differences[:5]:
            print(f"  {difference[:2000]}")
        failed = failed or bool(differences)
        if arguments.speed:
            speed(driver, wheel, path, arguments.speed.read_text(encoding="utf-8"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
