"""The limits on what a stranger's template may write; that it reaches nothing is in tests/hostile."""

from __future__ import annotations

import pytest
from jinja2.exceptions import SecurityError

from shinan.core import sandbox
from shinan.core.sandbox import Sandbox, written


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_CHARS", 100)
    monkeypatch.setattr(sandbox, "MAX_JOINED", 10_000)


@pytest.mark.promise10
@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    "source",
    [
        "{{ (['x' * 100] * 100)|join('-') }}",
        "{{ (['x'] * 100)|join('y' * 100) }}",
        "{{ ([(['x' * 100] * 99)|join] * 100)|join }}",
        "{{ '-'.join(['x' * 100] * 100) }}",
        "{{ ('y' * 100).join(['x'] * 100) }}",
        "{{ [['x' * 100] * 100] * 2 }}",
        "{{ {'a': ['x' * 100] * 101} }}",
        "{{ (['x' * 100] * 101) ~ '' }}",
        "{{ (['x' * 100] * 101)|string }}",
        "{{ (['x' * 100] * 101)|tojson }}",
        "{{ (['x' * 100] * 101)|map('upper')|join }}",
        "{% set f = '%99d' * 25 %}{{ (f ~ f ~ f ~ f ~ f) % ((1,) * 100 + (1,) * 25) }}",
        "{{ '%5.101d' % 1 }}",
        "{{ '%*d' % (5, 1) }}",
        "{{ ('{0}' * 33 ~ '{0}' * 33 ~ '{0}' * 33 ~ '{0}' * 2).format('x' * 100) }}",
        "{{ '{:101}'.format(1) }}",
        "{{ '{:{}}'.format(1, 5) }}",
        "{% for i in range(101) %}{{ 'x' * 100 }}{% endfor %}",
    ],
)
def test_what_would_fill_the_memory(source: str) -> None:
    with pytest.raises(SecurityError):
        written(Sandbox().from_string(source))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ ['a', 'b']|join(', ') }}", "a, b"),
        ("{{ [{'n': 'a'}, {'n': 'b'}]|map(attribute='n')|join('-') }}", "a-b"),
        ("{{ [{'n': 'a'}, {'n': 'b'}]|join('-', 'n') }}", "a-b"),
        ("{{ ', '.join(['a', 'b']) }}", "a, b"),
        ("{{ ['a', 1, None] }}", "['a', 1, None]"),
        ("{{ 'a' ~ 1 ~ [2] }}", "a1[2]"),
        ("{{ '%5.2f%%' % 1 }}{{ '%s-%s'|format('a', 'b') }}", " 1.00%a-b"),
        ("{{ '{:>4}{a}'.format(1, a='b') }}", "   1b"),
        ("{{ missing }}", ""),
    ],
)
def test_what_templates_do_every_day(source: str, text: str) -> None:
    assert written(Sandbox().from_string(source)) == text
