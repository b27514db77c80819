"""Kernels: compiled loops over Arrow's buffers and arrays, and the models they read.

::

    texts -> numbers
    ├─ count_ngrams      SHA-256 buckets of n-grams (DSIR)                  hashed_ngrams.py
    ├─ NgramModel        log10 p of a Kneser-Ney model (CCNet)              ngram.py
    ├─ score_documents   fastText's sums over words and n-grams             fasttext_sums.py
    │    └─ look_up_document   words, hashes and rows                       fasttext_words.py
    ├─ train_inputs      fastText's supervised training                     fasttext_gradients.py
    ├─ WordPiece         BERT's token ids                                   wordpiece.py
    └─ count_distinct_words                                                 distinct_words.py

    vectors on the lattice -> choices
    ├─ fit_clusters      k-means                                            kmeans.py
    ├─ lazy_greedy       facility location                                  facility_location.py
    ├─ sinkhorn          entropic optimal transport (GOT-D)                 transport.py
    └─ rank_sample       ranks by each example (BETR)                       ranking.py

Every kernel returns the same bytes on any number of threads.
"""
