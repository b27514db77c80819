"""Check the trainer on an NVIDIA GPU: attention, precision, speed, memory, resuming.

    make gpu                                 # all parts, 330 s at most
    python benchmarks/gpu.py [PART ...]      # some of them
    DRY=1 make gpu                           # tiny, on a CPU: does the script itself run?

Each part is a process with its own time limit, and prints lines that begin with its name. Parts
begin in the order of ``PARTS`` while time is left. The last line is one JSON object: ``{"name",
"device", "seconds", "parts": {part: "ok" | "failed" | "timeout" | "no time left"}}``. The exit
status is 1 if a part failed. Run it in the root of a checkout, since it uses the tests' shards;
``docs/gpu.md`` describes the setup of a machine without a network.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DRY = bool(os.environ.get("DRY"))
LIMIT = 330.0
"""Seconds for all parts."""
SETTLED = 4
"""Steps that are not counted: the allocator and the compiler settle."""
MODEL: Mapping[str, Any] = (
    {"layers": 2, "width": 64, "heads": 4}
    if DRY
    else {"layers": 24, "width": 1024, "heads": 16, "mlp_ratio": 3.3}  # 350 M without embeddings
)
LENGTH, MICRO, BATCH, VOCABULARY = (64, 4, 8, 512) if DRY else (2048, 16, 32, 32_768)
STEPS = 6 if DRY else 8
SHARED = "PENSTOCK_GPU_SHARED"
"""Names the variable with the folder that all parts share."""
WORDS = ("water", "turbine", "dam", "river", "flow", "gate", "valve", "reservoir", "pipe")


def main() -> None:
    """Run the parts that are named, or all, and print the summary."""
    if len(sys.argv) == 3 and sys.argv[1] == "--part":
        PARTS[sys.argv[2]][0]()
        sys.stdout.flush()
        os._exit(0)  # without waiting for threads of libraries
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        sys.exit(f"gpu.py: no part {sorted(unknown)}; expected some of {', '.join(PARTS)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-gpu-") as shared:
        os.environ[SHARED] = shared
        ended = {name: _run_part(name, LIMIT - (time.monotonic() - began)) for name in names}
    seconds = round(time.monotonic() - began, 1)
    device = "cpu (DRY=1)" if DRY else _gpu_name()
    print(json.dumps({"name": "gpu", "device": device, "seconds": seconds, "parts": ended}))
    sys.exit(int(any(end in ("failed", "timeout") for end in ended.values())))


def _run_part(name: str, left: float) -> str:
    """Run one part as a process and return how it ended."""
    limit = min(PARTS[name][1], left)
    if limit < 5:
        print(f"{name}: no time left", flush=True)
        return "no time left"
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, __file__, "--part", name]
        part = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            end = "failed" if part.wait(limit) else "ok"
        except subprocess.TimeoutExpired:
            end = "timeout"
        _kill(part)
        if end != "ok":
            errors.seek(0)
            print(f"{name}: {end.upper()}: {errors.read()[-1500:]}", flush=True)
    print(f"{name}: {end} in {time.monotonic() - began:.0f} s", flush=True)
    return end


def _kill(part: subprocess.Popen[Any]) -> None:
    """Kill a part and every process that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(part.pid, signal.SIGKILL)
    part.wait()


def _gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none found"


# Parts.


def versions() -> None:
    """Print versions, and whether PyTorch has the attention kernel that the trainer uses."""
    import inspect

    import deepspeed
    import torch
    import transformers

    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    found |= {"transformers": transformers.__version__, "deepspeed": deepspeed.__version__}
    _print("versions", json.dumps(found))
    try:
        from torch.nn.attention.varlen import varlen_attn

        named = {"window_size", "enable_gqa"} & set(inspect.signature(varlen_attn).parameters)
        _print("versions", f"varlen_attn takes {sorted(named)}")
    except ImportError:
        _print("versions", "varlen_attn: not in this PyTorch")
    if not DRY:
        capability = torch.cuda.get_device_capability()
        _print("versions", f"{torch.cuda.get_device_name()}, {capability}", torch.version.cuda)


