"""The part Paint: uploads, previews, and the pictures of a session with their commands, `/api/paint/...`."""

import asyncio
import csv
import hashlib
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from nstexp.core.errors import ArgumentError, UserError, whole
from nstexp.core.runtime.files import json_text, write_atomically
from nstexp.core.text import printable
from nstexp.media import samples
from nstexp.media.paths import READABLE
from nstexp.studio.bodies import json_object, refuse_longer
from nstexp.studio.context import Studio, routes_below
from nstexp.studio.png import with_texts
from nstexp.studio.sessions import Session
from nstexp.studio.wanted import Wanted
from nstexp.studio.worker import Job, Replaced

MOST_UPLOAD_BYTES, MOST_MEGAPIXELS = 64 * 2**20, 60
MOST_SESSION_BYTES = 2 * 2**30  # of all uploads of a session
PREVIEW_PX = (64, 512)  # the range of a preview's longer side
LOOK_S, WAIT_S = 0.4, 20.0  # seconds between two looks at a run folder, and the longest wait for news of a picture
UPLOAD = re.compile(r"upload:([\w-]{1,40}-[0-9a-f]{12}\.[a-z0-9]{3,4})", re.ASCII)
DONE = ("completed", "stopped", "failed")


@dataclass
class Picture:
    """A picture of a session, from the moment it is asked for.

    Args:
        id: its name in addresses and on the disk.
        sent: what the browser asked for, so that the page can show the same settings again.
        words, command: the command line behind `nstexp`, and the whole command for a shell.
        folder: the run folder.
        status: waiting, running, or one of DONE.
        steps: of an optimization; 0: the method makes the picture at once.
        losses: (step, total loss) of each step so far.
        shown: number of the step that the file `now` shows.
        version: grows with every change, so that a page can wait for news.
    """

    id: str
    sent: dict[str, Any]
    words: list[str]
    command: str
    folder: Path
    steps: int = 0
    status: str = "waiting"
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    shown: int = 0
    now: Path | None = None
    width: int = 0
    height: int = 0
    begun: float = 0.0
    first_step: float = 0.0
    seconds: float = 0.0
    made: float = field(default_factory=time.time)
    version: int = 0
    job: Job | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def thumbnail(self) -> Path:
        """A small copy of the finished picture."""
        return self.folder.with_suffix(".jpg")

    @property
    def record(self) -> Path:
        """The file by which a later server knows the picture."""
        return self.folder.with_suffix(".json")

    @property
    def result(self) -> Path:
        """The file of the finished picture."""
        return self.folder / "output.png"

    def change(self, **values: Any) -> None:
        """Set fields, and wake the pages that wait for news."""
        for name, value in values.items():
            setattr(self, name, value)
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class Pictures:
    """The pictures of a session, oldest first."""

    session: Session
    all: dict[str, Picture] = field(default_factory=dict)
    count: int = 0

    @property
    def folder(self) -> Path:
        return self.session.folder / "pictures"

    @classmethod
    def of(cls, session: Session) -> "Pictures":
        """The pictures of a session, with those that an earlier server made."""
        if "paint" not in session.parts:
            session.parts["paint"] = pictures = cls(session)
            pictures._read()
        found: Pictures = session.parts["paint"]
        return found

    def _read(self) -> None:
        for file in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError, TypeError, KeyError):  # a damaged record hides one picture
                kept = json.loads(file.read_text(encoding="utf-8"))
                picture = Picture(folder=file.with_suffix(""), **kept)
                if picture.result.is_file():
                    self.all[picture.id] = picture
                    self.count = max(self.count, int(picture.id.partition("-")[0]))

    def new(self, sent: dict[str, Any], wanted: Wanted) -> Picture:
        """A picture that waits, or the one that the same command has made before."""
        words = wanted.words()
        for old in self.all.values():
            if old.words == words and old.status in ("waiting", "running", "completed"):
                return old
        self.count += 1
        name = f"{self.count:04d}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:6]}"
        steps = wanted.steps if wanted.method == "gatys" else 0
        picture = Picture(name, sent, words, wanted.command(), self.folder / name, steps)
        self.all[name] = picture
        return picture


def routes(studio: Studio) -> list[BaseRoute]:
    """The routes of the part Paint."""

    at = routes_below(studio, "paint")
    return [
        at("start", _start),
        at("uploads", _upload, "POST"),
        at("uploads/{name}", _upload_view),
        at("preview", _preview, "POST"),
        at("pictures", _make, "POST"),
        at("pictures/{id}", _state),
        at("pictures/{id}/stop", _stop, "POST"),
        at("pictures/{id}/remove", _remove, "POST"),
        at("pictures/{id}/image", _image),
        at("pictures/{id}/thumbnail", _thumbnail),
        at("pictures/{id}/now", _now),
        at("pictures/{id}/download", _download),
    ]


