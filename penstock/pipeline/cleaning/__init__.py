"""Cleaning: which documents of a corpus are kept, before anything is scored.

::

    text_columns.py         TextColumn: what hangs on text alone, made in one pass over all texts
    settings.py             CleanSettings: a recipe's rules and condition, and the columns they read
    function_rule.py        FunctionRule: a user's function as a rule
    judging.py              judge: what every rule says of each document
    verdicts.py             make_pool: and duplicates -> the first reason of each document, a Pool
    fates.py                failed_rules, repeated_by, document_overlaps: about one document
    explaining.py           Explanations: the values that its verdicts compared
    minhash/                Signatures: hashes that near-duplicates share, a text column
    overlaps/               Overlaps: n-grams shared with evaluation files, a text column
    duplicates.py           make_components: near-duplicates of a corpus, from its signatures
    near_duplicates.py      fill_components: documents that are alike, by a shuffle of such hashes
    verified_duplicates.py  fill_verified: of these, documents whose texts are alike
    components.py           unite, large_star, small_star: connected components of edges
    choice.py               Choice: which of them stays, by a shuffle of components
    best_column.py          BestColumn: the column by which the best is chosen
    survivors.py            choose_survivors: the best that no other verdict excludes
    quarantine.py           Quarantine: files of records that cannot be read
"""
