"""Reweighted training: losses of samples -> weights -> a weighted step, and a journal of weights.

::

    Reweighting         a step: score, weigh, train                 steps.py
      ├─ Samples        sequences or documents of a global batch    samples.py
      ├─ Reweighter     losses -> weights, in penstock.selectors.reweighting
      ├─ WeightJournal  Parquet files of losses and weights         journal.py
      └─ pack, unpack   a reweighter's arrays in a checkpoint       journal.py
"""
