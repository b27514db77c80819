"""The engine: input files to shards, through immutable artefacts.

A document's way, with the function or class of each step, its input -> output, and its file::

    make_corpus         input files -> units of documents             corpus.py
      ├─ find_inputs      recipe -> Input, and what is left out       reading/finding.py
      ├─ hash_inputs      Input -> Input with the hash of its bytes   reading/inputs.py
      ├─ plan_splits      Input -> Split of InputPiece                reading/splits.py
      ├─ read_batches     InputPiece -> ParsedBatch                   reading/readers.py
      └─ UnitWriter       documents -> units of about 64 MiB          units.py
    make_pool           corpus -> Pool: the documents that are kept   cleaning/verdicts.py
      ├─ make_text_columns  texts -> statistics of each document      cleaning/text_columns.py
      └─ make_components  signatures -> documents that are alike      cleaning/duplicates.py
    rewrite_corpus      pool -> corpus of rewritten documents         rewriting/documents.py
      └─ make_answers     prompts -> answers of a language model      rewriting/answers.py
    make_columns        pool -> a float32 score for each document     columns.py
      ├─ Models.fitted    sample and targets -> fitted selector       scoring/models.py
      ├─ make_embeddings  texts -> int16 vectors                      scoring/models.py
      ├─ score_sets       partitions of vectors -> scores             scoring/sets.py
      └─ score_means      scores -> means by source or length         scoring/means.py
    make_tokenizer      pool -> tokenizer.json                        tokenizer.py
    make_cut            columns -> the documents of the budget        cut.py
      ├─ quotas_of        budget and shares -> Quota                  cutting/budget.py
      ├─ make_orders      scores -> sort keys                         cutting/ordering.py
      ├─ search_budget    sort keys and quotas -> Cutoff in tokens    cutting/search.py
      │    └─ TokenStore  candidates -> their tokens                  tokens.py
      └─ write_units      cutoffs -> rows of the cut                  cut.py
    make_shards         cut and tokens -> packed sequences            shards.py

What all stages use::

    runner.py       Runner: a function over items, in parallel        runners/
    units.py        Unit: about 64 MiB of documents
    repeated_ids.py count_repeated_ids: documents whose id another one has
    repeated_examples.py  two of them, by their files: equal texts, or ids given twice
    pool.py         Pool: a corpus and the rows that are kept
    samples.py      sample_documents: a sample of a pool, drawn by hash
    pages.py        read_texts: texts of a unit by row, a page at a time
    shuffle.py      Shuffle: rows from tasks to tasks, by group
    grouped.py      files of rows: scores, and the scratch of a shuffle
    checking.py     check_sum: counts that add up, before an artefact is published
                    check_files: an artefact that was found, against its records
                    call_plugin: errors of plug-ins get the recipe's key and the documents
    edited_code.py  edited_lines: modules that were edited since they made an artefact
    plug_in_checks.py  check_sendable: plug-ins that workers can get
                    check_facts: what a fit reports, for JSON
"""
