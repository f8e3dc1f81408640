#!/usr/bin/env python3
"""Facts planted at some depths of a long text, asked for at its end: does a compressed KV cache find what an f16 cache finds?

    bench/compare/needles.py qwen2.5-q4_k_m --text FILE [--kv f16,k4v3] [--tokens 8000] [--depths 10] [--output RESULT.json]

The text is cut to the number of tokens. Each depth has a context of its own with one fact, a name and a number that occur nowhere else; a fact is found
if the number is in the greedy answer. Models are those of rows.py or GGUF files.
"""
import argparse
import json
import pathlib
import random

import engines
from rows import MODELS

PLACES = ("Valmora", "Quessant", "Tirrelby", "Ostrenfeld", "Marquessa", "Dunhallow", "Ibrenna", "Calderwick", "Zennoby", "Hartspur")


def prompts(text, depths):
    """(depth, place, number, prompt) of each fact; the same every time."""
    numbers = random.Random(1)
    paragraphs = text.split("\n\n")
    for i in range(depths):
        depth = (i + 0.5) / depths
        place, number = PLACES[i % len(PLACES)], str(numbers.randrange(10000, 99999))
        at = int(depth * len(paragraphs))
        planted = [*paragraphs[:at], f"The access code of the archive in {place} is {number}.", *paragraphs[at:]]
        yield depth, place, number, "\n\n".join(planted) + f"\n\nQuestion: What is the access code of the archive in {place}?\nAnswer: The access code of the archive in {place} is"


def cut(prism, model, text, tokens):
    """The beginning of the text that has so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if engines.run([prism, "tokenize", model], text[:middle]).stdout.count(",") + 1 <= tokens:
            low = middle
        else:
            high = middle - 1
        if high - low < 16:
            break
    return text[:low]


def answer(options, model, kv, prompt):
    return engines.run_json([options.prism, "run", model, "-f", "-", "-n", 12, "--kv", kv, "--json"], prompt)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file, or a name of rows.py")
    parser.add_argument("--text", type=pathlib.Path, required=True, help="what the facts are planted in, at least --tokens long")
    parser.add_argument("--kv", default="f16,k4v3", help="caches, as prism run --kv takes them; the first is what the others are compared with")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--depths", type=int, default=10)
    parser.add_argument("--prism", type=pathlib.Path, default=engines.ROOT / "build" / "prism")
    parser.add_argument("--output", type=pathlib.Path, help="write the result as JSON")
    options = parser.parse_args()
    caches = options.kv.split(",")
    labels = [engines.kv_label(kv) for kv in caches]
    if len(set(labels)) < len(labels):
        parser.error(f"--kv: found {labels}, expected no two of one name")
    model = engines.model_path(options.model, MODELS, None if options.model in MODELS and not MODELS[options.model][1] else engines.LLAMA_CPP.programs())
    text = cut(options.prism, model, options.text.read_text(encoding="utf-8"), options.tokens)
    rows = []
    for depth, place, number, prompt in prompts(text, options.depths):
        row = {"depth": depth, "place": place, "number": number, "found": {}}
        for kv, label in zip(caches, labels):
            said = answer(options, model, kv, prompt)
            row["tokens"], row["found"][label] = len(said["prompt_ids"]), number in said["text"]
        rows.append(row)
        engines.say(f"depth {100 * depth:3.0f} %, {row['tokens']} tokens: " + ", ".join(f"{kv} {'found' if row['found'][kv] else 'NOT FOUND'}" for kv in labels))
    result = {**engines.circumstances(), "model": model.stem, "text": options.text.name, "caches": labels, "rows": rows}
    print(f"{'':30}{'found':>8}{'lost':>6}")
    for kv in labels:
        lost = sum(row["found"][labels[0]] and not row["found"][kv] for row in rows)
        print(f"{kv:30}{sum(row['found'][kv] for row in rows):5d}/{len(rows)}{lost:6d}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
