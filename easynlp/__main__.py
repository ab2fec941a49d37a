"""``python -m easynlp`` and ``torchrun -m easynlp train ...``."""

import sys

from easynlp.cli import main

if __name__ == "__main__":
    sys.exit(main())
