"""The wire form of `POST /ocr`. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

FINITE = {"allow_inf_nan": False}


class OCRRequest(BaseModel):
    """One document to read, and how."""

    filename: str = Field(
        default="",
        description="`file://` path, `http(s)://` address or `data:` URI of an image or a PDF.",
        examples=["file:///home/me/page.png"],
    )
    model: str = Field(
        default="facebook/nougat-small",
        description="Hub id, folder or alias. Left out: the server's default model.",
        examples=["facebook/nougat-small", "facebook/nougat-base", "builtin"],
    )
    temperature: Annotated[float, Field(ge=0.0, le=1.0, **FINITE)] = Field(
        default=0.0, description="0 takes the most probable token each time."
    )
    top_p: Annotated[float, Field(ge=0.0, le=1.0, **FINITE)] = Field(
        default=0.0, description="Nucleus; counts only above temperature 0 and between 0 and 1."
    )
    repetition_penalty: Annotated[float, Field(ge=1.0, **FINITE)] | None = Field(
        default=None, description="Weakens tokens that came lately; 1.0 is off."
    )
    padding: Annotated[int, Field(ge=-10_000, le=10_000)] | None = Field(
        default=None, description="White pixels to add on all sides; negative ones crop."
    )
    pages: str = Field(default="", description="Pages to read, such as `1-3,7`; empty means all.", max_length=10_000)
    password: str | None = Field(default=None, description="Password of a PDF.", max_length=1000)
    mode: str = Field(default="", description="One of the model's presets.", max_length=200)
    prompt: str = Field(default="", description="What to ask, for models that take a prompt.", max_length=20_000)
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Most tokens per page; per line where the model reads line by line."
    )
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Sample among this many tokens; 0 is off."
    )
    no_repeat_ngram: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="No run of this many tokens comes twice; 0 is off."
    )
    ngram_window: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="How many of the last tokens `no_repeat_ngram` looks at; 0 is all."
    )
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=16)] | None = Field(
        default=None, description="Strings that end a page's text, and are not part of it."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(default=None, description="Makes sampling repeatable.")
    dpi: Annotated[float, Field(ge=18.0, le=1200.0, **FINITE)] | None = Field(
        default=None, description="Resolution for PDF pages; left out: the model's own."
    )
    keep_alive: Annotated[float, Field(le=1e9, ge=-1e9, **FINITE)] | None = Field(
        default=None,
        description="Seconds that the model stays in memory afterwards; negative: for good, or until evicted.",
    )
    timeout: Annotated[float, Field(gt=0.0, le=1e9, **FINITE)] | None = Field(
        default=None, description="Seconds that reading may take from the moment the model is there."
    )
    fresh: bool = Field(default=False, description="Read every page again, also one that was read before.")
