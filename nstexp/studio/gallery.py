"""The built-in pictures: `/api/gallery`, and small copies of them, which are kept in the studio's folder."""

from functools import cache, partial
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from nstexp.core.errors import UserError
from nstexp.core.runtime.files import write_atomically
from nstexp.media import samples
from nstexp.studio.context import Studio
from nstexp.studio.sessions import HOME

SIZES_PX = {"thumbnail": 240, "view": 1600}  # longest sides
QUALITY = 85
FOR_A_DAY = {"cache-control": "private, max-age=86400"}


def routes(studio: Studio) -> list[BaseRoute]:
    """The routes of the gallery."""
    return [
        Route("/api/gallery", _listing),
        Route("/api/gallery/{size}/{name}", partial(_copy, studio)),
    ]


async def _listing(request: Request) -> Response:
    """All built-in pictures: `photos`, `paintings`, and `learned` styles of method=cin with their paintings."""
    return JSONResponse(await run_in_threadpool(listing), headers=FOR_A_DAY)


def listing() -> dict[str, list[dict[str, Any]]]:
    """What `/api/gallery` answers."""
    pictures = samples.listing()
    titles = {each.name: each.title for each in pictures}
    shown: list[dict[str, Any]] = [{"name": each.name, "title": each.title, **_size(each.path)} for each in pictures]
    learned = samples.learned_styles().items()
    return {
        "photos": [each for each in shown if each["name"].startswith("sample:")],
        "paintings": [each for each in shown if each["name"].startswith("met:")],
        "learned": [{"name": name, "source": source, "title": titles.get(source, source)} for name, source in learned],
    }


@cache
def _size(path: Path) -> dict[str, int]:
    """Width and height of a built-in picture, in pixels; only its header is read."""
    from PIL import Image

    with Image.open(path) as image:
        return {"width": image.width, "height": image.height}


async def _copy(studio: Studio, request: Request) -> Response:
    """A built-in picture as JPEG, as a thumbnail or as large as a page shows it."""
    size, name = request.path_params["size"], request.path_params["name"]
    if size not in SIZES_PX or not samples.is_builtin(name):
        raise UserError(f"{name}: no built-in image has this name")
    source = samples.find(name)
    copy = studio.folder / HOME / "cache" / f"{name.replace(':', '-')}-{SIZES_PX[size]}.jpg"
    if not copy.is_file():
        await run_in_threadpool(_write, source, copy, SIZES_PX[size])
    return FileResponse(copy, headers=FOR_A_DAY)


def _write(source: Path, copy: Path, px: int) -> None:
    from PIL import Image

    with Image.open(source) as image:
        image.draft("RGB", (px, px))
        small = image.convert("RGB")
        small.thumbnail((px, px), Image.Resampling.LANCZOS)
    write_atomically(copy, lambda temporary: small.save(temporary, quality=QUALITY))
