"""Talks to a running server: `Client` and `AsyncClient`, and `DeepSeekOCRClient` for code that moves over.

    from ocr_mlx.client import Client
    with Client() as client:
        print(client.read("page.png"))

Importing this package costs httpx, and nothing of the engine.
"""

from ocr_mlx.client.aio import AsyncClient
from ocr_mlx.client.errors import BadAnswer, NotReachable, OcrClientError, Refused, ServerFailed, TimedOut
from ocr_mlx.client.live import Follow
from ocr_mlx.client.nunoocr_client import DeepSeekOCRClient, DeepSeekOCRError, DjangoOCRService
from ocr_mlx.client.records import Chat, Event, Job, Model, Models, Page, Reading
from ocr_mlx.client.streams import AsyncEventStream, AsyncTextStream, EventStream, TextStream
from ocr_mlx.client.sync import Client
from ocr_mlx.client.webhook import verify_webhook

__all__ = [
    "AsyncClient",
    "AsyncEventStream",
    "AsyncTextStream",
    "BadAnswer",
    "Chat",
    "Client",
    "DeepSeekOCRClient",
    "DeepSeekOCRError",
    "DjangoOCRService",
    "Event",
    "EventStream",
    "Follow",
    "Job",
    "Model",
    "Models",
    "NotReachable",
    "OcrClientError",
    "Page",
    "Reading",
    "Refused",
    "ServerFailed",
    "TextStream",
    "TimedOut",
    "verify_webhook",
]
