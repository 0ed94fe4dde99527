"""The part Clip: uploads of clips, three redrawn frames, and the video command in the background, `/api/clips/...`."""

import contextlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from nstexp.core.errors import ArgumentError, UserError, choice, number, whole
from nstexp.core.runtime.files import json_text, write_atomically
from nstexp.core.secrets import without_secrets
from nstexp.core.text import printable
from nstexp.studio import launching
from nstexp.studio.bodies import json_object
from nstexp.studio.context import Studio, routes_below
from nstexp.studio.paint import file_of
from nstexp.studio.progress import last_message, progress_of
from nstexp.studio.sessions import Session
from nstexp.studio.wanted import Wanted
from nstexp.studio.worker import Replaced

MOST_BYTES, MOST_SESSION_BYTES = 512 * 2**20, 4 * 2**30  # of a clip, and of all clips of a session
MOST_MEGAPIXELS, MOST_FRAMES = 9.0, 36_000  # of a frame (4K has 8.3), and in a clip: ten minutes of 60 a second
STILLS = 3
PREVIEW_PX = (64, 512)
METHODS = ("swift", "adain", "cin")  # the others take minutes for a frame
STABILIZE = 0.8  # as in conf
CLIP = re.compile(r"clip:([\w-]{1,60}\.[a-z0-9]{2,5})", re.ASCII)
ENDINGS = re.compile(r"\.[a-z0-9]{2,5}", re.ASCII)
OF_THE_STUDIO = "measure=false"  # the measures of a clip take longer than the frames of the small network
DONE = ("completed", "failed", "stopped")
_seen: dict[tuple[str, str], tuple[float, int]] = {}  # (folder, process) -> when how many frames were done first


@dataclass(frozen=True)
class Work:
    """A clip that is redrawn in the background.

    Args:
        id: its name in addresses.
        place: the run folder, relative to the studio's folder.
        words: of the command line, without the run folder.
        clip: the name of the clip, `clip:...`, and its title.
        frames: how many frames the result will have.
        begun: when it was started first, in seconds since 1970.
    """

    id: str
    place: str
    words: list[str]
    clip: str
    title: str
    frames: int
    begun: float


def routes(studio: Studio) -> list[BaseRoute]:
    """The routes of the part Clip."""

    at = routes_below(studio, "clips")
    return [
        at("start", _start),
        at("uploads", _upload, "POST"),
        at("uploads/{name}/remove", _remove, "POST"),
        at("uploads/{name}/{still:int}", _still),
        at("preview", _preview, "POST"),
        at("works", _begin, "POST"),
        at("works/{id}", _state),
        at("works/{id}/stop", _stop, "POST"),
        at("works/{id}/continue", _go_on, "POST"),
        at("works/{id}/poster", _poster),
        at("works/{id}/result", _result),
    ]


async def _start(studio: Studio, request: Request) -> Response:
    """What the page needs when it opens."""
    session = studio.session(request)
    works = [await run_in_threadpool(_described, studio, work) for work in _works(session)]
    limits = {"bytes": MOST_BYTES, "frames": MOST_FRAMES, "megapixels": MOST_MEGAPIXELS}
    return JSONResponse({"limits": limits, "clips": _clips(session), "works": works})


# ------------------------------------------------------------------------------------------------------ uploads


async def _upload(studio: Studio, request: Request) -> Response:
    """Keep a clip of the user's in the session's folder, if the command line could read it.

    The body is the file itself, so that it goes to the disk piece by piece; ?name= has its name. The answer has `name`
    for the other requests, and what `frames.clip` returns.
    """
    session, shown = studio.session(request), printable(request.query_params.get("name", "clip"), one_line=True)
    _check_room(session, shown, request.headers.get("content-length", ""))
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(shown.replace("\\", "/")).stem).strip("-")[:40] or "clip"
    suffix = Path(shown).suffix.lower()
    name = f"{stem}-{secrets.token_hex(6)}{suffix if ENDINGS.fullmatch(suffix) else '.mp4'}"
    path = session.folder / "clips" / name
    try:
        await _receive(request, path, shown)
        payload = {"path": str(path), "stills": str(_stills(path)), "max_megapixels": MOST_MEGAPIXELS}
        about = await studio.worker.beside("frames:clip", {**payload, "max_frames": MOST_FRAMES})
    except BaseException as error:  # also if the page went away
        _forget(path)
        if isinstance(error, UserError):
            raise UserError(str(error).replace(str(path), shown)) from error
        raise
    known = {"name": f"clip:{name}", "title": shown, **about}
    write_atomically(_record(path), lambda temporary: temporary.write_text(json_text(known), encoding="utf-8"))
    return JSONResponse(known)


