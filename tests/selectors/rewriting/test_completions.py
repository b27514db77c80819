"""The client against a real server on loopback that can be busy, broken, slow or rude."""

from __future__ import annotations

import base64
import email.utils
import itertools
import json
import pickle
import socket
import threading
import time
import tracemalloc
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import CompletionError, Failure, SelectorError
from penstock.selectors.rewriting import (
    Answer,
    Document,
    Endpoint,
    LocalModel,
    Request,
    Rewire,
    Sampling,
    completions,
)
from tests.chat import Fault, Handler, Server, chat_server

SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_tokens=20)


@pytest.fixture
def server() -> Iterator[Server]:
    with chat_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def asked(*prompts: str) -> list[tuple[str, Request, int]]:
    return [
        (prompt, Request(user=prompt, sampling=SAMPLING), place)
        for place, prompt in enumerate(prompts)
    ]


def endpoint(server: Server, **parameters: Any) -> Endpoint:
    return Endpoint(**{"url": server.url, "model": "small", **parameters})


def status(code: int, said: Any = "busy", **headers: str) -> Fault:
    return lambda handler: handler.send(code, {"error": {"message": said}}, **headers)


def cut(handler: Handler) -> None:
    """Promise more than is sent, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def late(handler: Handler) -> None:
    handler.connection.recv(1)  # nothing, when the client has hung up
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte now and then: no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.close_connection = True
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def test_all_are_answered_within_the_concurrency(server: Server) -> None:
    server.slowness = 0.02
    prompts = [f"prompt {number}" for number in range(40)]
    found = dict(endpoint(server, concurrency=6).answers(asked(*prompts)))
    assert found == {
        prompt: Answer(text=prompt.upper(), prompt_tokens=7, completion_tokens=3)
        for prompt in prompts
    }
    assert 2 <= server.most <= 6
    assert sorted(server.prompts()) == sorted(prompts)


def test_the_body_of_a_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret\n")
    request = Request(system="be brief", user="größe 😀", sampling=SAMPLING)
    ready = endpoint(server, url=f"{server.url}/", key_variable="MY_KEY")
    assert [key for key, _ in ready.answers([((1, 2), request, 99)])] == [(1, 2)]
    ((path, headers, body, _),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert body == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "größe 😀"},
        ],
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 20, "seed": 99, "stream": False,
    }  # fmt: skip


def test_without_a_key_none_is_sent(server: Server) -> None:
    list(endpoint(server).answers(asked("a")))
    assert "Authorization" not in server.seen[0][1]


def test_the_key_is_never_pickled_or_printed(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ready = endpoint(server, retries=0)
    list(ready.answers(asked("a")))
    assert b"sk-secret" not in pickle.dumps(ready)
    assert "sk-secret" not in str(vars(ready)) + str(ready.identity())
    server.always = [status(401, "Incorrect API key provided: sk-secret.")]
    with pytest.raises(CompletionError) as caught:
        list(ready.answers(asked("b")))
    assert "Incorrect API key provided: ***." in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "sk-secret" not in caplog.text + str(caught.value)


def test_a_key_that_the_server_repeats_is_masked_in_every_form(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In errors, in the log, and in answers, which are written to a journal."""
    key = "sk-proj_0123456789/abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setattr(completions, "_PATIENCE", 0.0)
    header = base64.b64encode(f"Bearer {key}".encode()).decode()
    forms = [
        json.dumps(key).replace("/", "\\/"),
        "".join(f"\\u{ord(one):04x}" for one in key),
        urllib.parse.quote(key, safe=""),
        "".join(f"&#{ord(one)};" for one in key),
        header,
    ]
    for form in forms:
        for code in (401, 422, 503):
            server.always = [status(code, f"denied: {form}")]
            try:
                ((_, answer),) = endpoint(server, retries=0).answers(asked("a"))
                shown = answer.error
            except CompletionError as error:
                shown = str(error)
            assert "denied: " in shown and "***" in shown, form
            assert form.strip('"')[:20] not in shown and key not in shown
    server.always = [lambda handler: handler.answer({"k": key})]
    with pytest.raises(CompletionError) as caught:
        list(endpoint(server, retries=0).answers(asked("a")))
    assert "***" in str(caught.value) and key not in str(caught.value) + caplog.text
    server.always = [lambda handler: handler.answer(f"Your key is {key}.", finish=key)]
    ((_, answer),) = endpoint(server, retries=0).answers(asked("a"))
    assert (answer.text, answer.finish) == ("Your key is ***.", "***")


