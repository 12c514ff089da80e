"""Jobs on as many workers as there are cores, each with one BLAS thread.

Large scans run in processes, because much of the work on small matrices holds Python's lock;
small ones, and those on a GPU, run in threads of this process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.scanning.jobs import Job
from analyzer.scanning.limits.units import LimitsJob
from analyzer.scanning.options import Options
from analyzer.scanning.trajectories.units import TrajectoryJob

if TYPE_CHECKING:
    from analyzer.scanning.compute import Outcome, Tools
    from analyzer.scanning.nulls import Nulls

AnyJob = Job | TrajectoryJob | LimitsJob

# Flops, roughly, from which on starting processes pays; each imports torch, about 2 s.
LARGE_SCAN = 5e9


@dataclass(frozen=True, slots=True)
class Progress:
    """Share of the estimated work that is done, 0…1, and what was just worked on."""

    fraction: float
    name: str


def run_jobs(
    jobs: Sequence[AnyJob],
    options: Options,
    nulls: Nulls,
    device: str,
    workers: int | None,
    report: Callable[[Progress], None],
) -> Iterator[Outcome]:
    """Outcomes as jobs finish; a job that kills its process when alone is given up as crashed."""
    if not jobs:
        return
    # Only now: a scan with nothing to do must not wait for torch.
    from analyzer.scanning.compute import Tools, crashed
    from analyzer.spectral import get_backend

    tools = Tools(options, get_backend(device), nulls)
    total, finished = sum(job.cost for job in jobs), 0.0
    workers = min(workers or _cores(), len(jobs))
    spread = tools.backend.device == "cpu" and workers > 1 and total > LARGE_SCAN
    left = list(jobs)
    while left:
        try:
            for job, outcomes in _run(left, tools, workers, spread):
                left.remove(job)
                finished += job.cost
                report(Progress(finished / total, outcomes[-1].unit.entry.row.name))
                yield from outcomes
        except BrokenProcessPool:
            if workers == 1:
                yield from (crashed(unit) for unit in left.pop(0).units)
            workers = 1


def _run(
    jobs: Sequence[AnyJob], tools: Tools, workers: int, spread: bool
) -> Iterator[tuple[AnyJob, list[Outcome]]]:
    """Jobs and their outcomes as they finish, at most one job a worker waiting."""
    from analyzer.scanning.compute import finish_job

    queue = iter(list(jobs))
    running: dict[Future[tuple[list[Outcome], Nulls]], AnyJob] = {}
    with _one_thread_each(), _pool(workers, spread) as pool:
        while True:
            while len(running) < 2 * workers and (job := next(queue, None)) is not None:
                running[pool.submit(finish_job, job, tools)] = job
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                outcomes, drawn = future.result()
                tools.nulls.add(drawn)
                yield running.pop(future), outcomes


@contextmanager
def _pool(workers: int, spread: bool) -> Iterator[Executor]:
    """Processes or threads, whose unfinished jobs are dropped and not waited for at the end."""
    if spread:
        context = multiprocessing.get_context("spawn")
        # After an interrupt nobody is left to release the queue's semaphores but the tracker,
        # which does so and complains: its warnings are read from the environment.
        os.environ.setdefault(
            "PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker"
        )
        pool: Executor = ProcessPoolExecutor(workers, context, _start_worker)
    else:
        pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """One BLAS thread a worker: more of them spin against each other."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    import torch
    from threadpoolctl import threadpool_limits

    import analyzer.scanning.compute  # noqa: F401  (only loaded libraries can be limited)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    threadpool_limits(1)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
