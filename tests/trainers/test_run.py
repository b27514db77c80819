"""Real processes, real Ray, real DeepSpeed: a session costs 5 to 15 s of CPU time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from penstock.artefact import Artefact, Workspace
from penstock.errors import RecipeError, TrainingError
from penstock.recipe import ModelShape, Train
from penstock.recipe_training import Checkpoint
from penstock.trainers.checkpoints.signing import key_file
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.run import _lanes, device_words, room_for, train_all
from penstock.trainers.sessions.devices import on_gpus
from penstock.trainers.sessions.local import LocalSessions
from penstock.trainers.spec import RunSpec
from tests.harness.sockets import listening
from tests.trainers.conftest import train

from .conftest import EOS, write_shards

TRAIN = Train(model=ModelShape(layers=1, width=32, heads=2), batch_tokens=256, micro_batch=2)
LENGTH = 32
"""Tokens of a sequence of the shards, and so the model's context."""

OTHER = Evaluation.of_texts("other", "the penstock")

TEXTS = Evaluation.of_texts("water", "water flows to the turbine", "hello " * 30)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("work"))


def spec(shards: Path, seed: int = 1, **changes: Any) -> RunSpec:
    changed = TRAIN.model_copy(update=changes)
    return RunSpec(train=changed, shards=shards, seed=seed, evaluations=(TEXTS,))


def bits_by_hand(model: Path) -> float:
    """Compute bits per byte of TEXTS by an exported model, window by window, from its logits."""
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    nats = 0.0
    for text in (one.text for one in TEXTS.examples):
        ids = [EOS, *tokenizer.encode(text, add_special_tokens=False)]
        for start in range(0, len(ids) - 1, LENGTH):
            window = torch.tensor([ids[start : start + LENGTH + 1]])
            with torch.inference_mode():
                log_p = loaded(window[:, :-1]).logits[0].double().log_softmax(-1)
            nats -= float(log_p.gather(1, window[0, 1:, None]).sum())
    return nats / math.log(2) / sum(len(one.text.encode()) for one in TEXTS.examples)


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def places_of(key: str, *directories: Path) -> list[str]:
    """Return the files, environments and command lines in which the key is found."""
    files = [path for one in directories for path in one.rglob("*") if path.is_file()]
    files += [
        path for name in ("environ", "cmdline") for path in Path("/proc").glob(f"[0-9]*/{name}")
    ]
    found = []
    for path in files:
        with contextlib.suppress(OSError):  # a process that has ended
            content = path.read_bytes()
            if key.encode() in content or bytes.fromhex(key) in content:
                found.append(str(path))
    return found


def test_one_worker_and_a_lane_of_runs(shards: Path, workspace: Workspace) -> None:
    lines: list[tuple[int, int]] = []
    first, second = train_all(
        [spec(shards, 1), spec(shards, 2)],
        workspace,
        parallel=1,
        on_metrics=lambda spec, line: lines.append((spec.seed, line["step"])),
    )
    assert lines == [(seed, step) for seed in (1, 2) for step in range(5)]
    assert first.tokens == second.tokens == 37 * 32
    assert first.epochs == {"all": 1.0} and first.repeated_tokens == 0
    assert first.loss == metrics(first.path)[-1]["loss"] != second.loss
    score = first.bits_per_byte["water"]
    assert score["mean"] == pytest.approx(bits_by_hand(first.model), rel=1e-5)
    assert score["stderr"] > 0
    artefact = Artefact.open(first.path)
    artefact.verify()
    assert artefact.facts["parameters"] == {"total": 23_648, "without_embeddings": 13_408}
    assert all(0 < line["mfu"] < 1 for line in metrics(first.path))
    assert {record.path.split("/")[0] for record in artefact.files} == {
        "metrics.jsonl",
        "model",
        "result.json",
        "tensorboard",
    }
    assert not list(workspace.root.glob("run/.session-*"))
    key = key_file().read_text().strip()
    assert places_of(key, workspace.root) == []
    (workspace.root / "shown").write_text(f"as here: {key}")
    assert places_of(key, workspace.root) == [str(workspace.root / "shown")]
    (workspace.root / "shown").unlink()
    exported = AutoTokenizer.from_pretrained(str(first.model))
    assert (exported.eos_token, exported.eos_token_id) == ("<|endoftext|>", EOS)

    # A run that exists is found; if it were made again, its seconds would differ.
    assert train(spec(shards, 1), workspace) == first

    # A run that was second in its session equals the same run alone, bit for bit.
    alone = train(spec(shards, 2), Workspace(workspace.root / "alone"))
    assert [line["loss"] for line in metrics(alone.path)] == [
        line["loss"] for line in metrics(second.path)
    ]
    assert alone.bits_per_byte == second.bits_per_byte


