"""``penstock why`` on a million documents, by id and by file and line, as a whole command.

    python benchmarks/why.py --json

Ten files of short texts are curated by the real command, which is not measured. Then ``why`` is
run as its own process for a document that was taken, one that was left and one that was dropped, by
id and by line. ``ours`` is the slowest, in seconds of CPU time, all threads counted, so that other
work on the machine counts for little; ``wall`` is the slowest by the clock. No peer tells a
document's fate: ``peer`` is DuckDB, which finds the id in the same files and reads its row.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_RECIPE = """\
corpus: [{path: "pool/*.jsonl"}]
clean: {rules: {gopher: {min_words: 10, min_stop_words: null, max_top_2_gram: null,
  max_top_3_gram: null, max_top_4_gram: null}}}
select: {length: {use: "scorer:score"}}
budget: {tokens: TOKENS, rank: length}
tokenizer: {train: {vocab_size: 2048}}
"""

_FIND = """\
import sys, duckdb
files, name = sys.argv[1:]
print(duckdb.sql(f"select * from '{files}' where id = '{name}'").fetchall())
"""


def main() -> None:
    """Print the JSON object as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--work", help="a directory to make, or one of an earlier run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-why-") as scratch:
        place = Path(arguments.work or scratch)
        if not (place / "recipe.yaml").exists():
            _make(place, arguments.documents)
        print(json.dumps(_measure(place, arguments.documents)))


def _make(place: Path, documents: int) -> None:
    """Write texts of 5 to 60 words, and curate a tenth of them."""
    (place / "pool").mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    words = [f"w{number}" for number in range(400)]
    for file in range(10):
        with open(place / "pool" / f"part-{file}.jsonl", "w", encoding="utf-8") as sink:
            for number in range(file, documents, 10):
                text = f"{number} {' '.join(chance.choices(words, k=chance.randint(5, 60)))}"
                sink.write(json.dumps({"id": f"doc-{number}", "text": text}) + "\n")
    (place / "scorer.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    recipe = place / "recipe.yaml"
    recipe.write_text(_RECIPE.replace("TOKENS", str(10 * documents)))
    subprocess.run([sys.executable, "-m", "penstock", "curate", str(recipe)], check=True)


def _measure(place: Path, documents: int) -> dict[str, object]:
    recipe = str(place / "recipe.yaml")
    why = [sys.executable, "-m", "penstock", "why", recipe, "--json"]
    names = {}
    for fate in ("taken", "left", "dropped"):
        command = [sys.executable, "-m", "penstock", "sample", recipe, "-n", "1", "--json"]
        lines = _timed([*command, "--from", fate])[0].splitlines()
        names[fate] = json.loads(lines[0])["id"]
    seconds: dict[str, tuple[float, float]] = {}
    for fate, name in names.items():
        number = int(name.removeprefix("doc-"))
        at = f"{place / 'pool' / f'part-{number % 10}.jsonl'}:{number // 10 + 1}"
        for way, asked in (("id", name), ("line", at)):
            _timed([*why, asked])  # kernels and files are in their caches
            out, *took = _timed([*why, asked])
            (found,) = json.loads(out.splitlines()[-1])["fates"]
            assert (found["id"], found["fate"]) == (name, fate), found
            seconds[f"{fate} by {way}"] = took[0], took[1]
    files = str(next((place / "work" / "corpus").iterdir()) / "unit-*.parquet")
    find = [sys.executable, "-c", _FIND, files, names["left"]]
    _timed(find)
    peer = _timed(find)[1]
    ours = max(own for own, _ in seconds.values())
    return {
        "name": f"why of {documents:,} documents",
        "unit": "s of CPU time",
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "ratio": round(peer / ours, 3),
        "wall": round(max(wall for _, wall in seconds.values()), 3),
        "each": {name: [round(one, 3) for one in own] for name, own in seconds.items()},
        "checked": "the document and its fate, by id and by line",
    }


def _timed(command: Sequence[str]) -> tuple[str, float, float]:
    """Run a command: its output, seconds of CPU time, seconds by the clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, own, wall


if __name__ == "__main__":
    main()
