"""One AutoML job: `python -m localazure_compute.automl <plan.json>`. Events go to a file, words to the log."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.job import Job


def job_of(plan: dict[str, Any]) -> Job:
    """The task's job."""
    if plan["task"] == "Forecasting":
        from localazure_compute.automl.forecasting import ForecastingJob

        return ForecastingJob(plan)
    from localazure_compute.automl.tabular import TabularJob

    return TabularJob(plan)


def main() -> int:
    """The exit code: 0, or 1 after an event `failed`."""
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    job = job_of(json.loads(Path(sys.argv[1]).read_text()))
    try:
        job.run()
    except SearchError as error:
        job.say(str(error))
        job.tell("failed", message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
