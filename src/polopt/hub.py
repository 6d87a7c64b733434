"""Models of the Hugging Face hub: asked for once, so that one that is not there is told at once."""

from __future__ import annotations

import os
from pathlib import Path

from polopt.errors import ModelError, one_line
from polopt.places import nearest

SECONDS = 5.0  # to answer in


def answers(field: str, name: str, revision: str | None = None) -> bool:
    """Whether the hub answers for a model; False: it does not, but the model was loaded before.

    Files that were downloaded are then read without asking (``local_files_only``): transformers
    would ask for each of them again and again.

    Args:
        field: of the recipe that names the model, for messages.
        name: its id.
        revision: commit, branch or tag.

    Raises:
        ModelError: there is no such model, or nobody who could say so, in one line.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{field}: {name!r}"
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=SECONDS)
    except EntryNotFoundError:
        return True  # an adapter, or no model: transformers tells
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{where} has no revision {revision!r}; model.revision is a commit, branch or tag"
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"{where} is gated; ask for access on its page, then log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        told = f"{where} is no directory and no model of the hub that you may read"
        raise ModelError(told + _near(name)) from error
    except Exception as error:  # of whatever carries the request
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return False
        told = f"{where} is no directory, and the hub cannot be asked for it"
        raise ModelError(f"{told}: {one_line(error, 120)}{_near(name)}") from error
    return True


def configuration(field: str, name: str, revision: str | None = None) -> Path:
    """The ``config.json`` of a model of the hub: the one that is here, or one that is fetched.

    Raises:
        ModelError: as :func:`answers`; it has none.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(found, str):
        answers(field, name, revision)
        try:
            found = hf_hub_download(name, "config.json", revision=revision, etag_timeout=SECONDS)
        except Exception as error:  # of whatever carries the request
            told = one_line(error, 120)
            raise ModelError(f"{field}: {name!r} has no config.json to be read: {told}") from error
    return Path(found)


def _near(name: str) -> str:
    found = nearest(Path(name), os.path.isdir)
    return "" if found is None else f"; did you mean {found}?"
