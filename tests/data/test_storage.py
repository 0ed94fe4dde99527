"""Reading from disks and servers that fail: again and again, nothing lost or twice; copies that are never wrong."""

import base64
import errno
import gzip
import io
import multiprocessing
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest
from training_data import TARS, damage, noise, numbers_of, pack, same, take

from nstexp.core.errors import ArgumentError
from nstexp.data import pictures, storage
from nstexp.data import shards as shards_module
from nstexp.data.folders import FolderPairs
from nstexp.data.shards import ShardPairs, members
from nstexp.data.storage import Storage


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The seconds of every pause; none is made."""
    made = []
    monkeypatch.setattr(storage.time, "sleep", made.append)
    return made


@pytest.fixture
def server(monkeypatch):
    """Serves the bytes in `files`; `faults` of a path are answered first: an HTTP code, or "short", "silent"."""
    monkeypatch.setattr(storage, "TIMEOUT_S", 0.3)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            words.append(self.headers.get("Authorization"))
            fault = faults.get(self.path, []).pop(0) if faults.get(self.path) else None
            content = files.get(self.path)
            if isinstance(fault, int) or content is None:
                self.send_error(fault or 404)
                return
            self.send_response(200)
            if fault != "chunked":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault in ("short", "silent") else content)
            if fault == "silent":
                self.wfile.flush()
                over.wait(5)

        def log_message(self, *_):
            pass

    asked: list[str] = []
    words: list[str | None] = []
    faults: dict[str, list] = {}
    files: dict[str, bytes] = {}
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.files, http.faults, http.asked, http.words = files, faults, asked, words
    http.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield http
    over.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def tar(tmp_path):
    """Three pictures of 24 kB; the tar format is read in steps of 10 kB."""
    (tmp_path / "noise").mkdir()
    for number, name in enumerate(EVERY):
        noise(number, (100, 80)).save(tmp_path / "noise" / name)
    return Path(pack(tmp_path / "noisy", tmp_path / "noise", 1)) / "part-000.tar"


def names(shard: str | Path, how: Storage, problems: list[str] | None = None) -> list[str]:
    found = list(members(str(shard), [] if problems is None else problems, how))
    assert all(data[:4] == b"\x89PNG" for _, data in found)
    return [name.rsplit("/", 1)[1] for name, _ in found]


EVERY = ["00.png", "08.png", "16.png"]


# ------------------------------------------------------------------------------------------------------------- retries


class Failing(io.FileIO):
    """A file whose reading fails once it comes to `at`."""

    def __init__(self, path, at: int, number: int) -> None:
        super().__init__(path)
        self.at, self.number = at, number

    def readinto(self, buffer):
        if self.tell() + len(buffer) > self.at:
            raise OSError(self.number, os.strerror(self.number))
        return super().readinto(buffer)


@pytest.fixture
def fails(monkeypatch):
    """Makes the next openings fail at the given places; None: not."""
    places, opened = [], []

    def opener(file, real=storage._open):
        opened.append(file)
        place = places.pop(0) if places else None
        if place is None:
            return real(file)
        return io.BufferedReader(Failing(file, *place), 512), None

    monkeypatch.setattr(storage, "_open", opener)
    return places, opened


def test_after_a_disk_error_reading_goes_on_where_it_was(tar, fails, pauses):
    places, opened = fails
    places += [(35_000, errno.EIO), (0, errno.ESTALE), (60_000, errno.ETIMEDOUT)]
    problems = []
    assert names(tar, Storage(), problems) == EVERY
    assert problems == []
    assert len(opened) == 4
    assert pauses == [1, 2, 4]


def test_a_disk_that_stays_broken_costs_the_shard_and_is_named(tar, fails, pauses):
    places, opened = fails
    places += [(35_000, errno.EIO)] * 9
    problems = []
    assert names(tar, Storage(retries=2), problems) == EVERY[:1]
    (problem,) = problems
    assert problem.startswith(f"{tar}: the shard is damaged or cannot be read ([Errno 5] Input/output error")
    assert len(opened) == 3
    assert pauses == [1, 2]


def test_damage_is_not_read_again(tar, fails, pauses):
    damage(tar)
    problems = []
    assert names(tar, Storage(), problems) == EVERY[:2]
    assert len(problems) == len(fails[1]) == 1
    assert pauses == []


def test_training_sees_the_same_pairs_whatever_failed(shards, fails):
    whole = take(ShardPairs(**shards, **TARS), 12)
    fails[0].extend([(900, errno.EIO), (0, errno.EIO), (1500, errno.EREMOTEIO), None] * 5)
    assert same(whole, take(ShardPairs(**shards, **TARS), 12))
    assert fails[0] == []


def test_a_picture_is_read_again_where_the_disk_failed(plain, monkeypatch, pauses):
    settings = {key: value for key, value in TARS.items() if key != "shuffle_buffer"} | {"resize_px": [16, 20]}
    whole = take(FolderPairs(**plain, **settings), 4)
    real, opened = pictures.Image.open, []

    def once_in_three(source):
        opened.append(source)
        if len(opened) % 3 == 0:
            raise OSError(errno.EIO, "Input/output error")
        return real(source)

    monkeypatch.setattr(pictures.Image, "open", once_in_three)
    again = take(FolderPairs(**plain, **settings), 4)
    assert same(whole, again)
    assert not any(batch["skipped"] for batch in again)
    assert len(pauses) == len(opened) // 3 > 5
    without = take(FolderPairs(**plain, **settings, retries=0), 4)
    reports = [line for batch in without for line in batch["skipped"]]
    assert any(line.endswith(": the file cannot be read ([Errno 5] Input/output error)") for line in reports)
    assert len(take(FolderPairs(**plain, **settings | {"val_pairs": 8}), 1)) == 1


def test_validation_pictures_are_read_again_too(plain, monkeypatch):
    settings = {key: value for key, value in TARS.items() if key != "shuffle_buffer"} | {"val_pairs": 4}
    (whole,) = FolderPairs(**plain, **settings).val_dataloader()
    real, opened = pictures.Image.open, []

    def first_time(source):
        opened.append(source)
        if opened.count(source) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(source)

    monkeypatch.setattr(pictures.Image, "open", first_time)
    (again,) = FolderPairs(**plain, **settings).val_dataloader()
    assert same([whole], [again])


# --------------------------------------------------------------------------------------------------------------- http


def test_a_shard_comes_over_http(server, tar):
    server.files["/a.tar"] = tar.read_bytes()
    assert names(f"{server.address}/a.tar", Storage()) == EVERY
    assert server.asked == ["/a.tar"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [500, 503, 429, "short", "silent"])
def test_a_server_that_fails_is_asked_again(server, tar, pauses, fault):
    server.files["/a.tar"] = tar.read_bytes()
    server.faults["/a.tar"] = [fault, fault]
    problems = []
    assert names(f"{server.address}/a.tar", Storage(), problems) == EVERY
    assert problems == []
    assert len(server.asked) == 3
    assert pauses == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "reason"), [(404, "Not Found"), (403, "Forbidden")])
def test_what_is_not_there_is_not_asked_for_again(server, code, reason):
    server.faults["/a.tar"] = [code] * 2
    problems = []
    assert names(f"{server.address}/a.tar", Storage(), problems) == []
    (problem,) = problems
    assert problem.endswith(f"/a.tar: the shard is damaged or cannot be read (HTTP Error {code}: {reason})")
    assert len(server.asked) == 1


def test_no_server_is_one_sentence_after_the_retries(server, pauses):
    problems = []
    assert names("http://127.0.0.1:9/a.tar", Storage(retries=3), problems) == []
    assert problems[0].endswith("cannot be read ([Errno 111] Connection refused)")
    assert pauses == [1, 2, 4]


# -------------------------------------------------------------------------------------------------------------- copies


def test_a_shard_is_fetched_once_and_then_read_from_its_copy(server, tar, tmp_path):
    server.files["/a.tar"] = tar.read_bytes()
    for _ in range(3):
        assert names(f"{server.address}/a.tar", Storage(cache_dir=tmp_path / "deep" / "copies")) == EVERY
    assert len(server.asked) == 1
    (copy,) = (tmp_path / "deep" / "copies").glob("*a.tar")
    assert copy.read_bytes() == tar.read_bytes()


def test_copies_change_nothing_of_what_is_seen(shards, tmp_path):
    whole = take(ShardPairs(**shards, **TARS), 20)
    for _ in range(2):
        assert same(whole, take(ShardPairs(**shards, **TARS, cache_dir=str(tmp_path / "copies")), 20))
    assert len(list((tmp_path / "copies").glob("*.tar"))) == 8 + 6


def _contents_of_rank(rank: int, shards: dict[str, str], settings: dict) -> list[list[int]]:
    """Numbers of the content pictures in six batches of one of two processes."""
    from data.test_data import trainer

    batches = take(ShardPairs(**shards, **settings), 6, trainer(rank=rank, ranks=2))
    return [numbers_of(batch["content"]) for batch in batches]


@pytest.mark.slow
def test_two_workers_of_two_processes_share_the_copies(shards, tmp_path):
    settings = TARS | {"workers": 2, "batch_size": 6, "cache_dir": str(tmp_path / "copies")}
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        ranks = [pool.submit(_contents_of_rank, rank, shards, settings) for rank in (0, 1)]
        per_rank = [each.result() for each in ranks]
    for epoch in range(3):
        chosen = [batch for batches in per_rank for batch in batches[2 * epoch : 2 * epoch + 2]]
        assert sorted(n for numbers in chosen for n in numbers) == list(range(24))
    assert not [path for path in (tmp_path / "copies").iterdir() if path.suffix not in (".tar", ".lock")]


def test_a_changed_shard_is_copied_anew(tar, tmp_path):
    copies = Storage(cache_dir=tmp_path / "copies")
    assert names(tar, copies) == EVERY
    damage(tar)
    assert names(tar, copies) == EVERY[:2]


def test_files_of_one_name_have_copies_of_their_own(server, tar, shards, tmp_path):
    first, second = tar, Path(shards["content"]) / "part-001.tar"
    server.files |= {"/a/0.tar": first.read_bytes(), "/b/0.tar": second.read_bytes(), "/b/0.tar?v=2": b""}
    copies = Storage(cache_dir=tmp_path)
    assert names(f"{server.address}/a/0.tar", copies) == EVERY
    assert names(f"{server.address}/b/0.tar", copies) == ["01.png", "09.png", "17.png"]
    assert names(f"{server.address}/b/0.tar?v=2", copies) == []


def test_a_broken_copy_is_passed_by(tar, tmp_path, pauses):
    copies = Storage(cache_dir=tmp_path / "copies")
    names(tar, copies)
    (copy,) = (tmp_path / "copies").glob("*.tar")
    damage(copy)
    problems = []
    assert names(tar, copies, problems) == EVERY
    assert problems == []
    assert pauses == [1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["short", "silent", 503])
def test_a_copy_is_whole_or_not_there(server, tar, tmp_path, fault):
    server.files["/a.tar"] = tar.read_bytes()
    server.faults["/a.tar"] = [fault]
    copies = Storage(cache_dir=tmp_path)
    assert names(f"{server.address}/a.tar", copies) == EVERY
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith((".part", "a.tar"))]
    assert names(f"{server.address}/a.tar", copies) == EVERY
    assert len(list(tmp_path.glob("*a.tar"))) == 1


def test_copies_take_no_more_than_they_may(shards, tmp_path):
    sizes = [path.stat().st_size for path in Path(shards["content"]).iterdir()]
    copies = Storage(cache_dir=tmp_path / "copies", cache_gb=(sum(sizes[:3]) + 100) / 1e9)
    for _ in range(2):
        assert sum(len(names(path, copies)) for path in Path(shards["content"]).iterdir()) == 24
    assert len(list((tmp_path / "copies").glob("*.tar"))) == 3
    full = Storage(cache_dir=tmp_path / "none", cache_gb=0)
    assert len(names(next(Path(shards["content"]).iterdir()), full)) == 3
    assert not list((tmp_path / "none").glob("*.tar"))


def test_a_full_disk_takes_no_copies(tar, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    assert names(tar, Storage(cache_dir=tmp_path / "copies")) == EVERY
    assert not list((tmp_path / "copies").glob("*.tar"))


def test_while_another_process_copies_the_shard_is_read_from_where_it_is(tar, tmp_path):
    copies = Storage(cache_dir=tmp_path)
    with filelock.FileLock(tmp_path / f"{storage._name(str(tar))}.lock"):
        assert names(tar, copies) == EVERY
        assert not list(tmp_path.glob("*.tar"))
    assert names(tar, copies) == EVERY
    assert len(list(tmp_path.glob("*part-000.tar"))) == 1


def test_what_a_server_does_not_tell_the_length_of_is_not_copied(server, tar, tmp_path):
    server.files["/a.tar"] = tar.read_bytes()
    server.faults["/a.tar"] = ["chunked"]
    assert names(f"{server.address}/a.tar", Storage(cache_dir=tmp_path)) == EVERY
    assert not list(tmp_path.glob("*a.tar"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"retries": -1}, "retries=-1: give a whole number, 0 or larger"),
        ({"cache_gb": -1}, "cache_gb=-1: give a number of GB, or null for no limit"),
        ({"cache_gb": True}, "cache_gb=True: give a number of GB"),
        ({"cache_dir": "/proc/copies"}, "cache_dir=/proc/copies: cannot be written"),
    ],
)
def test_bad_values_are_one_sentence(change, sentence):
    with pytest.raises(ArgumentError, match=f"^{sentence}"):
        Storage(**change)


# --------------------------------------------------------------------------------------------------------------- order


def test_a_training_that_goes_on_with_other_data_says_so(plain, shards, caplog):
    settings = {key: value for key, value in TARS.items() if key != "shuffle_buffer"}

    def warnings() -> list[str]:
        return [record.message for record in caplog.records if record.levelname == "WARNING"]

    before = FolderPairs(**plain, **settings).state_dict()
    FolderPairs(**plain, **settings, seed=3).load_state_dict(before)
    assert not warnings()
    (Path(plain["content"]) / "00.png").unlink()
    FolderPairs(**plain, **settings).load_state_dict(before)
    (warning,) = warnings()
    assert warning.startswith("data.content has changed (24 pictures, ")
    assert ", now 23 pictures, " in warning
    caplog.clear()
    ShardPairs(**shards, **TARS | {"workers": 2}).load_state_dict(ShardPairs(**shards, **TARS).state_dict())
    (warning,) = warnings()
    assert "processes times data.workers has changed (1 before, now 2)" in warning


# ------------------------------------------------------------------------------------- what is made to fill the memory


def added(tar: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE, packed: bool = True) -> Path:
    """The pictures of a shard behind a member of so many zeros."""
    path = tar.with_name("bomb.tar.gz" if packed else "bomb.tar")
    with tarfile.open(tar) as old, tarfile.open(path, "w:gz" if packed else "w", format=tarfile.GNU_FORMAT) as new:
        header = tarfile.TarInfo(name)
        header.size, header.type = size, kind
        new.addfile(header, io.BytesIO(bytes(size)))
        for member in old:
            new.addfile(member, old.extractfile(member))
    return path


@pytest.mark.parametrize("name", ["zeros.png", "zeros.txt"])
def test_a_shard_that_unpacks_to_far_more_than_it_is_ends_there(tar, monkeypatch, name):
    monkeypatch.setattr(shards_module, "SMALL_BYTES", 2**20)
    problems = []
    assert names(added(tar, name, 30_000_000), Storage(), problems) == []
    (problem,) = problems
    assert "bomb.tar.gz: the shard is damaged or cannot be read (its first 0.0 MB unpack to " in problem
    assert "too much for pictures" in problem


def test_a_member_that_is_larger_than_a_picture_is_left_out_and_named(tar):
    problems = []
    shard = added(tar, "huge.png", 3_000_000, packed=False)
    found = list(members(str(shard), problems, Storage(), largest_bytes=2_000_000))
    assert [name.rsplit("/", 1)[1] for name, _ in found] == EVERY
    assert problems == [f"{shard}/huge.png: 3 MB are too much for a picture of data.max_megapixels"]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("packed", [True, False])
def test_a_header_that_is_made_to_fill_the_memory_ends_a_shard(tar, kind, packed):
    problems = []
    assert names(added(tar, "x", 5_000_000, kind, packed), Storage(), problems) == []
    assert problems[0].endswith("the shard is damaged or cannot be read (a header of 5000000 bytes)")


def test_packed_shards_are_read_as_the_others(tar):
    packed = tar.with_name("packed.tar.gz")
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    assert names(packed, Storage()) == EVERY


@pytest.mark.slow
def test_four_gigabytes_of_zeros_take_no_memory(tar):
    code = """
