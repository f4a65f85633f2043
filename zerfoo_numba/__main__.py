"""python -m zerfoo_numba: the command line."""

import sys

from zerfoo_numba.cli import main

sys.exit(main())
