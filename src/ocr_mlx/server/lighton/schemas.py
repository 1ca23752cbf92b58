"""The wire form of `POST /api/inference` and `GET /info`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Block(BaseModel):
    """A region that the model marked."""

    bbox: list[int] | None = Field(
        default=None, description="Left, top, right, bottom in pixels of the page, PDFs at 200 dpi."
    )
    category: str | None = Field(default=None, description="The model's word for what it is.")
    text: str | None = Field(default=None, description="What stands there.")
    page: int = Field(default=0, description="The page that it is on; the first is 0.")


class Inference(BaseModel):
    """What was read."""

    model_config = ConfigDict(protected_namespaces=())

    text: str = Field(description="All pages, joined by a blank line.")
    blocks: list[Block] = Field(description="Empty where the model marks nothing.")
    model_version: str = Field(description="The model that read it.", examples=["lightonocr-2-1b"])


class Info(BaseModel):
    """What reads."""

    engine: Literal["huggingface", "vllm"] = Field(description="On this machine, or at a remote engine.")
    device: str
    model: str
    api_version: Literal["v1"] = "v1"
