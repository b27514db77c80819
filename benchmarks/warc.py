"""Read a web archive: ours against warcio, on an archive that is made, with hostile records.

    python benchmarks/warc.py --json
    python benchmarks/warc.py --json --pages 2000 --html 'docs/**/*.html'

The archive has 10,000 pages, a member of gzip each, 200 of them spoilt in the ways that
``web_archives.py`` lists. ``checked`` says how many records ours reads and quarantines, and that
each bad one has its reason. The ratio compares CPU time on the sound records alone, in turns: ours
makes batches of documents with their ids, ``meta`` and decoded text, and compares digests; warcio's
side decodes each payload, takes id, URL and date, and compares digests, or not. Both leave HTML as
it is. Extraction of text is measured by itself, on the pages and on files of ``--html``.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import peer_module
from web_archives import HOSTILE, members, page, record, response

from penstock.pipeline.reading.html import extractor
from penstock.pipeline.reading.parse_cost import measure
from penstock.pipeline.reading.readers import read_batches
from penstock.pipeline.reading.records import Span
from penstock.recipe import CorpusSource

ROUNDS = 5
CAP = 257 << 20


def ours(where: Path, extract: str = "none") -> tuple[int, list[str]]:
    """Return the number of documents, and the errors of the others."""
    documents, errors = 0, []
    spec = CorpusSource(path=str(where), extract=extract)  # type: ignore[arg-type]
    for batch in read_batches(where, spec, Span(), CAP):
        documents += len(batch.documents)
        errors += [bad.error for bad in batch.bad]
    return documents, errors


def theirs(where: Path, digests: bool = True) -> tuple[int, list[str]]:
    """Read as with warcio alone; the work of ours is that with digests."""
    iterator = peer_module("warcio.archiveiterator").ArchiveIterator
    documents = 0
    with where.open("rb") as file:
        for one in iterator(file, check_digests=digests):
            if one.rec_type in ("response", "conversion"):
                text = one.content_stream().read().decode("utf-8", "replace")
                head = one.rec_headers
                names = [
                    head.get_header(f"WARC-{name}") for name in ("Record-ID", "Target-URI", "Date")
                ]
                documents += bool(text and all(names))
    return documents, []


def seconds(work: Callable[[], Any]) -> float:
    """Return the CPU time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--html", action="append", default=[], help="a pattern of HTML files")
    chosen = parser.parse_args()
    count, hostile = chosen.pages, chosen.pages // 50
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory) / "hostile.warc.gz"
        made = list(members(count, hostile))
        where.write_bytes(b"".join(member for member, _ in made))
        kinds = [kind for _, kind in made if kind]
        del made
        read, errors = ours(where)
        parsed, refused = ours(where, "resiliparse")
        reasons = sum(HOSTILE[kind][0] in error for kind, error in zip(kinds, refused))
        checked = (
            f"{parsed:,} of {count:,} pages read, {len(refused)} quarantined, {reasons} with the "
            f"reason of their kind ({len(HOSTILE)} kinds); as sources {read:,} and {len(errors)}"
        )
        rates = compare(Path(directory), min(count, 2000))
    sets = {"made": [page(number) for number in range(200)]}
    files = [
        Path(path) for pattern in chosen.html for path in sorted(glob.glob(pattern, recursive=True))
    ]
    if files:
        sets["files"] = [
            path.read_bytes().decode("utf-8", "replace") for path in files[:400] if path.is_file()
        ]
    found = {name: extraction(pages) for name, pages in sets.items()}
    gz = rates["pages, gzip"]
    result = {
        "name": "warc",
        "unit": "MB/s a core",
        "ours": gz[0],
        "peer": gz[1],
        "ratio": gz[2],
        "checked": checked,
        "sets": rates,
        "extraction": found,
    }
    if chosen.json:
        print(json.dumps(result))
    else:
        print(json.dumps(result, indent=1))


def compare(directory: Path, count: int) -> dict[str, tuple[float, float, float]]:
    """Return MB/s of ours and warcio's, and the median ratio, for four archives."""
    pages = [response(number, page(number).encode()) for number in range(count)]
    short = [
        record("conversion", f"Text {number}. {'word ' * 100}".encode(), Content_Type="text/plain",
               WARC_Record_ID=f"<urn:{number}>", WARC_Target_URI=f"http://a.b/{number}",
               WARC_Date="2026-01-01T00:00:00Z")
        for number in range(10 * count)
    ]  # fmt: skip
    rates = {}
    for name, records in (("pages", pages), ("short texts", short)):
        size = sum(map(len, records))
        for form in ("plain", "gzip"):
            where = directory / f"{name}.warc{'.gz' if form == 'gzip' else ''}"
            where.write_bytes(
                b"".join(gzip.compress(one) if form == "gzip" else one for one in records)
            )
            assert ours(where)[0] == theirs(where)[0] == len(records)
            for digests in (True, False):
                pairs = [
                    (seconds(lambda: ours(where)), seconds(lambda: theirs(where, digests)))  # noqa: B023
                    for _ in range(ROUNDS)
                ]
                a, b = (statistics.median(side) for side in zip(*pairs))
                ratio = round(statistics.median(y / x for x, y in pairs), 2)
                key = f"{name}, {form}{'' if digests else ', warcio without digests'}"
                rates[key] = (round(size / a / 1e6), round(size / b / 1e6), ratio)
    return rates


def extraction(pages: list[str]) -> dict[str, dict[str, float]]:
    """Return MB/s of each extraction, the share of characters that it keeps, and empty texts."""
    size = sum(len(one.encode()) for one in pages)
    found: dict[str, dict[str, float]] = {}
    for name in ("resiliparse", "trafilatura"):
        extract = extractor(name)
        extract(pages[0])
        texts: list[str] = []
        spent = seconds(lambda: texts.extend(map(extract, pages)))  # noqa: B023
        found[name] = {
            "MB/s": round(size / spent / 1e6, 1),
            "kept": round(sum(map(len, texts)) / sum(map(len, pages)), 3),
            "empty": sum(not text.strip() for text in texts),
        }
    sources = [one.encode() for one in pages]
    spent = seconds(lambda: list(map(measure, sources)))
    found["check of the cost"] = {"MB/s": round(size / spent / 1e6)}
    return found


if __name__ == "__main__":
    main()
