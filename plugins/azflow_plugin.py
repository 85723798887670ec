"""Tells Airflow of azflow: the link from a task to its remote run, and who is told of what a person ends. Airflow loads
this file at each start: light."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from azflow import listener
from azflow.runs import RunLink


class AzflowPlugin(AirflowPlugin):
    """azflow."""

    name = "azflow"
    operator_extra_links = [RunLink()]  # noqa: RUF012 - as Airflow declares it
    listeners = [listener]  # noqa: RUF012
