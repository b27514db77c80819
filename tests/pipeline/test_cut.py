"""Cuts against a plain sort of the whole pool: which documents, how many tokens, to the token."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Draft, FileRecord
from penstock.errors import ArtefactError, BudgetError
from penstock.pipeline import cut as cut_module
from penstock.pipeline.cut import write_units
from penstock.pipeline.cutting.budget import Quota
from penstock.pipeline.cutting.ordering import OrderedUnit, write_order
from penstock.pipeline.cutting.radix import Order, order_bits
from penstock.pipeline.cutting.ranks import first_ranked, rank_of
from penstock.pipeline.cutting.search import Candidates, search_budget
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.units import Unit
from tests.pools import (
    Made,
    all_documents,
    brute_force,
    documents,
    make,
    recipe_of,
    scores_in_order,
    write_jsonl,
)

ODD = [16, 17, 31, 999, 1_001, 2_345, 4_097, 7_777, 9_999, 12_345]
SHARES = {"wiki": 0.37, "code": 0.11}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a pool of several units, whose work directory tests share."""
    directory = tmp_path_factory.mktemp("cut")
    rows = documents(240)
    # Two texts under one id, in different units: equal scores and equal hashes.
    rows[3]["id"] = rows[200]["id"] = "twin"
    write_jsonl(directory / "pool" / "a.jsonl", rows[:150])
    write_jsonl(directory / "pool" / "b.jsonl", rows[150:])
    return directory


@pytest.fixture(scope="module")
def scores() -> dict[str, float]:
    """Coarse, so that ties are common; every eleventh document is excluded."""
    chance = np.random.default_rng(0)
    ids = [row["id"] for row in documents(240)]
    given = {name: float(chance.integers(-6, 6)) / 4 for name in ids}
    for name in ids[::11]:
        given[name] = float("nan")
    given["twin"] = 1.0
    return given


def taken_of(made: Made) -> dict[tuple[int, int], int]:
    return {(row["unit"], row["row"]): row["tokens"] for row in made.taken()}


@pytest.mark.parametrize("tokens", ODD)
def test_the_budget_is_met_by_the_documents_a_sort_would_take(
    pool: Path, scores: dict[str, float], tokens: int
) -> None:
    made = make(recipe_of(pool, tokens, "s"), {"s": scores})
    whole = tokens // 16 * 16
    known = all_documents(made.pool, made.tokenizer)
    values = np.array([scores[document.id] for document in known])
    expected = brute_force(known, values, 0, {None: whole})
    assert taken_of(made) == expected
    facts = made.cut.facts
    assert facts["delivered"] == whole == sum(expected.values())
    assert facts["requested"] == tokens
    assert facts["documents"] == len(expected)
    assert not any(np.isnan(row["score"]) for row in made.taken())


@pytest.mark.parametrize("tokens", ODD[2:])
def test_each_share_is_met_exactly(pool: Path, scores: dict[str, float], tokens: int) -> None:
    recipe = recipe_of(pool, tokens, "s", budget={"shares": SHARES})
    made = make(recipe, {"s": scores})
    whole = tokens // 16
    # In hundredths: 0.37 and 0.11 of the tokens, rounded down to whole sequences.
    wiki, code = 37 * tokens // 1600, 11 * tokens // 1600
    quotas = {"wiki": wiki * 16, "code": code * 16, None: (whole - wiki - code) * 16}
    known = all_documents(made.pool, made.tokenizer)
    values = np.array([scores[document.id] for document in known])
    expected = brute_force(known, values, 0, quotas, lambda s: s if s in SHARES else None)
    assert taken_of(made) == expected
    facts = made.cut.facts
    assert facts["delivered"] == whole * 16
    by_source = {source: tally["tokens"] for source, tally in facts["by_source"].items()}
    assert by_source.get("wiki", 0) == quotas["wiki"]
    assert by_source.get("code", 0) == quotas["code"]
    assert by_source.get("web", 0) == quotas[None]


