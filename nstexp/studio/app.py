"""The web server of the studio: the page, and the routes of its parts."""

import contextlib
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from nstexp.core.errors import UserError
from nstexp.core.secrets import without_secrets
from nstexp.studio.context import Studio
from nstexp.studio.safety import Guard
from nstexp.studio.sessions import Sessions
from nstexp.studio.worker import Worker

PAGE = Path(__file__).parent / "page"
SHARED = Path(__file__).parents[1] / "report" / "page" / "script"  # helpers of the report's page
PARTS = ("paint", "gallery", "experiments", "live", "clips")


def make_app(folder: Path, *, token: str | None = None) -> Starlette:
    """The server for a folder.

    Args:
        folder: an existing folder; the studio writes below `folder/studio` and reads nothing outside of `folder`.
        token: a secret that browsers must know; None: only this machine may connect.
    """
    root = folder.resolve()
    studio = Studio(root, Worker(), Sessions(root))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        studio.worker.start()
        try:
            yield
        finally:
            studio.worker.close()

    routes: list[BaseRoute] = [
        Route("/", lambda request: FileResponse(PAGE / "index.html")),
        Mount("/page/shared", StaticFiles(directory=SHARED)),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    for name in PARTS:
        if find_spec(f"nstexp.studio.{name}") is not None:
            routes += import_module(f"nstexp.studio.{name}").routes(studio)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={UserError: _as_sentence, HTTPException: _as_json, Exception: _as_bug},
        lifespan=lifespan,
    )
    app.state.studio = studio
    return app


async def _as_sentence(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": without_secrets(str(error))}, 400)


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _as_bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"this is a mistake in nstexp ({type(error).__name__}); its log tells more"}, 500)
