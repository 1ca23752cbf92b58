"""In place of the file `nunoocr_client.py` that Django projects have copied: the same names, attributes and answers.

Documents go to the server as they are: it reads images and PDFs, every page of them, and needs no pdf2image.
"""

from __future__ import annotations

import importlib
from os import PathLike
from typing import Any, Final, Literal

import httpx

from ocr_mlx.client import chat, prescription
from ocr_mlx.client.calls import Call, is_local
from ocr_mlx.client.documents import Address, Bytes, Document, open_document
from ocr_mlx.client.errors import OcrClientError, Refused
from ocr_mlx.client.records import Chat, Page
from ocr_mlx.client.sync import Client

FileType = Literal["auto", "pdf", "image"]
MODEL: Final = "deepseek-ai/DeepSeek-OCR"
PAGE_BREAK: Final = "\n\n--- Page Break ---\n\n"
TIMEOUT: Final = 60.0
"""Seconds for a page, as ever."""
_SYSTEM: Final = "You read documents. Answer with what is written there, and nothing else."
_FORMATTED: Final = "<|grounding|>Convert the document to markdown."
_PLAIN: Final = "Free OCR."
_MAX_TOKENS: Final = 2000
_HEALTH_SECONDS: Final = 5.0
_FILE_TYPES: Final = ("auto", "pdf", "image")
_WITHOUT_TEXT: Final = ("failed", "cancelled")
_NOT_GENERAL: Final = "invalid_option"


class DeepSeekOCRError(Exception):
    """Reading failed. `__cause__` has the reason as one of `ocr_mlx.client`'s errors."""


