"""`python -m verify`."""

import sys

from verify import missing

with missing.told("verify"):
    from verify.cli import main

sys.exit(main())