def _check_room(session: Session, shown: str, length: str) -> None:
    """Refuse a file before it is read."""
    if not length.isdecimal():
        raise UserError("the request does not say how long it is")
    if int(length) > MOST_BYTES:
        raise UserError(f"{shown}: the file is larger than {MOST_BYTES // 2**20} MB, the limit of the studio")
    used = sum(path.stat().st_size for path in (session.folder / "clips").glob("*") if path.is_file())
    if used + int(length) > MOST_SESSION_BYTES:
        raise UserError(f"your clips fill the {MOST_SESSION_BYTES // 2**30} GB of the studio: remove one first")


async def _receive(request: Request, path: Path, shown: str) -> None:
    """Write the body of a request into a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    raise UserError(f"{shown}: the file is larger than {MOST_BYTES // 2**20} MB")
                if size == len(part) and _is_text(part):
                    # A list of other files, which FFmpeg would open, is a text.
                    raise UserError(f"{shown}: this is a text, not a clip")
                await run_in_threadpool(file.write, part)
    except OSError as error:
        raise UserError(f"{shown}: the file cannot be kept ({error.strerror})") from error


def _is_text(begin: bytes) -> bool:
    """Whether a file that begins so is a text and not a clip."""
    return bool(begin) and all(byte >= 32 or byte in b"\t\r\n" for byte in begin[:1024])


def _stills(clip: Path) -> Path:
    return clip.with_name("stills") / clip.name


def _record(clip: Path) -> Path:
    return _stills(clip) / "clip.json"


def _forget(clip: Path) -> None:
    """Delete a clip and its frames."""
    folder = _stills(clip)
    for file in [clip, *(folder / f"{n}.png" for n in range(STILLS)), _record(clip)]:
        with contextlib.suppress(OSError):
            file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _clips(session: Session) -> list[dict[str, Any]]:
    """What is known of the session's clips, the newest first."""
    found = []
    for file in (session.folder / "clips" / "stills").glob("*/clip.json"):
        with contextlib.suppress(OSError, ValueError):  # a damaged record hides one clip
            found.append((file.stat().st_mtime, json.loads(file.read_text(encoding="utf-8"))))
    return [known for _, known in sorted(found, key=lambda pair: -pair[0])]


def _clip_of(session: Session, name: Any) -> Path:
    """The path of a clip of the session.

    Raises:
        UserError: there is none. No other path of the machine can be named.
    """
    match = CLIP.fullmatch(name) if isinstance(name, str) else None
    path = session.folder / "clips" / match[1] if match else None
    if path is None or not path.is_file():
        raise ArgumentError("content", f"={printable(str(name)[:80], one_line=True)}: this session has no such clip")
    return path


async def _remove(studio: Studio, request: Request) -> Response:
    session = studio.session(request)
    path = _clip_of(session, request.path_params["name"])
    for work in _works(session):
        if work.clip == f"clip:{path.name}" and await run_in_threadpool(_status, studio, work) == "running":
            raise UserError("this clip is being redrawn: stop that first")
    await run_in_threadpool(_forget, path)
    return JSONResponse({})


async def _still(studio: Studio, request: Request) -> Response:
    path = _clip_of(studio.session(request), request.path_params["name"])
    place = whole("still", request.path_params["still"], 0, STILLS - 1)
    return FileResponse(_stills(path) / f"{place}.png", headers={"cache-control": "private, max-age=86400"})


