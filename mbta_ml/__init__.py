__version__ = "0.1.0"

import os
import sys

# else ONNX Runtime (1.32, on Linux) reports to Microsoft; it looks when it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if sys.argv[:1] == ["-m"]:  # `python -m mbta_ml.…` has begun
    from .commands import explain_library

    explain_library(sys.orig_argv)
