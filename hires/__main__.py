"""`python -m hires VERB …`, as srun and torchrun start it."""

import sys

from hires.cli import main

sys.exit(main())
