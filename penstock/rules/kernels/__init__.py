"""Compiled loops over the bytes of one text, from which statistics are counted.

::

    count_texts          all texts of a batch                                texts.py
    ├─ classify          class of each character; words                      words.py
    ├─ count_lines       lines, paragraphs and their repetition              lines.py
    ├─ judge_line        C4's rules for lines, sentences                     c4_lines.py
    ├─ count_repetition  repeated n-grams                                    repetition.py
    └─ intern_spans      numbers for equal pieces of text                    spans.py

Every count is exact, whatever the hashes.
"""
