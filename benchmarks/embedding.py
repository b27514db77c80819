"""The static encoder against model2vec's own ``encode``: the same texts, tokeniser and table.

The table is distilled from all-MiniLM-L6-v2 as for a selector, 256 wide, and both sides take the
direction of a text's mean over it; the centre, which model2vec does not have, is zero. The sides
take turns in one process. Each gets the texts in the form it requires, model2vec a list of strings
in one call (``max_length=None``, or it would read 512 tokens only), Penstock an Arrow array.

    python benchmarks/embedding.py --json
    python benchmarks/embedding.py --json --data 'pool/web-*.jsonl.zst'
    python benchmarks/embedding.py --json --characters 0

``ratio`` is of one thread each, in CPU time of the process, so that neighbours on the machine do
not count. ``ratio_as_they_come`` is in elapsed time, model2vec with its default spread over the
cores, Penstock still one thread: a stage spreads the texts over workers, not ``encode``.

Without ``--data`` a document is the docstrings of one installed source file, of a web page's
length.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from common import docstrings, jsonl, peer_module

from penstock.selectors.encoders.distillation import distil, encode_vocabulary
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder

ALIKE = 0.999
DISTIL_TEXTS = 4096
DISTIL_CHARACTERS = 2048
SIDES = ("ours", "peer")
CLOCKS: dict[str, Callable[[], float]] = {
    "one thread": time.process_time,
    "as they come": time.perf_counter,
}


def main() -> None:
    """Run both, print what was found, and the JSON object as the last line."""
    arguments = _arguments()
    peer_module("model2vec")  # before anything is made or timed
    given = arguments.data
    source = (document["text"] for document in jsonl(given)) if given else docstrings()
    texts = sorted({*source}, key=lambda text: hashlib.sha256(text.encode()).digest())
    texts = [text[: arguments.characters or None] for text in texts[: arguments.documents]]
    array = pa.array(texts, pa.large_string())
    print(f"distilling on {min(len(texts), DISTIL_TEXTS)} of {len(texts)}", file=sys.stderr)
    ours, peer = _encoders(texts[:DISTIL_TEXTS])
    work = {
        "ours": lambda: ours.encode(array),
        "peer": lambda: peer.encode(texts, max_length=None, normalize=True),
    }
    ours.encode(array[:2])  # compiles

    speeds: dict[tuple[str, str], list[float]] = {
        (clock, side): [] for clock in CLOCKS for side in SIDES
    }
    vectors = {}
    for _ in range(arguments.rounds):
        for clock, now in CLOCKS.items():
            for side in SIDES:
                # Read anew at each call; model2vec leaves it behind as "false".
                os.environ["TOKENIZERS_PARALLELISM"] = str(clock == "as they come").lower()
                start = now()
                vectors[side] = work[side]()
                speeds[clock, side].append(len(texts) / (now() - start))
            a, b = (speeds[clock, side][-1] for side in SIDES)
            print(f"{clock}: ours {a:.0f}/s, model2vec {b:.0f}/s", file=sys.stderr)
    cosines = np.einsum("nd,nd->n", vectors["ours"], vectors["peer"], dtype=np.float64)
    neither = ~vectors["ours"].any(axis=1) & ~vectors["peer"].any(axis=1)
    least = float(np.where(neither, 1, cosines).min())

    result: dict[str, object] = {"name": "embedding", "unit": "documents/s per core"}
    for clock, suffix in zip(CLOCKS, ("", "_as_they_come")):
        a, b = (speeds[clock, side] for side in SIDES)
        ratios = [x / y for x, y in zip(a, b, strict=True)]
        result["ours" + suffix] = round(statistics.median(a))
        result["peer" + suffix] = round(statistics.median(b))
        result["ratio" + suffix] = round(statistics.median(ratios), 2)
        if not arguments.json:
            spread = f"rounds {min(ratios):.1f} to {max(ratios):.1f}"
            print(f"{clock}: {result['ratio' + suffix]} times model2vec ({spread})")
    result["cores"] = len(os.sched_getaffinity(0))
    result["checked"] = (
        f"{len(texts)} documents ({array.nbytes / 1e6:.1f} MB, "
        f"{'whole' if not arguments.characters else f'{arguments.characters} characters'}), "
        f"least cosine {least:.7f}"
    )
    print(json.dumps(result))
    if not least >= ALIKE:
        sys.exit("the vectors differ: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with a `text` field")
    parser.add_argument("--documents", type=int, default=12_000, help="how many to encode")
    parser.add_argument(
        "--characters", type=int, default=2048, help="of a document that are read; 0: all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _encoders(texts: list[str]) -> tuple[StaticEncoder, Any]:
    """Both sides over one table."""
    beginnings = [text[:DISTIL_CHARACTERS] for text in texts]
    distilled = distil(
        encode_vocabulary(SentenceEncoder()), pa.array(beginnings, pa.large_string())
    )
    table, tokenizer = distilled.table, distilled.tokenizer
    ours = StaticEncoder(distilled.name, tokenizer, table, np.zeros(table.shape[1]))
    peer = peer_module("model2vec").StaticModel
    return ours, peer(table, tokenizer, normalize=True, max_length=None)


if __name__ == "__main__":
    main()
