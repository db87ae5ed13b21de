"""The one exception a user is meant to read."""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException, ValueError):
    """Something the user gave cannot work. The message says what was given, what was expected, what to type instead.

    Hydra prints a `CompactHydraException` as its message alone, without a traceback, and exits with status 1.
    """
