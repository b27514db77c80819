"""Personal data and secrets: speed, what is found in documents, and datatrove's PIIFormatter.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install datatrove
    python benchmarks/personal_data.py --json --peer-python /tmp/peers/bin/python
    python benchmarks/personal_data.py --json --data 'pool/*.jsonl.zst' --show 20 --peer-python ...

Without a peer it counts and masks all kinds, in MB/s a core, and says how many items and documents
each kind has; ``--show N`` prints N of each with the text around it, to judge precision. With one,
``ratio`` compares masking of e-mail and IP addresses, the two kinds that datatrove has, in CPU
time; the sides take turns. ``agree`` compares the documents in which each side finds something:
datatrove takes any four numbers of a public address, so also sections such as ``11.5.2.3``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import Side, docstrings, jsonl, refuse_without_peer

from penstock.personal_data import KINDS, count_personal_data, mask

ROUNDS = 5
SHARED = ("e_mail", "ip")

_PEER = """
import json, sys, time
from datatrove.pipeline.formatters.pii import PIIFormatter

texts = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
formatter = PIIFormatter()
print(json.dumps({"documents": len(texts)}), flush=True)
for request in sys.stdin:
    begin, end = json.loads(request)
    began = time.process_time()
    results = [formatter.format(text) for text in texts[begin:end]]
    spent = time.process_time() - began
    changed = [row for row, text in enumerate(results, begin) if text != texts[row]]
    print(json.dumps({"cpu": spent, "changed": changed}), flush=True)
"""


def main() -> None:
    """Measure, compare, and print the JSON object as the last line."""
    arguments = _arguments()
    rows = (row["text"] for row in jsonl(arguments.data)) if arguments.data else docstrings()
    texts = list(islice(rows, arguments.documents))
    array = pa.array(texts, pa.large_string())
    size = sum(len(text.encode()) for text in texts) / 1e6
    count_personal_data(array[:10])  # compiles
    counts, rates = None, {}
    for name, function in (("count", count_personal_data), ("mask", mask)):
        seconds = []
        for _ in range(ROUNDS):
            began = time.process_time()
            made = function(array)
            seconds.append(time.process_time() - began)
        counts = made if name == "count" else counts
        rates[name] = round(size / statistics.median(seconds), 1)
    assert counts is not None
    found = {}
    for kind in KINDS:
        own = counts.column(kind).to_numpy()
        found[kind] = {"items": int(own.sum()), "documents": int((own > 0).sum())}
        if arguments.show:
            _show(kind, [texts[row] for row in own.nonzero()[0]], arguments.show)
    result: dict[str, Any] = {
        "name": "personal_data",
        "unit": "MB/s a core",
        "documents": len(texts),
        "megabytes": round(size, 1),
        **rates,
        "found": found,
    }
    if arguments.peer_python:
        result |= _against(texts, arguments.peer_python)
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with `text`; docstrings if absent")
    parser.add_argument("--documents", type=int, default=10**9, help="at most so many")
    parser.add_argument("--show", type=int, default=0, help="items of each kind to print")
    parser.add_argument("--peer-python", help="an interpreter that has datatrove")
    arguments = parser.parse_args()
    if arguments.peer_python and not Path(arguments.peer_python).exists():
        refuse_without_peer("/tmp/peers", "datatrove")
    return arguments


def _show(kind: str, texts: Sequence[str], most: int) -> None:
    """Print some items of a kind with the text around them: those that masking replaces."""
    draw, places = random.Random(kind), []
    placeholder = KINDS[kind].placeholder
    masked = mask(pa.array(texts, pa.large_string()), [kind]).to_pylist()
    for text, clean in zip(texts, masked):
        at = 0  # in `text`; equal pieces between placeholders tell where each item ends
        pieces = clean.split(placeholder)
        for piece, following in pairwise(pieces):
            begin = at + len(piece)
            head = following[:30]
            end = text.index(head, begin) if head else len(text)
            places.append((text[max(0, begin - 30) : begin], text[begin:end], text[end : end + 20]))
            at = end
    for before, item, after in draw.sample(places, min(most, len(places))):
        print(f"{kind}: {before!r} {item[:80]!r} {after!r}", file=sys.stderr)


def _against(texts: Sequence[str], python: str) -> dict[str, Any]:
    """Return MB/s of both sides, their ratio, and the documents in which each finds something."""
    with tempfile.TemporaryDirectory(prefix="penstock-personal-") as directory:
        place = Path(directory)
        (place / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        (place / "peer.py").write_text(_PEER)
        peer = Side([python, str(place / "peer.py"), str(place / "texts.jsonl")])
        spent, ours, theirs = [], set(), set()
        step = -(-len(texts) // ROUNDS)
        for begin in range(0, len(texts), step):
            part = texts[begin : begin + step]
            array = pa.array(part, pa.large_string())
            began = time.process_time()
            masked = mask(array, SHARED)
            mine = time.process_time() - began
            told = peer.ask(json.dumps([begin, begin + len(part)]))
            size = sum(len(text.encode()) for text in part) / 1e6
            spent.append((size, mine, told["cpu"]))
            ours |= {
                begin + row for row, text in enumerate(masked.to_pylist()) if text != part[row]
            }
            theirs |= set(told["changed"])
        peer.close()
    sections = re.compile(r"(?<![\d.])\d{1,2}(?:\.\d{1,2}){3}(?![\d.])")
    only = {"ours": sorted(ours - theirs), "peer": sorted(theirs - ours)}
    return {
        "ours": round(statistics.median(size / mine for size, mine, _ in spent), 1),
        "peer": round(statistics.median(size / cpu for size, _, cpu in spent), 2),
        "ratio": round(statistics.median(cpu / mine for _, mine, cpu in spent), 1),
        "checked": f"documents with e-mail or IP addresses: {len(ours & theirs):,} by both sides",
        "agree": {
            "both": len(ours & theirs),
            "ours_only": len(only["ours"]),
            "peer_only": len(only["peer"]),
            "peer_only_with_short_numbers": sum(
                sections.search(texts[row]) is not None for row in only["peer"]
            ),
        },
    }


if __name__ == "__main__":
    main()