# --------------------------------------------------------------------------------------------- previews, commands


def _wanted(session: Session, sent: Mapping[str, Any], content: Path) -> Wanted:
    """What the page asks for, with a file in the place of the photo."""
    choice("method", sent.get("method", "swift"), METHODS)

    def find(key: str, name: str) -> str:
        return str(content) if key == "content" else file_of(session, key, name)

    return Wanted.of({"method": "swift", **sent, "content": "clip"}, find)


async def _preview(studio: Studio, request: Request) -> Response:
    """One of the three frames, redrawn, as JPEG. A newer request for the same frame replaces one that waits."""
    session, sent = studio.session(request), await json_object(request)
    path = _clip_of(session, sent.get("clip"))
    still = whole("still", sent.get("still"), 0, STILLS - 1)
    px = whole("px", sent.get("px", 256), *PREVIEW_PX)
    whole_px = whole("whole_px", sent.get("whole_px", px), 16, 100_000)
    wanted = _wanted(session, sent, _stills(path) / f"{still}.png")
    try:
        made = await studio.worker.ask(
            "painting:preview",
            wanted.preview(px, whole_px, of_clip=True),
            replaces=f"clip {session.id} {still}",
            first=True,
        )
    except Replaced as error:
        return JSONResponse({"error": str(error), "replaced": True}, 409)
    return Response(made["jpeg"], media_type="image/jpeg", headers={"x-seconds": str(made["seconds"])})


