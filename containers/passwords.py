"""Writes the file of Airflow's SimpleAuthManager: the password of `admin`, from the environment."""

import json
import os
from pathlib import Path

Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).write_text(
    json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]})
)
