"""``python -m penstock``: the command line where the console script is not on the path.

Python puts the current directory first in its module path for ``-m``. Others may be able to write
there, so it is taken out again, unless this package lies there.
"""

import sys
from pathlib import Path

_first, _own = Path(sys.path[0]).resolve(), Path(__file__).resolve().parents[1]
_safe = getattr(sys.flags, "safe_path", False)  # a flag from Python 3.11 on
if __name__ == "__main__" and _first != _own and not _safe:
    del sys.path[0]

from penstock.jobs.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
