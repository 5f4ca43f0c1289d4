"""API keys: from the environment, or from a file that nobody else may read. Never from a config."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mvgrpo_jax.errors import UserError


class Secret:
    """A key that does not show itself in messages, logs or dumps; `reveal()` is for the client alone."""

    __slots__ = ("_value",)

    def __init__(self, value: str):
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self):
        raise TypeError("a secret is not to be stored")


def check_name(env: str) -> None:
    """UserError, which does not repeat it, for what is no name of an environment variable but may be a key; '' is fine."""
    if env and (not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", env) or (len(env) > 20 and env not in os.environ)):
        raise UserError(
            "key_env is the name of an environment variable that holds the key, not the key itself; what was given "
            "is no such name (it is not repeated here). A key that was written into a config should be replaced"
        )


def read(env: str, file: str) -> Secret | None:
    """The key in the environment variable `env` or in `file`; None when neither is named. UserError never shows a key."""
    if env and file:
        raise UserError("give key_env or key_file, not both")
    if env:
        check_name(env)
        if not os.environ.get(env):
            raise UserError(f"the environment variable {env} (key_env) is not set; export it before the run, or empty key_env")
        return Secret(os.environ[env].strip())
    if file:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"key_file {file}: no such file")
        facts = path.stat()
        if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
            raise UserError(
                f"key_file {file}: others may read it (mode {stat.S_IMODE(facts.st_mode):04o}); it must belong to you alone: "
                f"chmod 600 {file}"
            )
        text = path.read_text().strip()
        if not text:
            raise UserError(f"key_file {file}: is empty")
        return Secret(text)
    return None
