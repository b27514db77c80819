"""Runners: worker processes on this machine, tasks and actors on Ray.

::

    schedule.py    Schedule, drain: which item runs next, what failures cost; WorkerPool
    local.py       LocalRunner
    worker.py      Worker: a process and its pipe; SharedState: arrays shared by those of a node
    on_ray.py      RayRunner
    placement.py   Placement: room on a Ray cluster
    counting.py    RayCounts: documents that its workers are through with, for progress lines
    attempt.py     attempt: one call for one item, in a worker; is_transient: errors to retry
"""
