"""`import mltable` in jobs: Azure ML's own package where a job's environment has it, else localazure's.

That package (a .NET engine, and Azure behind it) isn't in the compute environment.
"""

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_here = Path(__file__).resolve().parents[1]
_real = PathFinder.find_spec("mltable", [path for path in sys.path if Path(path or ".").resolve() != _here])
if _real is not None and _real.loader is not None and _real.origin is not None:
    _module = importlib.util.module_from_spec(_real)
    sys.modules[__name__] = _module
    _real.loader.exec_module(_module)
else:
    from localazure_compute.mltable.api import *  # noqa: F403
