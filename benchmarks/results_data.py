"""Data of ``results.py``: a fifth of three target files held out, and a tiny pool that it makes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

__all__ = ["Tasks", "split_tasks", "write_tiny_data"]

AIMED = ("arc_easy",)
"""Target files that have an evaluation file of their own."""

HELD = ("openbookqa", "gsm8k", "mmlu")
"""Target files of which a fifth is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Six evaluations, and the examples that selectors may see."""

    aim: tuple[Path, ...]
    aimed: tuple[Path, ...]
    """Evaluations on the benchmarks of :attr:`aim`."""
    others: tuple[Path, ...]


def split_tasks(targets: Path, out: Path) -> Tasks:
    """Hold out a fifth of :data:`HELD` by hash of id; write both parts to ``out``.

    A question of any evaluation is in no file that selectors may see, whatever its id.
    """
    rows = {name: list(_rows(targets / f"{name}.train.jsonl")) for name in (*AIMED, *HELD)}
    held = {name: [row for row in rows[name] if _is_held(row)] for name in HELD}
    files = [_rows(path) for path in sorted(targets.glob("*.eval.jsonl"))]
    asked = {_key(row) for one in (*files, *held.values()) for row in one}
    for name, own in held.items():
        _write(out / f"{name}.held.jsonl", own)
    for name, own in rows.items():
        _write(out / f"{name}.aim.jsonl", [row for row in own if _key(row) not in asked])
    return Tasks(
        aim=(out / "arc_easy.aim.jsonl", out / "openbookqa.aim.jsonl"),
        aimed=(targets / "arc_easy.eval.jsonl", out / "openbookqa.held.jsonl"),
        others=(
            *(targets / f"{name}.eval.jsonl" for name in ("lambada", "piqa")),
            *(out / f"{name}.held.jsonl" for name in ("gsm8k", "mmlu")),
        ),
    )


def _is_held(row: Mapping[str, Any]) -> bool:
    digest = hashlib.blake2b(str(row["id"]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 5 == 0


def _key(row: Mapping[str, Any]) -> str:
    text = str(row.get("question", row.get("text"))).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# -- the tiny data ----------------------------------------------------------------------------

_WORDS = {
    "school": "plants leaf sunlight water soil roots energy animals rocks planet heat oxygen seeds "
    "forest river cells minerals food moon gravity magnet metal ice cloud rain sound light",
    "talk": "friend party weekend movie phone funny weird guy girl boss dinner beer game kids mom "
    "car job train bus coffee music dog cat cousin neighbour story night",
    "manual": "file option command server kernel module device buffer packet socket thread option "
    "flag path shell user group disk port driver package version library config",
}


def write_tiny_data(directory: Path, documents: int = 6000) -> None:
    """Write a pool of three sources, the target files and labels, of made-up sentences."""
    chance = random.Random(29)

    def sentence(topic: str, most: int) -> str:
        words = chance.choices(_WORDS[topic].split(), k=chance.randint(6, most))
        return f"The {' and the '.join(words)} of a {chance.randrange(1000)} is what we see."

    rows = [
        {
            "id": f"d{number}",
            "source": (source := chance.choice(list(_WORDS))),
            "text": " ".join(sentence(source, 14) for _ in range(chance.randint(2, 12))),
        }
        for number in range(documents)
    ]
    pool = directory / "pool" / "tiny.jsonl.zst"
    pool.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    pool.write_bytes(zstandard.ZstdCompressor(level=3).compress(lines))
    for name, topic, count, chosen in (
        ("arc_easy.train", "school", 300, True),
        ("openbookqa.train", "school", 300, True),
        ("arc_easy.eval", "school", 40, True),
        ("piqa.eval", "talk", 40, True),
        ("lambada.eval", "talk", 40, False),
        ("gsm8k.train", "manual", 150, False),
        ("mmlu.train", "manual", 150, True),
    ):
        own = [_question(f"{name}/{n}", topic, chosen, chance, sentence) for n in range(count)]
        _write(directory / "targets" / f"{name}.jsonl", own)
    labels = [
        {"text": " ".join(sentence(topic, 14) for _ in range(5)), "label": topic == "school"}
        for topic in list(_WORDS) * 30
    ]
    _write(directory / "labels" / "dclm_quality.jsonl", labels)


def _question(
    name: str,
    topic: str,
    chosen: bool,
    chance: random.Random,
    sentence: Callable[[str, int], str],
) -> dict[str, Any]:
    choices = chance.sample(_WORDS[topic].split(), 4)
    row = {"id": name, "benchmark": name.partition(".")[0], "question": sentence(topic, 9)}
    row["answer"] = choices[0]
    if chosen:
        row["choices"] = list(dict.fromkeys(chance.sample(choices, 4)))
    return row
