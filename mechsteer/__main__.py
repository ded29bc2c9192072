"""`python -m mechsteer` is the command line."""

import sys

from mechsteer.cli import main

sys.exit(main())
