"""Personal data: equal to slow definitions; planted items are found; masking; hostile text."""

from __future__ import annotations

import base64
import json
import random
import string
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InputError, RecipeError
from penstock.personal_data import KINDS, PersonalData, count_personal_data, mask
from penstock.personal_data.tables import _IBAN_LENGTHS
from tests.personal_data.reference import luhn, masked


def large(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def counted(text: str) -> dict[str, int]:
    (row,) = count_personal_data(large([text])).to_pylist()
    return {kind: count for kind, count in row.items() if count}


# Items, made at random.


def digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))


def some(draw: random.Random, letters: str, count: int) -> str:
    return "".join(draw.choice(letters) for _ in range(count - 1)) + draw.choice(string.digits)


ALNUM = string.ascii_letters + string.digits
SMALL = string.ascii_lowercase + string.digits


def e_mail(draw: random.Random) -> str:
    local = ".".join(some(draw, SMALL, draw.randint(1, 8)) for _ in range(draw.randint(1, 3)))
    labels = [some(draw, SMALL, draw.randint(1, 9)) for _ in range(draw.randint(1, 3))]
    return f"{local}@{'.'.join(labels)}.{draw.choice(['com', 'org', 'de', 'museum', 'xn--p1ai'])}"


def phone(draw: random.Random) -> str:
    area, exchange = (draw.choice("23456789") + digits(draw, 2) for _ in range(2))
    last = digits(draw, 4)
    return draw.choice(
        [
            f"({area}) {exchange}-{last}",
            f"{area}-{exchange}-{last}",
            f"{area}.{exchange}.{last}",
            f"1-{area}-{exchange}-{last}",
            f"+1 ({area}) {exchange}-{last}",
            f"+1{area}{exchange}{last}",
            f"+44 20 {last} {digits(draw, 4)}",
            f"+49-{digits(draw, 3)}/{digits(draw, 7)}",
            f"+33 1 {' '.join(digits(draw, 2) for _ in range(4))}",
            f"+8613{digits(draw, 9)}",
        ]
    )


def ip(draw: random.Random) -> str:
    if draw.random() < 0.3:
        groups = [f"2{digits(draw, 3)}", *(f"{draw.randrange(1, 2**16):x}" for _ in range(7))]
        return draw.choice([":".join(groups), f"{groups[0]}:{groups[1]}::{groups[2]}"])
    first, second, last = draw.choice([23, 81, 145]), draw.randint(30, 255), draw.randint(100, 255)
    return f"{first}.{second}.{digits(draw, 1)}.{last}"


def card_number(draw: random.Random) -> str:
    prefix, length = draw.choice(
        [
            *(("4", 16), ("4", 19), ("4", 13), ("53", 16), ("2345", 16), ("37", 15), ("36", 14)),
            *(("6011", 16), ("3530", 16), ("62", 17)),
        ]
    )
    body = prefix + digits(draw, length - len(prefix) - 1)
    number = next(body + one for one in string.digits if luhn(body + one))
    if draw.random() < 0.5:
        return number
    sizes = [4, 6, 5] if length in (14, 15) else [4] * 5
    parts = []
    for size in sizes:
        parts.append(number[:size])
        number = number[size:]
    return draw.choice(" -").join(part for part in parts if part)


def iban(draw: random.Random) -> str:
    country = draw.choice(_IBAN_LENGTHS.split())
    body = "".join(
        draw.choice(string.ascii_uppercase + string.digits) for _ in range(int(country[2:]) - 4)
    )
    number = int("".join(str(int(one, 36)) for one in body + country[:2] + "00"))
    whole = f"{country[:2]}{98 - number % 97:02d}{body}"
    spaced = " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))
    return draw.choice([whole, spaced])


def key_like(draw: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    body = base64.b64encode(draw.randbytes(90)).decode()
    title = draw.choice(
        ["RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"]
    )
    return draw.choice(
        [
            "AKIA" + some(draw, string.ascii_uppercase, 16),
            "AIza" + some(draw, ALNUM + "-_", 35),
            "ghp_" + some(draw, ALNUM, 36),
            "github_pat_" + some(draw, ALNUM, 22) + "_" + some(draw, ALNUM, 59),
            "glpat-" + some(draw, ALNUM, 20),
            f"xoxb-{digits(draw, 11)}-{digits(draw, 11)}-{some(draw, ALNUM, 24)}",
            "sk-" + some(draw, ALNUM, 20) + "T3BlbkFJ" + some(draw, ALNUM, 20),
            "sk-proj-" + some(draw, ALNUM + "-_", 74),
            "hf_" + some(draw, ALNUM, 34),
            "sk_live_" + some(draw, ALNUM, 24),
            "npm_" + some(draw, ALNUM, 36),
            f"{part({'alg': 'HS256'})}.{part({'sub': digits(draw, 8)})}.{some(draw, ALNUM, 43)}",
            f"-----BEGIN {title}-----\n{body}\n-----END {title}-----",
        ]
    )


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "e_mail": e_mail,
    "phone": phone,
    "ip": ip,
    "card_number": card_number,
    "iban": iban,
    "key_like": key_like,
}
WORDS = """
the of and report page 12 1,250 3.14 2021-03-04 10:45:30 v1.2.3 1.2.3.4 section 4.2.1.7 it's @user
a@b C++ x+1 (3) +5 $4,000.00 40/50 std::vector 2000::2 GB2312 ISO-8859-1 sk-learn high-end a_b_c
192.168.0.1 127.0.0.1 0x4F 978-3-16-148410-0 00:1B:44:11:3A:B7 4.5e10 eyJ Jan 5th, naïve 漢字 200
300 4000 1234567890 192837465564738291 logo@2x.png https://example.org/a-b?c=1234567890123 555-1234
123e4567-e89b-12d3-a456-426614174000 http://x.org/212-555-0123 -----BEGIN CERTIFICATE-----
"""
"""Words that are no items, alone and between separators."""


