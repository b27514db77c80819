"""Public troubles of tools that do this job: small inputs that are made outside of this project.

``PENSTOCK_CASES=DIR pytest tests/jobs/test_public_cases.py`` curates a copy of each directory below
``DIR`` that the table names. Each kind of trouble has tests beside what it concerns, which need no
such directory.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import penstock
from penstock.errors import BadInput

_CASES = os.environ.get("PENSTOCK_CASES", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _CASES, reason="PENSTOCK_CASES names no directory of cases"),
]


@dataclass(frozen=True, slots=True)
class Documents:
    """What the accounting of a case says."""

    read: int
    quarantined: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A case that is refused: what its error names."""

    names: str


_READ = {
    "bom_mid": Documents(4),
    "dir_hidden": Documents(8, quarantined=4),
    "dir_names": Documents(15),
    "dir_names2": Documents(14),
    "glob_dirs": Documents(8),
    "gz_members": Documents(9),
    "hf_filtered": Documents(7),
    "ids_equal": Documents(60),
    "ids_nan": Documents(60),
    "ids_none": Documents(60),
    "ids_perfile": Documents(6),
    "json_array": Documents(4),
    "json_array_mixed": Documents(7),
    "json_array_pretty": Documents(4),
    "jsonl_odd": Documents(31, quarantined=10),
    "latin1": Documents(6, quarantined=3),
    "line_long": Documents(12, quarantined=9),
    "name_latin1": Documents(4),
    "name_latin1_bad": Documents(5, quarantined=1),
    "overlap": Documents(3),
    "overlap_nodedup": Documents(3),
    "pq_bintext": Documents(4),
    "pq_empty": Documents(5, dropped=1),
    "pq_types": Documents(44, quarantined=1, dropped=1),
    "report_html": Documents(6),
    "same_names": Documents(6, quarantined=2),
    "saved_as_dir": Documents(7),
    "self_ingest": Documents(5),
    "share_runsout_short": Documents(63),
    "src_markup": Documents(6),
    "text_odd": Documents(14, dropped=2),
    "tiny_files": Documents(4000),
    "tok_chat": Documents(1),
    "tok_dropout": Documents(6),
    "tok_gemma": Documents(2),
    "tok_notspecial": Documents(2),
    "tok_special": Documents(2),
    "tok_strip": Documents(3),
    "tok_trunc": Documents(1),
    "tok_unigram": Documents(2),
    "why_ids": Documents(7, quarantined=3),
    "zst_emptyframe": Documents(9),
    "zst_frames": Documents(9),
    "zst_long27": Documents(9),
    "zst_plain_big": Documents(260),
    "zst_pzstd_big": Documents(260),
    "zst_skiponly": Documents(9),
}
_REFUSED = {
    "bud_poolsmall": Refused("budget.tokens"),
    "bud_small": Refused("budget.tokens"),
    "cr_only": Refused("in.jsonl"),
    "dir_unknown": Refused("b.csv"),
    "glob_symlink": Refused("dangling.jsonl"),
    "gz_garbage": Refused("in.jsonl.gz"),
    "gz_is_plain": Refused("in.jsonl.gz"),
    "gz_trunc_member": Refused("in.jsonl.gz"),
    "gz_trunc_trailer": Refused("in.jsonl.gz"),
    "hf_mixed": Refused("extra"),
    "json_nestedname": Refused("data.text"),
    "pq_dupcol": Refused("text"),
    "pq_dupmeta": Refused("'n'"),
    "pq_listtext": Refused("i.parquet"),
    "pq_nestedname": Refused("data.text"),
    "share_case": Refused("wiki"),
    "share_runsout": Refused("budget.shares"),
    "share_zero": Refused("budget.shares.wiki"),
    "src_many": Refused("url"),
    "zst_long31": Refused("window"),
}


def _copy(name: str, tmp_path: Path) -> Path:
    where = tmp_path / name
    shutil.copytree(Path(_CASES, name), where, symlinks=True, ignore=shutil.ignore_patterns("work"))
    return where / "recipe.yaml"


@pytest.mark.parametrize("name", _READ)
def test_reads_what_a_case_holds(name: str, tmp_path: Path) -> None:
    expected = _READ[name]
    recipe = penstock.load_recipe(_copy(name, tmp_path))
    digests = set()
    for _ in range(2):
        result = penstock.curate(recipe, runner="local", workers=1)
        documents = result.summary()["documents"]
        assert documents["read"] == expected.read
        assert documents["quarantined"] == expected.quarantined
        assert documents["dropped"] == expected.dropped
        assert documents["kept"] == expected.read - expected.quarantined - expected.dropped
        digests.add(result.shards.digest)
        if name != "self_ingest":  # whose second run finds the work directory of the first
            shutil.rmtree(tmp_path / name / "work")
    assert len(digests) == 1


@pytest.mark.parametrize("name", _REFUSED)
def test_refuses_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(_REFUSED[name].names)) as refused:
        penstock.curate(penstock.load_recipe(_copy(name, tmp_path)), runner="local", workers=1)
    assert refused.value.exit_status == 2


def test_the_table_is_whole() -> None:
    assert {path.name for path in Path(_CASES).iterdir()} == {*_READ, *_REFUSED}
