"""The pages that show the application's description.

Their scripts come from elsewhere and run as pages of this server, which may do everything. So browsers are told what
they must be, to the byte: a release of each, and its digest.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse

OPENAPI: Final = "/openapi.json"
TITLE: Final = "OCR MLX API"
SCRIPT: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/swagger-ui-bundle.js"
STYLE: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/swagger-ui.css"
REDOC: Final = "https://cdn.jsdelivr.net/npm/redoc@2.5.4/bundles/redoc.standalone.js"
DIGESTS: Final = {
    SCRIPT: "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
    STYLE: "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
    REDOC: "sha384-w447zOpYfw/1Tv/5AK9NfHTlQIqE3RVR6KY62jCyy9zNDgO64cMwGGP1Fj0zJVf5",
}
"""Of the files in the packages on npm, which that address serves unchanged."""
_NO_ICON: Final = "data:,"

router = APIRouter(include_in_schema=False)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def swagger() -> HTMLResponse:
    """Swagger UI."""
    return _held(
        get_swagger_ui_html(
            openapi_url=OPENAPI, title=TITLE, swagger_js_url=SCRIPT, swagger_css_url=STYLE, swagger_favicon_url=_NO_ICON
        )
    )


@router.api_route("/redoc", methods=["GET", "HEAD"])
async def redoc() -> HTMLResponse:
    """ReDoc."""
    return _held(
        get_redoc_html(
            openapi_url=OPENAPI, title=TITLE, redoc_js_url=REDOC, redoc_favicon_url=_NO_ICON, with_google_fonts=False
        )
    )


def _held(page: HTMLResponse) -> HTMLResponse:
    """The page, with the digest beside every address."""
    text = bytes(page.body).decode()
    for address, digest in DIGESTS.items():
        text = text.replace(f'"{address}"', f'"{address}" integrity="{digest}" crossorigin="anonymous"')
    return HTMLResponse(text)
