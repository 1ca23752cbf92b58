"""Which model reads a request: one place for all services."""

from __future__ import annotations

from collections.abc import Callable

from ocr_mlx.observer import shown_model
from ocr_mlx.settings import NATIVE, Settings

_DEEPSEEK = "deepseek-ai/deepseek-ocr"


def for_the_user(model: str, settings: Settings) -> str:
    """Where the user himself reads with a model, on the command line or from Python: he may name every engine and folder.

    Raises UnknownModel.
    """
    from ocr_mlx.engine.remote import is_reference

    if settings.model_source != "vllm" or is_reference(model):
        return model
    return ModelChoice(settings, lambda: None).pick(model, "ocr_mlx")


class ModelChoice:
    """Answers for every service. The methods may block (Redis, the disk): call them off the event loop."""

    def __init__(self, settings: Settings, current: Callable[[], str | None]) -> None:
        """`current` is what `/models/switch` chose, None before it did."""
        self._settings = settings
        self._current = current
        named = (settings.default_model, settings.model_name, settings.deepseek_model)
        self._trusted = frozenset(str(one) for one in named if one)

    def pick(self, requested: str, service: str) -> str:
        """The model for a request to this service (a name of `settings.NATIVE`), as the engine wants it.

        What the request names; else what `/models/switch` chose; else what the settings say; else the service's own.
        Raises UnknownModel for a bare word that is no alias, SourceForbidden for a folder outside the roots of files and
        for an engine elsewhere that is not allowed, InvalidOption for an engine's address that is none.
        """
        return self._placed(self._meant(requested.strip()) or self._current() or self._chosen(service))

    def default(self, service: str) -> str:
        """What requests to this service get when they name no model and nobody switched."""
        return self._chosen(service)

    def _meant(self, requested: str) -> str:
        """What a request names.

        Answers call a model that is read elsewhere as that engine does, and a folder by its last part alone: where that
        is no alias, it is that folder.
        """
        from ocr_mlx.engine.remote import is_reference
        from ocr_mlx.model.registry import aliases, is_folder_name

        if not requested or requested.lower() in aliases():
            return requested
        chosen = [name for name in (*sorted(self._trusted), self._current()) if name]
        elsewhere = (name for name in chosen if is_reference(name) and name.partition("#")[2] == requested)
        folders = (name for name in chosen if is_folder_name(name) and shown_model(name) == requested)
        return next(elsewhere, requested) if "/" in requested else next(elsewhere, next(folders, requested))

    def _chosen(self, service: str) -> str:
        settings = self._settings
        if settings.model:
            return settings.model
        if settings.model_name and self._belongs(settings.model_name, service):
            return settings.model_name
        return settings.default_model if service == "ocr_mlx" else NATIVE[service]

    def _belongs(self, name: str, service: str) -> bool:
        """Whether a model is of the family that the service reads with; one that cannot be told goes with its contract."""
        from ocr_mlx.model.registry import family_of

        family = family_of(name)
        if family is None:
            return self._settings.contract == service
        return family is family_of(NATIVE[service])

    def _placed(self, name: str) -> str:
        """Where that model is read: a folder that the settings name, the engine elsewhere, or here."""
        from ocr_mlx.engine.fence import check_folder
        from ocr_mlx.engine.remote import PREFIX, is_reference, reference
        from ocr_mlx.model.registry import is_folder_name, resolve_name

        settings = self._settings
        if is_reference(name):
            settings.remote_options().find(name)
            return PREFIX + name[len(PREFIX) :]
        known = resolve_name(name)
        check_folder(name, settings.file_roots or None, self._trusted)
        if settings.deepseek_model is not None and known.lower() == _DEEPSEEK:
            return str(settings.deepseek_model)
        if settings.model_source == "vllm" and not is_folder_name(known):
            return reference(settings.remote_endpoint, known)
        return self._kept(known) or name

    def _kept(self, known: str) -> str | None:
        """The folder of models, where it is itself LightOnOCR's: its service kept one model, and no cache."""
        from ocr_mlx.model.registry import family_of

        folder, own = self._settings.models_dir, NATIVE["lighton"]
        if folder is None or known.lower() not in (own.lower(), self._settings.model_name.lower()):
            return None
        family = family_of(own)
        fits = (folder / "config.json").is_file() and family_of(str(folder)) is family
        return str(folder) if fits and family_of(known) in (None, family) else None
