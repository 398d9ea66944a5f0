"""Documents of a field: personas ask, the documents answer, and what they do not say is dropped."""

from __future__ import annotations

import pytest

from shinan.build.distil.domain import PACKS, domain
from shinan.core.errors import DataError
from shinan.core.example import Example, Provenance, user
from shinan.models.fake import FakeGenerator
from shinan.models.generator import Request
from tests.build.rows import asked, kept, reasons

LEAFLET = Example(
    (user("Take one tablet of 250 mg twice a day. Do not take more than 1,000 mg in 24 hours."),),
    provenance=Provenance("leaflets", 3, "CC-BY-4.0", "human"),
)
LIST = "1. How often should I take it?\n2. What is the most in a day?\n3. What does the document say?\n4. Why?"


def script(answer: str, questions: str = LIST) -> FakeGenerator:
    return FakeGenerator(lambda request: questions if "numbered list" in asked(request) else answer)


def test_a_persona_asks_and_the_document_answers() -> None:
    fake = script("Twice a day, 250 mg each time.")
    rows = kept(domain(1, [LEAFLET], teacher=fake, pack="medical", questions=2))
    listing, *answering = fake.requests
    assert any(persona in asked(listing) for persona in PACKS["medical"].personas)
    assert PACKS["medical"].care in asked(listing)
    assert all(LEAFLET.prompt_text in asked(request) for request in answering)
    # the third points at a document that its reader does not have; two are asked for
    assert [row.messages[0].text for row in rows] == ["How often should I take it?", "What is the most in a day?"]
    assert {row.provenance.licence for row in rows} == {"CC-BY-4.0 AND unknown"}
    assert {row.tags["persona"] for row in rows} <= set(PACKS["medical"].personas)
    assert {row.provenance.parents for row in rows} == {(LEAFLET.id,)}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Take 500 mg.", "number_not_in_document"),
        ("Take ５００ mg.", "number_not_in_document"),
        ("NO ANSWER", "not_in_document"),
        ("No answer.", "not_in_document"),
        ("According to the document, twice a day.", "points_at_document"),
        ("この文書によると一日二回です。", "points_at_document"),
        ("I'm sorry, but I can't give medical advice.", "refusal"),
        ("", "empty"),
    ],
)
def test_answers_that_are_dropped(answer: str, reason: str) -> None:
    assert reasons(domain(1, [LEAFLET], teacher=script(answer), questions=1)) == [reason]


@pytest.mark.parametrize(
    "answer",
    ["No more than 1000 mg.", "At most 1,000 mg in ２４ hours.", "1. One tablet of 250 mg.\n2. Then another."],
)
def test_numbers_of_the_document_are_known_however_they_are_written(answer: str) -> None:
    assert len(kept(domain(1, [LEAFLET], teacher=script(answer), questions=1))) == 1


@pytest.mark.parametrize("listed", ["How often?", "1. What does this document say?", ""])
def test_no_list_of_questions_is_counted(listed: str) -> None:
    fake = script("Twice.", listed)
    [reason] = reasons(domain(1, [LEAFLET], teacher=fake))
    assert reason == ("unparsable" if listed else "empty")
    assert len(fake.requests) == 1


def test_personas_of_ones_own() -> None:
    fake = script("Twice a day.")
    list(domain(1, [LEAFLET], teacher=fake, personas=["a sailor"]))
    assert "that a sailor could put" in asked(fake.requests[0])


def test_no_document_is_told() -> None:
    def never(_: Request) -> str:
        raise AssertionError

    with pytest.raises(DataError, match="none of 0 rows has a text"):
        list(domain(1, [], teacher=FakeGenerator(never)))