@pytest.mark.parametrize("kind", KINDS)
def test_planted_items_are_found_and_nothing_else(kind: str) -> None:
    draw, known = random.Random(kind), WORDS.split()
    texts, clean, planted = [], [], []
    for _ in range(1500):
        words = [draw.choice(known) for _ in range(draw.randint(0, 12))]
        places = sorted(draw.randint(0, len(words)) for _ in range(draw.randint(0, 3)))
        marked = list(words)
        for place in reversed(places):
            left, right = draw.choice([("", ""), ("(", ")"), ('"', '",'), ("：", "。"), ("<", ">")])
            words.insert(place, left + MAKERS[kind](draw) + right)
            marked.insert(place, left + KINDS[kind].placeholder + right)
        separator = draw.choice(["; ", "\n", " | "])
        texts.append(separator.join(words))
        clean.append(separator.join(marked))
        planted.append(len(places))
    assert sum(planted) > 1500
    counts = count_personal_data(large(texts))
    assert counts.column(kind).to_pylist() == planted
    for other in KINDS:
        assert other == kind or sum(counts.column(other).to_pylist()) == 0, other
    assert mask(large(texts)).to_pylist() == clean
    assert mask(large(texts), [kind]).to_pylist() == clean


PIECES = {
    "e_mail": [*"@@@.-_+%a9Zé ", "ab", "x.y", "com", ".org", ".png", "xn--", "a" * 63],
    "ip": [
        *"..:::0127af3 -_/vé",
        "255",
        "81.",
        "10.",
        "2001",
        "2a00:",
        "::",
        "db8",
        "192.168.",
        "ip:",
    ],
    "card_number": [
        *"0123456789  --.,/x_é",
        "4111",
        "1111",
        "378282",
        "36",
        "6011",
        "2221",
        "411111111111111",
    ],
    "phone": [*"+++()()..-- /1259xé@_", "212", "555", "0123", "+1", "+44", "+999", "1-"],
    "iban": [
        *"GBDENO0123456789 aZ_é",
        "GB82",
        " WEST",
        " 1234",
        " 5698",
        " 7654",
        " 32",
        "NO93",
        "8601",
        "1117947",
    ],
    "key_like": [
        *"aZ9_-. Jé\n",
        *(
            "AKIA",
            "ASIA",
            "ghp_",
            "glpat-",
            "xoxb-",
            "sk-",
            "sk-ant-",
            "hf_",
            "npm_",
            "AIza",
            "eyJ",
        ),
        *(
            "A7" * 8,
            "b3" * 18,
            "c1" * 24,
            "eyJhbGciOiJI",
            "-----",
            "BEGIN ",
            "END ",
            "RSA PRIVATE KEY",
        ),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(data=st.data())
def test_each_kind_is_what_its_definition_says(kind: str, data: st.DataObject) -> None:
    pieces = st.sampled_from(PIECES[kind]) | st.integers().map(
        lambda seed: MAKERS[kind](random.Random(seed))
    )
    texts = data.draw(st.lists(st.lists(pieces, max_size=14).map("".join), min_size=1, max_size=6))
    expected = [masked(text, kind, KINDS[kind].placeholder) for text in texts]
    assert mask(large(texts), [kind]).to_pylist() == expected


EXAMPLES = {
    "Write to Jo.Doe+x@mail.example.co.uk.": {"e_mail": 1},
    "mailto:a@example.com,b@example.org;": {"e_mail": 2},
    "邮箱abc@qq.com请": {"e_mail": 1},
    "a@b.c a@.com a..b@x.com a.@x.com @x.com a@x a@-x.com": {},
    "img@2x.PNG": {},
    "x" * 65 + "@example.com": {},
    "+1 212 555 0123 2024": {"phone": 1},
    "(212) 555-0123, 1 (212) 555-0123 or 212.555.0123": {"phone": 3},
    "112-555-0123 212-155-0123 212-555-01234 x212-555-0123 212-555-0123-A": {},
    "+44 (0)20 7946 0958, +86 132 8657 0704": {"phone": 2},
    "+1000000000 +999 1234 5678 +12 3": {},
    "8.8.8.8, 1.2.3.4, 10.20.30.40, 172.20.100.100, v93.184.216.34, 93.184.216.34-rc1": {},
    "http://93.184.216.34:80/ and 93.184.216.34.": {"ip": 2},
    "93.184.216.256 93.184.216.034 93.184.216.34.5": {},
    "[2606:2800:220:1:248:1893:25c8:1946] 2a00:1450:4001::200e": {"ip": 2},
    "fe80::1:2 2001:db8::1:2 12:34:56 a[2000::2]": {},
    "4111 1111 1111 1111 12/25": {"card_number": 1},
    "4111111111111112 0000000000000000 41111111111111110 4111 11111111 1111": {},
    "378282246310005 3782-822463-10005": {"card_number": 2},
    "GB82 WEST 1234 5698 7654 32, DE89370400440532013000": {"iban": 2},
    "GB82 WEST 1234 5698 7654 33 DE8937040044053201300 XX82WEST12345698765432": {},
    "key=AKIAIOSFODNN7EXAMPLE;": {"key_like": 1},
    "AKIAIOSFODNN7EXAMPL AKIAIOSFODNN7EXAMPLEX xAKIAIOSFODNN7EXAMPLE": {},
    "-----BEGIN PRIVATE KEY-----": {"key_like": 1},
    "-----BEGIN PUBLIC KEY-----\nMFww\n-----END PUBLIC KEY-----": {},
    "sk-" + "a" * 48: {},
}


@pytest.mark.parametrize("text", EXAMPLES, ids=[text[:40] for text in EXAMPLES])
def test_examples(text: str) -> None:
    assert counted(text) == EXAMPLES[text]


def test_a_private_key_is_masked_whole() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIC+/=\nabc\n-----END RSA PRIVATE KEY-----"
    texts = [f"a {key} b", f"{key}{key}", key[:-5] + " c", "-----BEGIN PRIVATE KEY-----\nMIIC"]
    assert mask(large(texts)).to_pylist() == [
        "a <KEY> b",
        "<KEY>-----BEGIN RSA PRIVATE KEY-----\nMIIC+/=\nabc\n-----END RSA PRIVATE KEY-----",
        "<KEY>\nMIIC+/=\nabc\n-----END RSA PRIVATE KEY c",
        "<KEY>\nMIIC",
    ]


def test_counting_and_masking_depend_on_neither_batch_nor_slice() -> None:
    texts = [*EXAMPLES, "", *EXAMPLES]
    counts = count_personal_data(large(texts))
    assert counts.schema.types == [pa.uint32()] * len(KINDS)
    assert not any(field.nullable for field in counts.schema)
    sliced = pa.array(["a@x.org", *texts, "a@x.org"], pa.string())[1:-1]
    assert count_personal_data(sliced).equals(counts)
    plain = mask(large(texts))
    assert mask(sliced).equals(plain) and plain.type == pa.large_string()
    assert mask(plain).equals(plain)
    assert plain.to_pylist() == [mask(large([text]))[0].as_py() for text in texts]
    columns = PersonalData()
    assert columns.compute(large(texts)).equals(counts)
    assert columns.config() == {"kinds": list(KINDS)}
    none = large([])
    assert mask(none).equals(none) and count_personal_data(none).num_rows == 0


def test_kinds_are_chosen() -> None:
    text = large(["a@x.org, 212-555-0123, 93.184.216.34"])
    assert mask(text, ["ip", "e_mail"]).to_pylist() == ["<EMAIL>, 212-555-0123, <IP>"]
    for wrong in (["e-mail"], []):
        with pytest.raises(RecipeError) as error:
            mask(text, wrong)
        assert error.value.key == "kinds"


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["a", None]),
        pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
        ),
    ],
    ids=["null", "damaged"],
)
def test_texts_are_checked(texts: pa.Array) -> None:
    for function in (count_personal_data, mask):
        with pytest.raises(InputError):
            function(texts)


HOSTILE = [
    "@",
    "a@",
    "a@a.",
    "@a.a",
    "1",
    "1 ",
    "1-",
    "+1",
    "+",
    "(2",
    "(200) ",
    "4111 ",
    "sk-",
    "sk-a1",
    "eyJ",
    "eyJaaaaaaaaaa.",
    "-",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    "-----END PRIVATE KEY",
    "2000:",
    "2000::",
    "1.1.",
    "111.111.111.111",
    "GB82",
    "AKIA",
    "xoxb-1",
    "a.",
    "é",
    "\x00",
    "_",
    "1,",
]


def test_time_is_linear_in_hostile_text() -> None:
    count_personal_data(large(["a"]))
    for piece in HOSTILE:
        text = large([piece * (2**19 // len(piece.encode()))])
        began = time.process_time()
        count_personal_data(text)
        spent = time.process_time() - began
        assert spent < 0.5, piece  # a quadratic search of 2^19 bytes takes minutes