@pytest.mark.parametrize("kept", [4, 12, 24])
def test_a_key_that_is_cut_in_a_long_message_is_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """The attack: white space, so that a part of the key is the last that is looked at."""
    key = "sk-proj_0123456789/abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    head = "denied: "
    space = " " * (2**16 - len(head) - kept)
    page = f"{head}{space}{key} and more".encode()
    server.always = [lambda handler: handler.send(401, page)]
    with pytest.raises(CompletionError) as caught:
        list(endpoint(server, retries=0).answers(asked("a")))
    assert "denied:" in str(caught.value) and key[:kept] not in str(caught.value)


def malformed(line: bytes) -> Fault:
    def sent(handler: Handler) -> None:
        handler.wfile.write(line + b"\r\n\r\n")
        handler.wfile.flush()
        handler.close_connection = True

    return sent


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 abc what",
        b"nothing of HTTP",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    ],
)
def test_malformed_http_is_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr(completions, "_FIRST_WAIT", 0.001)
    server.faults["b"] = [malformed(line)]
    ((_, answer),) = endpoint(server).answers(asked("b"))
    assert (answer.text, server.prompts().count("b")) == ("B", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [status(429), status(500), status(502), status(503), status(408), cut, hang_up,
     lambda handler: handler.send(200, b"<html>bad gateway</html>"),
     lambda handler: handler.send(200, {"error": "overloaded"}),
     lambda handler: handler.send(200, {"choices": []}),
     lambda handler: handler.send(200, {"choices": [{"message": None}]}),
     lambda handler: handler.send(200, b"[" * 100_000),
     late, drip],
)  # fmt: skip
def test_transient_failures_are_tried_again(server: Server, fault: Fault) -> None:
    server.faults["b"] = [fault, fault]
    timeout = 1 if fault in (late, drip) else 60
    found = dict(endpoint(server, timeout=timeout).answers(asked("a", "b", "c")))
    assert {key: answer.text for key, answer in found.items()} == {"a": "A", "b": "B", "c": "C"}
    assert server.prompts().count("b") == 3
    assert {body["seed"] for _, _, body, _ in server.seen if "b" in str(body["messages"])} == {1}


def test_waits_grow_and_are_not_everybodys(server: Server, monkeypatch) -> None:
    monkeypatch.setattr(completions, "_FIRST_WAIT", 0.05)
    for prompt in ("a", "b"):
        server.faults[prompt] = [status(503)] * 3
    list(endpoint(server).answers(asked("a", "b")))
    waits = {}
    for prompt in ("a", "b"):
        at = [when for _, _, body, when in server.seen if body["messages"][0]["content"] == prompt]
        waits[prompt] = [later - before for before, later in itertools.pairwise(at)]
        for place, wait in enumerate(waits[prompt]):
            assert wait >= 0.75 * 0.05 * 2**place
    assert abs(waits["a"][2] - waits["b"][2]) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("dated", [False, True])
def test_retry_after_is_obeyed(server: Server, dated: bool) -> None:
    at = email.utils.formatdate(time.time() + 2.0, usegmt=True) if dated else "0.5"
    server.faults["a"] = [status(429, Retry_After=at)]
    list(endpoint(server).answers(asked("a")))
    waited = server.seen[1][3] - server.seen[0][3]
    assert (0.9 if dated else 0.5) <= waited < 10


@pytest.mark.parametrize(
    "value",
    ["soon", "-5", "", "1e3", "٣", "Mon, 01 Jan 99999999999 00:00:00 GMT",
     "Mon, 01 Jan 2020 00:00:00 +99999999999999"],
)  # fmt: skip
def test_an_odd_time_to_come_back_is_nothing(server: Server, value: str) -> None:
    server.faults["a"] = [
        lambda handler: handler.send(429, {}, **({"Retry_After": value} if value.isascii() else {}))
    ]
    assert len(list(endpoint(server).answers(asked("a")))) == 1


def test_a_server_that_asks_for_hours_is_an_error(server: Server) -> None:
    server.faults["a"] = [status(429, "quota", Retry_After="7200")]
    with pytest.raises(CompletionError, match=r"HTTP 429: .*quota.* Retry-After of 7200 s"):
        list(endpoint(server).answers(asked("a")))
    assert len(server.seen) == 1


