"""Rewriting: the documents of a corpus to prompts, answers, and a new corpus.

::

    answers.py    Rewrite, make_answers: prompts to answers of a language model, journalled
    documents.py  rewrite_corpus: answers to documents with a parent
"""
