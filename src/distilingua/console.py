"""What a run prints: one console, one kind of table."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table


class Printer(Console):
    """Prints, and writes what it printed to the log of the run that goes on, if there is one."""

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)  # text of users may hold anything, "[/b]" included
        self._log: Console | None = None

    @contextmanager
    def logged(self, file: Path) -> Iterator[None]:
        """Keeps a copy of what is printed; bars of progress are none of it."""
        with file.open("a", encoding="utf-8") as lines:
            self._log = Console(file=lines, markup=False, highlight=False, width=120)
            try:
                yield
            finally:
                self._log = None

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if self._log is not None:
            self._log.print(*objects, **options)

    def steps(self, some: range, title: str, every_seconds: float = 60) -> Iterator[int]:
        """A bar while they are gone through; where the output is no terminal, a line now and then.

        Args:
            title: "" for neither.
            every_seconds: between two lines.
        """
        if self.is_terminal or not title:
            yield from track(some, title, transient=True, disable=not title, console=self)
            return
        began = told = time.perf_counter()
        for done, step in enumerate(some):
            yield step
            now = time.perf_counter()
            if now - told >= every_seconds:
                told, left = now, (now - began) / (done + 1) * (len(some) - done - 1)
                self.print(f"{title}: {done + 1} of {len(some)} batches, {timedelta(seconds=round(left))} left")

    def print_whole(self, table: RenderableType) -> None:
        """A table of numbers with all its digits: in a narrow terminal its lines wrap, where rich would cut columns."""
        narrow = self._width
        everything = self.options.update(max_width=1000)
        self.width = max(self.width, Measurement.get(self, everything, table).maximum)
        try:
            self.print(table)
        finally:
            self._width = narrow


console = Printer()


def plain_table(title: str | None, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table that stays readable in a terminal of 80 columns: columns of words, then columns of numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in words:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def quieten() -> None:
    """Leaves out what libraries say about every ordinary run, and bars that only flash by."""
    import datasets  # both are slow to import, and a refusal needs neither
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # a new head is reported as "missing", and it should be new
    if not console.is_terminal:
        datasets.disable_progress_bars()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # batches are built in the main process on purpose: for short texts that is faster than workers
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # it is, by way of the data module's state
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # of a small corpus, the curves are short; every epoch has its dev scores all the same
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
