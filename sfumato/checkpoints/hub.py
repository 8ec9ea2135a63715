"""Models on the Hugging Face Hub: hf://OWNER/NAME, with @REVISION and :DOMAIN where they are wanted.

A repository there is a model folder.  Its three files are fetched into the cache of huggingface_hub, and
nothing else of it; they are read as those of every folder are, and run no code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.core.errors import UserError

SEEN = "seen.safetensors"
"""What a model has seen, see `sfumato.checkpoints.seen`."""
NEEDED = ("model.json", "weights.safetensors")
FILES = (*NEEDED, "README.md", SEEN)
"""Of a model folder; the last two may be missing."""
REPO = "[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+"
NAME = re.compile(rf"hf:/+({REPO})(?:@([^@:]+))?(?::(.+))?", re.DOTALL)
COMMIT = "[0-9a-f]{40}"
CACHED = re.compile(rf"models--(.+?)--(.+)/snapshots/({COMMIT})")
"""How huggingface_hub calls the folder of a commit; no owner or name has two dashes in a row."""


class Address(NamedTuple):
    """What hf://OWNER/NAME@REVISION:DOMAIN names; `repo` is OWNER/NAME."""

    repo: str
    revision: str | None = None
    domain: str | None = None

    def __str__(self) -> str:
        ends = [mark + part for mark, part in zip("@:", self[1:], strict=True) if part is not None]
        return "".join([f"hf://{self.repo}", *ends])


def address(name: str | Path) -> Address | None:
    """What a name says of the Hub; None if it names a folder.  A `Path` holds one of the two slashes.

    Raises:
        UserError: it begins with hf: and is no name of a model.
    """
    if not str(name).startswith("hf:/"):
        return None
    if found := NAME.fullmatch(str(name)):
        return Address(*found.groups())
    raise UserError(f"{name} names no model: expected hf://OWNER/NAME, also with @REVISION or :DOMAIN")


def home(folder: Path) -> Address | None:
    """Where a folder of the Hub's cache is from, with its commit; None of other folders."""
    found = CACHED.fullmatch("/".join(folder.parts[-3:]))
    return Address(f"{found[1]}/{found[2]}", found[3]) if found else None


def spelled(folder: Path) -> str:
    """How a model folder is named to users and in records: hf://OWNER/NAME@COMMIT, or its path."""
    return str(home(folder) or folder)


def stores(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder of the Hub's cache lead: to contents of one repository, or of several."""
    return tuple(folder.parents[n] / "blobs" for n in (1, 2)) if home(folder) else ()


def pinned(name: str) -> str:
    """The same name, with the commit that it stands for now; names of folders stay.

    Raises:
        UserError: see `fetched`.
    """
    at = address(name)
    if at is None or re.fullmatch(COMMIT, at.revision or ""):
        return name
    return str(at._replace(revision=fetched(at.repo, at.revision).name))


def recorded_name(name: str | Path) -> str:
    """How a record names a model: its path from anywhere, sfumato/NAME, or hf://OWNER/NAME@COMMIT."""
    if address(name):
        return pinned(str(name))
    ships = Path(name).parts[:-1] == ("sfumato",) and not os.path.exists(name)
    return str(name) if ships else str(Path(name).absolute())


@cache  # what a process found first it works with: a model may get another commit at any time
def fetched(repo: str, revision: str | None = None) -> Path:
    """The model folder in the cache; what is not there is fetched.

    Raises:
        UserError: there is no such model or revision, it is no model of sfumato, or there is no way to it.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    folder, commit = Path(), revision
    how: Any = {"library_name": "sfumato", "local_files_only": constants.HF_HUB_OFFLINE}
    for name in FILES:
        with answered(Address(repo, revision)):
            try:
                file = hf_hub_download(repo, name, revision=commit, **how)
            except EntryNotFoundError:
                if name in NEEDED:
                    raise
                continue
        folder = Path(file).parent
        commit = folder.name
    return folder


@contextmanager
def answered(at: Address) -> Iterator[None]:
    """Says in a line why the Hub does not do what is asked of it inside.

    Raises:
        UserError: it does not.
    """
    from huggingface_hub import constants, errors

    host, login = constants.ENDPOINT, "if it is private, log in by: hf auth login"
    # what its HTTP library raises is among the bases
    unreachable: tuple[Any, ...] = (OSError, *errors.HfHubHTTPError.__bases__)
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        why = f"{host} does not answer ({_first(error.__cause__)})"
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else why
        raise UserError(f"{at} is not in the cache of this machine, and {why}") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{at} has terms to be accepted: do so at {host}/{at.repo}, and log in by: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"there is no model {at.repo} at {host}; {login}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{at.repo} has no revision {at.revision}: see {host}/{at.repo}/commits") from None
    except errors.EntryNotFoundError:
        raise UserError(f"{at} is no model of sfumato: it lacks {' or '.join(NEEDED)}") from None
    except errors.HFValidationError as error:
        raise UserError(f"{at}: {error}") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        said = {401: "it knows no such token: log in by: hf auth login",
                403: f"this login may not do this with {at.repo}"}  # fmt: skip
        raise UserError(f"{host} refuses: {said.get(code) or _first(error)}") from None
    except unreachable as error:
        if isinstance(error, OSError) and error.filename:
            raise UserError(f"{os.fspath(error.filename)}: {error.strerror}") from None
        raise UserError(f"{host} does not answer: {_first(error)}") from None


def _first(error: BaseException | None) -> str:
    """The first line of what an error says."""
    return str(error).strip().partition("\n")[0]
