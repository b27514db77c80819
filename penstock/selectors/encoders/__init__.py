"""Text encoders: texts to unit vectors on a lattice of integers.

::

    make_encoder          a recipe's name -> an encoder               embedding.py
      ├─ SentenceEncoder  a sentence-transformers model               sentence.py
      ├─ StaticEncoder    one vector a token                          static.py
      │    └─ distil      its vectors, from a pool and TokenVectors   distillation.py
      │         └─ TokenVectors  a sentence encoder's vocabulary      distillation.py
      └─ HiddenEncoder    a hidden layer of a transformers model      hidden.py
    embed_texts           texts -> (n, d) int16 vectors               embedding.py
      └─ on_lattice       unit vectors -> integers, products exact    lattice.py
    EncoderName, load_encoder, contents_of                            embedding.py
"""
