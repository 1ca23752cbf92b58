"""What the hub, the network below it and the disk refuse, in words that say how to go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ocr_mlx.errors import DownloadFailed

_WORKS_NOW: Final = "The model `builtin` works right now."


@contextmanager
def translated(errors: Any, repo: str, revision: str | None, by_hand: str) -> Iterator[None]:
    """The one door for errors of the hub and of the network below it: `errors` is the hub library's module of them."""
    import httpx

    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadFailed(
            f"{repo} is gated: its owner asks for an agreement first.",
            hint=f"Accept the terms on https://huggingface.co/{repo}, then `hf auth login`. {_WORKS_NOW}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadFailed(f"{repo} has no revision {revision}.", hint="Check the name after the @.") from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadFailed(
            f"The hub has no model {repo}, or it is private.",
            hint=f"Check the name; for a private model `hf auth login` first. {_WORKS_NOW}",
        ) from error
    except (*errors.HfHubHTTPError.__bases__, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise DownloadFailed(
                f"{repo} could not be stored: {error.strerror}.",
                hint="Check room and rights in the folder of models (OCR_MLX_MODELS_DIR).",
            ) from error
        raise DownloadFailed(f"{repo}{at} could not be fetched: {_reason(error)}.", hint=by_hand) from error


def by_hand(repo: str, *, is_base: bool) -> str:
    """How to bring a model here without the hub's cache; an adapter's base belongs beside the adapter."""
    folder = repo.split("/")[-1]
    fetched = f"Where there is a network: `hf download {repo} --local-dir {folder}`"
    if is_base:
        return f"{fetched}, and the adapter alike; bring both folders here, side by side, and name the adapter's."
    return f"{fetched}; bring that folder here and name it as the model: `./{folder}`. {_WORKS_NOW}"


def check_space(folder: Path, needed: int, repo: str) -> None:
    """Raise DownloadFailed where the disk below `folder` has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadFailed(
            f"{repo} needs {needed / 1e9:.1f} GB more on the disk, of which {free / 1e9:.1f} GB are free.",
            hint="Make room, or point HF_HOME to another disk.",
        )


def _reason(error: BaseException) -> str:
    """The hub's answer in a few words; where there was none, that."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the hub answered {status}" if status else "the hub cannot be reached"