def tests() -> None:
    """Run the GPU tests of the trainer, without those of speed; DRY collects them only."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["-k", "not utilisation", "tests/trainers/test_gpu.py"]
    # Only known plugins, since warnings are errors, and a machine may have others that warn.
    command += ["-p", "timeout", "-p", "xdist", "--dist=load"]
    done = subprocess.run(
        [*command, *(["--collect-only"] if DRY else ["-n", "4"])],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
        text=True,
        capture_output=True,
    )
    _print("tests", (done.stdout.strip().splitlines() or [done.stderr[-800:]])[-1])
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-800:])


def attention() -> None:
    """Time one layer's attention, forward and backward, by each implementation."""
    import numpy as np
    import torch

    from penstock.trainers.data.batch import Batch
    from penstock.trainers.modelling import attention as module

    device = torch.device("cpu" if DRY else "cuda")
    dtype = torch.float32 if DRY else torch.bfloat16
    heads, width = (4, 16) if DRY else (16, 64)
    shards = _shards()
    batches = [
        Batch.of(*shards.read(np.arange(first, first + MICRO))).to(device)
        for first in range(0, MICRO * 6, MICRO)
    ]
    draw = torch.Generator(device).manual_seed(0)
    parts = [
        torch.randn(MICRO, heads, LENGTH, width, generator=draw, device=device, dtype=dtype)
        for _ in range(3)
    ]

    def milliseconds() -> float:
        took = []
        for batch in batches:
            query, key, value = (part.detach().requires_grad_() for part in parts)
            _wait(device)
            began = time.perf_counter()
            arguments = module.span_arguments(batch)
            result, _ = module.span_attention(
                torch.nn.Module(), query, key, value, None, **arguments
            )
            result.sum().backward()
            _wait(device)
            took.append(time.perf_counter() - began)
        return statistics.median(took[1:]) * 1e3

    _print("attention", f"as chosen: {milliseconds():.2f} ms")
    module._fits_kernel = lambda query, dropout: False
    _print("attention", f"run by run: {milliseconds():.2f} ms")


def train_plain() -> None:
    """Train with the default back end, and run the same batches through a bare loop."""
    import numpy as np
    import torch

    from penstock.trainers.backends.base import adamw
    from penstock.trainers.modelling.build import build_model

    group, engine, step = _train("train_plain")
    shards, train, loader, plan = engine.shards, engine.train, engine.loader, engine.plan
    engine.close()
    del engine
    _forget()
    for kind in ("attention by spans", "sdpa without a mask"):
        model = build_model(train.model, shards, 1).to(group.device, torch.bfloat16).train()
        if kind != "attention by spans":
            model.causal.set_attn_implementation("sdpa")
        optimizer, took = adamw(model.parameters(), train), []
        for number in range(plan.steps):
            batch = plan.global_batch(number)
            _wait(group.device)
            began = time.perf_counter()
            for first in range(0, BATCH, MICRO):
                micro = loader.collate(batch, np.arange(first, first + MICRO)).to(group.device)
                if kind == "attention by spans":
                    loss = model(micro) / (BATCH * LENGTH)
                else:
                    ids = micro.input_ids
                    found = model.causal(input_ids=ids, labels=ids, use_cache=False)
                    loss = found.loss / (BATCH / MICRO)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            float(loss.detach())
            _wait(group.device)
            took.append(time.perf_counter() - began)
        bare = statistics.median(took[SETTLED:])
        _print(
            "train_plain",
            f"bare loop, {kind}: {BATCH * LENGTH / bare:,.0f} tokens/s; its step over the "
            f"engine's: {bare / step:.3f}",
        )
        del model, optimizer
        _forget()


def train_torch() -> None:
    """Train with the PyTorch back end."""
    _train("train_torch", backend="torch")


def train_compile() -> None:
    """Train with torch.compile."""
    _train("train_compile", compile=True)


def train_checkpointing() -> None:
    """Train with activation checkpointing."""
    _train("train_checkpointing", activation_checkpointing=True)


def syncs() -> None:
    """Count the points where the host waits for the GPU, forward and backward."""
    import numpy as np
    import torch

    group, engine = _engine()
    steps = engine.run()
    next(steps), next(steps)
    batch = engine.loader.collate(engine.plan.global_batch(2), np.arange(MICRO))
    if DRY:
        _print("syncs", "needs a GPU")
        return
    _wait(group.device)
    seen: collections.Counter[str] = collections.Counter()

    def count(message: Any, category: Any, filename: str, lineno: int, *_: Any, **__: Any) -> None:
        ours = ("penstock", "transformers", "deepspeed")
        frames = [f for f in traceback.extract_stack()[:-1] if any(n in f.filename for n in ours)]
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else filename
        seen[at] += 1

    warnings.simplefilter("always")
    warnings.showwarning = count
    torch.cuda.set_sync_debug_mode("warn")
    loss = engine.backend.forward(batch.to(group.device)) / 1000
    forward = seen.total()
    engine.backend.accumulate(loss, last=False)
    torch.cuda.set_sync_debug_mode("default")
    _print("syncs", f"forward {forward}, backward {seen.total() - forward}:", json.dumps(seen))


