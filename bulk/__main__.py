"""`python -m bulk`."""

import sys

from bulk.command import main

sys.exit(main())