def test_two_workers_train_as_one(shards: Path, workspace: Workspace) -> None:
    zero = {"zero_optimization": {"stage": 1}}
    ports: dict[tuple[str, int], str] = {}
    (two,) = train_all(
        [spec(shards, 1, workers=2, deepspeed=zero)],
        Workspace(workspace.root / "two"),  # a run of the same name
        on_metrics=lambda *_: ports.update(listening(os.getpid())),
    )
    assert len(ports) >= 2, "gloo's"
    assert {ip for ip, _ in ports} == {"127.0.0.1"}, ports  # TCPStore would have any address
    one = train(spec(shards, 1), workspace)
    assert two.path != one.path
    for mine, theirs in zip(metrics(two.path), metrics(one.path), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert mine["lr"] == theirs["lr"] and mine["tokens"] == theirs["tokens"]
    assert two.bits_per_byte["water"]["mean"] == pytest.approx(
        one.bits_per_byte["water"]["mean"], rel=1e-4
    )


@pytest.mark.usefixtures("ray_session")
def test_ray_train_makes_the_same_run(
    shards: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = {"zero_optimization": {"stage": 1}}
    wanted = spec(shards, 1, workers=2, deepspeed=zero)
    here = train(wanted, Workspace(workspace.root / "two"))
    monkeypatch.setattr(LocalSessions, "suffice", lambda: False)
    elsewhere = Workspace(workspace.root / "ray")
    on_ray = train(wanted, elsewhere)
    assert [line["loss"] for line in metrics(on_ray.path)] == [
        line["loss"] for line in metrics(here.path)
    ]
    assert on_ray.bits_per_byte == here.bits_per_byte
    assert not list(elsewhere.root.glob("run/.session-*"))
    ray_logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert places_of(key_file().read_text().strip(), elsewhere.root, ray_logs) == []
    with pytest.raises(RecipeError) as info:
        train(spec(shards, 77, workers=99), elsewhere)
    assert info.value.key == "train.workers"
    assert (info.value.expected or "").startswith("at most 2 of 1")


def test_a_cluster_trains_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert LocalSessions.suffice()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert LocalSessions.suffice()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not LocalSessions.suffice()


@pytest.mark.parametrize(
    ("device", "gpus", "grows", "expected"),
    [
        ("auto", 0, True, False),
        ("auto", 2, False, True),
        ("auto", 5, True, True),
        ("auto", 1, True, None),
        ("gpu", 0, True, True),  # ray_cluster.yaml starts with none
        ("gpu", 1, True, True),
        ("gpu", 2, False, True),
        ("gpu", 0, False, None),
        ("gpu", 1, False, None),
        ("cpu", 8, True, False),
    ],
)
def test_the_device_of_two_workers(
    device: str, gpus: int, grows: bool, expected: bool | None
) -> None:
    train = TRAIN.model_copy(update={"workers": 2, "device": device})
    if expected is not None:
        assert on_gpus(train, gpus, of="the cluster", grows=grows) is expected
        return
    with pytest.raises(RecipeError) as info:
        on_gpus(train, gpus, of="the cluster", grows=grows)
    assert (info.value.key, info.value.got) == ("train.device", device)
    assert "train.device: cpu" in str(info.value.expected)


def test_a_comparison_fills_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old code had as many lanes as the driver's CPUs hold."""
    monkeypatch.setattr(LocalSessions, "suffice", lambda: False)
    monkeypatch.setattr("penstock.trainers.sessions.on_ray._resources", lambda: (96, 8))
    two = TRAIN.model_copy(update={"workers": 2, "cpus": 4})
    assert room_for(two) == 4
    assert room_for(two.model_copy(update={"device": "cpu"})) == 12
    monkeypatch.setattr("penstock.trainers.sessions.on_ray._resources", lambda: (0, 0))
    assert room_for(two) == room_for(two.model_copy(update={"device": "gpu"})) == 1


def test_auto_says_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for gpus in ("", "0,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        for device in ("auto", "cpu"):
            own = TRAIN.model_copy(update={"device": device})
            found[gpus, device] = device_words(own)
    assert found == {
        ("", "auto"): "on CPUs, since no GPU was found",
        ("", "cpu"): "on CPUs",
        ("0,1", "auto"): "on GPUs (train.device: auto)",
        ("0,1", "cpu"): "on CPUs",
    }


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_a_build_without_gpus_does_not_train_on_cpus_instead(
    device: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this PyTorch finds a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(TrainingError) as info:
        train(spec(shards, device=device), Workspace(tmp_path))
    assert info.value.key == "train.device"


def test_lanes_take_gpus_in_turn(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    monkeypatch.setattr("penstock.trainers.sessions.local.cpus", lambda: 2)

    def free(*lanes: RunSpec) -> list[list[str]]:
        sessions = LocalSessions([[one] for one in lanes])
        return [sessions._free.get() for _ in range(sessions._free.qsize())]

    assert free(spec(shards)) == [["0"], ["3"], ["5"]]
    assert LocalSessions.room(spec(shards).train) == 3
    assert free(spec(shards, device="cpu")) == [[]] * 2
    assert free(spec(shards), spec(shards, workers=2)) == [["0", "3"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("penstock.trainers.sessions.local.cpus", lambda: 7)
    assert free(spec(shards, workers=2)) == [[]] * 3
    assert LocalSessions.room(spec(shards, workers=2).train) == 3
    assert free(spec(shards, workers=2, cpus=3)) == [[]]


def test_the_error_of_a_worker_is_one_line(shards: Path, workspace: Workspace) -> None:
    wild = spec(shards, 1, lr=1e30, clip=1e30)
    with pytest.raises(TrainingError) as caught:
        train(wild, workspace)
    message = str(caught.value)
    assert message.startswith("step ") and "the gradient is inf; lower train.lr" in message
    assert "\n" not in message and len(message) < 300
    assert wild.find(workspace) is None


def test_a_session_continues_one_whose_worker_was_killed(shards: Path, tmp_path: Path) -> None:
    """Whole machines are killed by ``make faults`` (checkpoints/test_command.py)."""
    workspace = Workspace(tmp_path)
    settings = {"checkpoint": Checkpoint(tokens=2_560), "tokens": 32_000, "workers": 2}
    wanted = spec(shards, **settings)

    def saved() -> list[int]:
        return sorted(int(path.name[5:]) for path in tmp_path.glob("run/*/checkpoints/step-*"))

    of_others = set(psutil.Process().children())

    def kill_one() -> None:
        while not saved():
            time.sleep(0.003)
        below = set(psutil.Process().children()) - of_others
        workers = [child for child in below if "runners.worker" in " ".join(child.cmdline())]
        workers[0].kill()

    killing = threading.Thread(target=kill_one, daemon=True)
    killing.start()
    with pytest.raises(TrainingError) as caught:
        train(wanted, workspace)
    killing.join()
    assert "SIGKILL" in caught.value.problem and caught.value.fix
    at, before = saved()[-1], metrics(next(tmp_path.glob("run/*")))
    assert 10 <= at < 125 and at <= len(before) and wanted.find(workspace) is None
    seen: list[dict[str, Any]] = []
    (result,) = train_all([wanted], workspace, on_metrics=lambda _, line: seen.append(line))
    assert [line["step"] for line in seen if "note" in line] == [at]
    assert [line["step"] for line in seen if "note" not in line] == list(range(at - 1, 125))
    assert result.tokens == 32_000
    assert [line["step"] for line in metrics(result.path)] == list(range(125))
    assert metrics(result.path)[:at] == before[:at]


def test_bad_settings_are_refused_before_anything_starts(
    shards: Path, workspace: Workspace
) -> None:
    with pytest.raises(RecipeError) as info:
        train(spec(shards, deepspeed={"scheduler": {}}), workspace)
    assert info.value.key == "train.deepspeed.scheduler"
    with pytest.raises(RecipeError) as info:
        train(spec(shards, backend="torch", deepspeed={"bf16": {}}), workspace)
    assert info.value.key == "train.deepspeed"
    for settings, most in (({"workers": 99}, "at most 2 of 1"), ({"cpus": 9}, "at most 0 of 9")):
        with pytest.raises(RecipeError) as info:
            train(spec(shards, 77, **settings), workspace)
        assert info.value.key == "train.workers"
        assert (info.value.expected or "").startswith(most)


def test_the_name_of_a_run_depends_on_its_batches(
    shards: Path, tmp_path: Path, tokenizer: Any
) -> None:
    base = spec(shards)
    longer = write_shards(tmp_path, tokenizer, sequences=40).path
    others = [
        spec(shards, 2),
        spec(longer),
        spec(shards, lr=1.0),
    ]
    assert len({one.fingerprint for one in [base, *others]}) == 4
    reseeded = RunSpec(
        train=TRAIN.model_copy(update={"seed": 9}), shards=shards, seed=1, evaluations=(TEXTS,)
    )
    assert reseeded.fingerprint == base.fingerprint, "train.seed is resolved into RunSpec.seed"
    elsewhere = spec(shards, workers=2, micro_batch=1, checkpoint=False)
    assert elsewhere.fingerprint == base.fingerprint, "no batch of it changes"
    more = RunSpec(train=TRAIN, shards=shards, seed=1, evaluations=(OTHER,))
    assert more.fingerprint == base.fingerprint, "it is measured when it is trained"
    assert spec(shards, document_losses=True).fingerprint == base.fingerprint
    assert spec(shards, deepspeed={"x": 1}).fingerprint != base.fingerprint


def test_specifications_of_one_run_are_made_as_one(shards: Path) -> None:
    one = spec(shards)
    other = RunSpec(
        train=TRAIN.model_copy(update={"document_losses": True}),
        shards=shards,
        seed=1,
        evaluations=(OTHER, replace(TEXTS, name="again")),
    )
    for merged in (one.merged(other), other.merged(one)):
        assert merged.train.document_losses and merged.fingerprint == one.fingerprint
        assert {item.digest for item in merged.evaluations} == {TEXTS.digest, OTHER.digest}
        assert len(merged.evaluations) == 2
    assert one.merged(one) == one


def test_lanes_end_together(shards: Path, tmp_path: Path, tokenizer: Any) -> None:
    small = [spec(shards, seed) for seed in range(4)]
    large = spec(write_shards(tmp_path, tokenizer, sequences=4 * 37).path)
    lanes = _lanes([*small, large], parallel=2)
    assert [len(lane) for lane in lanes] == [1, 4]
    mixed = _lanes([small[0], spec(shards, workers=2)], parallel=1)
    assert [len(lane) for lane in mixed] == [1, 1]