def determinism() -> None:
    """Compare the losses of equal runs, without and with deterministic algorithms."""
    import torch

    losses = []
    for deterministic in (False, False, True, True):
        if deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
        _, engine = _engine(tokens=BATCH * LENGTH * 3)
        losses.append([step.loss for step in engine.run()])
        engine.close()
        del engine
        _forget()
    gaps = [max(abs(a - b) for a, b in zip(*losses[at : at + 2])) for at in (0, 2)]
    _print(
        "determinism",
        f"largest difference of a loss: {gaps[0]:.2e}, with deterministic algorithms {gaps[1]:.2e}",
    )


def evaluate() -> None:
    """Time forward passes in float32, as the saved model is evaluated, and in bf16."""
    import numpy as np
    import torch

    from penstock.recipe import ModelShape
    from penstock.trainers.data.batch import Batch
    from penstock.trainers.modelling.build import build_model

    device = torch.device("cpu" if DRY else "cuda")
    shards = _shards()
    model = build_model(ModelShape(**MODEL), shards, 1).eval().to(device)
    batch = Batch.of(*shards.read(np.arange(MICRO))).to(device)
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype)
        with torch.inference_mode():
            for _ in range(3):
                _wait(device)
                began = time.perf_counter()
                model.label_nats(batch)
                _wait(device)
                took = time.perf_counter() - began
        _print("evaluate", f"{dtype}: {MICRO * LENGTH / took:,.0f} tokens/s")


def resume() -> None:
    """Run ``penstock train``, kill it after its first checkpoint, and run it again."""
    with tempfile.TemporaryDirectory(prefix="penstock-gpu-") as directory:
        root = Path(directory)
        _write_recipe(root)
        began = time.monotonic()
        first = _start(root)
        while first.poll() is None and not _checkpoints(root) and time.monotonic() - began < 100:
            time.sleep(0.2)
        if not _checkpoints(root):
            sys.exit(f"no checkpoint: {(root / 'errors').read_text()[-1500:]}")
        _print("resume", f"first checkpoint after {time.monotonic() - began:.0f} s")
        if not DRY:
            query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
            used = subprocess.run(query, check=False, text=True, capture_output=True).stdout
            _print("resume", "on the GPU:", "; ".join(used.strip().splitlines()) or "nothing")
        _kill(first)
        status = _start(root).wait(timeout=100)
        (run,) = (root / "work" / "run").glob("[0-9a-f]*")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rows = [line for line in lines if "loss" in line]
        once = [row["step"] for row in rows] == list(range(len(rows)))
        notes = (run / "notes.jsonl").read_text().splitlines()
        speed = statistics.median(row["tokens_per_second"] for row in rows)
        _print(
            "resume",
            f"second attempt: exit {status}, {len(rows)} steps, once each: {once}, {speed:,.0f} "
            f"tokens/s; {notes[-1:]}",
        )
        if status or not once:
            sys.exit((root / "errors").read_text()[-1500:])


PARTS: Mapping[str, tuple[Callable[[], None], float]] = {
    "versions": (versions, 40),
    "attention": (attention, 40),
    "train_plain": (train_plain, 80),
    "train_torch": (train_torch, 50),
    "train_checkpointing": (train_checkpointing, 50),
    "train_compile": (train_compile, 90),
    "tests": (tests, 120),
    "syncs": (syncs, 50),
    "determinism": (determinism, 60),
    "evaluate": (evaluate, 40),
    "resume": (resume, 150),
}
"""Each part and its limit in seconds, in the order in which they run."""


# What parts share.


