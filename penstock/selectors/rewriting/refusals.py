"""Openers and refusals of assistants around a text.

Patterns are for English, the language of the prompts. Each requires words about the task
(rewritten, paraphrase, version), so that a text that begins "Here is how bread is made:" or "I
cannot remember such a summer" is not changed.
"""

from __future__ import annotations

import re

__all__ = ["refuses", "without_opener"]

_WORK = (
    r"(?:re-?writ|re-?phras|paraphras|re-?word|re-?stat|simplified|version\b|conversation\b"
    r"|questions?\s(?:and|&)\sanswers?)"
)
_OPENERS = re.compile(
    # "Sure!", "Of course, " before what follows
    r"(?:(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|gladly)"
    r"(?:\s*[!.:]\s*(?=\n)|\s*!\s*|\s*[.,:]\s*(?=here|below|the\s+following|i(?:['’]|\s)))"
    # "Here is a paraphrase of the text in simple words:"
    rf"|(?:here(?:['’]s|\s+(?:is|are))|below\s+(?:is|are))\b(?=[^:\n]{{0,200}}{_WORK})"
    r"[^:\n]{0,240}[:\n]"
    # "I have rewritten the text below:"
    rf"|(?:i(?:['’](?:ve|ll)|\s+(?:have|will))|the\s+following\s+is)\b"
    rf"(?=[^:\n]{{0,200}}{_WORK})[^:\n]{{0,240}}:[ \t]*\n"
    # "Paraphrase:", "**Rewritten text:**"
    r"|[*#\s_]{0,8}(?:the\s+)?(?:paraphrased?|rephrased|rewritten|reworded|simplified)"
    r"(?:\s+(?:text|paragraph|passage|version|article))?\s?(?:\*\*:|:\*\*|:)"
    r")\s*",
    re.IGNORECASE,
)
_CANNOT = (
    r"i(?:\s+(?:can(?:not|['’]t|\s+not)|am\s+(?:not\s+able|unable)\s+to|won['’]t|will\s+not"
    r"|do\s+not\s+feel\s+comfortable)|['’]m\s+(?:not\s+able|unable)\s+to)"
)
_DO = (
    r"(?:(?:help|assist)(?:\s+(?:you|with|in)\b|\s*[.,!]|\s*$)"
    r"|(?:fulfill?|comply|provide|re-?write|rephrase|paraphrase|create|generate|produce|process"
    r"|complete|continue|engage|do\s+(?:that|this))\b)"
)
_REFUSAL = re.compile(
    r"(?:i(?:['’]m|\s+am)\s+(?:very\s+|so\s+)?sorry|i\s+apologi[sz]e|my\s+apologies|sorry"
    r"|unfortunately)?[\s,.;:!]{0,4}(?:but\s+)?"
    rf"(?:as\s+an?\s+(?:ai|ai\s+assistant|(?:ai\s+)?language\s+model)\s*,\s*i\b"
    rf"|{_CANNOT}\b[^.\n]{{0,20}}?\b{_DO})",
    re.IGNORECASE,
)


def without_opener(text: str) -> str:
    """Strip a text, and remove an assistant's opener."""
    text = text.strip()
    while found := _OPENERS.match(text):
        text = text[found.end() :].strip()
    return text


def refuses(text: str) -> bool:
    """Return true where a text begins as a refusal."""
    return _REFUSAL.match(text.lstrip()) is not None
