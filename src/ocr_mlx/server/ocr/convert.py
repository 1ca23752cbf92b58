"""Between the wire and the engine's records."""

from __future__ import annotations

from ocr_mlx.domain import UNSET, DecodeOverrides, OcrRequest, Prompt
from ocr_mlx.server.choice import ModelChoice
from ocr_mlx.server.ocr.schemas import OCRRequest
from ocr_mlx.server.texts import source_of


def to_request(body: OCRRequest, models: ModelChoice) -> OcrRequest:
    """The engine's request. Decodes a data URI, so call it off the event loop. Raises SourceError and UnknownModel."""
    return OcrRequest(
        source=source_of(body.filename),
        model=models.pick(body.model if "model" in body.model_fields_set else "", "ocr_mlx"),
        prompt=Prompt(text=body.prompt, mode=body.mode),
        overrides=_overrides(body),
        page_range=body.pages,
        padding=body.padding or 0,
        dpi=body.dpi,
        password=body.password,
        keep_alive=body.keep_alive,
        timeout=body.timeout,
        fresh=body.fresh,
    )


def _overrides(body: OCRRequest) -> DecodeOverrides:
    """Only what the client said; the model decides the rest."""
    said = body.model_fields_set
    return DecodeOverrides(
        max_new_tokens=UNSET if body.max_tokens is None else body.max_tokens,
        temperature=body.temperature if "temperature" in said else UNSET,
        top_p=body.top_p if "top_p" in said else UNSET,
        top_k=UNSET if body.top_k is None else body.top_k,
        repetition_penalty=UNSET if body.repetition_penalty is None else body.repetition_penalty,
        no_repeat_ngram=UNSET if body.no_repeat_ngram is None else body.no_repeat_ngram,
        ngram_window=UNSET if body.ngram_window is None else body.ngram_window,
        stop=UNSET if body.stop is None else tuple(body.stop),
        seed=UNSET if body.seed is None else body.seed,
    )