def test_a_server_that_stays_broken_is_named_with_its_status(server: Server) -> None:
    server.faults["b"] = [status(503, "no\nworkers")] * 9
    found = endpoint(server, retries=2).answers(asked("a", "b", "c"))
    got = []
    with pytest.raises(CompletionError) as caught:
        for key, _ in found:
            got.append(key)
    assert sorted(got) == ["a", "c"]  # what was under way was waited for
    assert str(caught.value).startswith(f"{server.url}/chat/completions: expected an answer, got")
    assert "HTTP 503: " in str(caught.value) and "3 times" in str(caught.value)
    assert isinstance(caught.value, Failure)
    assert server.prompts().count("b") == 3


def test_after_a_failure_nothing_more_is_asked(server: Server) -> None:
    server.always = [status(401)]
    drawn = []

    def source() -> Iterator[tuple[str, Request, int]]:
        for item in asked(*"abcdefgh"):
            drawn.append(item[0])
            yield item

    with pytest.raises(CompletionError, match="HTTP 401"):
        list(endpoint(server, concurrency=2).answers(source()))
    assert len(drawn) <= 3


@pytest.mark.parametrize("code", [401, 403, 404, 405, 301, 307])
def test_permanent_failures_are_not_tried_again(server: Server, code: int) -> None:
    server.always = [status(code, Location="http://127.0.0.1:9/elsewhere")]
    with pytest.raises(CompletionError, match=f"HTTP {code}"):
        list(endpoint(server).answers(asked("a")))
    assert len(server.seen) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        ready = Endpoint(url=url, model="small", retries=1)
        with pytest.raises(CompletionError, match=f"{url}.*Connect.*2 times"):
            list(ready.answers(asked("a")))


def test_a_request_that_is_wrong_is_answered_with_the_reason(server: Server) -> None:
    server.faults["b"] = [status(400, "maximum context length is 2048 tokens")]
    found = dict(endpoint(server).answers(asked("a", "b")))
    assert found["a"].text == "A"
    assert found["b"].text == ""
    assert "HTTP 400" in found["b"].error and "2048" in found["b"].error
    assert server.url in found["b"].error


def test_a_server_that_calls_every_request_wrong_is_not_believed(server: Server) -> None:
    server.always = [status(400, "unknown field: seed")] * 1000
    with pytest.raises(CompletionError, match=r"first 20 requests was refused.*unknown field"):
        list(endpoint(server, concurrency=4).answers(asked(*map(str, range(500)))))
    assert len(server.seen) <= 24


def test_wrong_requests_after_an_answer_are_only_counted(server: Server) -> None:
    prompts = [str(number) for number in range(40)]
    server.faults.update({prompt: [status(422)] for prompt in prompts[1:]})
    found = dict(endpoint(server, concurrency=1).answers(asked(*prompts)))
    assert sum(bool(answer.error) for answer in found.values()) == 39


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (lambda handler: handler.answer("cut", "length"), Answer(text="cut", finish="length")),
        (lambda handler: handler.answer(None, "content_filter"),
         Answer(text="", finish="content_filter")),
        (lambda handler: handler.answer(None, refusal="No."), Answer(text="", finish="refusal")),
        (lambda handler: handler.answer("half \ud83d and \ude00"),
         Answer(text="half \ufffd and \ufffd")),
        (lambda handler: handler.answer("whole \ud83d\ude00 \x00"), Answer(text="whole 😀 \x00")),
        (lambda handler: handler.send(200, {"choices": [{"message": {"content": "bare"}}]}),
         Answer(text="bare")),
    ],
)  # fmt: skip
def test_answers_are_read_as_they_are(server: Server, fault: Fault, answer: Answer) -> None:
    server.faults["a"] = [fault]
    ((_, found),) = endpoint(server).answers(asked("a"))
    assert (found.text, found.finish) == (answer.text, answer.finish)
    found.text.encode()


def usage(tokens: str, finish: str = '"stop"') -> Fault:
    """An answer whose usage has a number as JSON spells it."""
    body = (
        '{"choices": [{"message": {"content": "text"}, "finish_reason": %s}],'
        '"usage": {"prompt_tokens": %s, "completion_tokens": 3}}'
    )
    return lambda handler: handler.send(200, (body % (finish, tokens)).encode())


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        *((text, 0) for text in ("-1", "NaN", "Infinity", "-Infinity", "1e400", "0.5", "true")),
        *((text, 0) for text in ("1" + 30 * "0", 5000 * "9", "2147483648", '"7"', "[7]", "{}")),
        *((text, int(float(text))) for text in ("0", "7", "7.0", "2147483647")),
    ],
)
def test_numbers_of_a_server_are_bounded(server: Server, tokens: str, expected: int) -> None:
    server.always = [usage(tokens)]
    ((_, found),) = endpoint(server, retries=0).answers(asked("a"))
    assert found == Answer(text="text", prompt_tokens=expected, completion_tokens=3)
    assert type(found.prompt_tokens) is int


