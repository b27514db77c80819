"""Checkpoints: the files from which a killed run resumes, at any number of workers.

::

    Checkpoints                  save, find, load                        saving.py
      ├─ CheckpointSchedule      minutes or tokens -> now, on all ranks  saving.py
      ├─ Folder                  the protocol of files and renames       folder.py
      │    └─ Committed          a checkpoint that is whole              folder.py
      │         └─ SignedManifest    its files, signed                   manifest.py
      ├─ Signer                  the user's key, directories to trust    signing.py
      ├─ VerifiedFiles           what may be read, compared as it is     verified.py
      ├─ Cursor                  its place in the data                   saving.py
      ├─ ParentCheckpoint        that of another run, to continue from   parent.py
      └─ Backend.save/.load      weights and optimiser                   ../backends/
"""
