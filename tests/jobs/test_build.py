"""Words that recipes of other tools have in other places."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import SelectorError
from penstock.jobs.build import build_columns
from tests.pools import recipe_of


@pytest.mark.parametrize("name", ["gopher", "c4", "fineweb"])
def test_a_set_of_rules_under_select_is_told_where_it_goes(tmp_path: Path, name: str) -> None:
    recipe = recipe_of(tmp_path, rank="g", select={"g": {"use": name}})
    with pytest.raises(SelectorError) as caught:
        build_columns(recipe)
    assert caught.value.key == "select.g.use"
    assert f"rules: [{name}]" in str(caught.value.fix)
