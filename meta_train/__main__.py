"""`python -m meta_train` is the `meta-train` command."""

import sys

from meta_train.cli import main

sys.exit(main())
