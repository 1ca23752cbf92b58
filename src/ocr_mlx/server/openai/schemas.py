"""The wire form of chat completions, responses and the list of models. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

FINITE = {"allow_inf_nan": False}
_WHOLE = 1_000_000
_WHITE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAADUlEQVR42mP4z8SADAEPcQEOdvOI0AAAAABJRU5ErkJggg=="
)
"""Eight by eight white pixels, for the examples."""
_READ_THIS: list[Any] = [
    {"type": "input_text", "text": "Extract all text from this document."},
    {"type": "input_image", "image_url": _WHITE},
]
_EXAMPLE: dict[str, Any] = {"model": "builtin", "temperature": 0.0}


def _text_or_more(value: object) -> str:
    """Which of two forms a value has, so that an error is about that form and not about the other."""
    return "_text" if isinstance(value, str) else "_more"


TextOrMore = Discriminator(_text_or_more)


class Address(BaseModel):
    """Where an image is."""

    url: str | None = Field(default=None, description="`data:` URI, or an http(s) address.")
    image_url: str | None = Field(default=None, description="The same, as some clients call it.")


class FileData(BaseModel):
    """A document in the request."""

    file_data: str | None = Field(default=None, description="`data:` URI of a PDF or an image.")
    filename: str | None = Field(default=None, description="For messages only.", max_length=1000)
    file_id: str | None = Field(default=None, description="Not taken: nothing is uploaded beforehand.")


class Part(BaseModel):
    """A piece of a message: words, an image, or a file."""

    type: str = Field(
        description="`text`, `input_text`, `image_url`, `input_image`, `file` or `input_file`.", examples=["image_url"]
    )
    text: str | None = None
    image_url: Annotated[Annotated[str, Tag("_text")] | Annotated[Address, Tag("_more")], TextOrMore] | None = Field(
        default=None, description="`data:` URI or http(s) address, bare or as `{url}`."
    )
    file: FileData | None = None
    file_data: str | None = Field(default=None, description="`data:` URI of a PDF or an image, for `input_file`.")
    file_url: str | None = Field(default=None, description="http(s) address, for `input_file`.")
    filename: str | None = Field(default=None, max_length=1000)
    file_id: str | None = Field(default=None, description="Not taken: nothing is uploaded beforehand.")


Content = Annotated[Annotated[str, Tag("_text")] | Annotated[list[Part], Tag("_more")], TextOrMore]
OneStop = Annotated[str, Field(min_length=1, max_length=200)]
Stop = Annotated[
    Annotated[OneStop, Tag("_text")] | Annotated[Annotated[list[OneStop], Field(max_length=16)], Tag("_more")],
    TextOrMore,
]


class Message(BaseModel):
    """One turn. `system` and `developer` instruct, `user` asks and brings the documents, other roles are passed over."""

    role: str = "user"
    content: Content | None = None


class JsonSchema(BaseModel):
    """What a JSON answer must look like."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(default="answer", max_length=200)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ChatFormat(BaseModel):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class TextFormat(JsonSchema):
    """The form of a response's answer: as in chat, with the schema beside the type."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class TextOptions(BaseModel):
    """How a response's text is to be."""

    format: TextFormat | None = None


class StreamOptions(BaseModel):
    """What a stream tells."""

    include_usage: bool | None = None


class Asking(BaseModel):
    """What both kinds of request have. Null is as good as left out."""

    model: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="Hub id or alias; `/v1/models` lists them.", examples=["deepseek-ai/DeepSeek-OCR"]
    )
    temperature: Annotated[float, Field(ge=0.0, le=2.0, **FINITE)] | None = Field(
        default=None, description="0 takes the most probable token each time. Left out: the model's own."
    )
    top_p: Annotated[float, Field(ge=0.0, le=1.0, **FINITE)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_WHOLE)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0, **FINITE)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=1000)] | None = None
    do_sample: bool | None = Field(default=None, description="False is temperature 0.")
    max_new_tokens: Annotated[int, Field(ge=1, le=_WHOLE)] | None = None
    mode: str | None = Field(default=None, max_length=200, description="One of the model's presets.")
    pages: str | None = Field(default=None, max_length=10_000, description="Pages to read, such as `1-3,7`.")
    password: str | None = Field(default=None, max_length=1000, description="Password of a PDF.")
    dpi: Annotated[float, Field(ge=18.0, le=1200.0, **FINITE)] | None = Field(
        default=None, description="Resolution for PDF pages."
    )
    keep_alive: Annotated[float, Field(ge=-1e9, le=1e9, **FINITE)] | None = Field(
        default=None,
        description="Seconds that the model stays in memory afterwards; negative: for good, or until evicted.",
    )
    timeout: Annotated[float, Field(gt=0.0, le=1e9, **FINITE)] | None = Field(
        default=None, description="Seconds that reading a document may take from the moment the model is there."
    )
    fresh: bool | None = Field(default=None, description="Read every page again, also one that was read before.")
    tools: list[Any] | None = Field(default=None, description="Refused unless empty.")
    top_logprobs: int | None = Field(default=None, description="Refused above 0.")


