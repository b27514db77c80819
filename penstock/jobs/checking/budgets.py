"""Compare the budget with the pool, and the training with the budget."""

from __future__ import annotations

from penstock.display import numbered
from penstock.jobs.checking.estimates import Estimate
from penstock.jobs.checking.findings import Finding
from penstock.recipe import Recipe

__all__ = ["check_budget", "check_training"]

_FEW_STEPS = 20
"""Steps of a training below which its learning rate has hardly a schedule: a warning."""

_SURE = 1.5
"""A budget of this many times the estimated tokens of the pool is an error, a smaller one above
the estimate a warning: estimates of tokens are that good."""


def check_budget(recipe: Recipe, own: Estimate, findings: list[Finding]) -> None:
    """Compare the budget with the tokens that the pool can hold."""
    budget, short = own.budget, recipe.budget.allow_short or bool(recipe.rewrite)
    if recipe.budget.count is None or budget is None:
        return  # a share is of the pool itself
    if not own.tokens or own.text_bytes is None or budget <= own.tokens:
        return  # another finding says that nothing is kept
    kept = own.kept_share or 0.0
    # A token has at least a byte; each document has two control tokens.
    impossible = own.exact and budget > own.text_bytes + 2 * (own.documents or 0)
    sure = impossible or budget > _SURE * own.tokens
    findings.append(
        Finding(
            level="error" if sure and not short else "warning",
            kind="budget_above_pool",
            key="budget.tokens",
            text=f"budget.tokens: {budget:,} tokens, and the pool is estimated to hold "
            f"{own.tokens:,} ({own.text_bytes:,} bytes of text, {kept:.0%} of it kept, "
            f"{own.bytes_per_token:.2f} bytes a token); take fewer, add text, or write "
            "budget.allow_short: true",
        )
    )


def check_training(recipe: Recipe, budget: int | None, findings: list[Finding]) -> None:
    """Compare the budget of training with the tokens of a step, in a recipe that trains."""
    if not {"train", "compare"} & recipe.model_fields_set:
        return
    own, batch = recipe.train.tokens or budget, recipe.train.batch_tokens
    if own is None:
        return
    steps = -(-own // batch)
    if steps >= _FEW_STEPS:
        return
    findings.append(
        Finding(
            level="warning",
            kind="few_steps",
            key="train.batch_tokens",
            text=f"train.batch_tokens: {own:,} tokens in batches of {batch:,} are "
            f"{numbered(steps, 'step')} of training, too few for a model to learn; "
            "`train` and `compare` need hundreds: write "
            f"{_fitting(own, recipe.shards.sequence_length):,}, or a larger budget",
        )
    )


def _fitting(tokens: int, sequence: int) -> int:
    """Return tokens of a batch for about 200 steps, a whole number of sequences."""
    return max(1, tokens // 200 // sequence) * sequence