@pytest.mark.parametrize("tokens", [999, 4_097])
def test_the_pools_shares_are_met_exactly(
    pool: Path, scores: dict[str, float], tokens: int
) -> None:
    made = make(recipe_of(pool, tokens, "s", budget={"shares": "pool"}), {"s": scores})
    known = all_documents(made.pool, made.tokenizer)
    sizes = Counter[str]()
    for document in known:
        sizes[document.source] += len(document.text.encode())
    exact = {name: tokens * size / sizes.total() / 16 for name, size in sizes.items()}
    quotas = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: tokens // 16 - sum(quotas.values())]:
        quotas[name] += 1
    values = np.array([scores[document.id] for document in known])
    wanted = {name: count * 16 for name, count in quotas.items()}
    expected = brute_force(known, values, 0, dict(wanted), lambda source: source)
    assert taken_of(made) == expected
    by_source = made.cut.facts["by_source"]
    assert {name: tally["tokens"] for name, tally in by_source.items()} == wanted


@pytest.mark.parametrize("tokens", [999, 4_097])
def test_dozens_of_shares_are_each_met_exactly(tmp_path: Path, tokens: int) -> None:
    """More than 16 groups are searched by digits of 8 bits."""
    rows = documents(300)
    for number, row in enumerate(rows):
        row["source"] = f"s{number % 25}"
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    given = {row["id"]: float(number % 7) for number, row in enumerate(rows)}
    shares = {f"s{number}": 0.04 for number in range(20)}
    made = make(recipe_of(tmp_path, tokens, "s", budget={"shares": shares}), {"s": given})
    share = tokens // 400
    quotas: dict[str | None, int] = dict.fromkeys(shares, share * 16)
    quotas[None] = (tokens // 16 - 20 * share) * 16
    known = all_documents(made.pool, made.tokenizer)
    values = np.array([given[document.id] for document in known])
    expected = brute_force(known, values, 0, quotas, lambda s: s if s in shares else None)
    assert taken_of(made) == expected


def test_rows_of_the_cut_have_documents_scores_and_tokens(
    pool: Path, scores: dict[str, float]
) -> None:
    made = make(recipe_of(pool, 2_345, "s"), {"s": scores})
    known = {(d.unit, d.row): d for d in all_documents(made.pool, made.tokenizer)}
    rows = made.taken()
    assert [(row["unit"], row["row"]) for row in rows] == sorted(taken_of(made))
    for row in rows:
        document = known[row["unit"], row["row"]]
        assert (row["id"], row["source"]) == (document.id, document.source)
        assert row["score"] == scores[document.id]
        assert row.keys() == {"unit", "row", "id", "source", "hash", "score", "tokens", "group"}
    shortened = [
        rank_of(made.cut, row["unit"], row["row"])
        for row in rows
        if row["tokens"] < len(known[row["unit"], row["row"]].tokens)
    ]
    assert shortened in ([], [len(rows)]), "only the last document in may be shortened"
    counted = Counter(row["source"] for row in rows)
    assert {s: t["documents"] for s, t in made.cut.facts["by_source"].items()} == counted
    assert made.cut.facts["lowest_score"] == min(row["score"] for row in rows)


def test_documents_that_are_equal_to_the_last_bit_go_in_corpus_order(tmp_path: Path) -> None:
    """One id and text for all: score and hash are equal for all documents, in any unit."""
    rows = [{"id": "same", "text": documents(1)[0]["text"] * 8}] * 120
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    recipe = recipe_of(tmp_path, 12_000, "s", clean={"dedup": {"exact": False}})
    made = make(recipe, {"s": {"same": 0.5}})
    known = all_documents(made.pool, made.tokenizer)
    assert len({document.unit for document in known}) > 2
    left, expected = 12_000 // 16 * 16, {}
    for document in known:
        if left:
            expected[document.unit, document.row] = min(left, len(document.tokens))
            left -= expected[document.unit, document.row]
    assert taken_of(made) == expected
    assert len({unit for unit, _ in expected}) > 1
    ranks = [rank_of(made.cut, row["unit"], row["row"]) for row in made.taken()]
    assert ranks == list(range(1, len(expected) + 1))


def test_a_mixture_of_columns_is_cut_by_weighted_quantiles(pool: Path) -> None:
    chance = np.random.default_rng(3)
    ids = [*(row["id"] for row in documents(240)), "twin"]
    given = {
        "one": {name: float(chance.integers(0, 64)) / 8 for name in ids},
        "two": {name: -float(chance.integers(0, 64)) * 100 for name in ids},
    }
    recipe = recipe_of(pool, 3_333, {"two": 0.25, "one": 0.75})
    made = make(recipe, given)
    known = all_documents(made.pool, made.tokenizer)
    total = np.zeros(len(known))
    for name, weight in (("one", 0.75), ("two", 0.25)):
        values = np.array([given[name][document.id] for document in known])
        below = (values[:, None] > values).sum(axis=1)
        equal = (values[:, None] == values).sum(axis=1)
        total += weight * ((below + equal / 2) / len(values))
    expected = brute_force(known, np.float32(total), 0, {None: 3_333 // 16 * 16})
    assert taken_of(made) == expected


def names(made: Made) -> set[tuple[int, int]]:
    return set(taken_of(made))


def test_random_is_reproducible_and_differs_by_seed(pool: Path, tmp_path: Path) -> None:
    one = make(recipe_of(pool, 4_000))
    again = make(recipe_of(pool, 4_000), work=tmp_path)
    other = make(recipe_of(pool, 4_000, budget={"seed": 8}))
    assert one.cut.digest == again.cut.digest
    assert one.corpus.digest == other.corpus.digest
    assert names(one) != names(other)
    assert len(names(one) & names(other)) < len(names(one)) * 0.7


def test_a_larger_random_budget_contains_the_smaller(pool: Path) -> None:
    small, large = (make(recipe_of(pool, tokens)) for tokens in (2_000, 6_000))
    assert names(small) < names(large)
    count = small.cut.facts["documents"]
    assert first_ranked(small.cut, count) == first_ranked(large.cut, count)


def test_gumbel_is_between_the_top_and_the_lot(pool: Path, scores: dict[str, float]) -> None:
    def mean(temperature: float | None) -> float:
        draw: Any = "top" if temperature is None else {"gumbel": {"temperature": temperature}}
        made = make(recipe_of(pool, 4_000, "s", budget={"draw": draw}), {"s": scores})
        assert made.cut.facts["delivered"] == 4_000
        return float(np.mean([scores[row["id"]] for row in made.taken()]))

    top, cold, warm, hot = mean(None), mean(1e-4), mean(1.0), mean(1e4)
    assert top == pytest.approx(cold, abs=0.05)
    assert cold > warm + 0.1 > hot + 0.2


def test_gumbel_with_a_budget_of_everything_takes_everything(
    pool: Path, scores: dict[str, float]
) -> None:
    budget = {"draw": {"gumbel": {"temperature": 2.0}}, "allow_short": True}
    made = make(recipe_of(pool, 10**6, "s", budget=budget), {"s": scores})
    known = all_documents(made.pool, made.tokenizer)
    allowed = {(d.unit, d.row): len(d.tokens) for d in known if not np.isnan(scores[d.id])}
    whole = sum(allowed.values()) // 16 * 16
    assert made.cut.facts["delivered"] == whole
    assert names(made) == set(allowed)


def test_a_uniform_draw_takes_any_of_the_best(pool: Path, scores: dict[str, float]) -> None:
    ids = [row["id"] for row in documents(240)]
    ranks = {name: float(place) for place, name in enumerate(ids)}
    ranks["twin"] = 1.0

    def taken(tokens: int, **uniform: float) -> Made:
        budget = {"draw": {"uniform": uniform}}
        return make(recipe_of(pool, tokens, "s", budget=budget), {"s": ranks})

    made = taken(2_000, keep=0.5)
    (best,) = made.cut.facts["drawn_from"]
    lowest = int(best["lowest"])
    assert 100 < lowest < 140 and best["documents"] == 240 - lowest - (lowest < 200)
    got = [ranks[row["id"]] for row in made.taken()]
    # The best 2,000 tokens are a few of the last documents; a draw reaches down to the bound.
    top = make(recipe_of(pool, 2_000, "s"), {"s": ranks})
    assert min(got) >= lowest and np.mean(got) < 200
    assert min(ranks[row["id"]] for row in top.taken()) > np.mean(got)
    larger = taken(4_000, keep=0.5)
    assert names(made) < names(larger)
    above = taken(2_000, above=150.0)
    assert above.cut.facts["drawn_from"][-1]["lowest"] == 151.0
    assert min(ranks[row["id"]] for row in above.taken()) > 150
    assert names(taken(2_000, keep=1.0)) == names(taken(2_000, above=-1.0))


def test_a_uniform_draw_of_too_few_documents_is_refused(
    pool: Path, scores: dict[str, float]
) -> None:
    budget = {"draw": {"uniform": {"keep": 0.05}}}
    with pytest.raises(BudgetError) as caught:
        make(recipe_of(pool, 8_000, "s", budget=budget), {"s": scores})
    assert caught.value.key == "budget.tokens"
    assert "budget.draw.uniform" in str(caught.value.fix)


# -- pools that are too small -----------------------------------------------------------------


def test_far_too_large_a_budget_is_refused_before_anything_is_tokenised(
    pool: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError) as caught:
        make(recipe_of(pool, 1_000_000), work=tmp_path)
    assert caught.value.key == "budget.tokens"
    assert " 1,000,000 tokens of the pool" in caught.value.problem
    assert not list(tmp_path.glob("tokens/*/*.arrow"))


def size_of(made: Made, source: str | None = None) -> int:
    known = all_documents(made.pool, made.tokenizer)
    return sum(len(d.tokens) for d in known if source in (None, d.source))


def test_a_slightly_too_large_budget_is_refused_with_the_size_of_the_pool(pool: Path) -> None:
    size = size_of(make(recipe_of(pool, 100)))
    with pytest.raises(BudgetError) as caught:
        make(recipe_of(pool, size + 16))
    assert caught.value.key == "budget.tokens"
    assert f" {size:,} " in caught.value.problem
    assert "budget.allow_short: true" in str(caught.value.fix)


def test_a_budget_of_exactly_the_pool_takes_all_of_it(pool: Path) -> None:
    size = size_of(make(recipe_of(pool, 100)))
    made = make(recipe_of(pool, size))
    assert made.cut.facts["delivered"] == size // 16 * 16
    assert made.cut.facts["documents"] == 240


def test_a_share_larger_than_its_source_is_refused_with_its_size(pool: Path) -> None:
    size = size_of(make(recipe_of(pool, 100)), "code")
    shares = {"code": 0.9}
    tokens = int(size * 1.1 / 0.9)
    with pytest.raises(BudgetError) as caught:
        make(recipe_of(pool, tokens, budget={"shares": shares}))
    assert caught.value.key == "budget.shares"
    assert f" of code, which holds {size:,} " in caught.value.problem


def test_allow_short_takes_every_whole_sequence_of_a_share(pool: Path) -> None:
    size = size_of(make(recipe_of(pool, 100)), "code")
    recipe = recipe_of(pool, 10_000, budget={"shares": {"code": 0.75}, "allow_short": True})
    assert size < 7_500 // 16 * 16
    facts = make(recipe).cut.facts
    assert facts["by_source"]["code"]["tokens"] == size // 16 * 16
    assert facts["delivered"] == size // 16 * 16 + (10_000 // 16 - 7_500 // 16) * 16
    assert facts["requested"] == 10_000


def test_a_source_of_many_tokens_for_its_bytes_is_not_refused_by_the_average(
    tmp_path: Path,
) -> None:
    """Bytes per token are measured over the pool: a source may hold three times as many."""
    plain = [
        {"id": f"p{n}", "text": f"{n} " + "water flows " * 400, "source": "web"} for n in range(30)
    ]
    chance = np.random.default_rng(0)
    dense = [
        {
            "id": f"x{n}",
            "text": "".join(map(chr, chance.integers(0x4E00, 0x9000, 60))),
            "source": "x",
        }
        for n in range(20)
    ]
    write_jsonl(tmp_path / "pool" / "a.jsonl", plain + dense)
    size = size_of(make(recipe_of(tmp_path, 100)), "x")
    estimate = 20 * 180 / make(recipe_of(tmp_path, 100)).store.bytes_per_token + 20
    assert size > 2 * estimate, "the pool does not test what it should"
    made = make(recipe_of(tmp_path, size // 16 * 16, budget={"shares": {"x": 1.0}}))
    assert made.cut.facts["by_source"] == {"x": {"documents": 20, "tokens": size // 16 * 16}}


def test_excluded_documents_do_not_count_as_pool(pool: Path, scores: dict[str, float]) -> None:
    made = make(recipe_of(pool, 100, "s"), {"s": scores})
    size = sum(
        len(document.tokens)
        for document in all_documents(made.pool, made.tokenizer)
        if not np.isnan(scores[document.id])
    )
    with pytest.raises(BudgetError) as caught:
        make(recipe_of(pool, size + 16, "s"), {"s": scores})
    assert f" {size:,} " in caught.value.problem


@pytest.mark.parametrize("allow_short", [False, True])
@pytest.mark.parametrize("rank", ["s", {"s": 0.5, "random": 0.5}])
def test_a_column_that_excludes_everything_is_an_error_that_names_it(
    pool: Path, rank: str | Mapping[str, float], allow_short: bool
) -> None:
    recipe = recipe_of(pool, 100, rank, budget={"allow_short": allow_short})
    with pytest.raises(BudgetError) as caught:
        make(recipe, {"s": {}})
    assert caught.value.key == "budget.rank"
    assert caught.value.problem.startswith("s excludes all 240 documents")


def test_columns_that_exclude_everything_between_them_are_an_error(pool: Path) -> None:
    ids = [row["id"] for row in documents(240)]
    given = {"one": dict.fromkeys(ids[:100], 1.0), "two": dict.fromkeys(ids[100:], 1.0)}
    recipe = recipe_of(pool, 100, {"one": 1, "two": 1}, budget={"allow_short": True})
    with pytest.raises(BudgetError) as caught:
        make(recipe, given)
    assert " 0 that may be taken" in caught.value.problem


def test_a_pool_of_less_than_a_sequence_is_an_error_even_if_short_is_allowed(
    tmp_path: Path,
) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", [{"id": "a", "text": "water"}])
    recipe = recipe_of(tmp_path, 10_000, length=512, budget={"allow_short": True})
    with pytest.raises(BudgetError) as caught:
        make(recipe)
    assert "512 tokens" in str(caught.value.fix)
    assert "allow_short" not in str(caught.value), "the recipe has it already"


# -- what is tokenised ------------------------------------------------------------------------


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of documents that each round of the search tokenised."""
    rounds: list[int] = []
    whole = cut_module.write_candidates

    def counted(*args: Any, **options: Any) -> int:
        rounds.append(whole(*args, **options))
        return rounds[-1]

    monkeypatch.setattr(cut_module, "write_candidates", counted)
    return rounds


def test_only_the_candidates_are_tokenised_and_only_once(
    pool: Path, tmp_path: Path, tokenised: list[int]
) -> None:
    first = make(recipe_of(pool, 3_000), work=tmp_path)
    for_small = sum(tokenised)
    assert first.cut.facts["documents"] <= for_small < 240 * 0.4
    tokenised.clear()
    second = make(recipe_of(pool, 6_000), work=tmp_path)
    new = second.cut.facts["documents"] - first.cut.facts["documents"]
    assert 0 < sum(tokenised) <= new * 1.3
    tokenised.clear()
    make(recipe_of(pool, 2_000), work=tmp_path)
    assert sum(tokenised) == 0
    rows = [
        (unit, row) for path in tmp_path.glob("tokens/*/*.arrow") for unit, row in rows_of(path)
    ]
    assert len(rows) == len(set(rows)) < 240 * 0.8, "a document was tokenised twice, or all were"


def rows_of(path: Path) -> list[tuple[str, int]]:
    import pyarrow as pa

    rows = pa.ipc.open_file(str(path)).read_all().column("row").to_pylist()
    return [(path.stem.rsplit("-", 2)[0], row) for row in rows]


def test_a_margin_that_was_too_thin_is_widened(tmp_path: Path, tokenised: list[int]) -> None:
    """The best documents have far more bytes for a token than the pool."""
    wordy = [{"id": f"w{n}", "text": f"{n} " + "turbine " * 300} for n in range(20)]
    dense = [{"id": f"x{n}", "text": f"{n} " + "z9$ é€ %" * (5 + n)} for n in range(200)]
    write_jsonl(tmp_path / "pool" / "a.jsonl", [*dense, *wordy])
    scores = {**{f"w{n}": 2.0 for n in range(20)}, **{f"x{n}": n / 200 for n in range(200)}}
    made = make(recipe_of(tmp_path, 8_000, "s"), {"s": scores})
    known = all_documents(made.pool, made.tokenizer)
    values = np.array([scores[document.id] for document in known])
    assert taken_of(made) == brute_force(known, np.float32(values), 0, {None: 8_000})
    assert len(tokenised) > 1, "the pool does not test what it should"
    assert sum(tokenised) < 220


def test_a_cut_leaves_no_scratch_whether_it_succeeds_or_not(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(pool, 2_000)
    with monkeypatch.context() as broken:
        broken.setattr(cut_module, "_write_unit", _crash)
        with pytest.raises(RuntimeError, match="power cut"):
            make(recipe, work=tmp_path)
    assert not list(tmp_path.glob("cut/*/scratch*"))
    assert not list(tmp_path.glob("cut/*/manifest.json"))
    resumed = make(recipe, work=tmp_path)
    assert not list(tmp_path.glob("cut/*/scratch*"))
    assert resumed.cut.digest == make(recipe).cut.digest


def _crash(item: object, shared: object) -> None:
    raise RuntimeError("power cut")


def test_units_that_were_written_before_a_crash_are_not_written_again(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(pool, 6_000)
    write, written = cut_module._write_unit, []

    def counted(item: Any, shared: Any) -> FileRecord:
        number = item[0].unit.number
        if number >= 2 and 2 not in written:
            raise RuntimeError("power cut")
        written.append(number)
        return write(item, shared)

    monkeypatch.setattr(cut_module, "_write_unit", counted)
    with pytest.raises(RuntimeError, match="power cut"):
        make(recipe, work=tmp_path)
    assert written == [0, 1]
    written.append(2)
    resumed = make(recipe, work=tmp_path)
    assert written == [0, 1, 2, *range(2, len(resumed.cut.files))]
    assert resumed.cut.digest == make(recipe).cut.digest


@dataclass(frozen=True)
class BytesAsTokens:
    """Writes tables of candidates that have a token for each byte, in place of a token store."""

    units: Sequence[OrderedUnit]

    def __call__(self, candidates: Candidates, runner: Runner) -> None:
        for _ in runner.run(_write_table, self.units, candidates):
            pass


def _write_table(ordered: OrderedUnit, candidates: Candidates) -> None:
    rows = candidates.rows(ordered.unit)
    candidates.write(ordered.unit, rows, ordered.read()[1][rows])


@pytest.mark.slow
def test_the_driver_holds_nothing_of_a_document(tmp_path: Path) -> None:
    """Half of 3,000,000 documents are taken; their keys and hashes alone are 18 MB."""
    count, chance = 500_000, np.random.default_rng(0)
    units = []
    for number in range(6):
        record = FileRecord(path="", bytes=0, sha256="", facts={"documents": count})
        unit = Unit(
            number=number, name=f"unit-{number}", corpus=tmp_path, record=record, rows=record
        )
        units.append(OrderedUnit(unit, tmp_path / "scratch"))
        scores = np.round(chance.normal(size=count), 3).astype(np.float32)
        ties = chance.integers(0, 2**63, count).astype(np.uint64)
        order = Order(order_bits(scores), ties, np.zeros(count, np.int16))
        write_order(units[-1], order, np.full(count, 10))
    quota = Quota(name=None, tokens=15_000_000, pool_bytes=10**9, pool_documents=0)
    runner = LocalRunner(2)
    try:
        tracemalloc.start()
        found = search_budget(
            units,
            [quota],
            length=100,
            bytes_per_token=1.0,
            write=BytesAsTokens(units),
            runner=runner,
            directory=tmp_path / "scratch",
            allow_short=False,
        )
        draft = Draft(tmp_path / "cut", {})
        written = write_units(units, found, draft, runner, carried=())
        taken = sum(record.facts["documents"] for record in written)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        runner.close()
    assert taken == 1_500_000
    files = [record.verified(tmp_path / "cut") for record in written]
    best = np.concatenate([pq.read_table(file)["score"].to_numpy() for file in files])
    every = np.concatenate([scores_in_order(ordered) for ordered in units])
    assert np.array_equal(np.sort(best), np.sort(every)[-1_500_000:])
    assert peak < 4e6, f"the driver held {peak / 1e6:.1f} MB"


@pytest.mark.slow
def test_two_workers_make_the_same_cut(
    pool: Path, tmp_path: Path, scores: dict[str, float], two_workers: LocalRunner
) -> None:
    rank = {"s": 0.5, "random": 0.5}
    recipe = recipe_of(pool, 4_321, rank, budget={"shares": SHARES})
    alone = make(recipe, {"s": scores})
    both = make(recipe, {"s": scores}, runner=two_workers, work=tmp_path)
    assert both.cut.digest == alone.cut.digest


def test_a_cut_of_fewer_units_than_the_corpus_has_is_not_published(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cut_module.make_orders
    monkeypatch.setattr(cut_module, "make_orders", lambda *args: whole(*args)[:-1])
    with pytest.raises(ArtefactError) as caught:
        make(recipe_of(pool, 500), work=tmp_path)
    assert caught.value.expected == "240 documents of the pool"
    assert not list(tmp_path.glob("cut/*/manifest.json"))
