"""The bench of near-duplicate removal, on a few texts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import near_duplicates as bench
from bench import pairs
from shinan.scorers.nearness import near_duplicates

PEERS = {"shinan": "numpy", "datasketch": "datasketch", "datasketch-generator": "datasketch"} | dict.fromkeys(
    ("rensa-r", "rensa-c", "rensa-rho"), "rensa"
)


def many(count: int) -> list[str]:
    draw = random.Random(0)
    known = [" ".join(str(draw.randrange(300)) for _ in range(draw.randrange(40))) for _ in range(count // 2)]
    return [*known, *(bench.edited(draw, draw.choice(known), known) for _ in range(count - len(known)))]


def test_counting_decides_as_the_check_does() -> None:
    data = [*many(300), "", "yes", "Yes"]
    right = bench.by_counting(data)
    assert right == [near is not None for near in near_duplicates([{"": text} for text in data])]
    assert 30 < sum(right) < 200


@pytest.mark.parametrize("name", bench.SIDES)
def test_every_side_drops_copies_and_is_timed(name: str) -> None:
    pytest.importorskip(PEERS[name], reason="peers come with the extra `bench`")
    data = [" ".join(f"{i}w{k}" for k in range(40)) for i in range(50)]
    found = bench.measured(bench.SIDES[name], [*data, *data[:5]])
    copies = {*range(50, 55)}
    assert copies <= {*found["dropped"]} <= copies | {*range(5)}  # rho flags both
    assert found["judged_per_second"] > found["rows_per_second"] > 0
    assert json.loads(json.dumps(found)) == found


def test_recall_and_precision() -> None:
    right = [False, True, True, False, True]
    assert bench.judged({"dropped": [1, 3, 4]}, right) == {"recall": 2 / 3, "precision": 2 / 3}
    assert bench.judged({"dropped": []}, right) == {"recall": 0.0, "precision": 0.0}


def test_an_edited_text_differs_in_at_most_one_word_in_twelve() -> None:
    draw = random.Random(1)
    text = [f"w{i}" for i in range(120)]
    for _ in range(50):
        other = bench.edited(draw, " ".join(text), ["x y z"]).split()
        assert 1 <= len({*text} ^ {*other}) <= 14
    assert bench.edited(draw, "", ["."]) in ("", ".")


def test_sides_take_turns_and_a_wrong_verdict_of_ours_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = many(40), list[str]()
    answer = [place for place, drop in enumerate(bench.by_counting(data)) if drop]

    def child(command: Sequence[str], **_: str) -> pairs.Result:
        asked.append(command[4])
        return {"rows_per_second": 10.0, "judged_per_second": 20.0, "dropped": list(answer)}

    monkeypatch.setattr(bench, "child", child)
    monkeypatch.setattr(bench, "version", lambda name: "1")
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    path, made = bench.compare(data, 2)
    assert asked == [*bench.SIDES] * 2
    assert [row.peer_version for row in made[::4]] == [f"{name} 1" for name in bench.TARGETS]
    assert {(row.metric, row.ratio, row.n) for row in made} >= {("rows_per_second", 1.0, 2), ("recall", 1.0, 2)}
    assert json.loads(path.read_text("utf-8"))["facts"]["dropped"] == len(answer)
    answer.append(0)
    with pytest.raises(ValueError, match="decided differently"):
        bench.compare(data, 1)
