#!/usr/bin/env python3
"""Puts cuda_check's errors beside PyTorch's for the same op, shape and type, both against float64.

    build/cuda/cuda_check 7 > check.txt; tools/op_errors.py check.txt      # needs torch and the GPU
    tools/op_errors.py check.txt --all                                     # every case, not each row's worst

Prints a Markdown table: the first row of a case is the one that the program chooses. Exit 1 when an error is more than
twice PyTorch's, or a case failed. Ops that are exact, or judged against the ops that they fuse, have no figure of PyTorch's.
"""
import argparse
import math
import re
import sys

import torch

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
LINE = re.compile(r"^(\S+)\s+(.*?)\s+(\d\.\d\de[-+]\d\d|nan|inf)\s+(ok|FAILED)$")
GPU = "cuda"


def randn(*shape, dtype=torch.float32, std=1.0):
    return (torch.randn(*shape, device=GPU) * std).to(dtype)


def relative(out, ref):
    return ((out.double() - ref).norm() / ref.norm()).item()


def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text)]


def fields(case):
    return {k: int(v) for k, v in re.findall(r"(\w+)<?=(\d+)", case)}


def dtype_of(case, at=0):
    return DTYPES[re.findall(r"\b(BF16|F16|F32)\b", case)[at]]


def linear(case):
    t, k, n, _ = numbers(case.split(" x ")[0])[:2] + numbers(case.split(" x ")[1])[:2]
    dtype = torch.bfloat16 if "fp8" in case else dtype_of(case)
    x, w, bias = randn(t, k, dtype=dtype), randn(n, k, dtype=dtype, std=0.05), randn(n, dtype=dtype)
    ref = torch.empty(t, n, device=GPU, dtype=torch.float64)
    for rows in torch.arange(n, device=GPU).split(16384):  # float64 of a whole unembedding is large
        ref[:, rows] = x.double() @ w[rows].double().T + bias[rows].double()
    return relative(torch.nn.functional.linear(x, w, bias), ref)


def rms_norm(case):
    t, n = numbers(case)[:2]
    dtype = dtype_of(case)
    x, w = randn(t, n, dtype=dtype, std=2.0), randn(n, dtype=dtype)

    def norm(x, w, low):  # as transformers writes it
        h = x.to(torch.float32 if low else torch.float64)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)
        return (w * h).to(x.dtype) if low else w.double() * h

    return relative(norm(x, w, True), norm(x, w, False))


def silu_mul(case):
    t, n = numbers(case)[:2]
    gate, up = randn(t, n, dtype=dtype_of(case), std=2.0), randn(t, n, dtype=dtype_of(case))
    return relative(torch.nn.functional.silu(gate) * up, torch.nn.functional.silu(gate.double()) * up.double())


