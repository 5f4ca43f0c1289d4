"""How a command ends: 2 after a mistake that a user can mend, 75 when the same command goes on, each with its message alone; 1
with a traceback after anything else."""

from __future__ import annotations

import difflib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Says what was expected, what was found and what to do."""


class Outage(UserError):
    """A service gave no answers that are needed, and the config says that the run is not to go on without. What was trained so
    far is sound."""


class Stopped(Exception):
    """A run that ended before its end through no mistake: a signal, or another process of its job that died. Says what is
    saved; the same command goes on from there."""


MISTAKE = 2
AGAIN = os.EX_TEMPFAIL  # 75 of sysexits.h: a launcher may run the same command again


def status(error: BaseException) -> int:
    """The exit status of a command that ended with this error."""
    return MISTAKE if isinstance(error, UserError) else AGAIN if isinstance(error, Stopped) else 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def described(error: BaseException) -> str:
    """What a command prints of the error that ended it."""
    if status(error) == 1:
        return "".join(traceback.format_exception(error)).rstrip()
    return f"error: {error}" if isinstance(error, UserError) else str(error)


def reports_errors(main: Callable) -> Callable:
    """Wraps a command's main: a UserError or Stopped becomes one message on stderr and its exit status."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (UserError, Stopped) as error:
            print(described(error), file=sys.stderr)
            sys.exit(status(error))
        except BrokenPipeError:  # `| head` has read what it wanted; nothing more can be printed, also not at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)

    return wrapped
