"""Training data: from a step's number to batches without attention between documents.

::

    BatchPlan           step -> sequences of the global batch         plan.py
      ├─ DataPosition   sequences read of each source before          position.py
      ├─ Mixture        position -> source, by exact shares           order.py
      └─ permute        index in an epoch -> sequence                 order.py
    Loader              step -> this rank's micro-batches             loader.py
      ├─ ShardSet       sequence numbers -> tokens, documents         shards.py
      │    ├─ read_rows mapped rows -> arrays, in compiled code       reading.py
      │    └─ Spans     ids of the documents of sequences             shards.py
      └─ Batch          tokens and spans -> positions, labels, mask   batch.py

A *position* counts the sequences that a run reads, from 0; a *sequence* is a row of the shards; a
*span* is the part of a document within one sequence. :class:`~.plan.GlobalBatch` and
:class:`~.loader.LoadedStep` are what a step is made of, for all workers and for one.
"""
