"""Read every file once, in parallel, and hold what the rules need: a kilobyte a file, never a pixel."""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from swath.data.check.expect import Expect, infer
from swath.data.check.facts import Facts, Profile, Role, read_facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Layout, Member
from swath.data.check.lists import Legend

CHUNK = 32
FEW = 96
MANY = 256
Job = tuple[str, Role, float | None]
Progress = Callable[[int, int], None]


@dataclass
class Survey:
    """What the rules look at. `expects` per image group; `legend` None when nothing declares one."""

    layout: Layout
    facts: dict[str, Facts]
    expects: dict[str, Expect] = field(default_factory=dict[str, Expect])
    legend: Legend | None = None
    legend_from: str = ""
    ignore: frozenset[int] = frozenset()
    batch_size: int | None = None
    assumed: list[str] = field(default_factory=list[str])
    distances: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    labels: dict[str, Any] = field(default_factory=dict[str, Any])

    def images(self) -> dict[str, list[tuple[Member, Facts]]]:
        return self._of("image")

    def masks(self) -> dict[str, list[tuple[Member, Facts]]]:
        return self._of("label")

    def _of(self, role: Role) -> dict[str, list[tuple[Member, Facts]]]:
        out: dict[str, list[tuple[Member, Facts]]] = defaultdict(list)
        for m in self.layout.members:
            fact = self.facts.get(m.file)
            if m.role == role and fact is not None and fact.stats is not None:
                out[m.group].append((m, fact))
        return dict(out)


@dataclass(frozen=True)
class Check:
    """One rule: what it looks for, and how."""

    about: str
    run: Callable[[Survey], Iterator[Finding]]


def _quiet() -> None:
    """GDAL as this work wants it: no directory listing per open, one thread, errors as exceptions only."""
    import logging

    os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")
    os.environ.setdefault("GDAL_NUM_THREADS", "1")
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    import warnings

    warnings.filterwarnings("ignore", module="rasterio")


def _read_many(root: str, jobs: list[Job]) -> list[Facts]:
    import rasterio

    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE", GDAL_NUM_THREADS="1", GDAL_CACHEMAX=64):
        return [read_facts(root, *job) for job in jobs]


def read_all(root: Path, jobs: list[Job], workers: int, progress: Progress | None = None) -> dict[str, Facts]:
    """Facts per file. A file that kills its reader (a crash in a decoder) is named, not fatal."""
    _quiet()
    done: dict[str, Facts] = {}
    profiles: dict[Profile, Profile] = {}

    def take(found: Iterable[Facts]) -> None:
        for fact in found:
            if fact.profile is not None:
                fact.profile = profiles.setdefault(fact.profile, fact.profile)
            done[fact.file] = fact
        if progress is not None:
            progress(len(done), len(jobs))

    if workers <= 1 or len(jobs) <= FEW:
        for i in range(0, len(jobs), CHUNK):
            take(_read_many(str(root), jobs[i : i + CHUNK]))
        return done
    left = jobs
    while left:
        lost = _in_processes(root, left, workers, take)
        left = [j for j in left if j[0] not in done] if lost else []
        if lost:
            for job in lost:
                take([_alone(root, job)])
            left = [j for j in left if j[0] not in done]
    return done


def _in_processes(root: Path, jobs: list[Job], workers: int, take: Callable[[Iterable[Facts]], None]) -> list[Job]:
    """Work through the jobs with bounded queues; returns the jobs in flight when a worker died."""
    chunks = iter([jobs[i : i + CHUNK] for i in range(0, len(jobs), CHUNK)])
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        running: dict[Future[list[Facts]], list[Job]] = {}
        for chunk in itertools.islice(chunks, 3 * workers):
            running[pool.submit(_read_many, str(root), chunk)] = chunk
        while running:
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                try:
                    take(future.result())
                except BrokenProcessPool:
                    return [job for chunk in running.values() for job in chunk]
                running.pop(future)
                for chunk in itertools.islice(chunks, 1):
                    running[pool.submit(_read_many, str(root), chunk)] = chunk
    return []


def _alone(root: Path, job: Job) -> Facts:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        try:
            return pool.submit(_read_many, str(root), [job]).result()[0]
        except BrokenProcessPool:
            return Facts(job[0], error="reading the file kills the reader (a crash in the decoder)")


def survey_of(
    layout: Layout,
    expects: dict[str, Expect] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Survey:
    """Read the layout's files and infer what no card says."""
    given = expects or {}
    jobs: list[Job] = [(m.file, m.role, given[m.group].nodata if m.group in given else None) for m in layout.members]
    survey = Survey(layout, read_all(layout.root, jobs, workers, progress), dict(given), assumed=list(layout.assumed))
    _reconsider_roles(survey)
    _reconsider_classes(survey, layout.legend is not None)
    for group, pairs in survey.images().items():
        if group not in survey.expects:
            survey.expects[group] = infer(group, [f for _, f in pairs], survey.assumed)
    if layout.legend is not None:
        survey.legend, survey.legend_from = layout.legend, "the legend beside the data"
    return survey


def _reconsider_classes(survey: Survey, known: bool) -> None:
    """Whole numbers of many values, most of them in few files, are heights or counts, not classes."""
    for group, pairs in survey.masks().items():
        if group in survey.layout.numbered:
            for _, f in pairs:
                f.classes, f.continuous = None, True
            continue
        holders = Counter(v for _, f in pairs for v in f.classes or {})
        if known or len(holders) <= MANY:
            continue
        survey.assumed.append(f"{group}/: {len(holders)} whole numbers are a quantity, not classes")
        for _, f in pairs:
            f.classes, f.continuous = None, True


def _reconsider_roles(survey: Survey) -> None:
    """Two paired groups of unknown names: the one of single-band files of few whole numbers holds the labels."""
    groups = survey.images()
    if survey.masks() or len(groups) < 2:
        return
    multi = {m.key for pairs in groups.values() for m, f in pairs if f.profile and f.profile.bands > 1}
    for group, pairs in groups.items():
        single = all(f.profile and f.profile.bands == 1 and f.profile.dtype == "uint8" for _, f in pairs)
        few = all(float(f.column("max")[0]) < 64 for _, f in pairs)
        if single and few and len({m.key for m, _ in pairs} & multi) >= 0.5 * len(pairs):
            survey.assumed.append(f"{group}/ holds the labels (single-band, few whole numbers)")
            survey.layout.members = [replace(m, role="label") if m.group == group else m for m in survey.layout.members]
            jobs: list[Job] = [(m.file, "label", None) for m, _ in pairs]
            survey.facts |= read_all(survey.layout.root, jobs, 1)
