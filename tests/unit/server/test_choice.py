"""Which model reads a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocr_mlx.errors import SourceForbidden, UnknownModel
from ocr_mlx.server.choice import ModelChoice, for_the_user
from ocr_mlx.settings import NATIVE, Settings


def choice(settings: Settings, current: str | None = None) -> ModelChoice:
    return ModelChoice(settings, lambda: current)


@pytest.mark.parametrize("service", NATIVE)
def test_where_nobody_chose_each_service_reads_with_its_own(service: str) -> None:
    assert choice(Settings()).pick("", service) == NATIVE[service]


@pytest.mark.parametrize("service", NATIVE)
def test_the_request_then_the_switch_then_the_setting(service: str) -> None:
    settings = Settings(model="got")
    assert choice(settings, "lighton").pick(" builtin ", service) == "builtin"
    assert choice(settings, "lighton").pick("", service) == "lighton"
    assert choice(settings).pick("", service) == "got"
    assert choice(settings, "lighton").default(service) == "got"


def test_a_contract_gives_json_ocr_its_model() -> None:
    assert choice(Settings(contract="lighton")).pick("", "ocr_mlx") == NATIVE["lighton"]
    assert choice(Settings(contract="lighton")).pick("", "deepseek") == NATIVE["deepseek"]


def test_a_model_name_goes_where_its_family_reads() -> None:
    models = choice(Settings(model_name="deepseek-ai/DeepSeek-OCR-2"))
    assert models.pick("", "deepseek") == "deepseek-ai/DeepSeek-OCR-2"
    assert models.pick("", "lighton") == NATIVE["lighton"]


def test_a_model_name_that_cannot_be_told_goes_with_the_contract() -> None:
    models = choice(Settings(model_name="me/fine-tune", contract="lighton"))
    assert models.pick("", "lighton") == "me/fine-tune"
    assert models.pick("", "deepseek") == NATIVE["deepseek"]


@pytest.mark.parametrize("name", ["", "deepseek", "deepseek-ai/DeepSeek-OCR"])
def test_deepseek_is_read_from_the_folder_that_was_named(name: str, tmp_path: Path) -> None:
    assert choice(Settings(deepseek_model=tmp_path)).pick(name, "deepseek") == str(tmp_path)


def test_an_engine_elsewhere_reads_all_but_folders_and_the_built_in_model() -> None:
    models = choice(Settings(model_source="vllm", remote_endpoint="http://gpu:8001/v1/chat/completions"))
    assert models.pick("lighton", "lighton") == "openai+http://gpu:8001/v1#lightonai/LightOnOCR-2-1B"
    assert models.pick("builtin", "lighton") == "builtin"
    assert models.pick("./folder", "lighton") == "./folder"


def test_the_user_himself_may_name_every_engine() -> None:
    settings = Settings(model_source="vllm", remote_endpoint="http://gpu:8001/v1", remote_hosts=())
    assert for_the_user("lighton", settings) == "openai+http://gpu:8001/v1#lightonai/LightOnOCR-2-1B"
    assert for_the_user("", settings) == "openai+http://gpu:8001/v1#facebook/nougat-small"
    assert for_the_user("builtin", settings) == "builtin"
    assert for_the_user("openai+http://other:9/v1#m", settings) == "openai+http://other:9/v1#m"
    assert for_the_user("lighton", Settings()) == "lighton"


def test_a_word_that_means_nothing_is_refused() -> None:
    with pytest.raises(UnknownModel, match="zzz"):
        choice(Settings()).pick("zzz", "jobs")


def test_an_engine_elsewhere_is_one_of_the_list_or_of_the_models_that_are_set() -> None:
    models = choice(
        Settings(model="openai+http://own:9/v1#m", model_name="openai+broken", remote_hosts=("listed:8000",))
    )
    for name in ("openai+http://own:9/v1#m", "openai+http://own:9/v1#other", "openai+http://listed:8000/v1#m"):
        assert models.pick(name, "ocr_mlx") == name
    assert models.pick("", "jobs") == "openai+http://own:9/v1#m"
    assert models.pick("OpenAI+http://own:9/v1#M", "jobs") == "openai+http://own:9/v1#M"
    for name in ("openai+http://own:8/v1#m", "OpenAI+http://127.0.0.1/v1#m"):
        with pytest.raises(SourceForbidden):
            models.pick(name, "ocr_mlx")


def test_a_model_elsewhere_may_be_called_as_answers_call_it() -> None:
    models = choice(Settings(model="openai+http://own:9/v1#org/model"), "openai+http://own:9/v1#second")
    assert models.pick("org/model", "nuno") == "openai+http://own:9/v1#org/model"
    assert models.pick("second", "ocr_mlx") == "openai+http://own:9/v1#second"
    assert choice(Settings(model="openai+http://own:9/v1#lighton")).pick("lighton", "nuno") == "lighton"
    assert choice(Settings()).pick("org/model", "nuno") == "org/model"


def test_a_folder_is_inside_the_roots_or_one_that_is_set(tmp_path: Path) -> None:
    settings = Settings(model=str(tmp_path / "own"), deepseek_model=tmp_path / "deep", file_roots=(tmp_path / "in",))
    models = choice(settings)
    assert models.pick("", "ocr_mlx") == str(tmp_path / "own")
    assert models.pick("deepseek", "deepseek") == str(tmp_path / "deep")
    assert models.pick(str(tmp_path / "in" / "x"), "ocr_mlx") == str(tmp_path / "in" / "x")
    with pytest.raises(SourceForbidden):
        models.pick(str(tmp_path / "out"), "ocr_mlx")


def test_a_folder_may_be_called_as_answers_call_it() -> None:
    models = choice(Settings(model="/models/mine"), "/models/switched")
    assert [models.pick(name, "nuno") for name in ("mine", "switched")] == ["/models/mine", "/models/switched"]
    with pytest.raises(UnknownModel):
        models.pick("other", "nuno")
    assert choice(Settings(model="/models/lighton")).pick("lighton", "nuno") == "lighton"
