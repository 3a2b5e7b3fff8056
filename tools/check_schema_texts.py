#!/usr/bin/env python3
"""Reads lines {"schema": PATH, "text": TEXT} and validates each text with the jsonschema package (pip install jsonschema).

    build/release/bench_grammar --texts TOKENIZER.json tests/data/schemas/*.json | tools/check_schema_texts.py
"""
import json
import sys

from jsonschema import Draft202012Validator

validators = {}
checked, bad = 0, 0
for line in sys.stdin:
    item = json.loads(line)
    path = item["schema"]
    if path not in validators:
        with open(path, encoding="utf-8") as file:
            validators[path] = Draft202012Validator(json.load(file), format_checker=Draft202012Validator.FORMAT_CHECKER)
    checked += 1
    try:
        errors = [e.message for e in validators[path].iter_errors(json.loads(item["text"]))]
    except ValueError as e:
        errors = [f"not JSON: {e}"]
    if errors:
        bad += 1
        print(f"{path}: {item['text'][:200]}\n  {errors[0][:300]}")
print(f"{checked} texts under {len(validators)} schemas, {bad} not valid")
sys.exit(bad > 0 or checked == 0)
