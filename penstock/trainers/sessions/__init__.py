"""Sessions: the processes that make the runs of a lane, one after another.

::

    local.py        on this machine: processes, without Ray
    on_ray.py       on a cluster, by Ray Train
    devices.py      train.device: on GPUs or not
    restarting.py   train.max_failures: a session again after a failure

:func:`~penstock.trainers.run.train_all` has one session for each lane of runs.
"""