def rope_table(case):
    f = fields(case)
    angle = torch.randint(0, 131072, (f["T"], 1), device=GPU).float() * randn(1, f["D"] // 2, std=0.1)
    dtype = dtype_of(case)
    return max(relative((fn(angle) * 1.3466).to(dtype), fn(angle.double()) * 1.3466) for fn in (torch.cos, torch.sin))


def rope(case):
    t, heads, d = numbers(case)[:3]
    dtype = dtype_of(case)
    x, cos, sin = randn(t, heads, d, dtype=dtype), randn(t, 1, d // 2, dtype=dtype), randn(t, 1, d // 2, dtype=dtype)

    def turn(x, cos, sin):
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    return relative(turn(x, cos, sin), turn(x.double(), cos.double(), sin.double()))


def router(case):
    f = fields(case)
    x = randn(f["T"], f["E"], dtype=torch.bfloat16)
    top = x.topk(f["A"], -1).values
    return relative(top.softmax(-1), top.double().softmax(-1))


def moe(case):
    f = fields(case)
    dtype = dtype_of(case)
    t, e, a, h, i = f["T"], f["E"], f["A"], f["H"], f["I"]
    codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], device=GPU)

    def mxfp4(n, k):
        values = codes[torch.randint(0, 16, (e, n, k // 32, 32), device=GPU)]
        return (values * 2.0 ** torch.randint(-9, -3, (e, n, k // 32, 1), device=GPU)).reshape(e, n, k).to(dtype)

    x, up_w, up_b, down_w, down_b = randn(t, h, dtype=dtype), mxfp4(2 * i, h), randn(e, 2 * i, dtype=dtype, std=0.5), mxfp4(
        h, i), randn(e, h, dtype=dtype, std=0.5)
    chosen = torch.stack([torch.randperm(e, device=GPU)[:a] for _ in range(t)])
    weights = randn(t, a, dtype=dtype, std=0.5)

    def run(cast):
        out = torch.zeros(t, h, device=GPU, dtype=cast)
        for expert in chosen.unique().tolist():
            token, slot = (chosen == expert).nonzero(as_tuple=True)
            both = x[token].to(cast) @ up_w[expert].to(cast).T + up_b[expert].to(cast)
            gate, up = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
            y = ((up + 1) * (gate * torch.sigmoid(gate * 1.702))) @ down_w[expert].to(cast).T + down_b[expert].to(cast)
            out.index_add_(0, token, y * weights[token, slot, None].to(cast))
        return out

    return relative(run(dtype), run(torch.float64))


def attention(case):
    f = fields(case)
    dtype = dtype_of(case)
    d, groups, window = f["D"], f["Q"] // f["K"], f["W"]
    context = min(f["ctx"], 4096)
    queries = max(1, min(f["T"] // f["B"], context))
    q, k, v = (randn(heads, n, d, dtype=dtype, std=s)
               for heads, n, s in ((f["Q"], queries, 1.5), (f["K"], context, 1.0), (f["K"], context, 1.0)))
    sinks = randn(f["Q"], dtype=dtype) if "sinks" in case else None
    position = torch.arange(context - queries, context, device=GPU)[:, None]
    key = torch.arange(context, device=GPU)[None, :]
    hidden = (key > position) | ((key <= position - window) if window > 0 else False)

    def run(cast):  # as transformers' eager attention with sinks
        scores = q.to(cast) @ k.to(cast).repeat_interleave(groups, 0).transpose(1, 2) / math.sqrt(d)
        scores = scores.masked_fill(hidden, float("-inf"))
        if sinks is not None:
            scores = torch.cat((scores, sinks.to(cast)[:, None, None].expand(-1, queries, 1)), -1)
            scores = scores - scores.max(-1, keepdim=True).values
        weights = scores.softmax(-1)[..., :context]
        return weights @ v.to(cast).repeat_interleave(groups, 0)

    return relative(run(dtype), run(torch.float64))


OPS = {"linear": linear, "rms_norm": rms_norm, "silu_mul": silu_mul, "rope_table": rope_table, "rope": rope,
       "router": router, "moe": moe, "attention": attention}


def op_of(row, case):
    for op in ("moe_add", "mxfp4_atoms", "norm_router", "rope_kv", "rope_table", "rms_norm", "silu_mul", "kv_write",
               "attention", "quantize", "linear", "sample", "router", "embed", "rope", "add", "moe"):
        if row.startswith(op):
            return op
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", help="what cuda_check printed")
    parser.add_argument("--all", action="store_true", help="every case, not each row's worst")
    args = parser.parse_args()
    torch.manual_seed(7)
    torch.backends.cuda.matmul.allow_tf32 = False
    cases, first = [], {}
    for line in open(args.check, encoding="utf-8"):
        match = LINE.match(line.rstrip())
        if not match:
            continue
        row, case, error, verdict = match.groups()
        op = op_of(row, case)
        first.setdefault((op, case), row)
        cases.append((op, row, case, float(error), verdict))
    if not cases:
        sys.exit(f"{args.check}: no lines of cuda_check in it")
    theirs, rows, bad = {}, {}, 0
    for op, row, case, error, verdict in cases:
        known = op in OPS and not any(word in case for word in ("runs", "residual", "experts"))
        known = known and (op != "rope" or case.startswith("["))  # the fused op's cases are judged against this one
        if known and (op, case) not in theirs:
            theirs[op, case] = max(OPS[op](case) for _ in range(4))  # a handful of numbers can come out well by chance
            torch.cuda.empty_cache()
        other = theirs.get((op, case)) if known else None
        ratio = error / other if other else 0.0
        # A result that PyTorch happens to get exactly (one key, one row) says nothing about rounding.
        over = other is not None and other > 1e-9 and ratio > 2
        bad += over or verdict != "ok"
        entry = (ratio if known else error, op, row, case, error, other, first[op, case] == row, over or verdict != "ok")
        rows.setdefault((op, row) if not args.all else (op, row, case), []).append(entry)
    print("| op | row | worst case | error | PyTorch | ratio | chosen |\n|---|---|---|---|---|---|---|")
    for entries in rows.values():
        ratio, op, row, case, error, other, chosen, wrong = max(entries, key=lambda e: (e[7], e[0]))
        figures = f"{other:.2e} | {ratio:.2f}" if other is not None else "exact or fused | "
        count = f" (of {len(entries)})" if len(entries) > 1 else ""
        print(f"| {op} | `{row}` | {case}{count} | {error:.2e} | {figures} | {'yes' if chosen else ''} |"
              + (" TOO LARGE" if wrong else ""))
    print(f"\n{len(cases)} cases, {bad} of them worse than twice PyTorch's error, or failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
