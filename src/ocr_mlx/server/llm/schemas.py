"""The wire form of `POST /llm/ocr`. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

PROMPT = """You are an OCR model. Read the text in this picture and write it down.
Keep the order in which a person would read it.
Keep paragraphs, lists, tables and formulas, as Markdown.
Keep the language, the spelling and the numbers as they are.
Leave nothing out, add nothing, and explain nothing.
Answer with the text alone."""


class LLMOCRRequest(BaseModel):
    """One document to read, and the OpenAI-style engine that reads it."""

    filename: str = Field(
        default="",
        description="`file://` path, `http(s)://` address or `data:` URI of an image or a PDF.",
        examples=["file:///home/me/page.png"],
    )
    api_key: str = Field(
        default="", description="Sent to that engine as its Bearer token, and to nobody else.", max_length=10_000
    )
    model: str = Field(default="gpt-4.1-mini", description="The model's name there.", min_length=1, max_length=1000)
    endpoint_url: str = Field(
        default="https://api.openai.com/v1/chat/completions",
        description="Where its chat completions are. OCR_MLX_REMOTE_HOSTS lists the engines that may be named.",
        max_length=2000,
    )
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(default=1000, description="Most tokens per page.")
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] = Field(
        default=0.0, description="0 takes the most probable token each time."
    )
    prompt: str = Field(default=PROMPT, description="What to ask about each page.", max_length=20_000)
    pages: str = Field(default="", description="Pages to read, such as `1-3,7`; empty means all.", max_length=10_000)
    password: str | None = Field(default=None, description="Password of a PDF.", max_length=1000)
