"""In a container of the profile `local`: the Airflow connection `azure_default` from the connection.json of localazure.

    python container_connection.py /var/azure/connection.json

It goes to Airflow's metadata database, where Airflow keeps it encrypted; no secret passes through the compose file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from local_azure import airflow_connection


def main(path: Path) -> int:
    """Import the connection, in place of an older one; the exit code of `airflow connections import`."""
    found = airflow_connection(json.loads(path.read_text()))
    found |= {"extra": json.dumps(found["extra"])}
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir="/dev/shm", delete=False) as file:
        json.dump({"azure_default": found}, file)
    try:
        return subprocess.run(["airflow", "connections", "import", "--overwrite", file.name], check=False).returncode
    finally:
        os.unlink(file.name)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
