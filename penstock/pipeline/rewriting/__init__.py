"""Rewriting: the documents of a corpus to prompts, answers or edits, and a new corpus.

::

    answers.py    Rewrite, make_answers: prompts to answers of a language model, journalled
    edits.py      Edit, edit_unit: texts by a rewriter without a model, batch by batch
    documents.py  rewrite_corpus: answers or edits to documents with a parent
"""
