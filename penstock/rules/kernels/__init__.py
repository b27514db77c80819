"""Compiled loops over the bytes of one text: statistics, languages.

::

    count_texts          all texts of a batch                                texts.py
    ├─ classify          class of each character; words                      words.py
    ├─ count_lines       lines, paragraphs and their repetition              lines.py
    ├─ judge_line        C4's rules for lines, sentences                     c4_lines.py
    ├─ count_repetition  repeated n-grams                                    repetition.py
    └─ intern_spans      numbers for equal pieces of text                    spans.py
    find_traits          case, letters, composed characters; the first bytes traits.py
    classify_bytes       n-grams of bytes by an automaton, naive Bayes       byte_ngrams.py
    classify_words       words and their n-grams by a model of fastText      subwords.py

Every count of statistics is exact, whatever the hashes.
"""
