"""Model and data cards: what they say, and that data in them stays data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from shinan.models.card import Card, Parent
from shinan.report.cards import code, data_card, model_card, table, text
from shinan.report.collect import Report
from shinan.report.html import caveats

CARD = Card(
    Path(),
    "quickstart/best",
    "f" * 64,
    chat="alpaca",
    parents=(Parent("gemma-3-270m", "0123456789abcdef"),),
    licence="gemma",
    notices=("notices/GEMMA_TERMS.html",),
)


def test_the_model_card(report: Report) -> None:
    page = model_card(CARD, report, use="USE", parity=["PARITY"])
    front = yaml.safe_load(page.split("---\n")[1])
    assert (front["license"], front["base_model"]) == ("gemma", ["gemma-3-270m"])
    assert "ai.google.dev/gemma/terms" in page
    assert "notices/GEMMA\\_TERMS.html" in page
    assert "0123456789ab" in page
    first = report.comparisons[0]
    assert first.ci95 is not None
    row = next(line for line in page.splitlines() if line.startswith(f"| {first.task} | ROUGE-L |"))
    assert f"| {first.n} | {100 * first.before:.1f} | {100 * first.after:.1f} |" in row.replace(",", "")
    assert f"{100 * first.ci95[0]:+.1f} to {100 * first.ci95[1]:+.1f}".replace("+", "\\+") in row
    assert "Held out, never trained on" in page
    assert page.endswith("```\nPARITY\n```\n")
    assert "chat format alpaca" in page


def test_held_out_items_that_were_not_searched_for(report: Report) -> None:
    careless = replace(report, decontaminated=False)
    assert "never trained on" not in (page := model_card(CARD, careless, use="USE", parity=[]))
    assert "Held out, but not searched for in the rows that were trained on: heldout" in page
    assert any("decontaminate: false" in said for said in caveats(careless))
    assert not any("decontaminate" in said for said in caveats(report))


def test_another_licence_brings_no_gemma_terms(report: Report) -> None:
    assert "Gemma Terms" not in model_card(replace(CARD, licence="apache-2.0"), report, use="", parity=[])


def test_a_model_without_a_run() -> None:
    page = model_card(replace(CARD, chat=None), None, use="USE", parity=["PARITY"])
    assert "## Evaluation" not in page
    assert "goes on with a text" in page


def test_the_data_card(report: Report) -> None:
    page = data_card(report)
    for stage in report.stages:
        if stage.tally:
            cells = f"| {stage.tally['seen']:,} | {stage.tally['kept']:,} |"
            assert any(text(stage.id) in line and cells in line for line in page.splitlines()), stage.id
            assert all(text(reason) in page for reason in stage.tally["dropped"])
    for maker, n in report.composition["maker"].items():
        assert f"| {text(maker)} | {n:,} |" in page


def test_data_stays_data() -> None:
    evil = "a | b\n# head <script>alert(1)</script> [x](y) `c` \x1b[2J ![i](u)"
    shown = text(evil)
    assert "\n" not in shown
    assert "<" not in shown
    assert "\x1b" not in shown
    assert "\\| b" in shown
    assert "\\[x\\]\\(y\\)" in shown
    assert len(table(("a", "b"), [(evil, "c")]).splitlines()) == 3
    fenced = code("```\n````\nend")
    assert fenced.splitlines()[0] == fenced.splitlines()[-1] == "`````"
