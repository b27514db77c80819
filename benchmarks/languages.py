"""Languages of texts against py3langid or fastText, in one process: speed, and agreement.

    pip install py3langid
    python benchmarks/languages.py --json
    python benchmarks/languages.py --json --data 'pool/web-*.jsonl.zst' --documents 20000
    python benchmarks/languages.py --json --fasttext lid.176.ftz

With ``--fasttext`` both sides use that model, and the peer is fastText's own ``predict``, called
for one text after the other. The texts are docstrings, or those of ``--data``; and the messages of
translated programs, from the catalogues of this machine (``--catalogues``), as documents of 1,000
characters in some 200 languages. Both sides read whole texts, one thread each, in CPU time; they
take turns. Of each kind the last line says how many labels are equal and how far probabilities
differ, and for how many texts the label of the first bytes is that of the whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import docstrings, jsonl, peer_module

from penstock.rules.languages import Languages

ROUNDS = 5
WHOLE = 2**40
FIRST_BYTES = (512, 2048, 65_536)


def main() -> None:
    """Measure, compare, and print the JSON object as the last line."""
    arguments = _arguments()
    peer = _fasttext(arguments.fasttext) if arguments.fasttext else _py3langid()
    kinds = {
        "documents": list(islice(_documents(arguments), arguments.documents)),
        "catalogues": list(islice(_messages(Path(arguments.catalogues)), arguments.documents)),
    }
    ours = Languages.of(arguments.fasttext, first_bytes=WHOLE)
    ours.compute(pa.array(["It loads the model and compiles."]))
    found = {name: _compared(name, texts, ours, peer) for name, texts in kinds.items() if texts}
    first = found["documents"]
    compared = sum(one["texts"] for one in found.values())
    equal = sum(one["texts"] * one["equal"] for one in found.values()) / compared
    result = {
        "name": "languages",
        "unit": "MB/s a core",
        "ours": first["ours"],
        "peer": first["peer"],
        "ratio": first["ratio"],
        "checked": f"labels of {compared:,} texts: {equal:.4%} equal",
        **found,
    }
    print(json.dumps(result))
    if equal < 0.999:
        sys.exit("labels differ: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with `text`; docstrings if absent")
    parser.add_argument("--fasttext", help="a .bin or .ftz model of fastText")
    parser.add_argument("--documents", type=int, default=5000, help="of each kind, at most")
    parser.add_argument(
        "--catalogues", default="/usr/share/locale", help="a folder of .mo files, of GNU gettext"
    )
    return parser.parse_args()


def _py3langid() -> Callable[[str], tuple[str, float]]:
    peer_module("py3langid")
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify


def _fasttext(path: str) -> Callable[[str], tuple[str, float]]:
    import fasttext

    predict = fasttext.load_model(path).f.predict

    def classify(text: str) -> tuple[str, float]:
        found = predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")
        return (found[0][1].removeprefix("__label__"), found[0][0]) if found else ("", 0.0)

    return classify


def _documents(arguments: argparse.Namespace) -> Iterator[str]:
    return (row["text"] for row in jsonl(arguments.data)) if arguments.data else docstrings()


def _messages(directory: Path) -> Iterator[str]:
    """Yield documents of translated messages, a few of each language in turn."""
    languages = sorted(one for one in directory.glob("*") if one.is_dir())
    streams = [_of_language(one) for one in languages]
    while streams:
        going = []
        for stream in streams:
            document = next(stream, None)
            if document is not None:
                yield document
                going.append(stream)
        streams = going


def _of_language(directory: Path) -> Iterator[str]:
    page: list[str] = []
    for path in sorted(directory.rglob("*.mo")):
        for message in _catalogue(path.read_bytes()):
            page.append(message)
            if sum(map(len, page)) >= 1000:
                yield "\n".join(page)
                page = []


def _catalogue(content: bytes) -> Iterator[str]:
    """Yield the translations of a .mo file in UTF-8, without the first, which is the header."""
    magic, _, count, _, table = struct.unpack_from("<5I", content)
    if magic != 0x950412DE:
        return
    for number in range(1, count):
        length, offset = struct.unpack_from("<2I", content, table + 8 * number)
        try:
            yield content[offset : offset + length].decode().replace("\0", "\n")
        except UnicodeDecodeError:
            return


def _compared(name: str, texts: list[str], ours: Languages, peer: Any) -> dict[str, Any]:
    """Return MB/s of both sides, their ratio, and what differs."""
    mine: list[tuple[Any, Any]] = []
    theirs: list[tuple[str, float]] = []
    seconds = []
    step = -(-len(texts) // ROUNDS)
    for begin in range(0, len(texts), step):
        part = texts[begin : begin + step]
        array = pa.array(part, pa.large_string())
        began = time.process_time()
        batch = ours.compute(array)
        between = time.process_time()
        theirs += map(peer, part)
        ended = time.process_time()
        size = sum(len(text.encode()) for text in part) / 1e6
        seconds.append((size, between - began, ended - between))
        mine += zip(*(column.to_pylist() for column in batch.columns))
        print(f"{name}, to text {begin + len(part):,}", file=sys.stderr, flush=True)
    lettered = [
        (one, other) for one, other, text in zip(mine, theirs, texts) if any(map(str.isalpha, text))
    ]
    array = pa.array(texts, pa.large_string())
    shares = {}
    for first_bytes in FIRST_BYTES:
        began = time.process_time()
        labels = replace(ours, first_bytes=first_bytes).compute(array).column(0).to_pylist()
        spent = time.process_time() - began
        shares[first_bytes] = {
            "label_of_whole": round(
                sum(label == one[0] for label, one in zip(labels, mine)) / len(texts), 5
            ),
            "mb_per_second": round(sum(size for size, _, _ in seconds) / spent, 1),
        }
    return {
        "texts": len(texts),
        "megabytes": round(sum(size for size, _, _ in seconds), 1),
        "ours": round(statistics.median(size / own for size, own, _ in seconds), 1),
        "peer": round(statistics.median(size / other for size, _, other in seconds), 2),
        "ratio": round(statistics.median(other / own for _, own, other in seconds), 1),
        "equal": sum(one[0] == other[0] for one, other in lettered) / len(lettered),
        "without_letters": len(texts) - len(lettered),
        "labels": len({one[0] for one in mine}),
        "largest_difference": max(
            abs(one[1] - other[1]) for one, other in lettered if one[0] is not None
        ),
        "first_bytes": shares,
    }


if __name__ == "__main__":
    main()
