"""The driver as a program, with real worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPUTE = Path(__file__).resolve().parents[2] / "compute"
SCRIPT = """
import os, pathlib, time

def init():
    global model
    model = (pathlib.Path(os.environ["AZUREML_MODEL_DIR"]) / "m.txt").read_text()
    print("init in", os.getpid())

def shutdown():
    print("shut down")

def run(mini_batch):
    time.sleep(0.2)
    return [f"{model} {pathlib.Path(each).name} {os.getpid()}" for each in mini_batch]
"""


class Job:
    """A job's working directory, with a model and an input of numbered files."""

    def __init__(self, folder: Path, files: int = 6) -> None:
        self.folder = folder
        for name in ("input", "output", "model"):
            (folder / name).mkdir()
        (folder / "model" / "m.txt").write_text("model")
        for number in range(files):
            (folder / "input" / f"{number}.txt").write_text(str(number))

    def run(self, script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "score.py").write_text(script)
        argv = ["--input", "input", "--output", "output", "--model", "model/m.txt", "--script", "score.py", *options]
        return subprocess.run(
            [sys.executable, "-m", "localazure_compute.batch_driver", *argv],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(COMPUTE), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def lines(self, name: str = "predictions.csv") -> list[str]:
        return (self.folder / "output" / name).read_text().splitlines()

    def log(self, pattern: str) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / "logs").glob(pattern)))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_mini_batches_are_scored_by_as_many_processes_as_asked_and_written_in_order(job: Job) -> None:
    done = job.run(
        SCRIPT, "--mini-batch-size", "2", "--max-concurrency-per-instance", "3", "--output-file-name", "p.csv"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in job.lines("p.csv")]
    assert [row[:2] for row in rows] == [["model", f"{number}.txt"] for number in range(6)]
    assert len({row[2] for row in rows}) == 3
    assert "3 worker process(es)" in done.stdout
    said = job.log("user/stdout/node0/*")
    assert (said.count("init in"), said.count("shut down")) == (3, 3)
    assert "6 file(s), 6 result(s), 0 failed item(s)" in job.log("job_progress_overview.*.txt")
    assert not (job.folder / ".parts").exists()


def test_of_several_nodes_only_the_first_one_drives(job: Job) -> None:
    options = ("--nodes", "2", "--mini-batch-size", "3")
    assert job.run(SCRIPT, *options, OMPI_COMM_WORLD_RANK="1").returncode == 0
    assert not list((job.folder / "output").iterdir())
    assert job.run(SCRIPT, *options, OMPI_COMM_WORLD_RANK="0").returncode == 0
    assert len(job.lines()) == 6
    assert job.log("user/stdout/node1/process001.stdout.txt").startswith("init in")


def test_rows_of_a_table_are_separated_by_blanks_without_header(job: Job) -> None:
    script = """
class Frame:  # what pandas' DataFrame has
    def to_csv(self, sep, header, index, lineterminator):
        assert (header, index) == (False, False)
        return f"a.txt{sep}1{lineterminator}"
    def __len__(self): return 1

def run(mini_batch): return Frame()
"""
    assert job.run(script, "--mini-batch-size", "1").returncode == 0
    assert job.lines() == ["a.txt 1"] * 6


def test_a_parallel_job_has_arguments_nested_files_and_an_output_that_is_a_file(job: Job) -> None:
    (job.folder / "input" / "deep").mkdir()
    (job.folder / "input" / "deep" / "6.txt").write_text("6")
    script = """
import argparse, pathlib
def init():
    global options
    parser = argparse.ArgumentParser()
    parser.add_argument("--word")
    options, _ = parser.parse_known_args()
def run(mini_batch):
    return [f"{options.word} {pathlib.Path(each).name}" for each in mini_batch]
"""
    options = ["--recursive", "--output", "output/rows.txt", "--output-is-file", "--", "--word", "a b"]
    assert job.run(script, *options).returncode == 0
    assert job.lines("rows.txt") == [f"a b {number}.txt" for number in range(7)]


