"""Evaluation: of a model in training, of a saved model, and by document of the training data.

::

    RunEvaluator                during a run, and of a finished one    run_evaluator.py
      ├─ evaluate               evaluations -> Scores                  evaluator.py
      │    ├─ example_nats      examples -> nats of texts and choices  examples.py
      │    ├─ tree_reader       trees of tokens -> nats                run_evaluator.py
      │    └─ ExampleScores     nats -> metrics of each example        scores.py
      ├─ write_document_losses  shards -> nats of every document       documents.py
      └─ Measurement            both are artefacts of their own        artefacts.py
"""
