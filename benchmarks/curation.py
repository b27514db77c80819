"""A whole curation against datatrove doing the same: from JSON lines to tokens of a budget.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install datatrove spacy orjson tokenizers 'xxhash<4' py3langid fasttext-wheel
    python benchmarks/curation.py --json --peer-python /tmp/peers/bin/python
    python benchmarks/curation.py --json --data 'pool/web-*.jsonl.zst' --peer-python ...

Both read the same file, apply the rules of Gopher, keep one language by py3langid, drop exact and
near duplicates (14 bands of 8 rows over word 5-grams), score what is left by the same fastText
model, take the best documents until the same number of tokens, and write their tokens. datatrove
has no exact deduplication of documents (its MinHash stages find these, too), no language model that
its package ships, no fastText score and no budget: there the peer calls the libraries that its
users call, py3langid, fastText and tokenizers.

``ours`` and ``peer`` are CPU seconds of one process for everything after imports; code is compiled
before. ``checked`` compares what both took: they divide words differently, so it is not all.
Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from common import Side, docstrings, jsonl, refuse_without_peer

from penstock.jobs.curate import curate
from penstock.jobs.plan import Plan
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import load_recipe

_PEER = r"""
import json, os, resource, shutil, sys, time

place = sys.argv[1]
tokens_wanted, language = int(sys.argv[2]), sys.argv[3]

import fasttext, py3langid, tokenizers
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.dedup import MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger

logger.remove()
fasttext.FastText.eprint = lambda *words: None


def train_model():
    made = fasttext.train_supervised(place + "/train.txt", dim=32, epoch=2, thread=1, verbose=0)
    made.save_model(place + "/model.bin")
    return {}


def reader(name):
    return JsonlReader(place, glob_pattern=name, compression=None, default_metadata={})


