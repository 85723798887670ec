"""Cancels what runs and no task waits for any more (Azure ML jobs, notebook runs, Spark batches, SQL requests), on
every connection that a model uses.

Runs every hour and by hand; with ``only_report`` it cancels nothing.
"""

from __future__ import annotations

import re
from datetime import timedelta

from airflow.sdk import DAG, Param

from azflow.connection import DEFAULT_CONNECTION
from azflow.orphans import OrphanSweepOperator
from azflow.specs import find_specs

# One key of each model.yml; model_specs.py says what is wrong with the rest.
named = (re.search(r"^connection:\s*['\"]?([\w.-]+)", path.read_text(encoding="utf-8"), re.M) for path in find_specs())
connections = {found[1] if found else DEFAULT_CONNECTION for found in named}

with DAG(
    "housekeeping",
    description="Cancels remote runs that nobody waits for; names old deployments and data assets",
    schedule="35 * * * *",
    catchup=False,
    max_active_runs=1,
    tags={"azflow", "housekeeping"},
    doc_md=__doc__,
    default_args={"owner": "azflow", "retries": 2, "retry_delay": timedelta(minutes=2)},
    params={"only_report": Param(False, type="boolean", title="Only report", description="Cancel nothing.")},
) as dag:
    for connection in sorted(connections) or [DEFAULT_CONNECTION]:
        OrphanSweepOperator(task_id=f"sweep_{connection}", conn_id=connection, only_report="{{ params.only_report }}")
