"""`python -m transportjax` is the command `transportjax`."""

import sys

from transportjax.cli import main

sys.exit(main())
