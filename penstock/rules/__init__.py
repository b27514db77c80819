"""Rules that exclude documents: texts to columns, columns to verdicts.

::

    texts ─ count_statistics ─► counts, uint32 ─ RuleSet.judge ─► Verdicts, one uint64 a document
              statistics.py      │                 rule.py
              kernels/           a column of text   ├─ gopher_quality.py, gopher_repetition.py
              characters.py      alone              ├─ gopher.py        both
                                                    ├─ c4.py
                                                    └─ fineweb.py
    Languages            texts -> language and its probability              languages/
    Expression           one line of a recipe over any columns -> bool      expressions/
    rule_sets            names and parameters of a recipe -> sets           registry.py
    counting_for         sets -> what statistics must count                 rule.py

A changed threshold judges anew and reads no text. To add a set, write a file with a subclass of
``RuleSet``. Nothing here knows Ray, storage or selectors.
"""

from penstock.rules.expressions import Expression
from penstock.rules.languages import Languages
from penstock.rules.registry import built_in, rule_sets
from penstock.rules.rule import Rule, RuleSet, Verdicts, counting_for
from penstock.rules.statistics import FIELDS, Counting, count_statistics, schema

__all__ = [
    "FIELDS",
    "Counting",
    "Expression",
    "Languages",
    "Rule",
    "RuleSet",
    "Verdicts",
    "built_in",
    "count_statistics",
    "counting_for",
    "rule_sets",
    "schema",
]
