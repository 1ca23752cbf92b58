"""The commands and their options. Whatever is decided here is decided by an option."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ocr_mlx import __version__
from ocr_mlx.cli import console
from ocr_mlx.cli.progress import reporter
from ocr_mlx.cli.read import Exit, Reader, ReadOptions, read
from ocr_mlx.cli.words import Shown, dashes
from ocr_mlx.domain import UNSET, DecodeOverrides, OcrRequest, Prompt, Upload
from ocr_mlx.errors import InvalidOption, ModelError, OcrMlxError
from ocr_mlx.settings import InvalidSetting, Settings

_STATUSES = "Exit status: 0 all good, 1 some failed, 2 usage, 3 no model, 130 Ctrl-C."
EPILOG = (
    "Without a command, ocr_mlx serves. The earlier form works too: ocr_mlx --input PAGE [--output FILE] "
    "[--model NAME] [--temperature T] [--top-p P] [--repetition-penalty R]. " + _STATUSES
)
_READ_EPILOG = (
    "Exit status: 0 every page gave text or is blank (a page that was cut off or repeated itself gave text: --strict "
    "counts it as failed), 1 a page or document failed, 2 wrong usage, 3 the model cannot be had, 130 Ctrl-C. "
    "After Ctrl-C, pages that are done are still printed; files are only ever written whole."
)
_CONTRACT_EPILOG = (
    "The other commands: read, serve, worker, convert, models, doctor; `ocr_mlx --help` tells of them. "
    "File and stdout both get the text. " + _STATUSES
)
_CONTRACT = ("--input", "--output", "--model", "--temperature", "--top-p", "--repetition-penalty")

_HELP = {"help_option_names": ["--help", "-h"]}

app = typer.Typer(
    name="ocr_mlx",
    context_settings=_HELP,
    no_args_is_help=True,
    add_completion=False,
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

contract = typer.Typer(
    name="ocr_mlx",
    context_settings=_HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What commands get from outside; tests put in their own."""

    settings: Callable[[], Settings]
    build: Callable[[Settings], Reader]
    busy: threading.Event = field(default_factory=threading.Event)
    """Set where the engine is closed and a thread still computes, which nothing can stop."""


def build_reader(settings: Settings) -> Reader:
    """The real engine."""
    options = settings.engine_options().for_the_user()
    from ocr_mlx.engine.build import build_service

    return build_service(options)


def main(argv: Sequence[str], tools: Tools | None = None) -> None:
    """Run a command; always ends in SystemExit with its status."""
    arguments = dashes(argv)
    earlier = bool(arguments) and arguments[0].split("=")[0] in _CONTRACT
    _start(contract if earlier else app, arguments, tools, "ocr_mlx")


def module_main(argv: Sequence[str], tools: Tools | None = None) -> None:
    """`main` for `python -m ocr_mlx.cli`, whose own form is `--input PAGE`; help and usage are about that."""
    arguments = dashes(argv)
    earlier = not arguments or arguments[0].split("=")[0] in (*_CONTRACT, "-h", "--help")
    _start(contract if earlier else app, arguments, tools, "python -m ocr_mlx.cli")


def _start(wanted: typer.Typer, arguments: Sequence[str], tools: Tools | None, name: str) -> None:
    warnings.filterwarnings("ignore", module="PIL")  # Pillow warns of every large page that is cut
    tools = tools or Tools(settings=Settings.from_env, build=build_reader)
    try:
        wanted(arguments, obj=tools, prog_name=name)
    except SystemExit as end:
        if tools.busy.is_set():
            console.end_now(end.code)
        raise


@contextmanager
def told() -> Iterator[None]:
    """Errors become one line on stderr and an exit status."""
    try:
        yield
    except (InvalidOption, InvalidSetting) as error:
        _fail(error, Exit.USAGE)
    except ModelError as error:
        _fail(error, Exit.NO_MODEL)
    except OcrMlxError as error:
        _fail(error, Exit.SOME_FAILED)


