"""Trainers: shards to a trained model under a token budget.

::

    RunSpec (train, shards, seed, evaluations)
      └─ train_all              runs and evaluations, found or made  run.py, spec.py
           └─ sessions          each for a lane of runs           sessions/
                └─ run_one      train, save, commit, evaluate          worker.py
                     ├─ Group       rank, workers, device, collectives group.py
                     ├─ Engine      optimiser steps                    engine.py
                     │    ├─ Backend        losses -> updated weights  backends/
                     │    ├─ BatchPlan      step -> sequences          data/plan.py
                     │    ├─ Loader         step -> isolated batches   data/loader.py
                     │    │    └─ ShardSet  sequence -> token views    data/shards.py
                     │    ├─ LanguageModel  batch -> summed loss       modelling/
                     │    ├─ Reweighting    losses -> weighted step    reweighting/
                     │    └─ learning_rate  tokens -> rate             schedule.py
                     ├─ Checkpoints save, and resume after a kill      checkpoints/
                     ├─ BranchPoint where another run is continued     branches.py
                     ├─ NotFinitePolicy  steps that update nothing     not_finite.py
                     ├─ MetricsLog  JSON lines and TensorBoard         metrics.py
                     │    └─ SpikeWatch     losses far above the last  spikes.py
                     └─ RunEvaluator  during a run and after it         evaluation/
"""
