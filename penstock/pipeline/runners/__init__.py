"""Runners: worker processes on this machine, tasks and actors on Ray.

::

    schedule.py      Schedule, drain: which item runs next, and what failures cost
    worker_pool.py   WorkerPool: what the schedule needs of a runner
    local.py         LocalRunner
    worker.py        Worker: a process and its pipe
    on_ray.py        RayRunner
    placement.py     Placement: room on a Ray cluster
    attempt.py       attempt: one call for one item, in a worker
    transient.py     is_transient: errors to retry
    shared_state.py  SharedState: arrays shared by the workers of a node
"""
