"""The part of the studio that shows runs and sweeps, compares them, and starts, stops and continues sweeps."""

import asyncio
import io
import os
import shlex
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from cachetools import LRUCache
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from nstexp.core.errors import UserError
from nstexp.studio import checking, launching
from nstexp.studio.bodies import json_object
from nstexp.studio.comparing import compared
from nstexp.studio.context import Studio
from nstexp.studio.progress import LOADER, log_lines
from nstexp.studio.reading import Found, read_run, report_of
from nstexp.studio.reading import words_of as words_of_command
from nstexp.studio.sessions import HOME
from nstexp.studio.watching import Watcher

THUMBNAIL_PX, LARGEST_THUMBNAIL_PX, MOST_MEGAPIXELS = 320, 1024, 200
THUMBNAILS_BYTES = 48 * 2**20
KEPT = "private, max-age=31536000, immutable"  # the address of a picture has the time of its last change in it
TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
    ".mp4": "video/mp4", ".webm": "video/webm", ".csv": "text/plain", ".json": "text/plain", ".yaml": "text/plain",
    ".log": "text/plain", ".txt": "text/plain",
}  # fmt: skip
REPORTS = ("report.html", "index.html")
# A report has its scripts inside. In a sandbox they run without the rights of the studio's own page.
SANDBOX = (
    "sandbox allow-scripts allow-downloads allow-popups allow-modals; default-src 'none'; img-src data: blob: 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)
REPORT_SECONDS = 600.0  # limit of a report


def routes(studio: Studio) -> list[Route]:
    """The routes below /api/experiments."""
    part = Experiments(studio)
    table: dict[str, tuple[Any, str]] = {
        "list": (part.listed, "GET"),
        "one": (part.one, "GET"),
        "log": (part.log, "GET"),
        "keys": (part.keys, "GET"),
        "key": (part.key, "GET"),
        "check": (part.check, "POST"),
        "start": (part.start, "POST"),
        "stop": (part.stop, "POST"),
        "continue": (part.go_on, "POST"),
        "report": (part.report, "POST"),
        "compare": (part.compare, "POST"),
        "thumbs/{path:path}": (part.thumbnail, "GET"),
        "files/{path:path}": (part.file, "GET"),
    }
    return [Route(f"/api/experiments/{name}", call, methods=[method]) for name, (call, method) in table.items()]


class Experiments:
    """Answers the requests of the page.

    Args:
        studio: the state of the server.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.watcher = Watcher(studio.folder.resolve())
        self._thumbnails: LRUCache[Any, bytes] = LRUCache(THUMBNAILS_BYTES, getsizeof=len)
        self._lock = threading.Lock()
        self._drawing = asyncio.Semaphore(2)
        self.checker = checking.Checker(self.watcher.folder)
        self._asking = asyncio.Lock()
        self._reporting = asyncio.Semaphore(1)

    # --------------------------------------------------------------------------------------------------- what there is

    async def listed(self, request: Request) -> Response:
        """All runs and sweeps; only {version, same: true} if the page knows this version."""
        again = request.query_params.get("again") == "1"
        return _unless_known(request, await run_in_threadpool(self.watcher.all, again))

    async def one(self, request: Request) -> Response:
        """A sweep with its jobs, or a run."""
        place = self._place(request.query_params.get("path", ""))
        return _unless_known(request, await run_in_threadpool(self.watcher.one, place))

    async def log(self, request: Request) -> Response:
        """The end of a log: {lines, name}."""
        place = self._place(request.query_params.get("path", ""))
        names = [name for name in (launching.LOG, "nstexp.log") if (place / name).is_file()]
        if not names:
            return JSONResponse({"lines": [], "name": None})
        lines = await run_in_threadpool(log_lines, place / names[0])
        return JSONResponse({"lines": lines, "name": names[0]})

    async def compare(self, request: Request) -> Response:
        """Runs beside each other; the body is {paths}."""
        body = await json_object(request)
        paths = body.get("paths")
        if not isinstance(paths, list):
            raise UserError("paths: give a list of runs")
        places = [self._place(str(path)) for path in paths]
        return JSONResponse(await run_in_threadpool(compared, self.watcher, places))

    def _place(self, path: str) -> Path:
        """A folder below that of the studio, but not one that holds the pictures of browsers."""
        place = self._shown(path)
        if not place.is_dir():
            raise UserError(f"{path}: there is no such folder any more")
        return place

    # ----------------------------------------------------------------------------------------------------------- files

    async def thumbnail(self, request: Request) -> Response:
        """A small copy of a picture; `px` is its longer side."""
        file = self._file(request)
        px = min(LARGEST_THUMBNAIL_PX, int(given)) if (given := request.query_params.get("px", "")).isdecimal() else 0
        px = max(16, px or THUMBNAIL_PX)
        try:
            key = (str(file), file.stat().st_mtime_ns, px)
        except OSError:
            return _missing(file)
        with self._lock:
            content = self._thumbnails.get(key)
        if content is None:
            async with self._drawing:
                content = await run_in_threadpool(small_copy, file, px)
            if content is None:
                return _missing(file)
            with self._lock:
                if len(content) <= THUMBNAILS_BYTES // 8:
                    self._thumbnails[key] = content
        return Response(content, media_type="image/webp", headers={"cache-control": KEPT})

    async def file(self, request: Request) -> Response:
        """A file of a run: a picture, a table, a log, or a report."""
        file = self._file(request)
        if not file.is_file():
            return _missing(file)
        if file.name in REPORTS:
            return FileResponse(file, media_type="text/html", headers={"content-security-policy": SANDBOX})
        kind = TYPES.get(file.suffix.lower())
        if kind is None:
            raise UserError(f"{file.name}: the page shows pictures, tables, logs and reports only")
        kept = {"cache-control": KEPT} if "v" in request.query_params and kind.startswith("image/") else {}
        return FileResponse(file, media_type=kind, headers=kept)

    def _file(self, request: Request) -> Path:
        return self._shown(request.path_params["path"])

    def _shown(self, path: str) -> Path:
        """A path below the folder of the studio that this part may show.

        Raises:
            UserError: it leads elsewhere, to the pictures of browsers, or into a hidden folder.
        """
        place = self.studio.below(path)
        parts = place.relative_to(self.watcher.folder).parts
        if parts[:1] == (HOME,):
            raise UserError(f"{path}: this folder belongs to the studio")
        if any(part.startswith(".") for part in parts):
            raise UserError(f"{path}: the page does not show hidden files and folders")
        return place

    async def report(self, request: Request) -> Response:
        """Write the report of a sweep, if it is missing or older than a run; {url}."""
        body = await json_object(request)
        place = self._place(str(body.get("path", "")))
        found = await run_in_threadpool(self.watcher.one, place)
        if found["report"] is None or not found["fresh"] or body.get("again"):
            async with self._reporting:
                await run_in_threadpool(_report_on, place)
            self.watcher.forget()
        written = report_of(place)
        if written is None:
            raise UserError(f"{place.name}: no report was written")
        name = written.relative_to(self.watcher.folder).as_posix()
        return JSONResponse({"url": f"/api/experiments/files/{_quoted(name)}"})

    # -------------------------------------------------------------------------------------------------- start and stop

    async def keys(self, request: Request) -> Response:
        """What the form suggests: {keys, groups: {group: options}, pictures}."""
        return JSONResponse(await run_in_threadpool(suggestions), headers={"cache-control": "private, max-age=600"})

    async def key(self, request: Request) -> Response:
        """The help on a key: {text}, which is empty for an unknown one."""
        return JSONResponse({"text": await run_in_threadpool(help_on, request.query_params.get("name", ""))})

    async def check(self, request: Request) -> Response:
        """Check the form: {problems: [{key, sentence}], sweep, total, command}."""
        words, plan = await self._checked(request)
        return JSONResponse(_answer(words, plan, self.watcher.folder))

    async def start(self, request: Request) -> Response:
        """Start what the form says, if nothing is wrong with it: the answer of `check`, and id of what was started."""
        words, plan = await self._checked(request)
        answer = _answer(words, plan, self.watcher.folder)
        if plan["problems"]:
            return JSONResponse(answer)
        place = await run_in_threadpool(launching.start, self.watcher.folder, words, plan)
        self.watcher.forget()
        return JSONResponse({**answer, "id": place.relative_to(self.watcher.folder).as_posix()})

    async def _checked(self, request: Request) -> tuple[list[str], dict[str, Any]]:
        """The words of the form and their plan, with its problems."""
        rows = (await json_object(request)).get("rows")
        try:
            words = await run_in_threadpool(_words, rows, self.watcher.folder)
        except UserError as error:
            problem = {"key": getattr(error, "key", None), "sentence": str(error)}
            return [], {"problems": [problem], "sweep": False, "total": None, "keys": [], "jobs": []}
        async with self._asking:
            if await request.is_disconnected():  # the form has changed meanwhile, and the page asks again
                raise UserError("the page has asked again")
            return words, await run_in_threadpool(self.checker.examine, words)

    async def stop(self, request: Request) -> Response:
        """Do what Ctrl-C does to a process that a studio started; the body is {path}, the answer {sentence}."""
        place = self._place(str((await json_object(request)).get("path", "")))
        sentence = await run_in_threadpool(launching.stop, place)
        self.watcher.forget()
        return JSONResponse({"sentence": sentence})

    async def go_on(self, request: Request) -> Response:
        """Start the command of a sweep or run again in its folder; the body is {path}, the answer {sentence}."""
        place = self._place(str((await json_object(request)).get("path", "")))
        words = await run_in_threadpool(self._words_of, place)
        plan = await run_in_threadpool(self.checker.examine, words)
        for problem in plan["problems"]:
            raise UserError(problem["sentence"])
        await run_in_threadpool(launching.go_on, place, words, plan, self.watcher.folder)
        self.watcher.forget()
        kept = "finished jobs are kept" if plan["sweep"] else "it works in the same folder"
        return JSONResponse({"sentence": f"{place.name} continues; {kept}"})

    def _words_of(self, place: Path) -> list[str]:
        """The words of the command of a sweep or run, checked like those of the form.

        Raises:
            UserError: they are not recorded, it was started elsewhere, or the page does not take them.
        """
        launching.check_idle(place)
        record = launching.read_record(place)
        origin = _origin(place) if record is None else record.cwd
        words = words_of_command(Found(place, (place / "multirun.yaml").is_file()), [read_run(place)], record)
        if not words:
            raise UserError(f"{place.name}: its command is not recorded, so it cannot be continued")
        if any(word.startswith("hydra/sweeper=") for word in words):
            raise UserError(f"{place.name} is a search, which would choose other values: start a new one")
        if origin is None or Path(origin).resolve() != self.watcher.folder:
            where = f" in {origin}" if origin else " elsewhere"
            raise UserError(f"{place.name} was started{where}, where its paths begin: continue it there in a terminal")
        rows = [dict(zip(("key", "value"), word.split("=", 1), strict=False)) for word in words]
        return _words(rows, self.watcher.folder)


def _words(rows: Any, folder: Path) -> list[str]:
    """The words of the form; Hydra, which reads them, is imported only now."""
    from nstexp.studio.wishes import Refused, words_of

    words = words_of(rows, folder)
    if not words:
        raise Refused(None, "give at least one key and its value, such as weights.beta and 100,1000,10000")
    return words


def _origin(place: Path) -> str | None:
    """Where a sweep or run was started, by Hydra's record; None if it cannot be read."""
    file = place / "multirun.yaml"
    file = file if file.is_file() else place / ".hydra" / "hydra.yaml"
    try:
        origin = yaml.load(file.read_text(encoding="utf-8"), LOADER)["hydra"]["runtime"]["cwd"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return origin if isinstance(origin, str) else None


def _answer(words: list[str], plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The answer about a form. The command still lacks the folder, which has the time of its start in its name."""
    command = shlex.join(["nstexp", *(["-m"] if plan["sweep"] else []), *words]) if words else None
    return {
        "problems": plan["problems"],
        "sweep": plan["sweep"],
        "total": plan["total"],
        "command": None if plan["problems"] else command,
        "folder": str(folder),
    }


def _unless_known(request: Request, answer: dict[str, Any]) -> Response:
    if request.query_params.get("known") == answer["version"]:
        return JSONResponse({"version": answer["version"], "same": True})
    return JSONResponse(answer)


def _missing(file: Path) -> Response:
    return JSONResponse({"error": f"{file.name}: there is no such file, or it cannot be read"}, 404)


def _quoted(name: str) -> str:
    return quote(os.fsencode(name))


def small_copy(file: Path, px: int) -> bytes | None:
    """A picture as WebP whose longer side has at most `px` pixels; None if it cannot be read.

    Args:
        file: a PNG, JPEG or WebP file.
        px: the longer side.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MOST_MEGAPIXELS * 1e6:
                return None
            image.draft("RGB", (px, px))  # of a JPEG, only as many pixels are decoded as are needed
            small = image.convert("RGBA" if image.mode in ("RGBA", "LA", "PA") else "RGB")
            small.thumbnail((px, px), Image.Resampling.LANCZOS, reducing_gap=3.0)
            content = io.BytesIO()
            small.save(content, "WEBP", quality=80, method=2)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return content.getvalue()


def _report_on(place: Path) -> None:
    """Write the report of a sweep in another process, because it imports torch.

    Raises:
        UserError: the sentence of the command.
    """
    command = [*checking.python(), "-m", "nstexp", "report", str(place)]
    nothing = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, cwd=place, timeout=REPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{place.name}: the report took too long; write it in a terminal") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(lines[-1] if lines else f"{place.name}: the report could not be written")


@cache
def suggestions() -> dict[str, Any]:
    """The keys and options that the form suggests, without those that it refuses."""
    from nstexp.config.keys import CONF, HYDRAS_OWN, known
    from nstexp.media import samples
    from nstexp.studio.wishes import DIRECTION, HYDRAS, Refused, check_word

    tree = known()
    groups = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in CONF.iterdir()
        if folder.is_dir() and folder.name != "hydra"
    }
    groups["hydra/launcher"] = ["basic", *sorted(file.stem for file in (CONF / "hydra" / "launcher").glob("*.yaml"))]
    keys = []
    for path in [*tree.paths(), *HYDRAS, DIRECTION]:
        if isinstance(tree.at(path), dict) or path.rpartition(".")[2] in HYDRAS_OWN or path in groups:
            continue
        try:
            check_word(path, "1")
        except Refused:
            continue
        keys.append(path)
    try:
        pictures = samples.names()
    except (UserError, OSError):
        pictures = []
    return {"keys": sorted({*keys}), "groups": groups, "pictures": pictures}


@cache
def help_on(name: str) -> str:
    """The help of the command line on a key or a group; '' for an unknown one."""
    from nstexp.help import screen

    if not name or len(name) > 100:
        return ""
    try:
        return screen(name)
    except Exception:  # an unknown key is no mistake while it is typed
        return ""
