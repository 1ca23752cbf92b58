"""The wire form of jobs and models. Beyond the fields of the service that clients know, only additions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ocr_mlx.domain import PageStatus

Status = Literal["pending", "processing", "completed", "failed"]
ModelStatus = Literal["not_found", "downloading", "loading", "ready", "failed"]


class JobSubmitted(BaseModel):
    """A job was taken."""

    job_id: str
    message: str


class JobResult(BaseModel):
    """What a completed job has read."""

    model_config = ConfigDict(extra="allow")

    text: str
    formatted_text: str
    output_file_base64: str | None
    confidence: float | None = Field(description="Mean probability of the text's tokens; null where there are none.")
    metadata: dict[str, Any]


class JobProgress(BaseModel):
    """Pages that are read, and pages to read."""

    done: int
    total: int


class JobPage(BaseModel):
    """How a page ended that is done. `index` counts from 0, `page_number` from 1.

    `following` are the indices of further pages that were read in the same prompt: their text is with this one's.
    """

    index: int
    page_number: int
    following: list[int]
    status: PageStatus
    error: str | None


class WebhookDelivery(BaseModel):
    """What became of the webhook. `status` is the last answer's."""

    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    status: int | None
    message: str
    next_at: str | None
    delivered_at: str | None


class JobSummary(BaseModel):
    """A job without what it has read. Times are UTC without a zone."""

    id: str
    status: Status
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    filename: str
    kind: Literal["image", "pdf"]
    engine: str
    error: str | None
    cancelled: bool = Field(description="Whether a failed job was cancelled.")
    progress: JobProgress
    webhook: WebhookDelivery | None


class Job(JobSummary):
    """A job. `result` is there once the status is `completed`."""

    pages: list[JobPage]
    result: JobResult | None


class JobList(BaseModel):
    """The newest jobs first."""

    jobs: list[JobSummary]


class ModelEntry(BaseModel):
    """A model: `is_loaded` in memory now, `is_available` to read without a download. `progress` in percent."""

    name: str
    is_loaded: bool
    is_available: bool
    status: ModelStatus
    progress: int
    message: str


class ModelInMemory(BaseModel):
    """A model in memory: the bytes of its weights, and when it was last used (UTC without a zone)."""

    name: str
    family: str
    bytes: int
    requests: int = Field(description="Requests that use it now.")
    idle_seconds: float
    last_used: str
    pinned: bool = Field(description="It stays until it is told to go: a request's `keep_alive` was negative.")
    leaving: bool = Field(description="It was told to go, and goes when it is not used any more.")


class ModelEviction(BaseModel):
    """A model that was unloaded. Times are UTC without a zone."""

    name: str
    at: str
    reason: Literal["idle", "room", "asked", "closing"] = Field(
        description="Its time was over, another needed its place, somebody asked for it, or the server ended."
    )
    held_bytes: int = Field(description="Bytes of its weights.")
    released_bytes: int = Field(description="By how much the memory of the process really shrank.")


class ModelMemory(BaseModel):
    """The memory for models, in bytes."""

    limit_bytes: int | None = Field(description="What models may fill together.")
    models_bytes: int = Field(description="What they fill, those that are being loaded included.")
    process_bytes: int = Field(description="What the whole process takes, measured now.")
    waiting: list[str] = Field(description="Models that wait until others are not used any more.")
    models: list[ModelInMemory]
    evictions: list[ModelEviction] = Field(description="The last ones, the newest first.")


class JobModels(BaseModel):
    """What jobs can be read with. `current_model` is what was switched to, null before; `memory` null until the engine runs."""

    models: list[ModelEntry]
    current_model: str | None
    default_model: str
    memory: ModelMemory | None


class ModelsEvicted(BaseModel):
    """What was unloaded, and what is in use."""

    evicted: list[ModelEviction]
    in_use: list[str]
    message: str


class CurrentModel(BaseModel):
    """The model that was switched to, null before; whether anything is being read now."""

    model: str | None
    is_processing: bool


class SwitchRequest(BaseModel):
    """The model for jobs that name none."""

    model: str = Field(max_length=300, examples=["got"])


class ModelSwitched(BaseModel):
    """The switch was made."""

    previous_model: str | None
    current_model: str
    message: str


class ModelState(BaseModel):
    """One model. `progress` in percent."""

    model: str
    status: ModelStatus
    progress: int
    message: str
    is_ready: bool
