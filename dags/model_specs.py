"""Reads every ``include/models/*/model.yml`` and fails, as an Airflow DAG import error, naming what is wrong in which.

Defines no DAG. Airflow keeps one import error a file and stops every DAG of a file that has one; if the check stood in
``nightly_retraining.py``, one bad model.yml would stop all models.
"""

from __future__ import annotations

from azflow.errors import SpecError
from azflow.specs import ModelSpec, find_specs

problems = []
for path in find_specs():
    try:
        ModelSpec.load(path)
    except SpecError as problem:
        problems.append(str(problem))
if problems:
    raise SpecError("airflow: models without a DAG", "", "\n" + "\n".join(problems))
