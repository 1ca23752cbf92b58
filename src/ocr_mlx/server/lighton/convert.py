"""Between the wire and the engine's records."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from ocr_mlx import errors
from ocr_mlx.domain import UNSET, DecodeOverrides, OcrRequest, OcrResult, Upload
from ocr_mlx.errors import OcrMlxError
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.errors import status_of
from ocr_mlx.server.lighton.schemas import Block, Inference
from ocr_mlx.settings import NATIVE, Settings

SERVICE = "lighton"
_DAMAGED = (errors.BadImage, errors.BadPdf, errors.PdfLocked, errors.UnsupportedMedia)
_ASKED_WRONG = (errors.PageOutOfRange, errors.InvalidOption, errors.SourceError)


def to_request(
    upload: Upload, models: ModelChoice, *, pages: str = "", password: str | None = None, max_tokens: int | None = None
) -> OcrRequest:
    """The engine's request: no prompt, greedy. May block. Raises UnknownModel."""
    return OcrRequest(
        source=upload,
        model=models.pick("", SERVICE),
        overrides=DecodeOverrides(temperature=0.0, max_new_tokens=UNSET if max_tokens is None else max_tokens),
        page_range=pages,
        password=password,
    )


def to_answer(result: OcrResult, settings: Settings, *, remote: bool) -> Inference:
    """What goes out; `remote` says whether another engine read it."""
    model = version(asked_name(result.model, settings), remote=remote)
    return Inference(text=sound(result.text), blocks=list(_blocks(result)), model_version=model)


def _blocks(result: OcrResult) -> Iterator[Block]:
    for page in result.pages:
        for block in page.blocks:
            box = [round(edge) for edge in block.box]
            yield Block(bbox=box, category=sound(block.label), text=sound(block.text), page=page.index)


def version(model: str, *, remote: bool) -> str:
    """A model as this service writes versions: the last part of its id, in small letters; `-vllm` for a remote one."""
    return _last(model).lower() + ("-vllm" if remote else "")


def asked_name(model: str, settings: Settings) -> str:
    """A model as it was asked for; only where the folder of models is itself the model is it called otherwise there."""
    from ocr_mlx.model.registry import resolve_name

    return resolve_name(settings.model_name or NATIVE[SERVICE]) if model == str(settings.models_dir) else model


def model_name(model: str) -> str:
    """A model as `/info` tells it: its hub id, or the name of its folder; never where that lies, nor a remote address."""
    from ocr_mlx.engine.remote import is_reference, parse
    from ocr_mlx.model.registry import is_folder_name, resolve_name

    if is_reference(model):
        return parse(model).model
    known = resolve_name(model)
    return _last(known) if is_folder_name(known) else known


def _last(model: str) -> str:
    return re.split(r"[/\\#]", model.partition("@")[0].rstrip("/\\"))[-1]


def device(settings: Settings) -> str:
    """What DEVICE says, else what this machine computes on: cpu, gpu or metal. Imports mlx: wait for the engine first."""
    if settings.device:
        return settings.device
    from ocr_mlx.engine.device import default_device

    name = default_device().name
    return "metal" if name == "gpu" and sys.platform == "darwin" else name


def sound(text: str) -> str:
    """Text that can be encoded."""
    return text.encode("utf-8", "replace").decode()


def refusal(kind: type[OcrMlxError], message: str) -> tuple[int, str]:
    """The status and the detail of an error here: nothing that a client could have sent better is above 499."""
    status, message = status_of(kind), sound(message)
    if issubclass(kind, _DAMAGED):
        return 400, f"Invalid image/PDF data: {message}"
    if issubclass(kind, errors.SourceTooLarge):
        return 413, f"File too large: {message}"
    if issubclass(kind, _ASKED_WRONG):
        return 400, message
    if issubclass(kind, errors.ModelError) or kind is OcrMlxError:
        return 503, f"Model not ready: {message}"
    return (500, f"Inference failed: {message}") if status in (422, 500) else (status, message)


def is_remote(model: str) -> bool:
    """Whether a model, as the engine wants it named, is read elsewhere."""
    from ocr_mlx.engine.remote import is_reference

    return is_reference(model)
