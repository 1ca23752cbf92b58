"""Engines elsewhere in what `/models` tells, over a real socket."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ocr_mlx.settings import Settings
from tests.wire.fake_jobs import FakeJobs
from tests.wire.fakes import FakeService, serving

PART = {"type": "image_url", "image_url": "data:image/png;base64,eA=="}
ELSEWHERE = "openai+http://gpu.lan:8000/v1#org/model"


@pytest.mark.parametrize(
    ("current", "words"),
    [("openai+http://gone.lan:1/v1#old", "OCR_MLX_REMOTE_HOSTS"), ("openai+nonsense", "malformed")],
)
def test_an_engine_that_is_not_allowed_any_more_spoils_no_list(current: str, words: str, tmp_path: Path) -> None:
    """Somebody switched to it, and the settings have changed since."""
    jobs = FakeJobs(current=current)
    with serving(FakeService(), Settings(models_dir=tmp_path), jobs) as url:
        answer = httpx.get(f"{url}/models")
        assert answer.status_code == 200
        told = answer.json()
        entry = next(one for one in told["models"] if one["name"] == told["current_model"])
        assert (entry["status"], entry["is_available"], entry["is_loaded"]) == ("failed", False, False)
        assert words in entry["message"] and "gone.lan" not in answer.text
        assert httpx.get(f"{url}/models/current").status_code == 200
        assert httpx.post(f"{url}/models/switch", json={"model": "builtin"}).status_code == 200
    assert jobs.current == "builtin"


def test_an_engine_of_the_settings_is_listed_by_its_models_name(tmp_path: Path) -> None:
    with serving(FakeService(), Settings(model=ELSEWHERE, models_dir=tmp_path), FakeJobs()) as url:
        told = httpx.get(f"{url}/models").json()
        one = httpx.get(f"{url}/models/org/model/status").json()
    assert told["default_model"] == "org/model" and "gpu.lan" not in str(told)
    assert one["status"] == "ready" and one["message"] == "Read by another engine."


@pytest.mark.parametrize(
    ("model", "name", "here"), [(ELSEWHERE, "org/model", False), ("/srv/models/mine", "mine", True)]
)
def test_openais_list_has_the_model_of_the_settings_and_takes_its_name(
    model: str, name: str, here: bool, tmp_path: Path
) -> None:
    service = FakeService()
    with serving(service, Settings(model=model, models_dir=tmp_path), FakeJobs()) as url:
        first, *others = httpx.get(f"{url}/v1/models").json()["data"]
        assert (first["id"], first["root"], first["here"]) == (name, name, here)
        assert name not in [one["id"] for one in others] and "builtin" in [one["id"] for one in others]
        assert httpx.get(f"{url}/v1/models/{name}").json() == first
        asked = {"model": name, "messages": [{"role": "user", "content": [PART]}]}
        assert httpx.post(f"{url}/v1/chat/completions", json=asked).status_code == 200
        assert httpx.post(f"{url}/ocr", json={"filename": PART["image_url"], "model": name}).status_code == 200
    assert [request.model for request in service.requests] == [model, model]


def test_a_job_may_name_an_engine_in_any_letters(tmp_path: Path) -> None:
    jobs = FakeJobs()
    picture = (Path(__file__).parents[2] / "examples" / "page.png").read_bytes()
    with serving(FakeService(), Settings(model=ELSEWHERE, models_dir=tmp_path), jobs) as url:
        form = {"engine": ELSEWHERE.replace("openai", "OpenAI")}
        answer = httpx.post(f"{url}/ocr", data=form, files={"file": ("page.png", picture, "image/png")})
        assert answer.status_code == 202, answer.text
    assert jobs.asked[0].model == ELSEWHERE and jobs.said[0]["engine"] == "org/model"
