"""What does Airflow's dag processor need for a hundred models?

    var/env/airflow/bin/python benchmarks/dag_files.py [--models 100]

A copy of dags/, plugins/ and include/ gets copies of flight_delay's model.yml, and each DAG file is read as the dag
processor reads it, in a process of its own that has imported Airflow already. The figure is that process's CPU time,
the least of three. Prints a table; the exit code is 1 if the slowest file takes more than 1.5 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 1.5
ROUNDS = 3

READ = """
import sys, time
from pathlib import Path
project, file = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(project / "plugins"))
import airflow.sdk, airflow.providers.standard.operators.hitl, airflow.providers.standard.operators.trigger_dagrun
import airflow.serialization.serialized_objects
from airflow.dag_processing.dagbag import BundleDagBag
started = time.process_time()
bag = BundleDagBag(file, bundle_path=project / "dags", bundle_name="dags", load_op_links=False)
assert not bag.import_errors, bag.import_errors
print("RESULT", time.process_time() - started, len(bag.dags))
"""


def project_of(models: int, folder: Path) -> Path:
    """A copy of the project with that many models."""
    for part in ("dags", "plugins", "include"):
        shutil.copytree(CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    there = folder / "include" / "models"
    text = (there / "flight_delay" / "model.yml").read_text()
    for number in range(models - len(list(there.iterdir()))):
        (there / f"model_{number}").mkdir()
        (there / f"model_{number}" / "model.yml").write_text(
            text.replace("name: flight_delay\n", f"name: model_{number}\n", 1)
        )
    return folder


def read(project: Path, file: Path, home: Path) -> tuple[float, int]:
    """CPU seconds for one DAG file, and how many DAGs it has."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(project / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, str(project), str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    results = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not results:
        raise SystemExit(f"{file.name} can't be read:\n{done.stdout}{done.stderr}")
    return float(results[0][1]), int(results[0][2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    models = parser.parse_args().models
    slowest = 0.0
    print(f"{'file':<24}{'DAGs':>6}{'CPU seconds':>13}")
    with tempfile.TemporaryDirectory() as folder:
        project = project_of(models, Path(folder) / "project")
        for file in sorted((project / "dags").glob("*.py")):
            found = [read(project, file, Path(folder)) for _ in range(ROUNDS)]
            seconds = min(seconds for seconds, _ in found)
            slowest = max(slowest, seconds)
            print(f"{file.name:<24}{found[0][1]:>6}{seconds:>13.2f}")
    print(f"{models} models: at most {slowest:.2f} s a file (limit {LIMIT_SECONDS} s)")
    return 0 if slowest <= LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
