"""docs/recipe.md lists every key of a recipe: a key that a model has and the page lacks fails.

``PENSTOCK_GOLDEN=write pytest tests/test_recipe_table.py`` writes the table anew.
"""

from __future__ import annotations

import os

from penstock.recipe_file import _keys_at
from tests.harness import ROOT
from tests.recipe_table import BEGIN, END, key_table, keys

PAGE = ROOT / "docs" / "recipe.md"


def test_the_page_has_the_table_of_all_keys() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    written, _, after = rest.partition(END)
    if os.environ.get("PENSTOCK_GOLDEN") == "write":
        PAGE.write_text(f"{before}{BEGIN}\n\n{key_table()}\n\n{END}{after}", encoding="utf-8")
        return
    assert written.strip() == key_table(), "PENSTOCK_GOLDEN=write writes it"


def test_each_key_has_a_meaning_and_is_known_to_the_messages() -> None:
    rows = key_table().splitlines()[2:]
    assert [row for row in rows if row.endswith("|  |")] == []
    found = set(keys())
    assert found >= {"corpus.N.format", "clean.dedup.minhash.verify", "compare.rungs.N.lr"}
    assert found >= {"select.NAME.target", "train.schedule.wsd.decay", "shards.carry"}
    top = {key for key in keys() if "." not in key}
    assert top == set(_keys_at([]))