async def _start(studio: Studio, request: Request) -> Response:
    """What the page needs when it opens."""
    session = studio.session(request)
    return JSONResponse(
        {
            "folder": str(studio.folder),
            "limits": {"upload_bytes": MOST_UPLOAD_BYTES, "megapixels": MOST_MEGAPIXELS},
            "faces": find_spec("facenet_pytorch") is not None,  # as in media.faces, which imports torch
            "uploads": await run_in_threadpool(_uploads, session),
            "pictures": [_described(picture) for picture in Pictures.of(session).all.values()],
        }
    )


def _uploads(session: Session) -> list[dict[str, Any]]:
    """What the page knows of the session's uploads."""
    found = []
    for file in sorted((session.folder / "views").glob("*.json")):
        with suppress(OSError, ValueError):
            found.append(json.loads(file.read_text(encoding="utf-8")))
    return found


# ------------------------------------------------------------------------------------------------------ uploads


async def _upload(studio: Studio, request: Request) -> Response:
    """Keep a picture of the user's in the session's folder, if the command line could read it.

    The answer has `name`, for the fields of `Wanted`, and `width` and `height` in pixels.
    """
    refuse_longer(request, MOST_UPLOAD_BYTES + 2**16)
    async with request.form(max_files=1, max_fields=4, max_part_size=2**16) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise UserError("the upload holds no file: choose a picture")
        data = await file.read(MOST_UPLOAD_BYTES + 1)
        shown = printable(file.filename or "picture", one_line=True)
    if len(data) > MOST_UPLOAD_BYTES:
        raise UserError(f"{shown}: the file is larger than {MOST_UPLOAD_BYTES // 2**20} MB, the limit of the studio")
    return JSONResponse(await kept_upload(studio, studio.session(request), shown, data))


