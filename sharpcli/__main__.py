"""`python -m sharpcli` is `sharp`."""

import sys

if not sys.flags.safe_path:  # -m puts the working directory first: a sklearn.py in it would be imported
    del sys.path[0]

from sharpcli.cli import main

sys.exit(main())
