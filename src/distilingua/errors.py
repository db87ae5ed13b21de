"""The one exception a user is meant to read, and the few ways of saying what a value should have been."""

from __future__ import annotations

import errno
import math
import os
import re
import signal
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import MissingMandatoryValue


class UserError(CompactHydraException, ValueError):
    """Something the user gave cannot work. The message says what was given, what was expected, what to type instead.

    A message may have several lines, one for every problem. Hydra prints a `CompactHydraException` as its message
    alone, without a traceback, and exits with status 1. Passwords in addresses are left out of it.
    """

    def __init__(self, told: str) -> None:
        super().__init__(masked(told))


class NumberError(UserError):
    """A model computed something that is not finite.

    Args:
        rows: numbers of the rows, where their names are not known yet.
    """

    def __init__(self, told: str, rows: Sequence[int] = ()) -> None:
        super().__init__(told)
        self.rows = list(rows)


class Stopped(SystemExit):
    """A signal ended the command. The exit code says which, as a shell has it: 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self, number: int, told: str) -> None:
        super().__init__(told)
        self.code = 128 + number


STOPS = [signal.SIGTERM, *(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))]
"""What asks a command to end, beside Ctrl-C: `kill`, a closed terminal, a cluster whose time is up."""


def stop(number: int, frame: Any = None) -> None:
    """Handles such a signal outside of training, which saves and says how to go on."""
    raise Stopped(number, "\nInterrupted. What was finished is kept: distilingua resume goes on from there.")


def refuse(*problems: str | None) -> None:
    """Raises UserError with all of these problems, a line each; None is no problem."""
    told = [problem for problem in problems if problem]
    if told:
        raise UserError("\n".join(dict.fromkeys(told)))


class Problems:
    """Collects what is refused inside `with problems:`, any number of times, so that all of it is told at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind: Any, raised: BaseException | None, trace: TracebackType | None) -> bool:
        error = as_user_error(raised)
        if error is not None:
            self.found += str(error).splitlines()
        # an error that is ours may be what comes of a value that was refused already
        return error is not None or (bool(self.found) and isinstance(raised, Exception))

    def tell(self) -> None:
        """Raises UserError if anything was collected; of what is said of one key, the last."""
        refuse(*{told.partition("=")[0] if re.match(r"[\w.]+=", told) else told: told for told in self.found}.values())


def masked(text: str) -> str:
    """Text without what stands before the host in addresses: a tracking server's user and password."""
    return re.sub(r"://[^/\s'\"]*@", "://***@", text)


def as_user_error(raised: BaseException | None, key: str = "") -> UserError | None:
    """What a user should read of it; None for an error that is ours.

    Args:
        key: what was made, for plain values, which do not know where they stood in a configuration.
    """
    if isinstance(raised, MissingMandatoryValue):
        key = str(raised).rpartition(": ")[2].splitlines()[0]
        return UserError(f"{key} is not set, and this choice of files needs it. Add {key}=…")
    if isinstance(raised, InstantiationException):  # Hydra wraps what a constructor raises
        _, at, place = str(raised).rpartition("full_key: ")
        cause, place = raised.__cause__, place if at else key
        if unknown := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(cause)):
            name = f"{place}.{unknown[2]}"
            return UserError(
                f"{name} is set, and {unknown[1]} has no such option. Leave it out, or choose another {place}."
            )
        raised = cause
    if type(raised).__module__.partition(".")[0] in ("mlflow", "wandb"):
        return UserError(
            f"logger: the tracking server does not take what is logged ({' '.join(str(raised).split())[:300]}). See "
            f"that it answers, or leave it out: logger=tensorboard. What was finished is kept."
        )
    if isinstance(raised, RuntimeError) and str(raised).startswith("DataLoader worker"):
        return UserError(
            f"a process that builds batches was killed ({raised}). Give it more memory, or set training.workers=0. "
            f"What was finished is kept: distilingua resume goes on from there."
        )
    return raised if isinstance(raised, UserError) else None


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, the share of a user, the largest file of a limit
NO_MORE_FILES = {errno.EMFILE, errno.ENFILE}  # are opened for this process, or this machine
IN_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers tell, in the text alone


