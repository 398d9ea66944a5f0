from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shinan.cli.check import check
from shinan.core.errors import DataError

pytestmark = pytest.mark.promise5

RECIPE = """\
name: mini
model: MODEL
chat: gemma
build: [{id: mine, use: file, with: {path: rows.jsonl, maker: human, licence: CC0-1.0}}]
tune: {method: lora, epochs: 1, batch_size: 4, learning_rate: 1e-3, max_tokens: 300, precision: fp32}
evaluate: [{id: heldout, use: file, with: {path: held.jsonl, maker: human, licence: CC0-1.0}}]
"""
ROWS = [{"instruction": f"Write the number {n}.", "output": f"{n}"} for n in range(8)]
Checks = Callable[..., list[str]]


@pytest.fixture
def checks(
    place: Path, tiny_decoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Checks:
    """The printed lines of `shinan check`, for these rows."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # with torch loaded, most of the time of a small check

    def call(rows: list[dict[str, str]], show: int = 0, *overrides: str) -> list[str]:
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        held = {"instruction": "Name the largest of the planets.", "output": "Jupiter"}
        (place / "held.jsonl").write_text(json.dumps(held) + "\n", "utf-8")
        (place / "mini.yaml").write_text(RECIPE.replace("MODEL", str(tiny_decoder)), "utf-8")
        check(Path("mini.yaml"), show, dry=False, set_=list(overrides))
        return capsys.readouterr().out.splitlines()

    return call


def test_every_check_is_listed_with_its_result(checks: Checks) -> None:
    from shinan.train.findings import RULES

    lines = checks(ROWS)
    listed = {line.split()[1]: line.split()[0] for line in lines if line.split()[:1] in (["ok"], ["later"])}
    assert list(listed) == list(RULES)
    assert {name for name, state in listed.items() if state == "later"} == {"saved_stops"}


def test_the_effective_settings(checks: Checks) -> None:
    """Two runs that differ in these are not comparable (axolotl#3154)."""
    assert checks(ROWS)[-2:] == [
        "8 rows in the format gemma, 304 tokens, 16 of them trained (5 %)",
        "2 steps of 4 rows, about 152 tokens and 8 labels each; rate 0.001, cosine, warm-up 5% of the steps",
    ]


def test_a_warning_is_told_and_does_not_stop(checks: Checks) -> None:
    lines = checks([*ROWS, ROWS[3]])
    assert next(line.split()[:3] for line in lines if "duplicate" in line) == ["warn", "duplicate", "1"]
    assert lines[-2:] == [
        "warning: rows.jsonl#8: 1 of 9 rows are copies of an earlier row (of rows.jsonl#3)",
        "  do this: `- use: exact_duplicates` under curate drops them",
    ]


def test_a_fault_stops_with_its_sentence(checks: Checks, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        checks([*ROWS, {"instruction": "Write a lot.", "output": "word " * 80}])
    assert str(caught.value).splitlines() == [
        "rows.jsonl#8: 1 of 9 rows are longer than tune.max_tokens and are left out "
        "(96.2% of all labels; the first has 430 > 300 tokens)",
        "  do this: raise tune.max_tokens, or split these rows",
    ]
    printed = capsys.readouterr().out
    assert any(line.split()[:3] == ["stop", "too_long", "1"] for line in printed.splitlines())


def test_a_value_that_is_overridden(checks: Checks) -> None:
    long = {"instruction": "Write a lot.", "output": "word " * 80}
    assert any(
        line.startswith("9 rows in the format chatml")
        for line in checks([*ROWS, long], 0, "tune.max_tokens=900", "chat=chatml")
    )


def test_rows_with_faults_are_shown_first_with_their_trained_tokens(checks: Checks) -> None:
    lines = checks([*ROWS, ROWS[3]], 2)
    assert [line for line in lines if line.startswith("── ")] == [
        "── rows.jsonl#8, maker human, licence CC0-1.0",
        "── rows.jsonl#0, maker human, licence CC0-1.0",
    ]
    assert "⟦3<end_of_turn>⟧⏎" in lines
    assert "⟦0<end_of_turn>⟧⏎" in lines


def test_rows_that_are_left_out_are_shown_with_the_reason(checks: Checks) -> None:
    lines = checks([*ROWS, {"instruction": "long " * 80, "output": "1"}], 1)
    assert next(line for line in lines if line.startswith("dropped by")) == (
        "dropped by tokenise: too_long (419 > 300 tokens)"
    )