@pytest.mark.parametrize("finish", ['"\\ud800"', '{"a": "\\ud800"}', '["x", 1e999]', "7"])
def test_a_finish_reason_is_one_that_a_file_can_hold(server: Server, finish: str) -> None:
    server.always = [usage("1", finish)]
    ((_, found),) = endpoint(server, retries=0).answers(asked("a"))
    assert len(found.finish.encode()) < 300


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
@pytest.mark.parametrize("code", [200, 400, 500])
def test_a_body_is_bounded_when_decompressed(server: Server, coding: str, code: int) -> None:
    """Compression bomb: 0.3 MB of gzip are 256 MiB of JSON."""
    packed = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}.get(coding, 31))
    body = b" " * 2**22 if coding == "identity" else packed.compress(b" " * 2**28) + packed.flush()
    server.always = [lambda handler: handler.send(code, body, Content_Encoding=coding)]
    tracemalloc.start()
    try:
        with pytest.raises(CompletionError, match="body of more than 1,069,056 bytes"):
            list(endpoint(server, retries=0).answers(asked("a")))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_deep_json_of_a_server_is_no_crash(server: Server) -> None:
    for deep in (b"[" * 500_000, b'{"a":' * 200_000, b'{"choices":[{"message":' + b"[" * 500_000):
        server.always = [lambda handler, deep=deep: handler.send(200, deep)]
        with pytest.raises(CompletionError, match="HTTP 200 and no completion"):
            list(endpoint(server, retries=0).answers(asked("a")))


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_key_does_not_follow_a_redirect(
    server: Server, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with chat_server() as other:
        server.always = [status(code, Location=f"{other.url}/chat/completions")]
        with pytest.raises(CompletionError, match=f"HTTP {code}"):
            list(endpoint(server, retries=0).answers(asked("a")))
        assert not other.seen


def test_cookies_of_a_server_are_not_kept(server: Server) -> None:
    server.faults["a"] = [status(500, Set_Cookie="a=b")]
    list(endpoint(server).answers(asked("a")))
    assert len(server.seen) == 2 and "Cookie" not in server.seen[1][1]


def test_giving_up_halfway_leaves_nothing_running(server: Server) -> None:
    server.slowness = 0.3
    server.faults["a"] = [lambda handler: handler.answer("A")]
    before = threading.active_count()
    found = endpoint(server, concurrency=4).answers(asked(*"abcdefgh"))
    next(found)
    found.close()
    assert "completions" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= before + 8  # the server's own
    assert len(server.seen) <= 5


def test_work_goes_on_while_the_caller_is_busy(server: Server) -> None:
    server.faults["c"] = [status(503), status(503)]
    found = endpoint(server, concurrency=3).answers(asked("a", "b", "c"))
    next(found)
    deadline = time.monotonic() + 10
    while server.prompts().count("c") < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.prompts().count("c") == 3
    assert len(list(found)) == 2


def test_an_error_of_the_callers_comes_through(server: Server) -> None:
    def source() -> Iterator[tuple[str, Request, int]]:
        yield from asked("a", "b")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(endpoint(server).answers(source()))
    assert "completions" not in {thread.name for thread in threading.enumerate()}


def test_no_requests_no_answers() -> None:
    assert list(Endpoint(url="http://127.0.0.1:1/v1", model="m").answers([])) == []


def test_rewire_through_an_endpoint(server: Server) -> None:
    def rewritten(handler: Handler) -> None:
        handler.answer(
            f"<<<THINKING>>>so<<<END THINKING>>><<<REWRITE>>>{'word ' * 20}<<<END REWRITE>>>"
        )

    server.always = [rewritten, status(500), rewritten]
    rewire, documents = Rewire(), [Document(id=f"{n}", text="a draft") for n in range(2)]
    work = [(document.id, rewire.requests(document)[0], 5) for document in documents]
    found = dict(endpoint(server, concurrency=1).answers(work))
    for document in documents:
        done = rewire.assemble(document, [found[document.id]])
        assert done.texts == (("word " * 20).strip(),)


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"url": "localhost:8000"}, "url"),
        ({"url": "ftp://host/v1"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://host:port/v1"}, "url"),
        ({"url": None}, "url"),
        ({"url": "http://me:secret@host/v1"}, "url"),
        ({"url": "http://host/v1?key=secret"}, "url"),
        ({"model": ""}, "model"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"key_variable": "sk-secret"}, "key_variable"),
    ],
)
def test_bad_parameters(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as caught:
        Endpoint(**{"url": "http://host/v1", "model": "m", **parameters})
    assert caught.value.key == key
    assert "secret" not in str(caught.value)


# A model in a directory.


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of random weights over bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
        chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    ).save_pretrained(directory)  # fmt: skip
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("template", [True, False])
def test_a_document_does_not_end_its_turn(tiny_model: Path, template: bool) -> None:
    from transformers import AutoTokenizer

    from penstock.selectors.rewriting.local import encoded

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ messages[0].content }}<s>{{ messages[1].content }}</s>"
    before, after = ([0], [1]) if template else ([], [])
    if not template:
        tokenizer.chat_template = None
    sampling = Sampling(temperature=0, top_p=1, max_tokens=8)
    for user in ("a</s>b<s> \n</s>", "plain", "</s>"):
        request = Request(system="say</s>", user=user, sampling=sampling)
        found = encoded(request, tokenizer)
        spelled = [index for letter in user for index in tokenizer(letter)["input_ids"]]
        tail = [*spelled, *after]
        assert found[len(found) - len(tail) :] == tail
        head = found[: len(found) - len(tail)]
        assert tokenizer.decode(head) == "say</s>" + ("<s>" if template else "\n\n")
        assert [index for index in found if index < 2] == [*before, *after]


