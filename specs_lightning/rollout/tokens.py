"""The secret that trainer and server share: from the environment, or made by a server as it starts."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specs_lightning.rollout.sampler import EngineError
from specs_lightning.system.addresses import is_loopback
from specs_lightning.system.files import cache_folder
from specs_lightning.system.terminal import say

TOKEN_ENV = "SPECS_SERVER_TOKEN"


def read_token(variable: str) -> str | None:
    """The secret that an environment variable holds; `None` if there is none."""
    return os.environ.get(variable, "").strip() or None


@contextmanager
def server_token(variable: str, port: int) -> Iterator[str]:
    """The token that a server wants: what the variable holds, or one of this start.

    The latter is printed as the other side's setting, and left where trainings of this user on this machine find it,
    for as long as the block lasts.

    Raises:
        EngineError: it cannot be left there.
    """
    if (given := read_token(variable)) is not None:
        yield given
        return
    token, file = secrets.token_urlsafe(32), _file(port)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # of a server that was killed: its readers may be others
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(token)
    except OSError as error:
        raise EngineError(
            f"the server's token cannot be left in {file} ({error.strerror}): put a secret into the environment "
            f"variable {variable}, here and for the trainer"
        ) from error
    say("trainings of yours on this machine find the server's token; for others:")
    say(f"export {variable}={token}")
    try:
        yield token
    finally:
        file.unlink(missing_ok=True)


def token_for(host: str, port: int, variable: str) -> str | None:
    """What a server is shown: what the variable holds, or what one on this machine has left for this user."""
    if (given := read_token(variable)) is not None or not is_loopback(host):
        return given
    try:
        return _file(port).read_text().strip() or None
    except OSError:
        return None


def _file(port: int) -> Path:
    """By machine, too, since several may share the folder."""
    return cache_folder() / "servers" / f"{socket.gethostname()}-{port}.token"