async def kept_upload(studio: Studio, session: Session, shown: str, data: bytes) -> dict[str, Any]:
    """Write the bytes of a file into the session's folder, and read it as the command line would.

    Args:
        shown: the file's name, for messages; a cleaned form of it becomes a part of the new name.

    Raises:
        UserError: it is no picture that can be read, or it is too large; then nothing is kept.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(shown.replace("\\", "/")).stem).strip("-")[:40] or "picture"
    suffix = Path(shown).suffix.lower()
    suffix = suffix if suffix in READABLE and len(suffix) <= 5 else ".png"
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
    path = session.folder / "uploads" / name
    new = not path.exists()
    if new and await run_in_threadpool(_bytes_in, path.parent) + len(data) > MOST_SESSION_BYTES:
        raise UserError(
            f"{path.parent}: the uploads of this browser have reached the limit: delete files in this folder"
        )
    if new:
        await run_in_threadpool(write_atomically, path, lambda temporary: temporary.write_bytes(data))
    payload = {"path": str(path), "view": str(_view_of(path)), "max_megapixels": MOST_MEGAPIXELS}
    try:
        size = await studio.worker.beside("painting:inspect", payload)
    except UserError as error:
        if new:
            path.unlink(missing_ok=True)
        raise UserError(str(error).replace(str(path), shown)) from error
    known = {"name": f"upload:{name}", "title": shown, **size}
    record = _view_of(path).with_suffix(".json")
    await run_in_threadpool(write_atomically, record, lambda temporary: temporary.write_text(json_text(known)))
    return known


def _bytes_in(folder: Path) -> int:
    """The size of the files in a folder, which may not exist yet."""
    return sum(file.stat().st_size for file in folder.glob("*"))


def _view_of(upload: Path) -> Path:
    return upload.parent.with_name("views") / f"{upload.name}.jpg"


async def _upload_view(studio: Studio, request: Request) -> Response:
    path = file_of(studio.session(request), "content", request.path_params["name"])
    return FileResponse(_view_of(Path(path)), headers={"cache-control": "private, max-age=86400"})


def file_of(session: Session, key: str, name: str) -> str:
    """The path of an upload of the session (`upload:...`), or the name of a built-in picture.

    Raises:
        UserError: there is none. No other path of the machine can be named.
    """
    if samples.is_builtin(name):
        samples.find(name)
        return name
    match = UPLOAD.fullmatch(name)
    path = session.folder / "uploads" / match[1] if match else None
    if path is None or not path.is_file():
        shown = printable(name, one_line=True)
        raise ArgumentError(key, f"={shown}: this session has no such picture, upload it again")
    return str(path)


# --------------------------------------------------------------------------------------------- previews, pictures


async def _preview(studio: Studio, request: Request) -> Response:
    """A small picture as JPEG, and the command of the whole one.

    A newer request of the session takes the place of one that waits.
    """
    session = studio.session(request)
    sent = await json_object(request)
    wanted = Wanted.of(sent, partial(file_of, session))
    px = whole("px", sent.get("px", 256), *PREVIEW_PX)
    whole_px = whole("whole_px", sent.get("whole_px", px), 16, 100_000)
    _make_way(studio, session)
    try:
        made = await studio.worker.ask(
            "painting:preview", wanted.preview(px, whole_px), replaces=f"preview {session.id}", first=True
        )
    except Replaced as error:
        return JSONResponse({"error": str(error), "replaced": True}, 409)
    about = {name: str(made[name]) for name in ("width", "height", "seconds")}
    headers = {f"x-{name}": value for name, value in about.items()} | {"x-command": quote(wanted.command())}
    return Response(made["jpeg"], media_type="image/jpeg", headers=headers)


def _make_way(studio: Studio, session: Session) -> None:
    """Stop the picture that the page asked for by itself: the user has moved on."""
    for picture in list(Pictures.of(session).all.values()):
        if picture.job is not None and picture.sent.get("automatic") and picture.status in ("waiting", "running"):
            studio.worker.stop(picture.job)


async def _make(studio: Studio, request: Request) -> Response:
    """Put a picture into the queue; the answer is its state."""
    session = studio.session(request)
    sent = await json_object(request)
    wanted = Wanted.of(sent, partial(file_of, session))
    _make_way(studio, session)
    pictures = Pictures.of(session)
    picture = pictures.new(sent, wanted)
    if picture.job is None and picture.status == "waiting":
        payload = {"words": picture.words, "folder": str(picture.folder), "thumbnail": str(picture.thumbnail)}
        try:
            picture.job = studio.worker.submit("painting:picture", payload, tell=lambda value: _begun(picture))
        except UserError:
            del pictures.all[picture.id]
            raise
        picture.job.done.add_done_callback(lambda done: _ended(pictures, picture, done))
    return JSONResponse(_described(picture))


def _begun(picture: Picture) -> None:
    """The worker has begun; an optimization is watched by its run folder."""
    picture.change(status="running", begun=time.time())
    if picture.steps and picture.job is not None:
        picture.job.watcher = asyncio.ensure_future(_watch(picture))


async def _watch(picture: Picture) -> None:
    while picture.status == "running":
        await asyncio.sleep(LOOK_S)
        losses, newest = await run_in_threadpool(_progress, picture.folder)
        if picture.status == "running" and len(losses) > len(picture.losses):
            first = picture.first_step or time.time()
            shown = int(newest.stem.rpartition("_")[2]) if newest else 0
            picture.change(losses=losses, first_step=first, now=newest, shown=shown)


def _progress(folder: Path) -> tuple[list[tuple[int, float]], Path | None]:
    """The losses in a run folder, and its newest unfinished picture."""
    losses: list[tuple[int, float]] = []
    with suppress(OSError), (folder / "losses.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with suppress(ValueError, TypeError, KeyError):  # the last row may be half-written
                losses.append((int(row["step"]), float(row["total"])))
    return losses, max(folder.glob("images/output_*.jpg"), default=None)


def _ended(pictures: Pictures, picture: Picture, done: "asyncio.Future[Any]") -> None:
    error = None if done.cancelled() else done.exception()
    if done.cancelled() or error is not None:
        if picture.sent.get("automatic"):  # nobody asked for it, and nobody misses it
            pictures.all.pop(picture.id, None)
        unlucky = error is None or not isinstance(error, UserError)
        picture.change(status="failed", error="the studio has lost this picture" if unlucky else str(error))
        return
    made = done.result()
    losses, _ = _progress(picture.folder) if picture.steps else ([], None)
    picture.change(
        status="stopped" if made["stopped"] else "completed",
        error=made["stopped"],
        notes=made["notes"],
        width=made["width"],
        height=made["height"],
        seconds=made["seconds"],
        losses=losses,
        made=time.time(),
    )
    keys = ("id", "sent", "words", "command", "steps", "status", "error", "notes", "width", "height", "seconds", "made")
    text = json_text({key: getattr(picture, key) for key in keys}, indent=1)
    with suppress(UserError):  # the disk is full: the picture is lost to a later server only
        write_atomically(picture.record, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _described(picture: Picture, place: int = 0) -> dict[str, Any]:
    """What a page knows of a picture."""
    done, left = len(picture.losses), None
    if picture.status == "running" and done > 1:
        elapsed = time.time() - picture.first_step
        taken = picture.losses[-1][0] - picture.losses[0][0]
        left = round(elapsed / max(1, taken) * (picture.steps - picture.losses[-1][0]), 1) if elapsed else None
    return {
        "id": picture.id,
        "sent": picture.sent,
        "command": picture.command,
        "status": picture.status,
        "error": picture.error,
        "notes": picture.notes,
        "step": picture.losses[-1][0] if picture.losses else 0,
        "steps": picture.steps,
        "losses": picture.losses,
        "shown": picture.shown,
        "seconds_left": left,
        "seconds": picture.seconds or (round(time.time() - picture.begun, 1) if picture.begun else 0),
        "width": picture.width,
        "height": picture.height,
        "version": picture.version,
        "made": picture.made,
        "ahead": place,
    }


async def _state(studio: Studio, request: Request) -> Response:
    """The state of a picture; with ?after=VERSION the answer waits for a newer one, up to 20 seconds."""
    picture = _found(studio, request)
    after = request.query_params.get("after")
    if after is not None and after.isdecimal() and picture.version <= int(after) and picture.status not in DONE:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(picture.changed.wait(), WAIT_S)
    place = studio.worker.place(picture.job) if picture.job is not None else 0
    return JSONResponse(_described(picture, place))


async def _stop(studio: Studio, request: Request) -> Response:
    """Stop a picture; an optimization keeps what it has."""
    picture = _found(studio, request)
    if picture.job is not None:
        studio.worker.stop(picture.job)
    return JSONResponse(_described(picture))


async def _remove(studio: Studio, request: Request) -> Response:
    """Take a picture out of the history; its run folder stays on the disk."""
    picture = _found(studio, request)
    if picture.status not in DONE:
        raise UserError("this picture is not done: stop it first")
    Pictures.of(studio.session(request)).all.pop(picture.id, None)
    picture.record.unlink(missing_ok=True)
    return JSONResponse({})


async def _image(studio: Studio, request: Request) -> Response:
    return FileResponse(
        _result(studio, request), media_type="image/png", headers={"cache-control": "private, no-cache"}
    )


async def _thumbnail(studio: Studio, request: Request) -> Response:
    return FileResponse(_existing(_found(studio, request).thumbnail), headers={"cache-control": "private, no-cache"})


async def _now(studio: Studio, request: Request) -> Response:
    """The unfinished picture of an optimization."""
    picture = _found(studio, request)
    return FileResponse(_existing(picture.now))


async def _download(studio: Studio, request: Request) -> Response:
    """The file as the command makes it; with ?record=1 it also holds the command as a text, and the same pixels."""
    picture, path = _found(studio, request), _result(studio, request)
    data = await run_in_threadpool(path.read_bytes)
    if request.query_params.get("record"):
        state = f"stopped at step {picture.losses[-1][0]}" if picture.status == "stopped" and picture.losses else ""
        texts = {"Software": "nstexp", "nstexp command": picture.command, "nstexp state": state or picture.status}
        data = with_texts(data, texts)
    photo = Path(str(picture.sent.get("content", "")).partition(":")[2]).stem
    stem = re.sub(r"-[0-9a-f]{12}$", "", re.sub(r"[^\w-]", "", photo, flags=re.ASCII)) or "picture"
    name = f"{stem}-{picture.sent.get('method')}-{picture.id[:4]}.png"
    return Response(data, media_type="image/png", headers={"content-disposition": f'attachment; filename="{name}"'})


def _found(studio: Studio, request: Request) -> Picture:
    """The picture that an address names, of the session that asks."""
    picture = Pictures.of(studio.session(request)).all.get(request.path_params["id"])
    if picture is None:
        raise UserError("this session has no such picture")
    return picture


def _result(studio: Studio, request: Request) -> Path:
    picture = _found(studio, request)
    if picture.status not in ("completed", "stopped"):
        raise UserError("this picture is not done")
    return _existing(picture.result)


def _existing(path: Path | None) -> Path:
    if path is None or not path.is_file():
        raise UserError("there is no such file any more")
    return path
