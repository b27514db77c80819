"""fastText scoring: the collapsed kernel against fastText's own ``predict``, on one core each.

Both score the same held-out documents with the same model (bigrams, 2M buckets, 100 dimensions),
taking turns in one process and one thread. Each gets its documents in the form it requires,
newlines already replaced: ``predict`` a list of strings in one call (its batch path, top-1 label),
Penstock an Arrow array. Time is CPU time of that thread, so that neighbours on the machine do not
count.

    python benchmarks/scoring.py --json
    python benchmarks/scoring.py --json --data 'pool/web-*.jsonl.zst'
    python benchmarks/scoring.py --json --scorers 4

With ``--scorers`` K models score together, in one pass, against K passes of ``predict``; and
``times_one`` is what that costs against one of them alone. Each has its own label and was trained
on two thirds of the documents, so that vocabularies differ. ``predict`` needs 0.9 GB a model.

Without ``--data`` a document is the docstrings of one installed source file: real English of a web
page's length. The label to learn is whether a document's words are longer than the
median's, or one of its words more frequent, which gives the model weights of a realistic size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
from common import docstrings, jsonl

from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.classifiers.fasttext_panel import FastTextPanel
from penstock.selectors.classifiers.fasttext_training import training_line

POSITIVE = "__label__1"
QUIRK = 1e-5  # what predict adds to a probability
_WORDS = ("and", "of", "a", "in", "to", "is", "that")


def main() -> None:
    """Run both, print what was found, and the JSON object as the last line."""
    arguments = _arguments()
    given = arguments.data
    source = (document["text"] for document in jsonl(given)) if given else docstrings()
    documents = _shuffled(source)[: 2 * arguments.documents]
    seen, held_out = documents[::2], documents[1::2]
    print(f"training on {len(seen)} documents", file=sys.stderr)
    models = _models(seen, arguments.scorers, arguments.epoch)
    tables = [_collapsed(model, POSITIVE) for model in models]
    one = tables[0].score
    many = FastTextPanel(tables).score  # of one, its own score
    array = pa.array(held_out)
    for score in (one, many):
        score(array[:2])  # compiles

    ours, peer, times_one = [], [], []
    for _ in range(arguments.rounds):
        answers, seconds = _timed(lambda: [model.predict(held_out) for model in models])
        peer.append(len(held_out) / seconds)
        scores, seconds = _timed(lambda: many(array))
        ours.append(len(held_out) / seconds)
        alone, of_one = _timed(lambda: one(array))
        times_one.append(seconds / of_one)
        print(f"ours {ours[-1]:.0f}/s, predict {peer[-1]:.0f}/s", file=sys.stderr)
    difference = max(
        np.abs(row - _positive(*answer)).max() for row, answer in zip(scores, answers, strict=True)
    )
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    megabytes = array.nbytes / 1e6
    result = {
        "name": "fasttext-scoring",
        "unit": "documents/s per core",
        "ours": round(statistics.median(ours)),
        "peer": round(statistics.median(peer)),
        "ratio": round(statistics.median(ratios), 2),
        "checked": f"{len(held_out)} documents ({megabytes:.1f} MB, {len(tables[0].starts) - 1} "
        f"words in the model, scores {alone.min():.2f} to {alone.max():.2f}), "
        f"largest difference {difference:.1e}",
    }
    if arguments.scorers > 1:
        result["scorers"] = arguments.scorers
        result["times_one"] = round(statistics.median(times_one), 2)
    if not arguments.json:
        print(f"{result['ratio']} times predict (rounds {min(ratios):.1f} to {max(ratios):.1f})")
    print(json.dumps(result))
    if not difference <= 1e-4:
        sys.exit("the scores differ: the figures above mean nothing")
    if not np.array_equal(scores, [table.score(array) for table in tables]):
        sys.exit("together and alone the scores differ: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with a `text` field")
    parser.add_argument("--documents", type=int, default=12_000, help="how many to score")
    parser.add_argument("--epoch", type=int, default=5, help="of training")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scorers", type=int, default=1, help=f"up to {1 + len(_WORDS)}")
    return parser.parse_args()


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.thread_time()
    result = work()
    return result, time.thread_time() - start


def _positive(labels: list[list[str]], probabilities: list[np.ndarray]) -> np.ndarray:
    """Return p(positive) from predict's top label, (n,) float64."""
    top = np.array([p[0] for p in probabilities], np.float64) - QUIRK
    return np.where([label[0] == POSITIVE for label in labels], top, 1 - top)


def _collapsed(model: Any, positive: str) -> CollapsedFastText:
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        model.save_model(file.name)
        return CollapsedFastText.from_file(file.name, positive)


def _models(texts: list[str], count: int, epoch: int) -> list[Any]:
    if count == 1:
        return [_trained(texts, _long_worded(texts), epoch)]
    models = []
    for number in range(count):
        some = random.Random(number).sample(texts, 2 * len(texts) // 3)
        labels = _long_worded(some) if number == 0 else _frequent(_WORDS[number - 1], some)
        models.append(_trained(some, labels, epoch))
    return models


def _trained(texts: list[str], labels: list[bool], epoch: int) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        for text, label in zip(texts, labels, strict=True):
            file.write(f"__label__{int(label)} {training_line(text)}\n")
        file.flush()
        return fasttext.train_supervised(
            file.name, lr=0.5, epoch=epoch, wordNgrams=2, minCount=1, thread=1, verbose=0
        )


def _frequent(word: str, texts: list[str]) -> list[bool]:
    share = [text.count(f" {word} ") / len(text) for text in texts]
    median = statistics.median(share)
    return [one > median for one in share]


def _long_worded(texts: list[str]) -> list[bool]:
    mean_length = [len(text) / (1 + text.count(" ")) for text in texts]
    median = statistics.median(mean_length)
    return [length > median for length in mean_length]


def _shuffled(texts: Iterable[str]) -> list[str]:
    """Return distinct texts, one line each, in an order that depends on the texts only."""
    lines = {text.replace("\n", " ") for text in texts}
    return sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())


if __name__ == "__main__":
    main()
