"""The index of all sweeps and runs, and reports on evaluations."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from sweep_folders import make_job, make_sweep

from nstexp import report
from nstexp.core.errors import UserError
from nstexp.report.__main__ import main
from nstexp.report.overview import find_all, needs_index, write_index


@pytest.fixture
def folders(tmp_path) -> Path:
    """multirun/ with two sweeps, one of which was killed early, and runs/ with an evaluation and a failed run."""
    first = make_sweep(tmp_path / "multirun" / "nstexp" / "2026-01-02", weights__beta=[1, 10], layers=["one", "two"])
    words = ["weights.beta=1,10", "layers=one,two", "content=https://me:secret@host/a.png"]
    record = {"hydra": {"overrides": {"hydra": ["hydra.mode=MULTIRUN"], "task": words}}}
    (first / "multirun.yaml").write_text(yaml.safe_dump(record))
    for number in range(4):
        scores = {"output": {"style_gram": 4.0 - number, "ssim": 0.1 * number}}
        (first / str(number) / "metrics.json").write_text(json.dumps(scores))
        described = {"style_gram": "VGG-19", "ssim": "luminance"}
        summary = json.loads((first / str(number) / "summary.json").read_text())
        summary |= {"measured_with": described, "started": f"2026-01-02T10:00:0{number}", "metrics": scores}
        (first / str(number) / "summary.json").write_text(json.dumps(summary))
    report.write_report(first)
    second = tmp_path / "multirun" / "nstexp" / "2026-01-03"
    make_job(second, 0, {"seed": 1}, (), status="failed", error="no such file")
    make_job(second, 1, {"seed": 2}, (), status="failed", error="no such file")
    make_evaluation(tmp_path / "runs" / "nstexp" / "2026-01-04")
    path = make_job(tmp_path / "runs" / "nstexp", "2026-01-05", {"seed": 7})
    summary = json.loads((path / "summary.json").read_text()) | {"overrides": ["seed=7", "output=a b.png"]}
    (path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def make_evaluation(path: Path) -> Path:
    """A run folder of task=evaluate: two photos, two paintings, two methods."""
    numbers: dict[str, dict[str, float]] = {}
    lines = ["content,style,method,style_gram"]
    for content, style, method in product(("a", "b"), ("p", "q"), ("adain", "gatys")):
        numbers[f"{content}_{style}_{method}"] = {"style_gram": 1.0 + (method == "gatys")}
        lines += [f"{content},{style},{method},1", f"{content},{style},photo,3"]
    make_job(
        path.parent,
        path.name,
        {"task": "evaluate"},
        tuple(numbers),
        metrics=numbers,
        measured_with={"style_gram": "VGG-19"},
    )
    (path / "metrics.json").write_text(json.dumps({**numbers, "mean of adain": {"style_gram": 1.0}}))
    (path / "scores.csv").write_text("\n".join(lines))
    (path / "grid.png").write_bytes(b"the evaluation's own sheet")
    return path


def entries(path: Path) -> dict[str, dict]:
    (found,) = re.findall(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return {entry["name"].partition("/")[2]: entry for entry in json.loads(found)["entries"]}


def test_sweeps_and_runs_are_found_at_any_depth(folders):
    found = find_all([folders / "multirun", folders / "runs"])
    assert [(one.path.name, one.is_sweep) for one in found] == [
        ("2026-01-02", True), ("2026-01-03", True), ("2026-01-04", False), ("2026-01-05", False),
    ]  # fmt: skip
    assert find_all([folders]) == found == find_all([folders, folders / "runs"])
    for name, needs in {"": True, "multirun": True, "multirun/nstexp/2026-01-02": False, "runs": False}.items():
        assert needs_index([folders / name]) == needs
    assert needs_index([folders / "runs", folders / "multirun"])


def test_the_index_tells_what_each_of_them_was(folders, capsys):
    main([str(folders / "multirun"), str(folders / "runs"), "--output", str(folders / "all")])
    path = folders / "all" / "index.html"
    assert capsys.readouterr().out == f"{path}\n"
    found = entries(path)
    sweep = found["2026-01-02"]
    assert (sweep["kind"], sweep["statuses"], sweep["seconds"]) == ("sweep", {"completed": 4}, 6.0)
    assert sweep["started"] == "2026-01-02T10:00:00"
    assert sweep["command"].startswith("python -m nstexp -m weights.beta=1,10 layers=one,two content=https://***@host")
    assert "secret" not in path.read_text()
    assert sweep["keys"] == [["weights.beta", 2], ["layers", 2]]
    assert [(best["label"], best["text"], best["setting"]) for best in sweep["best"]][:2] == [
        ("style_gram", "1", "weights.beta=10, layers=two"), ("ssim", "0.3", "weights.beta=10, layers=two"),
    ]  # fmt: skip
    assert (path.parent / sweep["report"]).resolve() == folders / "multirun/nstexp/2026-01-02/report.html"
    assert (path.parent / sweep["best"][0]["link"]).is_file() and sweep["image"]["width"] == 40
    failed = found["2026-01-03"]
    assert (failed["report"], failed["error"], failed["best"]) == (None, "no such file", [])
    assert failed["command"] == "python -m nstexp -m seed=1,2"
    run = found["2026-01-05"]
    assert (run["kind"], run["command"]) == ("run", "python -m nstexp seed=7 'output=a b.png'")
    evaluation = found["2026-01-04"]
    assert evaluation["keys"] == [["content", 2], ["style", 2], ["method", 2]]
    assert (evaluation["best"][0]["text"], evaluation["best"][0]["setting"]) == (
        "1.00, mean of 4 pairs",
        "method=adain",
    )


def test_an_index_goes_into_its_folder_and_replaces_only_an_index(folders, monkeypatch):
    monkeypatch.chdir(folders)
    assert write_index([folders / "multirun"]) == folders / "multirun" / "index.html"
    assert write_index([folders / "multirun"]) == folders / "multirun" / "index.html"
    assert write_index(["multirun", "runs"]) == folders / "overview" / "index.html"
    (folders / "runs" / "index.html").write_text("a page of the user's")
    with pytest.raises(UserError, match=r"index.html was not made by nstexp; name another folder with --output"):
        write_index(["runs"])
    assert (folders / "runs" / "index.html").read_text() == "a page of the user's"


def test_a_folder_without_runs_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words, reason in {("nowhere",): "there is no such folder", ("empty",): "no sweeps and no runs below"}.items():
        with pytest.raises(SystemExit) as end:
            main(["--index", *(str(tmp_path / word) for word in words)])
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1) and reason in err
    assert not (tmp_path / "empty" / "index.html").exists()


def test_a_single_evaluation_has_a_report_of_its_own(tmp_path, capsys):
    path = make_evaluation(tmp_path / "run")
    main([str(path)])
    out, err = capsys.readouterr()
    assert out == f"{path / 'report' / 'report.html'}\n"
    assert (path / "grid.png").read_bytes() == b"the evaluation's own sheet"
    assert err.splitlines()[0].split() == ["method", "n", "style_gram"]
    main([str(path)])
    data = report.write_report(path)[0].read_text()
    assert '"keys":["method"],"pairs":["content","style"]' in data


def test_the_index_in_a_browser(folders, browser):
    path = write_index([folders / "multirun", folders / "runs"], folders / "all")
    browser.get_log("browser")
    browser.get(path.as_uri())

    def shown() -> list[str]:
        return browser.execute_script("return [...document.querySelectorAll('tbody tr')].map((r) => r.dataset.name)")

    assert shown() == ["nstexp/2026-01-02", "nstexp/2026-01-03", "nstexp/2026-01-04", "nstexp/2026-01-05"]
    browser.find_element("id", "filter").send_keys("kind=sweep runs>2")
    assert shown() == ["nstexp/2026-01-02"]
    browser.refresh()
    assert shown() == ["nstexp/2026-01-02"], "the filter is in the address"
    assert browser.find_element("css selector", ".of-name a").get_attribute("href").endswith("2026-01-02/report.html")
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
