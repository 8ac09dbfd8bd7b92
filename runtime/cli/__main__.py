"""`python -m omnipam.runtime.cli`: the command, without its script."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
