"""Words for a token multiplier, of the terminal, the report and notes: bounds are no signs there.

A multiplier is a number where the baseline's curve crosses what an arm reached, else a bound, as
``">4"``: the baseline was trained on at most four times the tokens, and does not reach it.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bound_note", "describe_need", "multiplier_words"]

Multiplier = float | str
"""As of :func:`~penstock.jobs.comparison.arms.token_multiplier`."""


def multiplier_words(multiplier: Multiplier, interval: Sequence[Multiplier] | None) -> str:
    """Return a multiplier and its interval: ``2.38 (2.10 to more than 4)``.

    Args:
        multiplier: The value or a bound.
        interval: Its two ends; None or empty where there is none.
    """
    return _words(multiplier) + (f" ({_interval_words(interval)})" if interval else "")


def describe_need(
    baseline: str, multiplier: Multiplier, interval: Sequence[Multiplier] | None
) -> str:
    """Return a clause: how many tokens the baseline needs to equal an arm.

    Args:
        baseline: The name of the baseline.
        multiplier: The value or a bound.
        interval: Its two ends; None or empty where there is none.
    """
    if not isinstance(multiplier, str):
        need = f"{baseline} needs {multiplier:.2f} times as many tokens to equal it"
    elif multiplier.startswith(">"):
        most = "as many" if multiplier == ">1" else f"{multiplier[1:]} times as many"
        need = f"{baseline} does not equal it with {most} tokens, the most that it was trained on"
    else:
        least = "as many" if multiplier == "<1" else f"{multiplier[1:]} times as many"
        need = f"{baseline} does better with {least} tokens, the fewest that it was trained on"
    ends = f" (interval of the multiplier: {_interval_words(interval)})" if interval else ""
    return need + ends


def bound_note(baseline: str, shown: Sequence[str]) -> list[str]:
    """Return a note that explains bounds; none where no multiplier that is shown is a bound.

    Args:
        baseline: The name of the baseline.
        shown: Texts of :func:`multiplier_words`.
    """
    if not any("than" in own for own in shown):
        return []
    return [
        f"Token multiplier: `more than N` means that the runs of {baseline}, of up to N times the "
        "tokens, do not reach what the arm reached; `less than N`, that its smallest run, of N "
        "times the tokens, is better already. Both ends of an interval are read off likewise: "
        "from less than 1 to more than 1 decides nothing."
    ]


def _interval_words(interval: Sequence[Multiplier]) -> str:
    low, high = map(_words, interval)
    return f"{low} at both ends" if low == high else f"{low} to {high}"


def _words(multiplier: Multiplier) -> str:
    if not isinstance(multiplier, str):
        return f"{multiplier:.2f}"
    return f"{'more' if multiplier.startswith('>') else 'less'} than {multiplier[1:]}"
