"""`python -m kit`."""

import sys

from verify import missing

with missing.told("kit"):
    from kit.cli import main

sys.exit(main())