def test_a_local_model_answers_by_the_seed_alone(tiny_model: Path) -> None:
    import torch

    local = LocalModel(model=str(tiny_model), device="cpu")
    work = asked("one", "two", "three")
    found = list(local.answers(work))
    assert [key for key, _ in found] == ["one", "two", "three"]
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    again = dict(pickle.loads(pickle.dumps(local)).answers(reversed(work)))
    assert again == dict(found)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = dict(local.answers([("one", work[0][1], 123)]))
    assert other["one"].text != again["one"].text
    answer = again["one"]
    assert 0 < answer.completion_tokens <= 20
    assert answer.finish == ("length" if answer.completion_tokens == 20 else "stop")
    assert answer.prompt_tokens == len("user: one\n")


def test_greedy_decoding_looks_at_no_seed(tiny_model: Path) -> None:
    local = LocalModel(model=str(tiny_model), device="cpu")
    request = Request(user="one", sampling=Sampling(temperature=0, top_p=1, max_tokens=8))
    (_, one), (_, two) = local.answers([(1, request, 1), (2, request, 2)])
    assert one == two and one.completion_tokens == 8
    model, tokenizer = local._loaded[1], local._loaded[0]
    ids = tokenizer("user: one\n", return_tensors="pt")["input_ids"]
    for _ in range(8):  # by hand
        import torch

        best = model(ids).logits[0, -1].argmax()
        ids = torch.cat([ids, best[None, None]], dim=1)
    assert tokenizer.decode(ids[0, len("user: one\n") :]) == one.text


def test_a_prompt_without_room_is_answered_with_an_error(tiny_model: Path) -> None:
    local = LocalModel(model=str(tiny_model), device="cpu")
    (_, answer), (_, fine) = local.answers(asked("x" * 200, "x"))
    assert answer.text == "" and "at most 108 tokens" in answer.error
    assert not fine.error


@pytest.mark.gpu
def test_a_gpu_answers_greedily_as_the_cpu_does(tiny_model: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    request = Request(user="one", sampling=Sampling(temperature=0, top_p=1, max_tokens=8))
    found = [
        next(LocalModel(model=str(tiny_model), device=device).answers([(1, request, 1)]))
        for device in ("cpu", "cuda")
    ]
    assert found[0] == found[1]


def test_a_local_model_is_known_by_its_files(tiny_model: Path) -> None:
    identity = LocalModel(model=str(tiny_model)).identity()
    assert "model.safetensors" in identity["model"]
    assert str(tiny_model) not in str(identity)


@pytest.mark.parametrize("model", ["", None, "no/such", "gpt2"])
def test_a_local_model_is_a_directory(model: Any) -> None:
    with pytest.raises(SelectorError) as info:
        LocalModel(model=model)
    assert info.value.key == "model"


def test_models_that_cannot_be_loaded(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectorError) as info:
        LocalModel(model=str(tiny_model), device="tpu")
    assert info.value.key == "device"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SelectorError) as info:
        list(LocalModel(model=str(tmp_path)).answers(asked("a")))
    assert info.value.key == "model"
