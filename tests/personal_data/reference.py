"""Slow definitions of each kind, with ``re`` and ``ipaddress``; one kind at a time."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from penstock.personal_data.tables import _CALLING_CODES, _IBAN_LENGTHS

__all__ = ["FINDERS", "find", "masked"]

Span = tuple[int, int]

IMAGES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico"}


def e_mails(text: str) -> Iterator[Span]:
    for found in re.finditer("@", text):
        at = found.start()
        local = re.search(r"[A-Za-z0-9._%+-]*\Z", text[:at])[0]
        if len(local) > 64:
            continue
        local = re.sub(r"\A[^A-Za-z0-9_]+", "", local)
        if not local or local.endswith(".") or ".." in local:
            continue
        domain = re.match(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*", text[at + 1 :])
        if not domain:
            continue
        labels, end, length = domain[0].split("."), 0, 0
        if any(len(label) > 63 for label in labels) or len(domain[0]) > 255:
            continue
        for number, label in enumerate(labels):
            if label.startswith("-") or label.endswith("-"):
                break
            length += len(label) + (number > 0)
            last = re.fullmatch(r"[A-Za-z]{2,}|[xX][nN]--.+", label)
            if number and last:
                end = 0 if label.lower() in IMAGES else at + 1 + length
        if end and text[end : end + 1] not in ("@", "_"):
            yield at - len(local), end


NETWORKS = [
    ipaddress.ip_network(one)
    for one in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]


def ips(text: str) -> Iterator[Span]:
    before = r"(?:(?<![A-Za-z0-9_.:])|(?<=[A-Za-z]:))"
    pattern = before + r"(\d{1,3}(?:\.\d{1,3}){3})(?![A-Za-z0-9_]|\.\d|-[A-Za-z])"
    for found in re.finditer(pattern, text, re.ASCII):
        try:
            address = ipaddress.IPv4Address(found[1])
        except ValueError:
            continue
        if len(found[1]) >= 11 and not any(address in network for network in NETWORKS):
            yield found.span(1)
    before = r"(?<![A-Za-z0-9_.:])"
    for found in re.finditer(before + r"([23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]*)", text, re.ASCII):
        candidate = found[1]
        if candidate.endswith(":") and not candidate.endswith("::"):
            continue
        end = found.end(1)
        if re.match(r"[A-Za-z0-9:]", text[end : end + 1]):
            continue
        try:
            address = ipaddress.IPv6Address(candidate)
        except ValueError:
            continue
        groups = len([one for one in candidate.split(":") if one])
        documented = address in ipaddress.ip_network("2001:db8::/32")
        if not documented and (groups == 8 or ("::" in candidate and groups >= 3)):
            yield found.span(1)


def luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


ISSUED = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|(222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|3[689]\d{12}|30[0-5]\d{11}|6011\d{12,15}|64[4-9]\d{13,16}|65\d{14,17}"
    r"|35(2[89]|[3-8]\d)\d{12,15}|62\d{14,17}"
)
LEFT = r"(?<![A-Za-z0-9_])(?<![A-Za-z0-9_][.\-+,])"
RIGHT = r"(?![A-Za-z0-9_@]|[.\-,/]\d)"
CARD_SHAPES = [
    *(rf"\d{{{count}}}" for count in range(13, 20)),
    *(rf"\d{{4}}{one}\d{{6}}{one}\d{{{last}}}" for one in " -" for last in (4, 5)),
    *(rf"(?:\d{{4}}{one}){{{most}}}\d{{1,4}}" for one in " -" for most in (3, 4)),
]
CARDS = [re.compile(rf"{LEFT}(?<!/){shape}(?!\d){RIGHT}", re.ASCII) for shape in CARD_SHAPES]


def cards(text: str) -> Iterator[Span]:
    at = 0
    while at < len(text):
        ends = []
        for shape in CARDS:
            found = shape.match(text, at)
            digits = re.sub(r"\D", "", found[0]) if found else ""
            if found and ISSUED.fullmatch(digits) and luhn(digits):
                ends.append(found.end())
        if ends:
            yield at, max(ends)
        at = max([*ends, at + 1])


LENGTHS = {one[:2]: int(one[2:]) for one in _IBAN_LENGTHS.split()}


def ibans(text: str) -> Iterator[Span]:
    for found in re.finditer(r"(?<![A-Za-z0-9_])([A-Z]{2})\d\d", text, re.ASCII):
        length = LENGTHS.get(found[1])
        if length is None:
            continue
        spaced = text[found.end() : found.end() + 1] == " "
        size = length + (length - 1) // 4 if spaced else length
        candidate = text[found.start() : found.start() + size]
        shape = r"[A-Z0-9]{4}( [A-Z0-9]{4})*( [A-Z0-9]{1,3})?" if spaced else r"[A-Z0-9]+"
        compact = candidate.replace(" ", "")
        if len(candidate) != size or len(compact) != length:
            continue
        if not re.fullmatch(shape, candidate) or re.match(
            r"[A-Za-z0-9_]", text[found.start() + size :]
        ):
            continue
        number = int("".join(str(int(one, 36)) for one in compact[4:] + compact[:4]))
        if number % 97 == 1:
            yield found.start(), found.start() + size


CODES = tuple(_CALLING_CODES.split())


def phones(text: str) -> Iterator[Span]:
    at = 0
    while at < len(text):
        end = _international(text, at) or _north_american(text, at)
        if end:
            yield at, end
        at = end or at + 1


def _international(text: str, at: int) -> int:
    if text[at] != "+" or (at and re.match(r"[A-Za-z0-9_+]", text[at - 1])):
        return 0
    whole = re.match(r"\+(?:[ \-./()]{0,2}\d)+", text[at:], re.ASCII)
    if not whole or text[at + 1] == "0":
        return 0
    ends = []
    for number in re.finditer(r"\d+", whole[0], re.ASCII):
        digits = re.sub(r"\D", "", whole[0][: number.end()])
        fits = len(digits) == 11 if digits[0] == "1" else 8 <= len(digits) <= 15
        if fits:
            ends.append(at + number.end())
    digits = re.sub(r"\D", "", whole[0])
    if not ends or not digits.startswith(CODES) or digits[0] == "0":
        return 0
    return 0 if re.match(r"[A-Za-z0-9_@]", text[ends[-1] :]) else ends[-1]


AREA = r"[2-9]\d\d"
NORTH = re.compile(
    LEFT
    + r"(?<!/)(?:1(?:[ \-./]|(?=\()))?"
    + rf"(?:{AREA}-{AREA}-\d{{4}}|{AREA}\.{AREA}\.\d{{4}}|{AREA} {AREA}-\d{{4}}"
    + rf"|\({AREA}\) ?{AREA}[-. ]\d{{4}})"
    + RIGHT
    + r"(?!-[A-Za-z0-9])",
    re.ASCII,
)


def _north_american(text: str, at: int) -> int:
    found = NORTH.match(text, at)
    return found.end() if found else 0


TOKENS = [
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"gh[pousr]_[A-Za-z0-9]{36,255}",
    r"github_pat_\w{82}",
    r"glpat-[A-Za-z0-9_-]{20,255}",
    r"xox[abeprs]-[A-Za-z0-9_-]{20,255}",
    r"sk-(?:proj|svcacct|ant)-[A-Za-z0-9_-]{40,255}",
    r"sk-[A-Za-z0-9]{48}",
    r"hf_[A-Za-z0-9]{34}",
    r"[sr]k_live_[A-Za-z0-9]{24,255}",
    r"npm_[A-Za-z0-9]{36}",
]
TOKEN = re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(TOKENS)})(?![A-Za-z0-9_-])", re.ASCII)
WEB_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_.-])(eyJ[A-Za-z0-9_-]{7,}\.){2}[A-Za-z0-9_-]{10,}", re.ASCII
)
TITLE = r"(?=[A-Z0-9 ]*PRIVATE KEY)[A-Z0-9 ]{11,39}-----"
PRIVATE = re.compile(rf"(?<!-)-----BEGIN {TITLE}(?:(?:(?!-----)(?s:.))*-----END {TITLE})?")


def keys(text: str) -> Iterator[Span]:
    at = 0
    while at < len(text):
        end = 0
        for pattern in (TOKEN, WEB_TOKEN, PRIVATE):
            found = pattern.match(text, at)
            if found and (
                pattern is not TOKEN
                or found[0].startswith("hf_")
                or re.search(r"\d", re.sub(r"\A[a-zA-Z]+[_-]?", "", found[0]))
                or re.search(r"\d", found[0][4:])
            ):
                end = max(end, found.end())
        if end:
            yield at, end
        at = end or at + 1


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "e_mail": e_mails,
    "phone": phones,
    "ip": ips,
    "card_number": cards,
    "iban": ibans,
    "key_like": keys,
}


def find(text: str, kind: str) -> list[Span]:
    """Return the items of one kind in order, without those that begin in one before."""
    spans: list[Span] = []
    for begin, end in sorted(FINDERS[kind](text)):
        if not spans or begin >= spans[-1][1]:
            spans.append((begin, end))
    return spans


def masked(text: str, kind: str, placeholder: str) -> str:
    pieces, last = [], 0
    for begin, end in find(text, kind):
        pieces += [text[last:begin], placeholder]
        last = end
    return "".join([*pieces, text[last:]])
