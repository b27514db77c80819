"""A scorer of your own: any function from texts to numbers; higher is taken earlier."""

from __future__ import annotations


def score(texts: list[str]) -> list[float]:
    """Score documents that explain: count words of an argument, for each 100 words."""
    explaining = {"because", "therefore", "thus", "hence", "since", "so", "why", "example"}
    scores = []
    for text in texts:
        words = text.lower().split()
        hits = sum(word.strip(".,;:") in explaining for word in words)
        # NaN is never taken: the document is too short to score.
        scores.append(100 * hits / len(words) if len(words) >= 50 else float("nan"))
    return scores
