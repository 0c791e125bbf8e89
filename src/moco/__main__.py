"""`python -m moco`: the same as the `moco` command."""

import sys

from moco.cli.main import main

sys.exit(main())
