"""The driver of batch scoring, in a job: files to mini-batches, mini-batches to worker processes, results to a file.

    python -m localazure_compute.batch_driver --input FOLDER --output FOLDER --model FOLDER [--script score.py] ...

https://learn.microsoft.com/azure/machine-learning/how-to-batch-scoring-script. Work is given out by file; a worker is a
process of its own that calls `init()` once and `run(mini_batch)` for each of its mini-batches. Standard library only:
what the environment lacks, the user's script may lack as well.

Logs, as https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-batch-endpoints has them, below `logs/`:
`job_progress_overview.<time>.txt`, `user/error.txt`, `user/error/...`, `user/stdout/<node>/<process>.stdout.txt`,
`user/stderr/...`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import connection
from pathlib import Path

from localazure_compute import batch_mlflow, batch_tables, batch_worker
from localazure_compute.batch_worker import Options

_UNLIMITED = -1
_STOP_SECONDS = 2.0


class ScoringFailed(Exception):
    """The job ends as failed; the message says why."""


@dataclass
class MiniBatch:
    """Some files, scored by one call of `run`. `items` count as succeeded or failed: files, or rows of a table."""

    number: int
    files: list[str]
    items: int
    attempts: int = 0


@dataclass
class Worker:
    """A process, and what it is busy with."""

    node: int
    number: int
    process: multiprocessing.process.BaseProcess
    channel: connection.Connection
    ready: bool = False
    busy: MiniBatch | None = None
    deadline: float = float("inf")

    @property
    def name(self) -> str:
        return batch_worker.process_name(self.number)


@dataclass
class Progress:
    """What has been done so far."""

    batches: int = 0
    items: int = 0
    results: int = 0
    failed: int = 0
    retried: int = 0
    errors: list[str] = field(default_factory=list)


class Driver:
    """One batch scoring."""

    def __init__(self, options: Options, *, nodes: int, processes: int, batch_size: int, retries: int, timeout: float,
                 error_threshold: int, mini_batch_error_threshold: int = _UNLIMITED) -> None:  # fmt: skip
        self._options = options
        self._nodes = nodes
        self._processes = processes
        self._batch_size = batch_size
        self._retries = retries
        self._timeout = timeout
        self._error_threshold = error_threshold
        self._mini_batch_error_threshold = mini_batch_error_threshold
        self._failed_batches = 0
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[Worker] = []
        self._progress = Progress()

    def run(self, files: Sequence[str]) -> Progress:
        """Scores the files. ScoringFailed if nothing could be, or too much couldn't."""
        size = self._batch_size
        chunks = [list(files[first : first + size]) for first in range(0, len(files), size)]
        return self._score([MiniBatch(number, chunk, len(chunk)) for number, chunk in enumerate(chunks)])

    def run_pieces(self, pieces: Sequence[tuple[str, int]]) -> Progress:
        """As `run`, for the pieces of a table: (file, rows) each."""
        return self._score([MiniBatch(number, [file], rows) for number, (file, rows) in enumerate(pieces)])

    def _score(self, batches: list[MiniBatch]) -> Progress:
        count = min(self._nodes * self._processes, len(batches))
        items = sum(batch.items for batch in batches)
        _say(f"{items} {self.noun}(s), {len(batches)} mini-batch(es), {count} worker process(es) "
             f"on {self._nodes} node(s)")  # fmt: skip
        waiting = deque(batches)
        left = len(batches)
        try:
            self._workers = [self._start(number % self._nodes, number) for number in range(count)]
            while left:
                self._hand_out(waiting)
                for worker in self._heard():
                    left -= self._hear(worker, waiting)
                left -= self._stop_late(waiting)
        finally:
            self._end()
        if self._progress.results == 0:
            # https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-batch-endpoints
            raise ScoringFailed("No succeeded mini batch item returned from run(). Please check 'response: run()' in "
                                f"https://aka.ms/batch-inference-documentation.{self._last_error()}")  # fmt: skip
        return self._progress

    @property
    def noun(self) -> str:
        """What an item is."""
        return "row" if self._options.tabular else "file"

    def _start(self, node: int, number: int) -> Worker:
        ours, theirs = self._context.Pipe()
        # Not a daemon: a scoring script may start processes of its own.
        process = self._context.Process(target=batch_worker.work, args=(theirs, self._options, node, number))
        process.start()
        theirs.close()
        return Worker(node, number, process, ours)

    def _hand_out(self, waiting: deque[MiniBatch]) -> None:
        for worker in self._workers:
            if worker.ready and worker.busy is None and waiting:
                worker.busy = waiting.popleft()
                worker.busy.attempts += 1
                worker.deadline = time.monotonic() + self._timeout
                worker.channel.send((worker.busy.number, worker.busy.files))

    def _heard(self) -> list[Worker]:
        """The workers that said something or ended; waits until one did or one is late."""
        nearest = min((worker.deadline for worker in self._workers), default=float("inf"))
        pause = None if nearest == float("inf") else max(nearest - time.monotonic(), 0)
        by_channel = {worker.channel: worker for worker in self._workers}
        return [by_channel[each] for each in connection.wait(list(by_channel), pause) if each in by_channel]

    def _hear(self, worker: Worker, waiting: deque[MiniBatch]) -> int:
        """What a worker said; the number of mini-batches that are over with it."""
        try:
            message = worker.channel.recv()
        except (EOFError, ConnectionError):
            worker.process.join(_STOP_SECONDS)
            reason = f"the worker process ended with exit code {worker.process.exitcode}"
            if not worker.ready:
                raise ScoringFailed(f"init() was never over: {reason}; see logs/user/stderr.") from None
            return self._replace(worker, waiting, reason)
        match message:
            case ("ready",):
                worker.ready = True
                return 0
            case ("init failed", str(trace)):
                self._keep_error(f"init of {worker.name}", trace)
                raise ScoringFailed(f"init() of the scoring script failed:\n{trace}")
            case ("done", int(results)):
                batch, worker.busy, worker.deadline = worker.busy, None, float("inf")
                assert batch is not None
                return self._done(batch, results)
            case ("failed", str(trace)):
                batch, worker.busy, worker.deadline = worker.busy, None, float("inf")
                assert batch is not None
                return self._failed(batch, waiting, trace)
        raise AssertionError(message)

    def _stop_late(self, waiting: deque[MiniBatch]) -> int:
        now = time.monotonic()
        late = [worker for worker in self._workers if worker.deadline <= now]
        reason = f"run() took longer than the time-out of {self._timeout:.0f} s"
        return sum(self._replace(worker, waiting, reason) for worker in late)

    def _replace(self, worker: Worker, waiting: deque[MiniBatch], reason: str) -> int:
        """Ends a worker that can't go on, and starts another one in its place."""
        worker.process.kill()
        worker.process.join(_STOP_SECONDS)
        worker.channel.close()
        self._workers.remove(worker)
        over = self._failed(worker.busy, waiting, reason) if worker.busy is not None else 0
        self._workers.append(self._start(worker.node, worker.number))
        return over

    def _done(self, batch: MiniBatch, results: int) -> int:
        progress = self._progress
        progress.batches += 1
        progress.items += batch.items
        progress.results += results
        # Each returned element stands for one item that succeeded (the reference's words); more of them are welcome.
        missing = max(batch.items - results, 0)
        if missing:
            self._keep_error(f"mini-batch {batch.number}", f"run() returned {results} result(s) for {batch.items} "
                             f"{self.noun}(s): {missing} item(s) count as failed.")  # fmt: skip
        _say(f"mini-batch {batch.number}: {batch.items} {self.noun}(s), {results} result(s)")
        self._count(missing)
        return 1

    def _failed(self, batch: MiniBatch, waiting: deque[MiniBatch], why: str) -> int:
        last = why.strip().splitlines()[-1] if why.strip() else "no reason given"
        names = ", ".join(Path(file).name for file in batch.files)
        self._keep_error(f"mini-batch {batch.number} ({names}), attempt {batch.attempts}", why)
        if batch.attempts <= self._retries:
            self._progress.retried += 1
            _say(f"mini-batch {batch.number} failed ({last}): tried again, {self._retries - batch.attempts + 1} left")
            waiting.append(batch)
            return 0
        _say(f"mini-batch {batch.number} failed for good ({last})")
        self._progress.batches += 1
        self._progress.items += batch.items
        self._failed_batches += 1
        limit = self._mini_batch_error_threshold
        if limit != _UNLIMITED and self._failed_batches > limit:
            raise ScoringFailed(
                f"{self._failed_batches} mini-batch(es) failed, more than the mini_batch_error_threshold of {limit}; "
                f"the job is aborted.{self._last_error()}"
            )
        self._count(batch.items)
        return 1

    def _count(self, failed: int) -> None:
        self._progress.failed += failed
        if self._error_threshold != _UNLIMITED and self._progress.failed > self._error_threshold:
            raise ScoringFailed(
                f"{self._progress.failed} item(s) failed, more than the error_threshold of {self._error_threshold}; "
                f"the job is aborted.{self._last_error()}"
            )

    def _keep_error(self, what: str, text: str) -> None:
        self._progress.errors.append(f"{what}: {text.strip()}")
        folder = self._options.logs / "user" / "error"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(self._progress.errors):04d}.txt").write_text(f"{what}\n{text}\n")
        with (self._options.logs / "user" / "error.txt").open("a") as summary:
            summary.write(f"{what}: {text.strip().splitlines()[-1] if text.strip() else ''}\n")

    def _last_error(self) -> str:
        errors = self._progress.errors
        return f" The last error, of {len(errors)} in logs/user/error:\n{errors[-1]}" if errors else ""

    def _end(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.busy is None:
                worker.channel.close()  # ends its loop
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(_STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()


def listed(source: Path, recursive: bool = False) -> list[str]:
    """The files to score, in the order of their names. Folders inside a folder are looked into by parallel jobs only.

    https://learn.microsoft.com/azure/machine-learning/how-to-mlflow-batch#how-work-is-distributed-on-workers
    """
    if source.is_file():
        return [str(source)]
    if recursive:
        found = sorted(str(each) for each in source.rglob("*") if each.is_file())
        if not found:
            raise ScoringFailed(f"The input {source} holds no file.")
        return found
    files = sorted(str(each) for each in source.iterdir() if each.is_file())
    if folders := sum(each.is_dir() for each in source.iterdir()):
        _say(f"{folders} folder(s) inside the input are not looked into: nested folders aren't scored")
    if not files:
        raise ScoringFailed(f"The input {source} holds no file to score (files in nested folders don't count).")
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; its exit code."""
    given = _parser().parse_args(arguments)
    if os.environ.get("OMPI_COMM_WORLD_RANK", "0") != "0":
        # A job of several nodes is started once a node; the driver of the first one starts the workers of all.
        return 0
    logs = Path("logs").absolute()
    options = Options(
        script=given.script and Path(given.script).absolute(),
        model=given.model,
        output=Path(given.output).absolute(),
        logs=logs,
        logging_level=given.logging_level.upper(),
        keep=given.output_action == "append_row",
        arguments=tuple(given.arguments),
        tabular=given.tabular,
    )
    begun = time.monotonic()
    try:
        driver = Driver(
            options,
            nodes=given.nodes,
            processes=given.max_concurrency_per_instance,
            batch_size=given.mini_batch_size,
            retries=given.max_retries,
            timeout=given.timeout,
            error_threshold=given.error_threshold,
            mini_batch_error_threshold=given.mini_batch_error_threshold,
        )
        if given.tabular:
            keys = [key for key in given.partition_keys.split(",") if key]
            pieces = batch_tables.cut(Path(given.input), options.parts / "input", given.mini_batch_size, keys)
            progress = driver.run_pieces(pieces)
        else:
            files = listed(Path(given.input), given.recursive)
            if given.script is None:
                batch_mlflow.check_files(files)
            progress = driver.run(files)
    except (ScoringFailed, ValueError) as error:
        _say(f"batch scoring failed: {error}")
        return 1
    if options.keep:
        # An output that is a file is the file itself.
        folder = options.output.is_dir() or not given.output_is_file
        batch_worker.collect(options, options.output / given.output_file_name if folder else options.output)
    took = time.monotonic() - begun
    overview = (f"{progress.batches} mini-batch(es), {progress.items} {driver.noun}(s), {progress.results} result(s), "
                f"{progress.failed} failed item(s), {progress.retried} retry(s), {took:.1f} s")  # fmt: skip
    logs.mkdir(exist_ok=True)
    (logs / f"job_progress_overview.{datetime.now(UTC):%Y%m%d%H}.txt").write_text(overview + "\n")
    _say(f"batch scoring is over: {overview}")
    return 0


def _say(text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="localazure_compute.batch_driver")
    parser.add_argument("--input", required=True, help="a file, or a folder of files")
    parser.add_argument("--output", required=True, help="the folder for the results")
    parser.add_argument("--model", default="", help="the model's file or folder; none for a script that needs none")
    parser.add_argument("--script", help="init() and run(mini_batch); without one the model is an MLflow model")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--max-concurrency-per-instance", type=int, default=1)
    parser.add_argument("--mini-batch-size", type=int, default=10)
    parser.add_argument("--max-retries", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=30, help="seconds for one call of run()")
    parser.add_argument("--error-threshold", type=int, default=_UNLIMITED)
    parser.add_argument("--output-action", choices=("append_row", "summary_only"), default="append_row")
    parser.add_argument("--output-file-name", default="predictions.csv")
    parser.add_argument("--output-is-file", action="store_true", help="--output is the file for the results")
    parser.add_argument("--logging-level", default="info")
    parser.add_argument("--mini-batch-error-threshold", type=int, default=_UNLIMITED)
    parser.add_argument("--recursive", action="store_true", help="files in nested folders too")
    parser.add_argument("--tabular", action="store_true", help="the input is an MLTable, the mini-batch size in bytes")
    parser.add_argument("--partition-keys", default="", help="columns of the table, separated by commas")
    parser.add_argument("arguments", nargs="*", help="the script's own, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
