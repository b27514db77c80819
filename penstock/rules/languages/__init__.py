"""The language of each text: two columns, ``language`` and ``language_probability``.

::

    texts ─ Languages.compute ─► RecordBatch                        languages.py
              ├─ find_traits         how a text must be prepared    traits.py
              ├─ ByteModel           py3langid's model, or a file   byte_model.py
              │    classify_bytes    n-grams of bytes, naive Bayes
              └─ WordModel           a classifier of fastText       fasttext_model.py
                   classify_words    words and their n-grams
    ModelFile                        path, sha256 and library       model_file.py

The kernels are in :mod:`penstock.rules.kernels`.
"""

from penstock.rules.languages.languages import FIRST_BYTES, Languages

__all__ = ["FIRST_BYTES", "Languages"]
