"""Surface forms: all of the reference's, each about as often, and the name before an input every other time."""

from __future__ import annotations

import random
from collections import Counter

from shinan.build.improve.encodings import WITH_INPUT, WITHOUT_INPUT, encoded
from shinan.build.improve.instances import Instance


def prompts(given: str, draws: int = 3000) -> Counter[str]:
    return Counter(encoded("Say it.", Instance(given, "x"), random.Random(n))[0].text for n in range(draws))


def test_seven_forms_with_an_input_and_six_without() -> None:
    """Counted in the reference's encode_instance."""
    found = prompts("It rains.")
    assert found.keys() == {form.format(instruction="Say it.", input="It rains.") for form in WITH_INPUT}
    assert len(found) == 7
    assert min(found.values()) > 3000 / 7 * 0.8
    assert prompts("").keys() == {form.format(instruction="Say it.") for form in WITHOUT_INPUT}
    assert len(WITHOUT_INPUT) == 6


def test_a_lone_name_is_left_out_every_other_time() -> None:
    found = prompts("Line: It: rains.\n\nToday.")  # two names stay
    assert all("Line: It: rains." in text for text in found)
    named = sum(count for text, count in prompts("Line: It rains.").items() if "Line:" in text)
    assert 0.45 < named / 3000 < 0.55


def test_blank_lines_are_closed_as_often() -> None:
    closed = sum(count for text, count in prompts("It rains.\n\nToday.").items() if "rains.\nToday" in text)
    assert 0.45 < closed / 3000 < 0.55


def test_braces_in_a_text_are_text_and_the_output_stays() -> None:
    question, reply = encoded("Say {input}.", Instance("{instruction}", "{x}"), random.Random(0))
    assert "Say {input}." in question.text
    assert "{instruction}" in question.text
    assert reply.text == "{x}"
