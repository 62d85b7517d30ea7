"""``python -m proma_bench`` is the ``proma-bench`` command."""

import sys

from proma_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
