"""Small tokenizer.json files of every kind that tessera reads, trained with the `tokenizers` wheel.

    synthetic_tokenizers.py FOLDER     writes FOLDER/<kind>.json for every kind

Each has the components of a published family (named at its function) and a vocabulary of about a thousand tokens,
trained on Python's own standard library and the sample sentences below. Deterministic for one version of Python and
of the wheel.
"""

import json
import pathlib
import sys
import sysconfig

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SAMPLES = """The quick brown fox doesn't jump; it'll wait. WE'VE SEEN 1,234,567.89 of them!
Größe, façade, naïve, coöperate, Ångström, señor, œuvre, İstanbul'da ılık su.
Быстрая коричневая лиса перепрыгивает через ленивую собаку. Γρήγορη αλεπού. שועל מהיר חום. الثعلب البني السريع ١٢٣٤.
快速的棕色狐狸跳过懒狗。素早い茶色の狐が怠け者の犬を飛び越える。빠른 갈색 여우가 게으른 개를 뛰어넘는다. तेज़ भूरी लोमड़ी ๑๒๓ สุนัขจิ้งจอก
def f(x):\n    return {'a': [1, 2, 3], "b": x ** 2}  # comment\n\n\tif (a != b) { c += 1; }\r\n
😀 👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ½ ² Ⅷ ① … — “quotes” ‘single’ €£¥ ▁ Ġ <0x0A>
"""
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus():
    """Lines of text and code that every Python installation has."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    lines = SAMPLES.splitlines(keepends=True) * 20
    for name in ("argparse.py", "textwrap.py", "this.py", "typing.py", "datetime.py"):
        lines += (library / name).read_text(encoding="utf-8").splitlines(keepends=True)
    return lines


def save(tokenizer, change=None):
    data = json.loads(tokenizer.to_str())
    if change:
        change(data)
    return data


def byte_level(pre_tokenizer, size=1200, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def split_then_bytes(*patterns):
    stages = [p if not isinstance(p, str) else pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(stages + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def sentence_pieces(pre_tokenizer, normalizer, decoder, tokens=("<unk>", "<s>", "</s>"), size=900, **model):
    """A vocabulary as SentencePiece lays it out: special tokens, <0x00> to <0xFF>, pieces."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizer
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, limit_alphabet=120, show_progress=False))
    bpe = json.loads(trained.to_str())["model"]
    names = list(tokens) + [f"<0x{i:02X}>" for i in range(256)]
    for piece in sorted(bpe["vocab"], key=bpe["vocab"].get):
        if piece not in names:
            names.append(piece)
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[tuple(m) for m in bpe["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
            **model,
        )
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(list(tokens))
    return tokenizer


def begin_of_text(tokenizer, token):
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))]),
        ]
    )


def fallback_decoder(*more):
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more])


def gpt2():
    """ByteLevel with its own pattern and a prefix space."""
    return save(byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)))


def llama3():
    """Split + ByteLevel, ignore_merges, BOS; some tokens that no merge makes."""
    tokenizer = byte_level(split_then_bytes(LLAMA3))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    begin_of_text(tokenizer, "<|begin_of_text|>")

    def change(data):
        data["model"]["ignore_merges"] = True
        extra = ["Ġunmergeable", "zq", "ĠĠĠzq", "'ll"]
        size = len(data["model"]["vocab"])
        shift = [t for t in extra if t not in data["model"]["vocab"]]
        for i, token in enumerate(shift):
            data["model"]["vocab"][token] = size + i
        for token in data["added_tokens"]:
            token["id"] += len(shift)
        template = data["post_processor"]["processors"][1]["special_tokens"]
        for token in template.values():
            token["ids"] = [i + len(shift) for i in token["ids"]]

    return save(tokenizer, change)


def tekken():
    """Mistral Nemo: the pattern without contractions."""
    return save(byte_level(split_then_bytes(O200K)))


def qwen():
    """NFC before a Split + ByteLevel."""
    return save(byte_level(split_then_bytes(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), normalizer=normalizers.NFC()))


def many_splits():
    """DeepSeek's kind: several patterns, one anchored, and digits one by one."""
    return save(
        byte_level(
            split_then_bytes(
                r"[\r\n]",
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"\s+$",
                r"^#+",
                r"[一-龥ࠀ-一가-퟿]+",
                pre_tokenizers.Digits(individual_digits=True),
            )
        )
    )


