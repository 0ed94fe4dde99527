"""What the commands have in common."""

import io
import os
import sys
from pathlib import Path

import pytest

from nstexp.commands import errors_on_one_line, print_path, read_csv, table_head
from nstexp.core.errors import ArgumentError, UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a.png: there is no such file"), 2, "a.png: there is no such file"),
        (ArgumentError("side", "=0: give a whole number"), 2, "side=0: give a whole number"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 2, "[Errno 2] No such file or directory: 'a.csv'"),
        (KeyboardInterrupt(), 130, "interrupted: it goes on from here"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_an_exit_code(capsys, error, code, line):
    with pytest.raises(SystemExit) as end, errors_on_one_line("interrupted: it goes on from here"):
        raise error
    assert end.value.code == code
    assert capsys.readouterr() == ("", f"{line}\n")


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), errors_on_one_line():
        1 / 0  # noqa: B018 (the error is what is wanted)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("name", ["a.png", "写真 (1).png", "\x1b[31m.png", os.fsdecode(b"caf\xe9.png")])
def test_a_path_is_printed_byte_for_byte(monkeypatch, encoding, name):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    print_path(Path(name))
    assert out.buffer.getvalue() == os.fsencode(name) + b"\n"


def test_a_terminal_gets_no_commands_from_a_path(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_path(Path("\x1b[31m.png"))
    assert capsys.readouterr().out == "\\x1b[31m.png\n"


def test_rows_of_a_csv_file_go_by_their_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('step,name\n1,"a,\nb"\n2,ü\n', encoding="utf-8")
    assert read_csv(path) == [{"step": "1", "name": "a,\nb"}, {"step": "2", "name": "ü"}]


def test_the_head_of_a_table_has_a_dash_for_every_column():
    assert table_head("method", "", 256) == "| method | | 256 |\n|---|---|---|"
