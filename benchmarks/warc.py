"""Read a web archive: ours against warcio, on an archive that is made, with hostile records.

    python benchmarks/warc.py --json
    python benchmarks/warc.py --json --pages 2000 --html 'docs/**/*.html'

The archive has 10,000 pages, a member of gzip each, 200 of them spoilt in the ways that
``web_archives.py`` lists. ``checked`` says how many records ours reads and quarantines, and that
each bad one has its reason. The ratio compares CPU time on the sound records alone, in turns: ours
makes batches of documents with their ids, ``meta`` and decoded text, and compares digests. Warcio's
side makes the same: it decodes each payload, takes the same fields for ``meta``, and compares
digests, or not; the batches of both are compared, too. Both leave HTML as it is. The pages are made
ones, which gzip makes 1.7 times smaller, and those of ``--html``: files of documentation compress
5.8 times, about as much as pages of the web do. Extraction of text is measured by itself.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import itertools
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from common import peer_module
from web_archives import HOSTILE, members, page, record, response

from penstock.pipeline.reading.batches import BATCH_BYTES, BATCH_ROWS
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


def theirs(where: Path, digests: bool = True) -> Iterator[pa.RecordBatch]:
    """Read by warcio, and make the batches that ours makes; its work is that with digests."""
    iterator = peer_module("warcio.archiveiterator").ArchiveIterator
    texts: list[str] = []
    ids: list[str] = []
    metas: list[bytes] = []
    encode = msgspec.json.Encoder(order="deterministic").encode
    size = 0
    with where.open("rb") as file:
        for one in iterator(file, check_digests=digests):
            if one.rec_type not in ("response", "conversion"):
                continue
            head, http = one.rec_headers, one.http_headers
            kind = (http or head).get_header("Content-Type").partition(";")[0]
            body = one.content_stream().read()
            meta = {
                "charset": "utf-8",
                "content_type": kind,
                "date": head.get_header("WARC-Date"),
                "url": head.get_header("WARC-Target-URI"),
            }
            if http:
                meta["status"] = int(http.get_statuscode())
            texts.append(body.decode("utf-8"))
            ids.append(head.get_header("WARC-Record-ID").strip("<>"))
            metas.append(encode(meta))
            size += len(texts[-1])
            if len(texts) == BATCH_ROWS or size >= BATCH_BYTES:
                yield _batch(texts, ids, metas)
                texts, ids, metas, size = [], [], [], 0
    yield _batch(texts, ids, metas)


def _batch(texts: list[str], ids: list[str], metas: list[bytes]) -> pa.RecordBatch:
    columns = [
        pa.array(texts, pa.large_string()),
        pa.array(ids, pa.string()),
        pa.array(metas, pa.large_string()),
    ]
    return pa.RecordBatch.from_arrays(columns, ["text", "id", "meta"])


def whole(batches: Iterable[pa.RecordBatch]) -> dict[str, list[str]]:
    """Return the columns of batches that both sides make."""
    return pa.Table.from_batches(batches).select(["text", "id", "meta"]).to_pydict()


def documents(where: Path) -> Iterator[pa.RecordBatch]:
    """Yield the documents of ours."""
    spec = CorpusSource(path=str(where), extract="none")
    for batch in read_batches(where, spec, Span(), CAP):
        yield batch.documents


def page_files(patterns: list[str]) -> list[bytes]:
    """Return the first 400 files of patterns that are UTF-8."""
    names = {name for pattern in patterns for name in glob.glob(pattern, recursive=True)}
    contents = (Path(name).read_bytes() for name in sorted(names) if Path(name).is_file())
    return list(itertools.islice((one for one in contents if _is_utf8(one)), 400))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return bool(content)


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
        files = page_files(chosen.html)
        rates = compare(Path(directory), min(count, 2000), files)
    sets = {"made": [page(number) for number in range(200)]}
    if files:
        sets["files"] = [one.decode() for one in files]
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


def compare(
    directory: Path, count: int, files: list[bytes]
) -> dict[str, tuple[float, float, float]]:
    """Return MB/s of ours and warcio's, and the median ratio, for each archive."""
    pages = [response(number, page(number).encode()) for number in range(count)]
    short = [
        record("conversion", f"Text {number}. {'word ' * 100}".encode(), Content_Type="text/plain",
               WARC_Record_ID=f"<urn:{number}>", WARC_Target_URI=f"http://a.b/{number}",
               WARC_Date="2026-01-01T00:00:00Z")
        for number in range(10 * count)
    ]  # fmt: skip
    rates = {}
    of_files = [response(number, one) for number, one in enumerate(files)]
    for name, records in (("pages", pages), ("files", of_files), ("short texts", short)):
        if not records:
            continue
        size = sum(map(len, records))
        for form in ("plain", "gzip"):
            where = directory / f"{name}.warc{'.gz' if form == 'gzip' else ''}"
            where.write_bytes(
                b"".join(gzip.compress(one) if form == "gzip" else one for one in records)
            )
            mine = whole(documents(where))
            assert len(mine["text"]) == len(records) and mine == whole(theirs(where))
            for digests in (True, False):
                pairs = [
                    (
                        seconds(lambda: deque(documents(where), 0)),  # noqa: B023
                        seconds(lambda: deque(theirs(where, digests), 0)),  # noqa: B023
                    )
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
        extract = extractor(name, 1 << 26)
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