def full_disk(raised: BaseException | None) -> OSError | None:
    """What says in a chain of errors that something could not be written for want of room; None if nothing does."""
    return of_the_system(raised, NO_ROOM)


def of_the_system(raised: BaseException | None, numbers: Collection[int]) -> OSError | None:
    """The first in a chain of errors that has one of these numbers; None if none has.

    Libraries wrap it: a logger reports that a number has a wrong type, a data set that it could not be made.
    """
    seen: set[int] = set()
    while raised is not None and id(raised) not in seen:
        seen.add(id(raised))
        if isinstance(raised, OSError) and raised.errno in numbers:
            return raised
        if (told := IN_RUST.search(str(raised))) and int(told[1]) in numbers:
            return OSError(int(told[1]), os.strerror(int(told[1])))
        raised = raised.__cause__ or raised.__context__
    return None


LR_SCHEDULES = (  # those of transformers.get_scheduler that need no more than warm-up and number of steps
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
)

# --- what a value should be: a sentence, or None where it is right ----------------------------------------------------


LARGEST = 2**31 - 1
"""Whatever is counted here is less, and so are seeds, of which a few follow one another."""


def whole(name: str, value: Any, least: int, most: int = LARGEST) -> str | None:
    wrong = type(value) is not int or not least <= value <= most
    bound = f" and at most {most}" if type(value) is int and value > most else ""
    return f"{name}={value}: expected a whole number of at least {least}{bound}." if wrong else None


def positive(name: str, value: Any, example: str) -> str | None:
    wrong = type(value) not in (int, float) or not value > 0
    return f"{name}={value}: expected a number above 0, such as {example}." if wrong else None


def share(name: str, value: Any) -> str | None:
    wrong = type(value) not in (int, float) or not 0 <= value <= 1
    return f"{name}={value} is outside [0, 1]: expected a share, such as 0.1." if wrong else None


def truth(name: str, value: Any) -> str | None:
    return f"{name}={value}: expected true or false." if type(value) is not bool else None


def learning(name: str, settings: Mapping[str, Any]) -> list[str | None]:
    """What is wrong with how long a model is to train, and from how much at once; null leaves a number to others.

    Args:
        name: of the part of the configuration.
    """
    keys = ("epochs", "patience", "min_steps", "max_steps")
    wrong = [whole(f"{name}.{key}", settings[key], 1) for key in keys if settings.get(key) is not None]
    wrong.append(whole(f"{name}.batch_size", settings.get("batch_size", 1), 1))
    least, most = settings.get("min_steps") or 1, settings.get("max_steps") or math.inf
    crossed = f"{name}: min_steps={least} is more than max_steps={most}. Try {name}.min_steps={most}."
    return [*wrong, crossed if not any(wrong) and least > most else None]


def rate(optimizer: str, lr: Any, schedule: str, settings: Any) -> list[str | None]:
    """What is wrong with a learning rate, and with a schedule of it that goes by a name.

    Args:
        optimizer, schedule: the parts of the configuration.
    """
    wrong = [positive(f"{optimizer}.lr", lr, "1e-3") if lr is not None else None]
    if isinstance(settings, Mapping) and "_target_" not in settings:
        name = settings.get("name")
        known = f"{schedule}.name={name} is none of {', '.join(LR_SCHEDULES)}."
        wrong += [share(f"{schedule}.warmup", settings.get("warmup")), known if name not in LR_SCHEDULES else None]
    return wrong


def text(name: str, value: Any) -> str | None:
    return f'{name}={value}: expected text, "" for none.' if type(value) is not str else None


def one_of(name: str, value: Any, known: Any) -> str | None:
    spelt = ", ".join("null" if choice is None else str(choice) for choice in known)
    return f"{name}={value} is not known. Choose one of: {spelt}." if value not in known else None
