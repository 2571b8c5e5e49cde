__version__ = "0.1.0"

import sys

if sys.argv[:1] == ["-m"]:  # `python -m mbta_ml.…` has begun
    from .commands import explain_library

    explain_library(sys.orig_argv)