def curate(name):
    work = place + "/peer"
    shutil.rmtree(work, ignore_errors=True)
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    model = fasttext.load_model(place + "/model.bin")
    tokenizer = tokenizers.Tokenizer.from_file(place + "/tokenizer.json")
    began = time.process_time()
    documents = reader(name).run(rank=0, world_size=1)
    documents = GopherRepetitionFilter().run(documents)
    documents = GopherQualityFilter().run(documents)
    with JsonlWriter(work + "/clean", compression=None) as writer:
        for document in documents:
            if py3langid.classify(document.text)[0] == language:
                writer.write(document)
    clean = JsonlReader(work + "/clean", compression=None)
    MinhashDedupSignature(work + "/signatures", config=config).run(clean.run(rank=0, world_size=1))
    for bucket in range(14):
        MinhashDedupBuckets(work + "/signatures", work + "/buckets", config=config).run(
            rank=bucket, world_size=14
        )
    MinhashDedupCluster(work + "/buckets", work + "/removed", config=config).run()
    kept = MinhashDedupFilter(work + "/removed").run(clean.run(rank=0, world_size=1))
    scored = []
    for document in kept:
        line = document.text.replace("\n", " ") + "\n"
        # The method that model.predict calls, which fails under NumPy 2.
        chances = {label: chance for chance, label in model.f.predict(line, 2, 0.0, "strict")}
        scored.append((-chances.get("__label__1", 0.0), document.id, document.text))
    count, taken, delivered = len(scored), [], 0
    scored.sort()
    with open(work + "/tokens.bin", "wb") as sink:
        for start in range(0, len(scored), 64):
            batch = scored[start : start + 64]
            for own, encoding in zip(batch, tokenizer.encode_batch([text for *_, text in batch])):
                if delivered >= tokens_wanted:
                    break
                ids = encoding.ids[: tokens_wanted - delivered - 2]
                sink.write(b"".join(i.to_bytes(2, "little") for i in (0, *ids, 0)))
                delivered += len(ids) + 2
                taken.append(own[1])
            if delivered >= tokens_wanted:
                break
    return {
        "cpu": time.process_time() - began,
        "kept": count,
        "taken": taken,
        "delivered": delivered,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


print(json.dumps({"ready": True}), flush=True)
for request in sys.stdin:
    name, *arguments = json.loads(request)
    print(json.dumps(globals()[name](*arguments)), flush=True)
"""

LANGUAGE = "en"


def main() -> None:
    """Curate on both sides, and print the JSON object as the last line."""
    arguments = _arguments()
    if arguments.side:
        _serve(Path(arguments.side))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-curation-", dir=arguments.scratch) as at:
        result = _compared(Path(at), arguments)
    print(json.dumps(result))


def _compared(place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    size = _write_inputs(place, arguments)
    tokens = size // 4 // 10  # about a tenth of the text
    _write_recipe(place, tokens, arguments.workers)
    ours = Side([sys.executable, __file__, "--side", str(place)])
    command = [arguments.peer_python, "-c", _PEER, str(place), str(tokens), LANGUAGE]
    peer = Side(command)
    peer.ask(json.dumps(["train_model"]))
    ours.ask("warm.jsonl")  # compiles what is not cached, and trains the tokenizer
    peer.ask(json.dumps(["curate", "warm.jsonl"]))
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(arguments.rounds):
        own, other = ours.ask("pool.jsonl"), peer.ask(json.dumps(["curate", "pool.jsonl"]))
        times["ours"].append(own["cpu"])
        times["peer"].append(other["cpu"])
    ours.close()
    peer.close()
    mine, theirs = (statistics.median(times[side]) for side in ("ours", "peer"))
    both = len(set(own["taken"]) & set(other["taken"])) / len(own["taken"])
    return {
        "name": "curation",
        "unit": "CPU seconds",
        "ours": round(mine, 2),
        "peer": round(theirs, 2),
        "ratio": round(theirs / mine, 1),
        "checked": f"{arguments.documents:,} documents, {size / 2**20:.0f} MiB; kept "
        f"{own['kept']:,} and {other['kept']:,}; tokens {own['delivered']:,} and "
        f"{other['delivered']:,}; {both:.1%} of the documents taken are the same",
        "stages": own["stages"],
        "mib": {"ours": round(own["mib"]), "peer": round(other["mib"])},
    }


def _write_inputs(place: Path, arguments: argparse.Namespace) -> int:
    """Write the pool, a small one, and what the fastText model is trained on; returns bytes."""
    rows = jsonl(arguments.data) if arguments.data else ({"text": text} for text in docstrings())
    size = 0
    with (
        open(place / "pool.jsonl", "w", encoding="utf-8") as pool,
        open(place / "warm.jsonl", "w", encoding="utf-8") as warm,
        open(place / "train.txt", "w", encoding="utf-8") as train,
    ):
        for number, row in enumerate(islice(rows, arguments.documents)):
            text = row["text"]
            line = json.dumps({"id": str(number), "text": text}) + "\n"
            pool.write(line)
            size += len(text.encode())
            if number < 300:
                warm.write(line)
            if number < 4000:  # longer words are taken for better: a model that says something
                words = text.split()
                label = int(sum(map(len, words)) > 4.6 * max(1, len(words)))
                train.write(f"__label__{label} {' '.join(words[:200])}\n")
    return size


def _write_recipe(place: Path, tokens: int, workers: int) -> None:
    recipe = {
        "corpus": [{"path": "pool.jsonl"}],
        "clean": {
            "rules": ["gopher"],
            "where": f"language == '{LANGUAGE}'",
            "dedup": {"exact": True, "minhash": {"threshold": 0.72, "ngram": 5}},
        },
        "select": {"score": {"use": "fasttext", "model": "model.bin"}},
        "budget": {"tokens": tokens, "rank": "score", "allow_short": True},
        "tokenizer": {"train": {"vocab_size": 8192}},
        "shards": {"sequence_length": 512},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (place / "workers").write_text(str(workers))


def _serve(place: Path) -> None:
    """Curate the file of each line that is read, in this process."""
    runner = LocalRunner(int((place / "workers").read_text()))
    print(json.dumps({"ready": True}), flush=True)
    for number, line in enumerate(sys.stdin):
        name = line.strip()
        settings = [f"corpus.0.path={name}", f"work=work-{number}"]
        if (place / "tokenizer.json").exists():
            settings.append("tokenizer=tokenizer.json")
        recipe = load_recipe(place / "recipe.yaml", settings)
        began = _cpu()
        curated = curate(Plan.of(recipe), runner)
        spent = _cpu() - began
        if not (place / "tokenizer.json").exists():
            content = curated.tokenizer.verified(curated.tokenizer.files[0]).read_bytes()
            (place / "tokenizer.json").write_bytes(content)
        cut = curated.cut
        taken = [
            name
            for record in cut.files
            for name in pq.read_table(cut.verified(record), columns=["id"])["id"].to_pylist()
        ]
        answer = {
            "cpu": spent,
            "kept": curated.pool.kept,
            "taken": taken,
            "delivered": cut.facts["delivered"],
            "stages": {stage: round(wall, 2) for stage, wall in curated.seconds.items()},
            "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(answer), flush=True)
    runner.close()


def _cpu() -> float:
    """Return the CPU seconds of this process and of workers that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="kept for uniformity")
    parser.add_argument("--peer-python", help="Python of an environment with datatrove")
    parser.add_argument(
        "--data", help="pattern of .jsonl.zst files; default: docstrings found here"
    )
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--scratch")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.side or arguments.peer_python):
        packages = "datatrove spacy orjson tokenizers 'xxhash<4' py3langid fasttext-wheel"
        refuse_without_peer("/tmp/peers", packages)
    return arguments


if __name__ == "__main__":
    main()
