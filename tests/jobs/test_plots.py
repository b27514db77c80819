"""Plots: any name is drawn as it is, and a plot that fails costs the plot alone."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.jobs import plots

NAMES = ["a$\\frac{$b", "$$", "cost $5 and $x^", "_hidden", "\ud800", "x" * 10_000, "<b>&]]>"]


def point(arm: str, value: float | None = 1.0) -> Any:
    found = None if value is None else {"mean": value, "std": None}
    return SimpleNamespace(arm=arm, tokens=10, measured=lambda target, metric: found)


def comparison(arms: list[Any], judged: list[str]) -> Any:
    baseline = [point("random"), point("random", None)]
    return cast(
        Any,
        SimpleNamespace(
            judged=judged,
            metric="bits_per_byte",
            baseline=lambda: baseline,
            at_equal_tokens=lambda: [*baseline, *arms],
        ),
    )


def test_names_are_drawn_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a file or an arm whose name is a formula, and no valid one."""
    make = plots._figure

    def kept(*args: Any) -> Any:
        figure, axes = make(*args)
        kept.axes = axes  # type: ignore[attr-defined]
        return figure, axes

    monkeypatch.setattr(plots, "_figure", kept)
    files = plots.plot(comparison([point(name) for name in NAMES], NAMES[:2]), tmp_path)
    assert [file.name for file in files] == ["comparison.png", "comparison.svg"]
    for axis in kept.axes:  # type: ignore[attr-defined]
        texts = [text.get_text() for text in axis.get_legend().get_texts()]
        assert texts[:5] == ["random", *NAMES[:4]]
        assert len(texts) == 1 + len(NAMES)
    assert [axis.get_title() for axis in kept.axes] == NAMES[:2]  # type: ignore[attr-defined]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(rb"</svg>\s*\Z", (tmp_path / "comparison.svg").read_bytes())


def test_a_plot_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert plots.plot(comparison([], []), tmp_path) == []
    assert "a plot was not drawn" in caplog.text
    assert list(tmp_path.iterdir()) == []