def _words(session: Session, sent: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The command line behind `nstexp`, without the run folder, and what is known of the clip.

    Raises:
        UserError: a value that the command line would refuse.
    """
    path = _clip_of(session, sent.get("clip"))
    known = json.loads(_record(path).read_text(encoding="utf-8"))
    words = ["task=video", *_wanted(session, sent, path).words(), OF_THE_STUDIO]
    seconds = float(known["seconds"])
    start = number("video.start", sent.get("start") or 0, 0, max(0.0, seconds - 0.001))
    end = number("video.end", sent.get("end") or seconds, 0, float("inf"))
    if end <= start:
        raise ArgumentError("video.end", f"={end:g}: must be after video.start={start:g}")
    stabilize = number("video.stabilize", sent.get("stabilize", STABILIZE), 0, 0.99)
    words += [f"video.start={start:g}"] if start else []
    words += [f"video.end={end:g}"] if end < seconds else []
    words += [f"video.stabilize={stabilize:g}"] if stabilize != STABILIZE else []
    share = (min(end, seconds) - start) / seconds if seconds else 1.0
    return words, {**known, "wanted": max(1, round(share * known["frames"]))}


# ------------------------------------------------------------------------------------------------------- the work


async def _begin(studio: Studio, request: Request) -> Response:
    """Start the video command as a process of its own, which goes on when the page and the studio end."""
    session, sent = studio.session(request), await json_object(request)
    words, known = _words(session, sent)
    for work in _works(session):
        if await run_in_threadpool(_status, studio, work) == "running":
            raise UserError("a clip of yours is being redrawn: wait for its end, or stop it first")
    plan = {"sweep": False, "total": 1, "keys": [], "jobs": []}
    place = await run_in_threadpool(launching.start, studio.folder, words, plan)
    relative = place.relative_to(studio.folder).as_posix()
    title, name = known["title"], known["name"]
    work = Work(secrets.token_hex(6), relative, words, name, title, known["wanted"], time.time())
    _keep(session, [*_works(session), work])
    return JSONResponse(await run_in_threadpool(_described, studio, work))


def _works(session: Session) -> list[Work]:
    """The clips that the session had redrawn, the oldest first."""
    try:
        kept = json.loads((session.folder / "clips" / "works.json").read_text(encoding="utf-8"))
        return [Work(**each) for each in kept]
    except (OSError, ValueError, TypeError):
        return []


def _keep(session: Session, works: list[Work]) -> None:
    text = json_text([asdict(work) for work in works], indent=1)
    path = session.folder / "clips" / "works.json"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _described(studio: Studio, work: Work) -> dict[str, Any]:
    """What a page knows of a clip that is redrawn."""
    place, status = studio.folder / work.place, _status(studio, work)
    record = launching.read_record(place)
    done = min(work.frames, int(progress_of(place).get("frames") or 0))
    rate = _rate(place, record, done) if status == "running" else None
    result = _file(place) if status == "completed" else None
    error = None if status != "failed" else _error(place)
    return {
        "id": work.id,
        "clip": work.clip,
        "title": work.title,
        "status": status,
        "stopping": bool(record and record.stopping and status == "running"),
        "done": work.frames if result else done,
        "frames": work.frames,
        "seconds_left": round((work.frames - done) / rate, 1) if rate else None,
        "command": launching.shown_command(record, place) if record else "",
        "folder": work.place,
        "error": without_secrets(error) if error else None,
        "result": result.name if result else None,
        "bytes": result.stat().st_size if result else None,
    }


def _status(studio: Studio, work: Work) -> str:
    """running, or one of DONE."""
    place = studio.folder / work.place
    record = launching.read_record(place)
    if launching.is_alive(record) is not False and record is not None:
        return "running"
    if _file(place) is not None and _summary(place).get("status") == "completed":
        return "completed"
    return "stopped" if record is not None and record.stopping else "failed"


def _summary(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(place: Path) -> Path | None:
    """The clip in a run folder; it appears when it is complete."""
    found = [path for path in place.glob("output.*") if path.suffix != ".png" and ".partial" not in path.name]
    return found[0] if found else None


def _error(place: Path) -> str:
    recorded = _summary(place).get("error")
    return str(recorded) if recorded else last_message(place / launching.LOG) or "the command ended without a message"


def _rate(place: Path, record: launching.Record | None, done: int) -> float | None:
    """Frames a second since this server saw the first frame of the process; None if that says nothing yet."""
    if record is None or not done:
        return None
    if len(_seen) > 1000:
        _seen.clear()
    begun, first = _seen.setdefault((str(place), str(record.started)), (time.time(), done))
    return (done - first) / (time.time() - begun) if done > first else None


def _found(studio: Studio, request: Request) -> Work:
    """The work that an address names, of the session that asks."""
    works = {work.id: work for work in _works(studio.session(request))}
    if request.path_params["id"] not in works:
        raise UserError("this session has no such clip")
    return works[request.path_params["id"]]


async def _state(studio: Studio, request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(_described, studio, _found(studio, request)))


async def _stop(studio: Studio, request: Request) -> Response:
    """Do what Ctrl-C does: the frames so far are kept."""
    work = _found(studio, request)
    await run_in_threadpool(launching.stop, studio.folder / work.place)
    return JSONResponse(await run_in_threadpool(_described, studio, work))


async def _go_on(studio: Studio, request: Request) -> Response:
    """Start the same command again, which continues after the last frame."""
    work = _found(studio, request)
    plan = {"sweep": False, "total": 1, "keys": [], "jobs": []}
    await run_in_threadpool(launching.go_on, studio.folder / work.place, work.words, plan, studio.folder)
    return JSONResponse(await run_in_threadpool(_described, studio, work))


async def _poster(studio: Studio, request: Request) -> Response:
    """A redrawn frame, which the command replaces on its way."""
    path = studio.folder / _found(studio, request).place / "output.png"
    if not path.is_file():
        raise UserError("no frame is redrawn yet")
    return FileResponse(path)


async def _result(studio: Studio, request: Request) -> Response:
    """The clip; with ?download=1 as a file to save."""
    work = _found(studio, request)
    path = _file(studio.folder / work.place)
    if path is None or await run_in_threadpool(_status, studio, work) != "completed":
        raise UserError("this clip is not done")
    stem = re.sub(r"[^\w-]+", "-", Path(work.title).stem, flags=re.ASCII).strip("-")[:60] or "clip"
    name = f"{stem}-redrawn{path.suffix}" if request.query_params.get("download") else None
    return FileResponse(path, filename=name, headers={"cache-control": "private"})
