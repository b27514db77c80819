"""A moved slider of ``penstock browse``: milliseconds until the browser shows the counts.

A pool is generated and curated: two columns of scores, statistics, a condition, rules. The command
serves its page in a process of its own, and a real Chromium moves sliders: the budget, weights,
the number of the condition, the threshold of a rule. A time is from the input event until the frame
with the counts, as the page measures it. The peer is the same change by ``penstock curate`` in one
process, which finds all columns made.

    python benchmarks/browse.py --json --size 1000000

``checked`` compares the page's counts of the last change with those of that ``curate``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SCORERS = """\
import numpy as np

def lengths(texts):
    return np.log([1 + len(text) for text in texts]).astype(np.float32)

def spread(texts):
    return np.array([hash_of(text) for text in texts], np.float32)

def hash_of(text):
    return sum(text[:24].encode()) % 997 / 997 + len(text) % 89 / 89_000
"""

RECIPE = """\
work: work
corpus: [{path: pool.jsonl}]
clean:
  where: "words > 12"
  rules: {gopher_quality: {min_words: 15, min_stop_words: 0}}
select: {lengths: {use: "scorers:lengths"}, spread: {use: "scorers:spread"}}
budget: {tokens: "25%", rank: {lengths: 0.4, spread: 0.6}}
tokenizer: {train: {vocab_size: 4096, sample_bytes: 2000000}}
"""

_WORDS = (
    "the of and to in water mill stone river energy wheel gate turbine light house winter people "
    "night system value law bridge field paper music history science school garden machine road "
    "market city number story letter island forest window engine valley summer doctor captain"
)


def main() -> None:
    """Print the JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--size", type=int, default=20_000, help="documents of the pool")
    parser.add_argument("--moves", type=int, default=40, help="moves of sliders")
    parser.add_argument(
        "--resting",
        action="store_true",
        help="move when the page rests: its list of documents shown, its tokens counted",
    )
    parser.add_argument("--scratch", help="where the pool goes, and stays if it is named")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = arguments.scratch or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="penstock-browse-")
        )
        print(json.dumps(_measured(Path(root), arguments)))


def _measured(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import penstock

    root.mkdir(parents=True, exist_ok=True)
    if not (root / "pool.jsonl").exists():
        _write_pool(root / "pool.jsonl", arguments.size)
    (root / "scorers.py").write_text(SCORERS)
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE)
    penstock.curate(recipe, runner="local", workers=2)
    start = time.perf_counter()
    with _serving(recipe) as (url, process):
        started = time.perf_counter() - start
        times, shown, command = _moved(url, arguments.moves, arguments.resting)
        memory = _peak_memory(process)
    settings = shlex.split(command)[4::2]
    start = time.perf_counter()
    curated = penstock.curate(recipe, settings=settings, runner="local", workers=1)
    peer = time.perf_counter() - start
    wanted = {
        "taken": curated.cut.facts["documents"],
        "tokens": curated.cut.facts["delivered"],
        "kept": curated.pool.documents["kept"],
        "dropped": curated.pool.documents["dropped"],
    }
    assert shown == wanted, (shown, wanted)
    median = statistics.median(times)
    return {
        "name": "browse",
        "unit": "ms from a moved slider to its counts, median",
        "ours": round(median, 1),
        "peer": round(1000 * peer, 1),
        "ratio": round(1000 * peer / median, 1),
        "checked": f"{wanted} are those of curate with {shlex.join(settings)}",
        "documents": curated.pool.documents["read"],
        "moves": len(times),
        "quantile_90": round(float(np.quantile(times, 0.9)), 1),
        "slowest": round(max(times), 1),
        "start_seconds": round(started, 1),
        "peak_memory_mib": round(memory),
    }


def _write_pool(path: Path, size: int) -> None:
    chance = np.random.default_rng(1)
    words = np.array(_WORDS.split())
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, size, 10_000):
            lengths = chance.integers(8, 60, 10_000)
            drawn = words[chance.integers(0, len(words), int(lengths.sum()))].tolist()
            sources = chance.choice(
                ["web", "wiki", "code", "books"], 10_000, p=[0.6, 0.2, 0.15, 0.05]
            )
            lines, at = io.StringIO(), 0
            for number in range(min(10_000, size - start)):
                end = at + int(lengths[number])
                text = f"{' '.join(drawn[at:end])} {start + number}."
                row = {"id": f"doc-{start + number:07d}", "source": sources[number], "text": text}
                lines.write(json.dumps(row) + "\n")
                at = end
            file.write(lines.getvalue())


@contextlib.contextmanager
def _serving(recipe: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "penstock", "browse", str(recipe), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.terminate()
        process.wait()


def _moved(url: str, moves: int, resting: bool) -> tuple[list[float], dict[str, int], str]:
    """Move sliders one after another; returns milliseconds, the last counts and the command."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector("html[data-settled=yes]")
        most = float(page.locator("[data-key=tokens]").input_value())
        keys = [
            ("tokens", lambda step: most * (0.95 - 0.02 * step)),
            ("rank.lengths", lambda step: 0.2 + 0.015 * step),
            ("where.0", lambda step: 13 + step),
            ("gopher_quality.min_words", lambda step: 16 + step),
        ]
        page.locator("#inputs summary").click()
        for step in range(moves):
            key, value = keys[step % len(keys)]
            _move(page, key, value(step))
            if resting:
                page.wait_for_selector("html[data-settled=yes]")
        times = page.evaluate("performance.getEntriesByName('answer').map((own) => own.duration)")
        # The condition and the threshold back, so that the last change is exact.
        _move(page, "where.0", 12)
        _move(page, "gopher_quality.min_words", 15)
        page.wait_for_selector("html[data-settled=yes]")
        assert page.locator("#state").get_attribute("class") == "exact"
        shown = {
            name: int(page.locator(f"#n-{name} b").inner_text().replace(",", ""))
            for name in ("taken", "tokens", "kept", "dropped")
        }
        command = page.locator("#command").inner_text()
        page.screenshot(path="/tmp/browse-million.png") if os.environ.get("SHOT") else None
        browser.close()
    return times, shown, command


def _move(page: Any, key: str, value: float) -> None:
    before = page.evaluate("document.documentElement.dataset.answers || '0'")
    page.locator(f'[data-key="{key}"]').evaluate(
        "(own, to) => { own.value = to; own.dispatchEvent(new Event('input')); }", value
    )
    page.wait_for_function(
        "(before) => document.documentElement.dataset.answers !== before", arg=before
    )


def _peak_memory(process: subprocess.Popen[str]) -> float:
    """Return the most resident memory of a process so far, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