def _train(part: str, **settings: Any) -> tuple[Any, Any, float]:
    """Train a few steps, print speed and memory, and return group, engine and seconds a step."""
    import torch

    group, engine = _engine(**settings)
    rows = list(engine.run())
    settled = rows[SETTLED:]
    took = statistics.median(BATCH * LENGTH / row.tokens_per_second for row in settled)
    memory = 0 if DRY else torch.cuda.max_memory_allocated() / 2**30
    dtype = next(engine._model.parameters()).dtype
    _print(
        part,
        f"{engine.train.backend}, {dtype}, {engine.parameters['total'] / 1e6:.0f} M parameters, "
        f"loss {rows[0].loss:.3f} -> {rows[-1].loss:.3f}, gradient norm {rows[-1].grad_norm:.3f}",
    )
    _print(
        part,
        f"{BATCH * LENGTH / took:,.0f} tokens/s, MFU "
        f"{statistics.median(row.mfu for row in settled):.3f}, step {took * 1e3:.0f} ms, waited "
        f"for batches {statistics.median(row.loader_seconds for row in settled) * 1e3:.2f} ms, "
        f"{memory:.1f} GiB",
    )
    return group, engine, took


def _engine(**settings: Any) -> tuple[Any, Any]:
    """Start a process group of one and an engine on it."""
    import torch

    from penstock.recipe import Train
    from penstock.trainers.engine import Engine
    from penstock.trainers.group import Group

    device = torch.device("cpu") if DRY else torch.device("cuda", 0)
    if DRY:
        torch.set_num_threads(1)
    if not torch.distributed.is_initialized():
        os.environ |= {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_500 + os.getpid() % 400)}
        os.environ["DS_ACCELERATOR"] = "cpu" if DRY else "cuda"
        store = f"file://{tempfile.mkdtemp(prefix='penstock-gpu-')}/store"
        kind = "gloo" if DRY else "nccl"
        torch.distributed.init_process_group(kind, store, rank=0, world_size=1)
    values = {"model": MODEL, "batch_tokens": BATCH * LENGTH, "micro_batch": MICRO, "lr": 3e-4}
    train = Train(**{**values, **settings})
    group = Group(device=device)
    return group, Engine(train, _shards(), 1, group)


def _shards() -> Any:
    """Open the shards of learnable phrases, which the first part that needs them writes."""
    from penstock.trainers.data.shards import ShardSet
    from tests.trainers.conftest import make_tokenizer, write_shards

    root = Path(os.environ.get(SHARED) or tempfile.mkdtemp(prefix="penstock-gpu-"))
    noted = root / "path"
    if not noted.exists():
        made = write_shards(
            root, make_tokenizer(), sequences=BATCH * STEPS, length=LENGTH, vocabulary=VOCABULARY
        )
        noted.write_text(str(made.path))
    return ShardSet.open(Path(noted.read_text()))


def _write_recipe(root: Path) -> None:
    """Write a pool, an evaluation file and a recipe of a small model."""
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    pool = [{"id": str(number), "source": "made", "text": text(300)} for number in range(3000)]
    _write_lines(root / "pool.jsonl", pool)
    _write_lines(root / "held-out.jsonl", [{"text": text(60)} for _ in range(200)])
    tokens, often = (400_000, 40_000) if DRY else (4_000_000, 1_000_000)
    recipe = {
        "seed": 1,
        "work": str(root / "work"),
        "corpus": [{"path": str(root / "pool.jsonl")}],
        "budget": {"tokens": 400_000, "rank": "random", "allow_short": True},
        "tokenizer": {"train": {"vocab_size": 1024}},
        "shards": {"sequence_length": 256},
        "train": {
            "model": {"layers": 2, "width": 128, "heads": 4},
            "tokens": tokens,
            "batch_tokens": 16_384 if not DRY else 4_096,
            "micro_batch": 16,
            "lr": 1e-3,
            "checkpoint": {"tokens": often, "minutes": None},
        },
        "evaluate": [str(root / "held-out.jsonl")],
    }
    (root / "recipe.yaml").write_text(json.dumps(recipe))


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _start(root: Path) -> subprocess.Popen[Any]:
    """Start ``penstock train`` in a process group of its own."""
    command = [sys.executable, "-m", "penstock", "train", str(root / "recipe.yaml")]
    with open(root / "out", "w") as out, open(root / "errors", "w") as errors:
        return subprocess.Popen(
            [*command, "--runner", "local", "--json"],
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )


def _checkpoints(root: Path) -> list[Path]:
    return list((root / "work").glob("run/*/checkpoints/step-*"))


def _print(part: str, *words: object) -> None:
    print(f"{part}:", *words, flush=True)


def _wait(device: Any) -> None:
    """Wait until the GPU has done what was queued."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget() -> None:
    """Free memory of what was deleted."""
    import torch

    gc.collect()
    if not DRY:
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
