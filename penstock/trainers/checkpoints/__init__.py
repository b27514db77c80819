"""Checkpoints: what a run goes on from after it was killed, at any number of workers.

::

    Checkpoints            when to save, what to go on from         saving.py
      ├─ Pace              minutes or tokens -> now, on every rank  pace.py
      ├─ Folder            the protocol of files and renames        folder.py
      │    └─ Committed    a checkpoint that is whole               folder.py
      ├─ Cursor            where in the data a checkpoint is        cursor.py
      └─ save/load_state   DeepSpeed's files, converted if need be  state.py
"""
