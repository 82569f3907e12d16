"""`python -m sharpcli` is `sharp`."""

import sys

from sharpcli.cli import main

sys.exit(main())