import gzip, resource, sys, tarfile
from nstexp.data.shards import members
from nstexp.data.storage import Storage
header = tarfile.TarInfo("zeros.png")
header.size = 4 * 2**30
with gzip.open("bomb.tar.gz", "wb", compresslevel=1) as file:
    file.write(header.tobuf())
    for _ in range(600):  # more is not needed: reading ends before
        file.write(bytes(2**20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = []
assert list(members("bomb.tar.gz", problems, Storage(), 2**40)) == []
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, problems)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tar.parent, capture_output=True, text=True, timeout=200)
    megabytes, _, problem = done.stdout.partition(" ")
    assert "too much for pictures" in problem, done.stderr
    assert int(megabytes) < 400


# ----------------------------------------------------------------------------------------- passwords in addresses


def test_a_password_is_sent_and_never_shown(server, tar, caplog):
    server.files["/a.tar?sig=hush"] = tar.read_bytes()
    server.faults["/a.tar?sig=hush"] = [503, 503, 404]
    address = server.address.replace("://", "://me:hu%20sh@") + "/a.tar?sig=hush"
    problems = []
    assert names(address, Storage(retries=2), problems) == []
    (problem,) = problems
    assert problem.startswith(f"{server.address.replace('://', '://***@')}/a.tar?***: the shard is damaged or")
    found = [name for name, _ in members(address, [], Storage())]
    assert [name.rsplit("/", 1)[1] for name in found] == EVERY
    assert "sh" not in "".join(found).replace("shard", "")
    assert server.words[-1] == "Basic " + base64.b64encode(b"me:hu sh").decode()
    assert "hush" not in caplog.text and "hu%20sh" not in caplog.text and "503" in caplog.text
