import json
from pathlib import Path

import pytest

from corollary.cli import main


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("frobnicate", "unknown command 'frobnicate'. There are: list, reproduce, bench, train, tables, cite"),
        ("reprodcue toy-paper", "unknown command 'reprodcue'; did you mean 'reproduce'?"),
        ("--verison", "Unrecognized options: --verison"),
        ("reproduce", "reproduce needs a paper; `corollary list` names them"),
        ("reproduce toy-papre", "unknown paper 'toy-papre'; did you mean 'toy-paper'?"),
        ("reproduce toy-paper --claim C1,C77", "unknown claim of toy-paper 'C77'"),
        ("reproduce toy-paper --claim c1 --level scaled", "toy-paper has no such claim of level scaled"),
        (
            "reproduce toy-paper --level exat",
            "unknown level 'exat'; did you mean 'exact'? There are: exact, scaled, paper",
        ),
        ("reproduce toy-paper --budget qick", "unknown budget 'qick'; did you mean 'quick'?"),
        ("reproduce toy-paper --budget", "Missing value for argument '--budget'"),
        ("reproduce toy-paper --bugdet full", "Unrecognized options: --bugdet, full; perhaps you meant --budget"),
        ("reproduce toy-paper --workers 0", "--workers must be a whole number from 1 on, or auto, got '0'"),
        ("reproduce toy-paper --workers=-2", "--workers must be a whole number from 1 on, or auto, got '-2'"),
        ("reproduce toy-paper --workers two", "--workers must be a whole number from 1 on, or auto, got 'two'"),
        ("reproduce toy-paper --record --budget smoke", "budget smoke gives no verdict and cannot be recorded"),
        ("cite", "SLUG"),
        ("cite nothing", "unknown paper 'nothing'"),
        ("tables", "is not inside a checkout of Corollary"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    toy: Path, capsys: pytest.CaptureFixture[str], words: str, complaint: str
) -> None:
    assert main(words.split()) == 2
    out, error = lines(capsys)
    assert out == ""
    assert complaint in error
    assert error.startswith("corollary: ")
    assert error.count("\n") == 1
    assert not (toy / "reproductions").exists()


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "--help"])
    assert not end.value.code
    out, _ = lines(capsys)
    for option in ("SLUG", "--claim", "--level", "--budget", "--workers", "--out", "--record", "--fresh"):
        assert option in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import corollary

    assert main(["--version"]) == 0
    assert lines(capsys)[0] == f"corollary {corollary.__version__}\n"


def test_reproduce_writes_results_and_says_where(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "toy-paper", "--level", "exact", "--out", "elsewhere"]) == 0
    out, error = lines(capsys)
    assert error == ""
    assert "2 claims: 2 reproduced" in out
    assert "Results and plots are in elsewhere/toy-paper/ (counts.png)" in out
    assert json.loads((toy / "elsewhere" / "toy-paper" / "C1.json").read_text())["verdict"] == "reproduced"


@pytest.mark.parametrize("mode", ["wrong", "raise"])
def test_failing_exact_claim_gives_status_1(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("TOY_EXACT", mode)
    assert main(["reproduce", "toy-paper", "--claim", "C1", "--claim", "C2"]) == 1
    assert "1 reproduced" in lines(capsys)[0]


def test_failing_plots_give_status_1_and_one_line(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_PLOTS", "raise")
    assert main(["reproduce", "toy-paper", "--claim", "C1"]) == 1
    out, error = lines(capsys)
    assert error == "corollary: the plots of toy-paper failed: RuntimeError: no ink\n"
    assert "1 reproduced" in out


def test_unwritable_folder_gives_status_2(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "taken").touch()
    assert main(["reproduce", "toy-paper", "--out", "taken"]) == 2
    error = lines(capsys)[1]
    assert error.startswith("corollary: cannot write to the folder taken/toy-paper: ")
    assert error.count("\n") == 1


def test_list_shows_recorded_verdicts(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reproduce", "toy-paper", "--level", "exact", "--record"])
    capsys.readouterr()
    main(["list"])
    row = next(line for line in lines(capsys)[0].splitlines() if "toy-paper" in line)
    assert row.split() == ["toy-paper", "2", "reproduced", "2", "not", "run", "1", "not", "run", "quick"]


def test_list_survives_a_corrupt_result_file(toy: Path, toy_checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = toy_checkout / "packages" / "toy-paper" / "results"
    results.mkdir()
    (results / "C1.json").write_text('{"schema": 1')
    assert main(["list"]) == 2
    out, error = lines(capsys)
    assert "toy-paper" in out
    assert "C1.json is no result file: no JSON" in error
    (results / "C1.json").unlink()
    assert main(["list"]) in (0, 2)  # whatever else is installed may have a problem of its own
    assert "no JSON" not in lines(capsys)[1]


def test_list_survives_a_broken_paper(toy: Path, toy_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy_source / "toy_paper" / "claims.py").write_text("import no_such_module")
    assert main(["list"]) == 2
    out, error = lines(capsys)
    assert "toy-paper" in out
    assert "paper 'toy-paper' cannot be loaded: ModuleNotFoundError" in error


def test_tables_are_written_checked_and_found_stale(
    toy: Path, toy_checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_checkout / "packages")
    assert main(["tables", "--check"]) == 1
    assert lines(capsys)[0].startswith("stale: README.md, packages/toy-paper/README.md, docs/papers/toy-paper.md;")
    assert main(["tables"]) == 0
    assert main(["tables", "--check"]) == 0
    assert lines(capsys)[0].splitlines()[-1] == "Tables are up to date."
    main(["reproduce", "toy-paper", "--claim", "C1", "--record"])
    capsys.readouterr()
    assert main(["tables", "--check"]) == 1


def test_tables_touch_nothing_when_a_result_is_corrupt(
    toy: Path, toy_checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_checkout)
    results = toy_checkout / "packages" / "toy-paper" / "results"
    results.mkdir()
    (results / "C1.json").write_text("nonsense")
    before = (toy_checkout / "README.md").read_text()
    for words in (["tables"], ["tables", "--check"]):
        assert main(words) == 2
        error = lines(capsys)[1]
        assert "C1.json is no result file: no JSON" in error
        assert error.count("\n") == 1
    assert (toy_checkout / "README.md").read_text() == before
    assert (results / "C1.json").read_text() == "nonsense"


def test_cite_prints_paper_and_package(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "toy-paper"]) == 0
    out, _ = lines(capsys)
    assert out.startswith("@article{toy2026,")
    assert "@software{corollary_toy_paper," in out
    assert out.count("{") == out.count("}")
    assert "version = {0.1}" in out