def _fail(error: OcrMlxError, status: Exit) -> None:
    typer.echo(f"ocr_mlx: {error}", err=True)
    raise typer.Exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        with told():
            console.say(f"ocr_mlx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read images and PDFs with native MLX models."""


Model = Annotated[str, typer.Option("--model", "-m", help="Alias, hub id or folder; without it OCR_MLX_MODEL.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="0 takes the most probable token each time.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Nucleus; counts only above temperature 0.")]
Penalty = Annotated[float | None, typer.Option(min=1.0, help="Weakens tokens that came lately; 1 is off.")]
Ngram = Annotated[int | None, typer.Option(min=0, help="No run of this many tokens comes twice; 0 is off.")]
NgramWindow = Annotated[int | None, typer.Option(min=0, help="How many of the last tokens that looks at; 0 is all.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="<text>", help="Text that ends a page, and is left out; may be repeated.")
]
Format = Annotated[str, typer.Option("--format", "-f", help="txt, md or json; without it the output's ending decides.")]


@app.command("read", cls=Shown, epilog=_READ_EPILOG)
def read_command(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Files, patterns, http(s)://, file:// or data: addresses, - for stdin."),
    ],
    model: Model = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File, or a folder for several inputs; without it stdout.")
    ] = None,
    format: Format = "",
    pages: Annotated[str, typer.Option("--pages", "-p", help="Pages to read, such as 1-3,7.")] = "",
    password: Annotated[str | None, typer.Option(help="Password of a PDF.", envvar=None)] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample among this many tokens; 0 is off.")] = None,
    repetition_penalty: Penalty = None,
    no_repeat_ngram: Ngram = None,
    ngram_window: NgramWindow = None,
    stop: Stop = None,
    padding: Annotated[int, typer.Option(help="White pixels to add on all sides; negative ones crop.")] = 0,
    mode: Annotated[str, typer.Option(help="One of the model's presets.")] = "",
    prompt: Annotated[str, typer.Option(help="What to ask, for models that take a prompt.")] = "",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens per page; per line where the model reads line by line.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes sampling repeatable.")] = None,
    dpi: Annotated[float | None, typer.Option(min=18, max=1200, help="Resolution for PDF pages.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that reading may take, loading not counted.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Read every page again, also one read before.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="A page that is cut off or repeats itself counts as failed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Read documents: text on stdout, progress and problems on stderr."""
    request = OcrRequest(
        source=Upload(data=b""),
        model=model,
        prompt=Prompt(text=prompt, mode=mode),
        overrides=_overrides(
            max_new_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram=no_repeat_ngram,
            ngram_window=ngram_window,
            stop=tuple(stop) if stop else None,
            seed=seed,
        ),
        page_range=pages,
        padding=padding,
        dpi=dpi,
        password=password,
        timeout=timeout,
        fresh=fresh,
    )
    options = ReadOptions(request=request, output=output, format=_format(format, output), strict=strict)
    _read(context.obj, inputs, options, quiet)


@contract.command(epilog=_CONTRACT_EPILOG)
def read_input(
    context: typer.Context,
    input: Annotated[str, typer.Option("--input", help="File, http(s)://, file:// or data: address.")],
    model: Model = "",
    output: Annotated[Path | None, typer.Option("--output", help="File that gets the text as well.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
) -> None:
    """Read one document, and print its text."""
    request = OcrRequest(
        source=Upload(data=b""),
        model=model,
        overrides=_overrides(temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty),
    )
    _read(context.obj, [input], ReadOptions(request=request, output=output, echo=True), quiet=False)


def _overrides(**given: Any) -> DecodeOverrides:
    return DecodeOverrides(**{name: UNSET if value is None else value for name, value in given.items()})


def _format(name: str, output: Path | None) -> str:
    from ocr_mlx.outputs.formats import FORMATS

    guessed = output.suffix.lstrip(".").lower() if output else ""
    chosen = name.lower() or (guessed if guessed in FORMATS else "txt")
    if chosen not in FORMATS:
        raise typer.BadParameter(f"{name} is none of {', '.join(FORMATS)}.", param_hint="--format")
    return chosen


def _read(tools: Tools, words: list[str], options: ReadOptions, quiet: bool) -> None:
    from ocr_mlx.cli.inputs import expand
    from ocr_mlx.server.choice import for_the_user

    with told():
        words, settings = expand(words), tools.settings()
        request = replace(options.request, model=for_the_user(options.request.model, settings))
        reader = tools.build(settings)
        try:
            with reporter(quiet) as seen:
                status = read(words, replace(options, request=request), reader, seen)
        finally:
            if reader.close() is False:
                tools.busy.set()
    raise typer.Exit(status)


@app.command(
    "serve",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Serve over HTTP (also without any command). `ocr_mlx serve --help` lists the options.",
)
def serve_command(context: typer.Context) -> None:
    """Hand everything to the server's own parser."""
    from ocr_mlx.endpoint import main as serve

    raise typer.Exit(serve(context.args))


@app.command(
    "convert",
    cls=Shown,
    epilog="Exit status: 0 done, 2 wrong usage, 3 the checkpoint cannot be had, read or written.",
)
def convert_command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="Hub id, alias or folder of a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the converted model.")],
    bits: Annotated[
        int | None, typer.Option(help="2, 3, 4, 5, 6 or 8; without it the layers are not quantized.")
    ] = None,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale: 32, 64 or 128.")] = 64,
    mixed: Annotated[bool, typer.Option("--mixed", help="Let the layers that suffer most keep more bits.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; without it as stored.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Convert a checkpoint to an MLX folder, quantized where asked for."""
    from ocr_mlx.cli.convert import ConvertOptions, convert

    options = ConvertOptions(source=source, out=out, bits=bits, group_size=group_size, mixed=mixed, dtype=dtype)
    with told(), reporter(quiet) as seen:
        done = convert(context.obj.settings(), options, seen)
    with told():
        console.say(done)


@app.command("models", cls=Shown)
def models_command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Alias, hub id, folder or family: tell its modes and defaults. "
            "openai+http://host:8000/v1: tell what that engine serves.",
        ),
    ] = "",
    family: Annotated[str, typer.Option("--family", help="Tell all about one family and its models.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object, with everything.")] = False,
) -> None:
    """List models: names, licences, sizes, what is here and loaded.

    With MODEL or --family: the modes that --mode takes, their prompts, and how they decode.
    """
    from ocr_mlx.cli.listing import details, table
    from ocr_mlx.cli.models import narrowed, overview
    from ocr_mlx.engine.remote import is_reference

    with told():
        settings = context.obj.settings()
        if is_reference(model) and not family:
            return _engine(model, settings, as_json)
        found = overview(settings)
        one = bool(model or family)
        if one:
            found = narrowed(found, settings, model, family)
        if as_json:
            console.say(json.dumps(found.record(), indent=2))
        else:
            console.say("\n".join(details(found) if one else table(found)))


def _engine(model: str, settings: Settings, as_json: bool) -> None:
    """Tell of an engine elsewhere, or of a model there."""
    from ocr_mlx.cli.elsewhere import elsewhere, lines

    found = elsewhere(model, settings)
    console.say(json.dumps(found.record(), indent=2) if as_json else "\n".join(lines(found)))


@app.command(
    "worker",
    epilog="Exit status: 0 ended as told to, 2 no Redis configured, its password refused, or its packages missing.",
)
def worker_command(
    context: typer.Context,
    rows: Annotated[
        int, typer.Option("--rows", "--threads", min=1, max=256, help="Pages to read side by side, as one batch.")
    ] = 8,
) -> None:
    """Read the pages of jobs that servers keep in Redis.

    Works until SIGTERM or Ctrl-C; OCR_MLX_REDIS_URL says where the jobs are.
    """
    from ocr_mlx.cli.worker import work

    with told():
        work(context.obj.settings(), rows)


@app.command("doctor")
def doctor_command(context: typer.Context) -> None:
    """Check this machine, then read a self-test page.

    Versions, device, BLAS, memory, models, and servers that run.
    """
    from ocr_mlx.cli.doctor import examine

    with told():
        settings = context.obj.settings()
        good = examine(settings, context.obj.build, console.say)
    raise typer.Exit(Exit.OK if good else Exit.SOME_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
