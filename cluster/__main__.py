"""`python -m cluster`."""

import sys

from cluster.command import main

sys.exit(main())
