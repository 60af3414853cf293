"""`python -m nm2trt` is the `nm2trt` command."""

import sys

from nm2trt.cli import main

sys.exit(main())
