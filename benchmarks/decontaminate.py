"""Overlaps with evaluation files against datatrove's n-gram decontamination, on the same documents.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install datatrove spacy orjson
    python benchmarks/decontaminate.py --json --peer-python /tmp/peers/bin/python
    python benchmarks/decontaminate.py --json --data 'pool/web-*.jsonl.zst' \\
        --evaluate arc.eval.jsonl --evaluate piqa.eval.jsonl --peer-python ...

A copy of an evaluation example is planted in every hundredth document, in turn verbatim, in upper
case, in swapped case, with other white space, one word a line, with typographic apostrophes, alone
and inside the page. ``checked`` says how many copies each side finds, by kind, and how many other
documents ours takes for copies; the JSON object lists those. ``ratio`` compares CPU time for a byte
of the documents that the peer sees; the sides take turns. Both take 13 words. Without a peer, ours
is measured on all documents.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import Side, docstrings, jsonl, refuse_without_peer

from penstock.pipeline.cleaning.overlaps.grams import Grams
from penstock.selectors.targets import read_texts

NGRAM = 13
EVERY = 100
ROUNDS = 3
BATCH = 4096

KINDS: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "upper case": str.upper,
    "swapped case": str.swapcase,
    "white space": lambda text: " \t ".join(text.split()),
    "lines": lambda text: "\n".join(text.split()),
    "apostrophes": lambda text: text.replace("'", "\u2019"),
}

_PEER = """
import json, sys, time
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.text import ngrams, simplify_text

texts, examples, folder, words = json.loads(sys.argv[1])
config = NGramsDecontConfig(n_grams=words)
one = NGramsDecontFilter(folder, config)
texts = [json.loads(line) for line in open(texts, encoding="utf-8")]
hashes = set()
for line in open(examples, encoding="utf-8"):
    for text in json.loads(line):
        tokens = one.tokenizer.word_tokenize(simplify_text(text, config.norm_config))
        hashes.update(one.hash_func(" ".join(gram)) for gram in ngrams(tokens, words))
np.array(list(hashes), dtype=config.hash_config.np_descr).tofile(f"{folder}/all.index.hashes")
one.load_index_hashes()
print(json.dumps({"grams": len(hashes)}), flush=True)
for _ in sys.stdin:
    began = time.process_time()
    found = [
        row for row, text in enumerate(texts)
        if one.filter(Document(text=text, id=str(row))) is not True
    ]
    print(json.dumps({"seconds": time.process_time() - began, "found": found}), flush=True)
