"""docs/django.md as it stands: its blocks are the files of a Django site, which talks to the real server."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

import ocr_mlx
from tests.process.program import Start

pytestmark = [pytest.mark.process, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "page.png"
FIRST = "A short note on reading"
WAIT = 60.0
SETTINGS = """
ALLOWED_HOSTS = ["127.0.0.1"]
SECRET_KEY = "only for this test"
ROOT_URLCONF = "shop.urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["templates"]}]
"""
SERVE = """
from wsgiref.simple_server import make_server
from django.conf import settings
from django.core.wsgi import get_wsgi_application
site = make_server("127.0.0.1", 0, get_wsgi_application())
settings.OCR_WEBHOOK_URL = f"http://127.0.0.1:{site.server_port}/ocr/done/"
print(site.server_port, flush=True)
site.serve_forever()
"""


def blocks(kind: str) -> list[str]:
    text = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def write_site(folder: Path, service: str) -> None:
    _moving, settings, *views, urls = blocks("python")
    (form,) = blocks("html")
    files = {
        "shop/__init__.py": "",
        "shop/settings.py": f"{SETTINGS}{settings}\nOCR_SERVICE_URL = {service!r}\n",
        "shop/views.py": "\n".join(views),
        "shop/urls.py": urls,
        "templates/upload.html": form,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def site(start: Start, tmp_path: Path) -> Iterator[httpx.Client]:
    """A visitor of the site. Under DeepSeek-OCR's name the built-in model reads, so that the text is a real one."""
    builtin = str(Path(ocr_mlx.__file__).parent / "builtin")
    more = {"OCR_MLX_WEBHOOK_SECRET": "change-me", "OCR_MLX_WEBHOOK_PRIVATE": "1", "OCR_MLX_DEEPSEEK_MODEL": builtin}
    service = start("serve", "--contract", "nuno", "--port", "0", command=("-m", "ocr_mlx"), **more).ready()["url"]
    folder = tmp_path / "site"
    folder.mkdir()
    write_site(folder, service)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": path}
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT) as visitor:
                yield visitor
        finally:
            process.kill()


def pdf(pages: int) -> bytes:
    page = Image.open(PAGE).convert("L")
    out = io.BytesIO()
    page.save(out, "PDF", save_all=True, append_images=[page] * (pages - 1), resolution=100)
    return out.getvalue()


def test_the_document_is_a_site_that_works(site: httpx.Client) -> None:
    form = site.get("/ocr/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
    assert form.status_code == 200 and token and 'enctype="multipart/form-data"' in form.text
    said = {"csrfmiddlewaretoken": token[1]}

    for name, data, times in (("page.png", PAGE.read_bytes(), 1), ("scan.pdf", pdf(2), 2)):
        read = site.post("/ocr/", data=said, files={"file": (name, data)})
        assert read.status_code == 200, read.text
        assert read.json()["text"].count(FIRST) == times and 0.9 < read.json()["confidence"] < 1
    refused = site.post("/ocr/", data=said, files={"file": ("page.png", b"no picture")})
    assert refused.status_code == 502 and refused.json()["error"].startswith("OCR API request failed: ")
    assert site.post("/ocr/", data=said).json()["errors"]["file"]

    assert site.post("/ocr/jobs/", data=said).status_code == 400
    given = site.post("/ocr/jobs/", data=said, files={"file": ("scan.pdf", pdf(3))})
    assert given.status_code == 202, given.text
    deadline = time.monotonic() + WAIT
    while (told := site.get(f"/ocr/jobs/{given.json()['job']}/")).status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert told.json()["status"] == "completed" and told.json()["error"] is None
    assert told.json()["result"]["text"].count(FIRST) == 3
    assert site.post("/ocr/done/", json={"job_id": "x", "status": "completed"}).status_code == 403
