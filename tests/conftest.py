"""Before anything imports Airflow: a home of the tests' own, so that nobody's configuration or database is touched."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Not inherited: each of pytest-xdist's workers has its own.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="azflow-tests-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
