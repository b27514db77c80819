"""Statistics and verdicts of Gopher, C4 and FineWeb against datatrove's filters, on the same text.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install datatrove spacy orjson
    python benchmarks/rules.py --json --peer-python /tmp/peers/bin/python
    python benchmarks/rules.py --json --data 'pool/web-*.jsonl.zst' --own-every 5 --peer-python ...

Without a peer it measures statistics, without and with repeated n-grams, in MB/s a core, and the
seconds of all verdicts. With one, ``ratio`` compares all statistics and the verdicts of four sets
with datatrove's four filters, each on every document, in CPU time; the sides take turns. There
datatrove divides text by spaCy, once for the three filters that need words, as in its pipelines.

Decisions (kept or dropped) are compared for each filter twice: on every document with datatrove
given our words and sentences, in plain Python; and on every ``--own-every``-th document with its
own, by class of disagreement (our first rule / its reason). The first must be equal but for
repeated n-grams: datatrove joins their words without spaces, so that ``a bc`` equals ``ab c``.
Rules for words do not abstain here; ``abstained`` counts the documents for which they would.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import Side, docstrings, jsonl, refuse_without_peer

from penstock.rules import Counting, count_statistics, rule_sets
from penstock.rules.characters import SYMBOL, TERMINAL, classes

SETS = ("gopher_quality", "gopher_repetition", "fineweb", "c4")
ROUNDS = 3

_PEER = """
import json, sys, time
import datatrove.pipeline.filters.c4_filters as c4
import datatrove.pipeline.filters.fineweb_quality_filter as fineweb
import datatrove.pipeline.filters.gopher_quality_filter as quality
import datatrove.pipeline.filters.gopher_repetition_filter as repetition
from datatrove.data import Document

place, symbols, terminals = json.loads(sys.argv[1])
symbols, terminals = set(symbols), set(terminals)
texts = [json.loads(line) for line in open(place, encoding="utf-8")]


def core_of(piece):
    first, last = 0, len(piece)
    while first < last and piece[first] in symbols:
        first += 1
    while last > first and piece[last - 1] in symbols:
        last -= 1
    return first, last


def words_of(text, language=None):
    words = []
    for piece in text.split():
        first, last = core_of(piece)
        words += piece[:first]
        if first < last:
            words.append(piece[first:last])
        words += piece[last:]
    return words


def sentences_of(line, language=None):
    count, ended = 1, False
    for piece in line.split():
        first, last = core_of(piece)
        ended |= not terminals.isdisjoint(piece[:first])
        if first < last:
            count += ended
            core, after = piece[first:last], piece[last:]
            if after[:1] == "." and ("." in core or len(core) == 1 and core.isalpha()):
                after = after[1:]
            ended = not terminals.isdisjoint(after)
    return [""] * count


own = quality.split_into_words, c4.split_into_sentences
filters = [
    quality.GopherQualityFilter(),
    repetition.GopherRepetitionFilter(),
    fineweb.FineWebQualityFilter(),
    c4.C4QualityFilter(),
]
print(json.dumps({"documents": len(texts)}), flush=True)
for request in sys.stdin:
    ours, begin, end, step = json.loads(request)
    words, sentences = (words_of, sentences_of) if ours else own
    quality.split_into_words = repetition.split_into_words = fineweb.split_into_words = words
    c4.split_into_sentences = sentences
    reasons, began = [], time.process_time()
    for text in texts[begin:end:step]:
        row = []
        for one in filters:
            try:
                kept = one.filter(Document(text=text, id=""))
            except (ZeroDivisionError, IndexError) as error:
                kept = (False, type(error).__name__)
            row.append("" if kept is True else kept[1])
        reasons.append(row)
    print(json.dumps({"cpu": time.process_time() - began, "reasons": reasons}), flush=True)