class DeepSeekOCRClient:
    """Reads documents with DeepSeek-OCR, or with another model of the server."""

    def __init__(
        self,
        base_url: str = "http://localhost:8765",
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        vision_api_key: str | None = None,
        vision_provider: str = "openai",
        *,
        model: str = MODEL,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout` is in seconds, for each page of a document that is read page by page.

        The two `vision` arguments are kept as attributes and have no effect.
        """
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key
        self.timeout = timeout
        self.vision_api_key = vision_api_key
        self.vision_provider = vision_provider
        self.model = model
        self.chat_endpoint = f"{self.base_url}{chat.PATH}"
        self.health_endpoint = f"{self.base_url}/health"
        self._transport = transport

    def health_check(self) -> bool:
        """Whether the server answers within five seconds."""
        try:
            local = is_local(self.base_url)
            with httpx.Client(transport=self._transport, timeout=_HEALTH_SECONDS, trust_env=not local) as http:
                return http.get(self.health_endpoint).status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL):
            return False

    def extract_text(
        self, file_obj: Document, file_type: FileType = "auto", preserve_formatting: bool = True
    ) -> dict[str, Any]:
        """`{"text", "confidence", "metadata": {"tokens_used", "model", "statuses"}}` of an image, or of all pages of a PDF.

        `confidence` is the mean probability of the text's tokens, None where there is none; `statuses` says of each page
        whether its text is all there. The file's bytes decide what it is, whatever `file_type` says. Raises
        DeepSeekOCRError.
        """
        document, words = _opened(file_obj, file_type), self._words(preserve_formatting)
        if isinstance(document, Bytes) and document.is_pdf:
            return self._whole(self._pages(document.data, words))
        read = self._ask(self._body(document, words))
        metadata = _metadata(read) | {"statuses": list(read.statuses)}
        return {"text": read.text, "confidence": read.confidence, "metadata": metadata}

    def extract_prescription_data(self, file_obj: Document, file_type: FileType = "auto") -> dict[str, Any]:
        """The fields of a Luxembourg prescription, and `_metadata`. Raises DeepSeekOCRError.

        A general model (`model="Qwen/Qwen2-VL-2B-Instruct"`) is held to the fields while it writes. One that only
        transcribes, as DeepSeek-OCR, is asked in words, and raises where its answer holds no JSON.
        """
        document = _opened(file_obj, file_type)
        body = self._body(document, prescription.prompt()) | {"pages": "1"}
        try:
            read = self._ask(body | {"response_format": chat.json_schema(prescription.SCHEMA)})
        except DeepSeekOCRError as error:
            if not _is_not_general(error.__cause__):
                raise
            read = self._ask(body)
        found = prescription.object_in(read.text)
        if found is None:
            raise DeepSeekOCRError(f"OCR API request failed: {_why_no_data(read)}")
        return found | {"_metadata": _metadata(read) | {"raw_response": read.text}}

    def extract_text_multi_page(
        self, pdf_path: str | PathLike[str], preserve_formatting: bool = True
    ) -> dict[str, Any]:
        """`{"pages": [{"page_number", "text", "confidence", "metadata"}], "full_text", "total_pages"}`.

        A page that failed has no text, and `metadata` has its `status` and `error`. Raises DeepSeekOCRError when no page
        can be read.
        """
        found = self._pages(pdf_path, self._words(preserve_formatting))
        pages = [
            {
                "page_number": page.number,
                "text": page.text,
                "confidence": page.confidence,
                "metadata": {
                    "tokens_used": _tokens(page),
                    "model": self.model,
                    "status": page.status,
                    "error": page.error,
                },
            }
            for page in found
        ]
        return {"pages": pages, "full_text": PAGE_BREAK.join(page.text for page in found), "total_pages": len(pages)}

    def _pages(self, source: Document, words: str) -> list[Page]:
        """As many pages as there are, each with the timeout for itself."""
        try:
            with self._client() as client:
                found = client.pages(
                    source, timeout=self.timeout, model=self.model, prompt=words, max_tokens=_MAX_TOKENS
                )
        except (OcrClientError, OSError, ValueError) as error:
            raise DeepSeekOCRError(f"OCR API request failed: {_reason(error)}") from error
        if found and all(page.status in _WITHOUT_TEXT for page in found):
            raise DeepSeekOCRError(f"OCR API request failed: {found[0].error or found[0].status}")
        return found

    def _whole(self, pages: list[Page]) -> dict[str, Any]:
        weighed = [(page.confidence, page.tokens or 1) for page in pages if page.confidence is not None]
        tokens = sum(count for _, count in weighed)
        return {
            "text": "\n\n".join(page.text for page in pages if page.text),
            "confidence": sum(value * count for value, count in weighed) / tokens if tokens else None,
            "metadata": {
                "tokens_used": sum(map(_tokens, pages)),
                "model": self.model,
                "statuses": [page.status for page in pages],
            },
        }

    def _words(self, preserve_formatting: bool) -> str:
        """What to ask for text. Another model than DeepSeek-OCR has its own words for that."""
        if self.model != MODEL:
            return ""
        return _FORMATTED if preserve_formatting else _PLAIN

    def _body(self, document: Bytes | Address, words: str) -> dict[str, Any]:
        image = {"type": "input_image", "image_url": document.uri}
        content = [{"type": "input_text", "text": words}, image] if words else [image]
        system = [{"role": "system", "content": _SYSTEM}] if words else []
        return {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": content}],
            "temperature": 0.0,
            "max_tokens": _MAX_TOKENS,
        }

    def _ask(self, body: dict[str, Any]) -> Chat:
        try:
            with self._client() as client:
                return client.send(Call(method="POST", path=chat.PATH, json=body, parse=chat.answer))
        except OcrClientError as error:
            raise DeepSeekOCRError(f"OCR API request failed: {error}") from error

    def _client(self) -> Client:
        return Client(self.base_url, self.api_key, timeout=self.timeout, transport=self._transport)


class DjangoOCRService:
    """The client with Django's settings: `OCR_SERVICE_URL`, `_API_KEY`, `_MODEL` and `_TIMEOUT` (seconds a page)."""

    def __init__(self) -> None:
        settings = importlib.import_module("django.conf").settings  # only where there is Django
        self.client = DeepSeekOCRClient(
            base_url=getattr(settings, "OCR_SERVICE_URL", "http://localhost:8765"),
            api_key=getattr(settings, "OCR_SERVICE_API_KEY", None),
            timeout=getattr(settings, "OCR_SERVICE_TIMEOUT", TIMEOUT),
            model=getattr(settings, "OCR_SERVICE_MODEL", MODEL),
        )

    def is_available(self) -> bool:
        """Whether the server answers."""
        return self.client.health_check()

    def extract_from_uploaded_file(self, uploaded_file: Any, extract_structured: bool = False) -> dict[str, Any]:
        """The text of an uploaded file, or the fields of the prescription that it is. Raises DeepSeekOCRError."""
        file_type: FileType = "pdf" if str(uploaded_file.name).lower().endswith(".pdf") else "image"
        if extract_structured:
            return self.client.extract_prescription_data(uploaded_file, file_type)
        return self.client.extract_text(uploaded_file, file_type)


def _opened(file_obj: Document, file_type: str) -> Bytes | Address:
    if file_type not in _FILE_TYPES:
        raise ValueError(f"file_type cannot be {file_type!r}: give one of {', '.join(_FILE_TYPES)}.")
    try:
        _rewind(file_obj)
        return open_document(file_obj)
    except (OSError, ValueError) as error:
        raise DeepSeekOCRError(f"OCR API request failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What an error says, without the number that the system has for it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _tokens(page: Page) -> int:
    return (page.prompt_tokens or 0) + (page.tokens or 0)


def _metadata(read: Chat) -> dict[str, Any]:
    return {"tokens_used": read.usage.get("total_tokens", 0), "model": read.model}


def _why_no_data(read: Chat) -> str:
    if read.finish_reason == "length":
        return f"the answer was cut off after {_MAX_TOKENS} tokens and is no whole JSON object."
    return (
        "the answer holds no JSON object. "
        "Give a general model, such as DeepSeekOCRClient(model='Qwen/Qwen2-VL-2B-Instruct')."
    )


def _is_not_general(error: BaseException | None) -> bool:
    return isinstance(error, Refused) and error.code == _NOT_GENERAL


def _rewind(file_obj: Document) -> None:
    """A view may have looked into the upload, or read it before."""
    seek, seekable = getattr(file_obj, "seek", None), getattr(file_obj, "seekable", None)
    if seek is not None and (seekable is None or seekable()):
        seek(0)
