"""Jobs on as many workers as there are cores, each with one BLAS thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.scanning.jobs import Job
from analyzer.scanning.options import Options

if TYPE_CHECKING:
    from analyzer.scanning.compute import Outcome
    from analyzer.scanning.nulls import Nulls


@dataclass(frozen=True, slots=True)
class Progress:
    """Share of the estimated work that is done, 0…1, and what was just worked on."""

    fraction: float
    name: str


def run_jobs(
    jobs: Sequence[Job],
    options: Options,
    nulls: Nulls,
    device: str,
    workers: int | None,
    report: Callable[[Progress], None],
) -> Iterator[Outcome]:
    """Outcomes as jobs finish; one BLAS thread a worker, at most one job a worker waiting."""
    if not jobs:
        return
    # Only now: a scan with nothing to do must not wait for torch.
    import torch
    from threadpoolctl import threadpool_limits

    from analyzer.scanning.compute import Tools, run_job
    from analyzer.spectral import get_backend

    tools = Tools(options, get_backend(device), nulls)
    total, finished = sum(job.cost for job in jobs), 0.0
    workers = workers or _cores()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    queue = iter(jobs)
    running: dict[Future[list[Outcome]], Job] = {}
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < 2 * workers and (job := next(queue, None)) is not None:
                    running[pool.submit(_collect, run_job, job, tools)] = job
                if not running:
                    return
                ready, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    finished += running.pop(future).cost
                    outcomes = future.result()
                    report(Progress(finished / total, outcomes[-1].unit.entry.row.name))
                    yield from outcomes
        finally:
            for future in running:
                future.cancel()
            torch.set_num_threads(threads)


def _collect(run_job: Callable[..., Iterator[Outcome]], *args: object) -> list[Outcome]:
    return list(run_job(*args))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