"""


def main() -> None:
    """Measure, compare, and print the JSON object as the last line."""
    arguments = _arguments()
    texts = _texts(arguments)
    size = sum(len(text.encode()) for text in texts)
    _note(f"{len(texts):,} documents, {size / 1e6:.1f} MB")
    result: dict[str, Any] = {"name": "rules", "unit": "MB/s a core"} | _measure(texts, size)
    if arguments.peer_python:
        result |= _against(texts, arguments)
    elif not arguments.json:
        _note("no peer: see --help")
    print(json.dumps(result))
    worst = min((one["equal"] for one in result.get("our_words", {}).values()), default=1)
    if worst < 0.999:
        sys.exit("decisions differ: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with `text`; docstrings if absent")
    parser.add_argument("--documents", type=int, default=10**9, help="at most so many")
    parser.add_argument("--peer-python", help="an interpreter that has datatrove and spacy")
    parser.add_argument("--own-every", type=int, default=20, help="for datatrove's own words")
    arguments = parser.parse_args()
    if arguments.peer_python and not Path(arguments.peer_python).exists():
        refuse_without_peer("/tmp/peers", "datatrove spacy orjson")
    return arguments


def _texts(arguments: argparse.Namespace) -> list[str]:
    if not arguments.data:
        return list(islice(docstrings(), arguments.documents))
    return list(islice((row["text"] for row in jsonl(arguments.data)), arguments.documents))


def _array(texts: Sequence[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def _measure(texts: Sequence[str], size: int) -> dict[str, Any]:
    """Return MB/s of statistics, and the seconds of all verdicts."""
    whole, sets = _array(texts), rule_sets(SETS)
    rates: dict[str, float] = {}
    for name, counting in (
        ("without_ngrams", Counting(ngrams=False)),
        ("with_ngrams", Counting()),
    ):
        count_statistics(whole[:10], counting)  # compiles
        seconds = []
        for _ in range(ROUNDS):
            began = time.process_time()
            counts = count_statistics(whole, counting)
            seconds.append(time.process_time() - began)
        rates[name] = round(size / 1e6 / statistics.median(seconds), 1)
    began = time.process_time()
    verdicts = [one.judge(counts) for one in sets]
    seconds_of_verdicts = time.process_time() - began
    return {
        "statistics": rates,
        "documents": len(texts),
        "verdict_seconds": round(seconds_of_verdicts, 3),
        "abstained": int(verdicts[0].abstained.sum()),
        "kept": {
            one.name: round(float((verdict.bits == 0).mean()), 4)
            for one, verdict in zip(sets, verdicts)
        },
    }


def _against(texts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the ratio, and the decisions that differ."""
    with tempfile.TemporaryDirectory(prefix="penstock-rules-") as directory:
        place = Path(directory)
        (place / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        (place / "peer.py").write_text(_PEER)
        peer = _peer(arguments.peer_python, place)
        ours = _decisions(texts)
        step = arguments.own_every
        _judged(peer, False, 0, 40, 1)  # loads spaCy
        seconds: list[tuple[float, float]] = []
        own: list[list[str]] = []
        third = -(-len(texts) // (ROUNDS * step)) * step
        for begin in range(0, len(texts), third):
            end = min(begin + third, len(texts))
            began = time.process_time()
            _decisions(texts[begin:end:step])
            mine = time.process_time() - began
            told = _judged(peer, False, begin, end, step)
            seconds.append((mine, told["cpu"]))
            own += told["reasons"]
            _note(f"own words, to document {end:,}: {mine:.2f} s, {told['cpu']:.2f} s")
        given: list[list[str]] = []
        for begin in range(0, len(texts), 5000):
            given += _judged(peer, True, begin, begin + 5000, 1)["reasons"]
            _note(f"our words, to document {len(given):,}")
        peer.close()
    sampled = sum(len(text.encode()) for text in texts[::step]) / 1e6
    spent = [sum(side) for side in zip(*seconds)]
    sides = {
        "our_words": _compared(ours, given),
        "own_words": _compared([row[::step] for row in ours], own),
    }
    worst = min(one["equal"] for one in sides["our_words"].values())
    return {
        "ours": round(sampled / spent[0], 2),
        "peer": round(sampled / spent[1], 3),
        "ratio": round(statistics.median(peer / mine for mine, peer in seconds), 1),
        "checked": f"decisions of 4 filters on {len(given):,} documents with datatrove given our "
        f"words: at least {worst:.4%} equal; with its own on {len(own):,}: see own_words",
        **sides,
    }


def _decisions(texts: Sequence[str]) -> list[list[str]]:
    """Return for each set the first rule that each document fails, or an empty text."""
    counts = count_statistics(_array(texts))
    found = []
    for one in rule_sets(SETS):
        verdicts = one.judge(counts, abstain=False)
        first = ["", *verdicts.rules]
        lowest = [(bits & -bits).bit_length() for bits in verdicts.bits.tolist()]
        found.append([first[number] for number in lowest])
    return found


def _compared(ours: list[list[str]], peers: list[list[str]]) -> dict[str, Any]:
    """Return for each set the share of equal decisions, and the others by both sides' reasons."""
    found = {}
    for number, (name, mine) in enumerate(zip(SETS, ours)):
        theirs = [row[number] for row in peers]
        pairs = Counter(
            f"{one or 'kept'} / {other or 'kept'}"
            for one, other in zip(mine, theirs)
            if bool(one) != bool(other)
        )
        found[name] = {
            "equal": round(1 - pairs.total() / len(theirs), 6),
            "different": dict(pairs.most_common(8)),
        }
    return found


def _peer(python: str, place: Path) -> Side:
    """Start datatrove in a process that judges the documents it is sent."""
    kinds = classes()
    symbols = [chr(code) for code in (kinds & SYMBOL).nonzero()[0]]
    terminals = [chr(code) for code in (kinds & TERMINAL).nonzero()[0]]
    arguments = json.dumps([str(place / "texts.jsonl"), symbols, terminals])
    return Side([python, str(place / "peer.py"), arguments])


def _judged(peer: Side, ours: bool, begin: int, end: int, step: int) -> dict[str, Any]:
    return peer.ask(json.dumps([ours, begin, end, step]))


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