"""


def main() -> None:
    """Run both sides, and print the JSON object as the last line."""
    arguments = _arguments()
    documents = list(islice(_documents(arguments.data), arguments.documents))
    examples = _examples(arguments.evaluate)
    planted = _plant(documents, examples)
    grams = Grams.of(examples, NGRAM)
    kind = {row: name for row, name, _ in planted}
    seconds, found = _ours(grams, [text for _, text in documents])
    hits = np.flatnonzero(found["grams"])
    false = [row for row in hits.tolist() if row not in kind]
    missed = [name for row, name, _ in planted if not found["grams"][row]]
    named = sum(found["example"][row] == example for row, _, example in planted)
    size = sum(len(text.encode()) for _, text in documents)
    result = {
        "name": "decontaminate",
        "unit": "MB/s a core",
        "ours": round(size / 1e6 / seconds, 1),
        "peer": None,
        "ratio": None,
        "checked": f"{len(planted) - len(missed):,} of {len(planted):,} planted copies found, "
        f"{named:,} with their example; {len(false)} other documents of {len(documents):,}",
        "examples": len(examples),
        "unchecked": len(grams.unchecked),
        "grams": len(grams),
        "false": [
            {
                "id": documents[row][0],
                "share": round(float(found["share"][row]), 5),
                "example": examples[found["example"][row]][0][:200],
            }
            for row in false
        ],
    }
    if arguments.peer_python:
        result |= _compared(arguments, documents, examples, grams, kind, str(result["checked"]))
    elif not arguments.json:
        print("without --peer-python only ours is measured", file=sys.stderr)
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with a `text` field")
    parser.add_argument("--evaluate", action="append", help="an evaluation file; may be repeated")
    parser.add_argument("--documents", type=int, default=10**6, help="at most")
    parser.add_argument("--peer-every", type=int, default=20, help="the peer sees one in so many")
    parser.add_argument("--peer-python", help="the interpreter of datatrove's environment")
    return parser.parse_args()


def _documents(data: str | None) -> Any:
    if data:
        return ((row["id"], row["text"]) for row in jsonl(data))
    return ((f"page-{number}", text) for number, text in enumerate(docstrings()))


def _examples(files: list[str] | None) -> list[list[str]]:
    """Read the texts of evaluation files, or make examples."""
    if files:
        return [texts for file in files for texts in read_texts(file)]
    made = []
    for number in range(500):
        rng = random.Random(number)
        words = [f"{rng.choice('aeiou')}{rng.randrange(1000)}n't" for _ in range(7 + number % 20)]
        made.append([f"Which of {' '.join(words)}?\nIt is number {number}."])
    return made


def _plant(
    documents: list[tuple[str, str]], examples: list[list[str]]
) -> list[tuple[int, str, int]]:
    """Plant copies in documents; return the row, the kind and the example of each."""
    checkable = [at for at, texts in enumerate(examples) if len(texts[0].split()) >= NGRAM + 2]
    planted = []
    for number, row in enumerate(range(0, len(documents), EVERY)):
        name = list(KINDS)[number % len(KINDS)]
        example = checkable[number * 7919 % len(checkable)]
        name_of, text = documents[row]
        middle = len(text) // 2
        alone = number % 5 == 0
        before, after = ("", "") if alone else (f"{text[:middle]} ", f" {text[middle:]}")
        documents[row] = name_of, f"{before}{KINDS[name](examples[example][0])}{after}"
        planted.append((row, name, example))
    return planted


def _ours(grams: Grams, texts: list[str]) -> tuple[float, dict[str, np.ndarray]]:
    """Return CPU seconds, the median of rounds, and the columns."""
    batches = [
        pa.array(texts[at : at + BATCH], pa.large_string()) for at in range(0, len(texts), BATCH)
    ]
    grams.count(batches[0])  # compiled
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        found = [grams.count(batch) for batch in batches]
        seconds.append(time.process_time() - began)
    columns = {
        name: np.concatenate([getattr(one, name) for one in found])
        for name in ("share", "example", "grams")
    }
    return statistics.median(seconds), columns


def _compared(
    arguments: argparse.Namespace,
    documents: list[tuple[str, str]],
    examples: list[list[str]],
    grams: Grams,
    kind: dict[int, str],
    checked: str,
) -> dict[str, Any]:
    """Measure both sides on a part of the documents, in turns."""
    if not Path(arguments.peer_python).exists():
        refuse_without_peer("/tmp/peers", "datatrove spacy orjson")
    rows = list(range(len(documents)))[:: arguments.peer_every]
    rows = sorted({*rows, *list(kind)[::3]})
    texts = [documents[row][1] for row in rows]
    ours, peer = [], []
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory) / name for name in ("texts", "examples", "index")]
        places[2].mkdir()
        for place, values in zip(places, [list[Any](texts), list[Any](examples)]):
            place.write_text("\n".join(json.dumps(value) for value in values))
        given = json.dumps([*map(str, places), NGRAM])
        side = Side([arguments.peer_python, "-c", _PEER, given])
        for _ in range(ROUNDS):
            ours.append(_ours(grams, texts)[0])
            answer = side.ask("go")
            peer.append(answer["seconds"])
        side.close()
    both = [Counter(kind[row] for row in rows if row in kind), Counter[str]()]
    both[1].update(kind[rows[at]] for at in answer["found"] if rows[at] in kind)
    own = sum(rows[at] not in kind for at in answer["found"])
    by_kind = ", ".join(f"{both[1][name]} of {count} {name}" for name, count in both[0].items())
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {
        "peer": round(size / statistics.median(peer), 3),
        "ratio": round(statistics.median(one / other for one, other in zip(peer, ours)), 1),
        "checked": f"{checked}; the peer, on {len(texts):,} documents: {by_kind}, {own} others",
    }


if __name__ == "__main__":
    main()
