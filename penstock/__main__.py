"""``python -m penstock``: the command line where the console script is not on the path."""

from penstock.jobs.cli import main

if __name__ == "__main__":
    main()