class ChatRequest(Asking):
    """Documents to read, as a chat."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_EXAMPLE | {"messages": [{"role": "user", "content": _READ_THIS}]}]}
    )
    messages: Annotated[list[Message], Field(min_length=1)] = Field(
        description="The documents are those of the last user message that has any; the words are the last user message's."
    )
    max_tokens: Annotated[int, Field(ge=1, le=_WHOLE)] | None = Field(default=None, description="Most tokens per page.")
    max_completion_tokens: Annotated[int, Field(ge=1, le=_WHOLE)] | None = None
    stop: Stop | None = None
    response_format: ChatFormat | None = None
    n: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Refused above 1.")
    functions: list[Any] | None = Field(default=None, description="Refused unless empty.")
    logprobs: bool | None = Field(default=None, description="Refused when true.")
    modalities: list[str] | None = Field(default=None, description="Refused unless only `text`.")
    audio: dict[str, Any] | None = Field(default=None, description="Refused.")
    frequency_penalty: float | None = Field(default=None, description="Refused unless 0.")
    presence_penalty: float | None = Field(default=None, description="Refused unless 0.")
    logit_bias: dict[str, float] | None = Field(default=None, description="Refused unless empty.")
    web_search_options: dict[str, Any] | None = Field(default=None, description="Refused.")


class ResponsesRequest(Asking):
    """Documents to read, as a response."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_EXAMPLE | {"input": [{"role": "user", "content": _READ_THIS}]}]}
    )
    input: Annotated[Annotated[str, Tag("_text")] | Annotated[list[Message], Tag("_more")], TextOrMore]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=_WHOLE)] | None = Field(
        default=None, description="Most tokens per page."
    )
    text: TextOptions | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Comes back with the answer.")
    previous_response_id: str | None = Field(default=None, description="Refused: nothing is kept.")
    conversation: Any = Field(default=None, description="Refused: nothing is kept.")
    background: bool | None = Field(default=None, description="Refused when true.")
    prompt: Any = Field(default=None, description="Refused: templates are not kept here.")


# --- answers ---------------------------------------------------------------------------------------------------------


class PageProblem(BaseModel):
    """Why a page failed."""

    code: str
    message: str


class PageReport(BaseModel):
    """What became of a page. `document` counts the request's documents, `index` the document's pages, both from 0.

    `text` is there only where a stream has sent words that did not stay.
    """

    document: int
    index: int
    status: str
    confidence: float | None
    error: PageProblem | None = None
    text: str | None = None


class Report(BaseModel):
    """What became of the whole: the worst page's status, and the mean probability of its tokens."""

    status: str
    confidence: float | None
    pages: list[PageReport]


class ChatUsage(BaseModel):
    """Tokens, as the model counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The text."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A chat's answer. `ocr` is this server's own."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    ocr: Report


class Model(BaseModel):
    """A model by one of its names. `root` is the checkpoint behind the name, `here` whether it is on this machine."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    here: bool


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class InputDetails(BaseModel):
    """Of the tokens that went in."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """Of the tokens that came out."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens, as the model counts them."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class OutputText(BaseModel):
    """The text."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(BaseModel):
    """The one item of a response."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class Incomplete(BaseModel):
    """Why a text is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseProblem(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class ResponseRecord(BaseModel):
    """A response. `ocr` is this server's own."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseProblem | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: bool = False
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = []
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    metadata: dict[str, str] = {}
    ocr: Report | None = None


class ErrorObject(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's error answer."""

    error: ErrorObject