def llama2():
    """Prepend and Replace normalizers, no pre-tokenizer: a whole text is one word, and no token has a mark inside."""
    tokenizer = sentence_pieces(pre_tokenizers.Metaspace(split=True), None, fallback_decoder(decoders.Strip(" ", 1, 0)))
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    begin_of_text(tokenizer, "<s>")
    return save(tokenizer)


def llama2_crossing():
    """The same, trained over spaces: tokens hold marks inside, so that nothing may be cut."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = sentence_pieces(None, normalizer, fallback_decoder(decoders.Strip(" ", 1, 0)), size=1500)
    assert any("▁" in t.lstrip("▁") for t in tokenizer.get_vocab()), "no token crosses a space"
    return save(tokenizer, lambda d: [t.update(normalized=True) for t in d["added_tokens"]])


def metaspace_first():
    """Mistral v3: Metaspace before the first word only, no split."""
    tokenizer = sentence_pieces(pre_tokenizers.Metaspace(split=True), None, fallback_decoder(decoders.Strip(" ", 1, 0)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return save(tokenizer)


def metaspace_always():
    """Metaspace that splits, and its own decoder."""
    return save(
        sentence_pieces(pre_tokenizers.Metaspace(prepend_scheme="always", split=True), None, decoders.Metaspace())
    )


def gemma():
    """Replace, then Split on a space that is never there; no prefix."""
    tokenizer = sentence_pieces(
        pre_tokenizers.Split(" ", "merged_with_previous"),
        normalizers.Replace(" ", "▁"),
        fallback_decoder(),
        tokens=("<pad>", "<eos>", "<bos>", "<unk>"),
        size=1500,
    )
    begin_of_text(tokenizer, "<bos>")
    return save(tokenizer)


def unknowns():
    """No byte tokens for some bytes and none fused: unknown tokens appear."""
    tokenizer = sentence_pieces(
        pre_tokenizers.Metaspace(prepend_scheme="never", split=True), None, decoders.Metaspace(prepend_scheme="never")
    )

    def change(data):
        vocabulary = data["model"]["vocab"]
        for byte in (0xF0, 0xE3, 0xC4):
            vocabulary[f"removed{byte}"] = vocabulary.pop(f"<0x{byte:02X}>")
        data["model"]["fuse_unk"] = False

    return save(tokenizer, change)


def fused_unknowns():
    """Fused unknown tokens and no byte fallback."""
    data = unknowns()
    data["model"].update(byte_fallback=False, fuse_unk=True)
    return data


def added():
    """Every flag of an added token, tokens inside each other, and each way to split."""
    tokenizer = byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split("-", "merged_with_previous"),
                pre_tokenizers.Split("_", "merged_with_next"),
                pre_tokenizers.Split(Regex("[=~]"), "contiguous"),
                pre_tokenizers.Split("|", "removed"),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[^@]+"), "isolated", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        normalizer=normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex("q+"), "k"), normalizers.Strip(left=False, right=True)]
        ),
    )

    def change(data):
        size = len(data["model"]["vocab"])
        flags = {
            "<mask>": "lstrip",
            "<sep>": "rstrip",
            "<both>": "lstrip rstrip",
            "word": "single_word",
            "wordy": "",
            "<|a|>": "special",
            "<|a|><|b|>": "",
            "<|b|>": "special lstrip",
            "ﬁn": "normalized",
            "Qq": "normalized special",
            "\n": "special",
            "é": "special normalized",
            "two words": "single_word normalized",
            "  ": "",
        }
        for i, (content, which) in enumerate(flags.items()):
            token = {f: f in which.split() for f in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            data["added_tokens"].append({"id": size + i, "content": content, **token})

    return save(tokenizer, change)


KINDS = [
    gpt2,
    llama3,
    tekken,
    qwen,
    many_splits,
    llama2,
    llama2_crossing,
    metaspace_first,
    metaspace_always,
    gemma,
    unknowns,
    fused_unknowns,
    added,
]


def write_all(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in KINDS:
        paths.append(folder / f"{kind.__name__}.json")
        paths[-1].write_text(json.dumps(kind(), ensure_ascii=False), encoding="utf-8")
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for path in write_all(sys.argv[1]):
        print(path, path.stat().st_size)