def test_too_many_mini_batches_that_fail_end_a_parallel_job(job: Job) -> None:
    script = "def run(mini_batch): raise ValueError('no such thing')"
    options = ("--mini-batch-size", "1", "--max-retries", "0", "--mini-batch-error-threshold", "1")
    done = job.run(script, *options)
    assert done.returncode == 1
    assert "2 mini-batch(es) failed, more than the mini_batch_error_threshold of 1" in done.stdout
    assert "no such thing" in done.stdout


def test_a_mini_batch_that_fails_is_tried_again_and_leaves_nothing_twice(job: Job) -> None:
    script = """
import pathlib
def run(mini_batch):
    for each in map(pathlib.Path, mini_batch):
        tried = each.with_suffix(".tried")
        if each.name == "3.txt" and not tried.exists():
            tried.touch()
            raise ValueError("not at the first time")
    return [pathlib.Path(each).name for each in mini_batch]
"""
    done = job.run(script, "--mini-batch-size", "2", "--max-retries", "1")
    assert done.returncode == 0, done.stdout
    assert job.lines() == [f"{number}.txt" for number in range(6)]
    assert "tried again, 1 left" in done.stdout
    assert "not at the first time" in job.log("user/error.txt")


def test_more_failures_than_the_threshold_abort_the_job_and_fewer_do_not(job: Job) -> None:
    script = """
def run(mini_batch):
    if any(each.endswith(("0.txt", "1.txt")) for each in mini_batch): raise ValueError("bad file")
    return mini_batch
"""
    options = ("--mini-batch-size", "1", "--max-retries", "0")
    assert job.run(script, *options, "--error-threshold", "2").returncode == 0
    assert len(job.lines()) == 4
    aborted = job.run(script, *options, "--error-threshold", "1")
    assert aborted.returncode == 1
    assert "2 item(s) failed, more than the error_threshold of 1" in aborted.stdout
    assert "ValueError: bad file" in aborted.stdout
    nothing = job.run("def run(mini_batch): return []", *options)
    assert nothing.returncode == 1
    assert "No succeeded mini batch item returned from run()" in nothing.stdout


def test_a_late_or_dead_worker_is_replaced(job: Job) -> None:
    script = """
import os, time
def run(mini_batch):
    if mini_batch[0].endswith("1.txt"): time.sleep(600)
    if mini_batch[0].endswith("2.txt"): os._exit(9)
    return mini_batch
"""
    done = job.run(script, "--mini-batch-size", "1", "--max-retries", "0", "--timeout", "1")
    assert done.returncode == 0, done.stdout
    assert len(job.lines()) == 4
    assert "longer than the time-out of 1 s" in job.log("user/error/*")
    assert "ended with exit code 9" in job.log("user/error/*")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "def init(): raise RuntimeError('no model')\ndef run(mini_batch): return mini_batch",
            "RuntimeError: no model",
        ),
        ("import os\ndef init(): os._exit(3)\ndef run(mini_batch): return mini_batch", "init() was never over"),
        ("def score(mini_batch): return mini_batch", "has no function run(mini_batch)"),
        ("def run(mini_batch): return 5", "must return a pandas DataFrame or an array; it returned int"),
    ],
)
def test_a_script_that_cannot_run_fails_the_job_by_its_own_words(job: Job, script: str, message: str) -> None:
    done = job.run(script, "--max-retries", "0")
    assert done.returncode == 1
    assert message in done.stdout


def test_what_the_input_must_hold(job: Job) -> None:
    (job.folder / "input" / "nested").mkdir()
    done = job.run("def run(mini_batch): return mini_batch")
    assert "1 folder(s) inside the input are not looked into" in done.stdout
    assert len(job.lines()) == 6
    for file in (job.folder / "input").glob("*.txt"):
        file.unlink()
    assert "holds no file to score" in job.run("def run(mini_batch): return mini_batch").stdout


def test_results_that_the_script_writes_itself_are_left_to_it(job: Job) -> None:
    script = """
import os, pathlib
def run(mini_batch):
    (pathlib.Path(os.environ["AZUREML_BI_OUTPUT_PATH"]) / f"{os.getpid()}.txt").write_text("mine")
    return mini_batch
"""
    assert job.run(script, "--output-action", "summary_only").returncode == 0
    assert [path.suffix for path in (job.folder / "output").iterdir()] == [".txt"]
