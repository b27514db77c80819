"""Tokenizers for texts of strangers: no text gives the id of a control token.

A control token begins, ends, pads or divides sequences. A trainer would take its id in the middle
of a document for the end of it, so the letters of its name are encoded as letters, whatever the
``tokenizer.json`` says of them.

::

    tokenizer.json, tokenizer_config.json
      ├─ examined          a file that claims no more than it needs         examining.py, probing.py
      ├─ Definition        settings without dropout, truncation, padding   definition.py
      ├─ DeclaredTokens    control tokens of tokenizer_config.json         definition.py
      └─ end_of_text       the token that ends a text                      definition.py
           └─ text_settings    settings whose control tokens no text spells    hiding.py
                ├─ text_tokenizer   a tokenizers.Tokenizer of them             hiding.py
                └─ TextEncoder      ids of texts, by gigatoken where it agrees encoder.py
                     └─ find_encoder    which library encodes, by a check      fast.py
"""
