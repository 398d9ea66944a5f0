"""The decode loop against transformers' own generate, and its independence of what else is in the batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor

from shinan.core.errors import DataError
from shinan.models import cache, cached
from shinan.models import decode as decode_module
from shinan.models.checkpoint import load_model
from shinan.models.decode import DecodeLoop, Row
from shinan.models.decoder import Input
from shinan.models.family import decode
from shinan.models.generator import Sampling
from shinan.models.head import Head
from shinan.models.lookup import Lookup
from shinan.models.narrow import narrow_products
from shinan.models.sampling import sample
from shinan.models.sources import resolve
from shinan.models.tokenizer import Tokenizer
from tests.models.families import FAMILIES, VOCABULARY, make

_PROMPTS = [[2, 40, 41, 42], [2, *range(50, 95)], [2, 99], [2, 7 + 8, 9 + 8, 11 + 8, 30, 31]]


def _row(prompt: list[int], n: int = 12, seed: int = 0, stop: frozenset[int] = frozenset(), **how: Any) -> Row:
    return Row(prompt, Sampling(n, **how), seed, lambda ids: ids[-1] in stop)


@pytest.mark.promise4
@pytest.mark.parametrize("name", ["tiny_decoder", "tiny_llama"])
def test_greedy_tokens_are_those_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    model: Any = load_model(request.getfixturevalue(name), torch.float32)
    rows = [_row(prompt) for prompt in _PROMPTS]
    decode(model, rows)
    for row in rows:
        ids = torch.tensor([row.prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert row.ids == expected[0, len(row.prompt) :].tolist()
        assert row.finish == "length"
    assert_exact(model, rows)


@pytest.mark.promise9
def test_a_row_ends_at_its_stop_and_the_others_go_on(fresh: Callable[..., Any]) -> None:
    model = fresh()
    free = [_row(prompt) for prompt in _PROMPTS]
    decode(model, free)
    stops = frozenset({free[1].ids[3]})
    rows = [_row(prompt, stop=stops) for prompt in _PROMPTS]
    decode(model, rows)
    for row, other in zip(rows, free, strict=True):
        cut = next((i + 1 for i, token in enumerate(other.ids) if token in stops), None)
        assert row.ids == other.ids[:cut]
        assert row.finish == ("length" if cut is None else "stop")


def test_samples_depend_on_the_request_alone(fresh: Callable[..., Any]) -> None:
    model = fresh()
    alone = _row(_PROMPTS[0], seed=7, temperature=1.0, top_p=0.9)
    decode(model, [alone])
    rows = [_row(prompt, seed=7 if i == 0 else i, temperature=1.0, top_p=0.9) for i, prompt in enumerate(_PROMPTS)]
    decode(model, rows)
    assert rows[0].ids == alone.ids
    other = _row(_PROMPTS[0], seed=8, temperature=1.0, top_p=0.9)
    decode(model, [other])
    assert other.ids != alone.ids


def test_nothing_is_generated_where_nothing_is_asked(fresh: Callable[..., Any]) -> None:
    row = _row(_PROMPTS[0], n=0)
    decode(fresh(), [row])
    assert row.ids == []


@given(seed=st.integers(0, 2**62), k=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_top_k_draws_from_the_k_most_likely(seed: int, k: int) -> None:
    logits = torch.tensor([0.1, 3.0, -1.0, 2.0, 0.5, 1.0])
    allowed = logits.topk(k).indices.tolist()
    assert sample(logits, Sampling(temperature=1.0, top_k=k), seed) in allowed


def test_top_p_keeps_the_token_that_crosses_the_line() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    drawn = {sample(logits, Sampling(temperature=1.0, top_p=0.6), seed) for seed in range(200)}
    assert drawn == {0, 1}


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.6, 0.3, 0.1])
    draws = [sample(probs.log(), Sampling(temperature=1.0), seed) for seed in range(3000)]
    shares = [draws.count(i) / len(draws) for i in range(3)]
    assert shares == pytest.approx(probs.tolist(), abs=0.03)  # 3 standard errors


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so small that short rows meet them: prompts come in chunks, pools are outgrown, prefixes kept at once."""
    monkeypatch.setattr(decode_module, "_CHUNK", 7)
    monkeypatch.setattr(decode_module, "_WORTH", 3)
    monkeypatch.setattr(decode_module, "_SHORT", 1)
    monkeypatch.setattr(cache, "_SMALLEST", 2)
    monkeypatch.setattr(cached, "_ROWS", 3)


def _related() -> list[list[int]]:
    """Prompts of several lengths up to 30, most of which share beginnings with others, at several depths; a pair of
    twins; one that another begins with; one of a single token."""
    source = random.Random(4)
    trunk = [source.randrange(3, VOCABULARY) for _ in range(30)]
    tails = [[source.randrange(3, VOCABULARY) for _ in range(n)] for n in (1, 7, 2, 5, 3, 9)]
    made = [trunk[:depth] + tail for depth, tail in zip((20, 20, 11, 11, 4, 20), tails, strict=True)]
    return [*made, made[1], trunk[:11], trunk, [5], tails[5]]


def assert_exact(model: Any, rows: Sequence[Row]) -> None:
    """Every token is the most likely one of transformers' own forward pass over all before it, with its logits."""
    for row in rows:
        count = len(row.prompt)
        logits = model(torch.tensor([[*row.prompt, *row.ids[:-1]]])).logits[0, count - 1 :].detach()
        assert row.ids == logits.argmax(-1).tolist()
        exact = logits.log_softmax(-1).amax(-1).tolist()
        assert row.logprobs == pytest.approx(exact, abs=1e-4)


@pytest.mark.promise9
class TestFamilies:
    """Whatever shares the batch, a prefix, a pool or a chunk: tokens and log-probabilities are the model's own."""

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.usefixtures("cramped")
    def test_cramped(self, family: str) -> None:
        model = make(family)
        rows = [_row(prompt, 4 + 3 * (i % 4)) for i, prompt in enumerate(_related())]
        decode(model, rows, slots=4)
        assert_exact(model, rows)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_at_ease(self, family: str) -> None:
        model = make(family)
        rows = [_row(prompt, 9) for prompt in _related()]
        decode(model, rows)
        assert_exact(model, rows)

    @pytest.mark.usefixtures("cramped")
    def test_an_adapter_is_applied(self) -> None:
        torch.manual_seed(0)
        model = get_peft_model(make("llama"), LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
        plain, rows = _row(_related()[0]), [_row(prompt) for prompt in _related()[:3]]
        decode(make("llama"), [plain])
        decode(model, rows)
        assert_exact(model, rows)
        assert plain.ids != rows[0].ids

    @pytest.mark.usefixtures("cramped")
    def test_without_the_cpus_own_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cached, "_flash", lambda query: False)
        for family in ("gemma3_text", "gpt2"):
            model = make(family)
            rows = [_row(prompt, 9) for prompt in _related()]
            decode(model, rows)
            assert_exact(model, rows)


def finish(loop: DecodeLoop) -> None:
    """Step until nothing runs."""
    while not loop.idle:
        loop.step()


class TestLoop:
    def test_rows_come_and_go_while_others_run(self, fresh: Callable[..., Any]) -> None:
        model = fresh()
        alone = [_row(prompt) for prompt in _PROMPTS]
        for row in alone:
            decode(model, [row])
        loop = DecodeLoop(model, slots=2)
        rows = [_row(prompt, n) for prompt, n in zip(_PROMPTS, (3, 12, 4, 6), strict=True)]
        ended = []
        for row in rows:
            loop.add(row)
            ended += loop.step()
        while not loop.idle:
            ended += loop.step()
        assert sorted(map(id, ended)) == sorted(map(id, rows))
        assert [row.ids for row in rows] == [other.ids[:n] for other, n in zip(alone, (3, 12, 4, 6), strict=True)]

    def test_rows_grow_in_every_step(self, fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Lookup, "guess", lambda self, most: [])
        loop = DecodeLoop(fresh(), slots=4)
        rows = [_row(prompt, 5) for prompt in _PROMPTS]
        for row in rows:
            loop.add(row)
        for n in range(1, 6):
            ended = loop.step()
            assert [len(row.ids) for row in rows] == [len(row.logprobs) for row in rows] == [n] * 4
            assert ended == (rows if n == 5 else [])

    def test_a_cancelled_row_frees_its_slot(self, fresh: Callable[..., Any]) -> None:
        loop = DecodeLoop(fresh(), slots=1)
        running, waiting, last = (_row(prompt) for prompt in _PROMPTS[:3])
        for row in (running, waiting, last):
            loop.add(row)
        loop.step()
        loop.cancel(running)
        loop.cancel(waiting)
        loop.step()
        assert (running.finish, waiting.finish, last.finish) == ("cancelled", "cancelled", "")
        assert (len(running.ids), len(waiting.ids), len(last.ids)) == (1, 0, 1)
        loop.cancel(last)
        assert loop.idle
        assert loop.step() == []

    def test_a_cancelled_row_leaves_the_others_as_they_were(self, fresh: Callable[..., Any]) -> None:
        model = fresh()
        alone = [_row(prompt) for prompt in _PROMPTS]
        decode(model, alone)
        loop = DecodeLoop(model, slots=4)
        rows = [_row(prompt) for prompt in _PROMPTS]
        for row in rows:
            loop.add(row)
        for _ in range(3):
            loop.step()
        loop.cancel(rows[0])  # the last of its pool takes its place
        while not loop.idle:
            loop.step()
        assert [row.ids for row in rows[1:]] == [row.ids for row in alone[1:]]

    def test_a_filter_says_which_tokens_may_come(self, fresh: Callable[..., Any]) -> None:
        class Alternating:
            """Odd and even tokens in turn."""

            refused = 0

            def apply(self, logits: Tensor) -> None:
                logits[self.refused :: 2] = -torch.inf

            def accept(self, token: int) -> None:
                self.refused = token % 2

        model = fresh()
        free, bound = _row(_PROMPTS[1]), _row(_PROMPTS[1])
        bound.filter = Alternating()
        decode(model, [free, bound])
        assert [token % 2 for token in bound.ids] == [1, 0] * 6 != [token % 2 for token in free.ids]
        logits = model(torch.tensor([[*bound.prompt, *bound.ids]])).logits[0].log_softmax(-1).detach()
        exact = [float(logits[len(bound.prompt) + i - 1, token]) for i, token in enumerate(bound.ids)]
        assert bound.logprobs == pytest.approx(exact, abs=1e-4)

    def test_what_was_said_is_penalised(self, fresh: Callable[..., Any]) -> None:
        model = fresh()
        free = _row(_PROMPTS[0], 30)
        bound = _row(_PROMPTS[0], 30, presence_penalty=9.0)
        decode(model, [free, bound])
        assert bound.ids != free.ids
        assert len(set(bound.ids)) > len(set(free.ids))
        logits = model(torch.tensor([[*bound.prompt, *bound.ids[:-1]]])).logits[0, len(bound.prompt) - 1 :].detach()
        logprobs = logits.log_softmax(-1)
        for i, token in enumerate(bound.ids):
            mine = logits[i].clone()
            for said in set(bound.ids[:i]):
                mine[said] -= 9
            assert token == int(mine.argmax())
            assert bound.logprobs[i] == pytest.approx(float(logprobs[i, token]), abs=1e-4)

    def test_the_likeliest_tokens_are_noted_where_asked_for(self, fresh: Callable[..., Any]) -> None:
        model = fresh()
        noting, silent = _row(_PROMPTS[0]), _row(_PROMPTS[0])
        noting.top = 3
        decode(model, [noting, silent])
        assert silent.tops == []
        logits = model(torch.tensor([[*noting.prompt, *noting.ids]])).logits[0].log_softmax(-1).detach()
        for i, tops in enumerate(noting.tops):
            exact = logits[len(noting.prompt) + i - 1].topk(3)
            assert [token for token, _ in tops] == exact.indices.tolist()
            assert [logprob for _, logprob in tops] == pytest.approx(exact.values.tolist(), abs=1e-4)
        assert [tops[0][0] for tops in noting.tops] == noting.ids

    def test_rows_wait_until_there_is_memory(self, fresh: Callable[..., Any]) -> None:
        """Each of the rows may take a pool place of 64 tokens, and there is room for two."""
        loop = DecodeLoop(fresh(), slots=4, max_tokens=150)
        rows = [_row(prompt, n) for prompt, n in zip(_PROMPTS, (6, 3, 4, 5), strict=True)]
        for row in rows:
            loop.add(row)
        together = 0
        while not loop.idle:
            ended = loop.step()
            together = max(together, sum(bool(row.ids) and not row.finish for row in rows) + len(ended))
        assert together == 2
        assert [len(row.ids) for row in rows] == [6, 3, 4, 5]
        assert_exact(loop._decoder.model, rows)

    @pytest.mark.promise10
    def test_a_row_that_could_never_run_is_refused(self, fresh: Callable[..., Any]) -> None:
        loop = DecodeLoop(fresh(), max_tokens=1000)
        with pytest.raises(
            DataError, match="may take 10,000,004 tokens, and there is room for 1,000\n  do this: shorten"
        ):
            loop.add(_row(_PROMPTS[0], 10_000_000))
        with pytest.raises(DataError, match="the prompt has no tokens"):
            loop.add(_row([]))
        with pytest.raises(
            DataError, match="may take 65 tokens, and there is room for 64"
        ):  # positions that it learned
            DecodeLoop(make("gpt2")).add(_row([5] * 60, 5))
        assert loop.idle

    @pytest.mark.usefixtures("cramped")
    def test_what_prompts_share_is_computed_once(
        self, fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = DecodeLoop(fresh(), slots=2)
        fed: list[int] = []
        states = loop._decoder.states

        def recorded(packed: Input) -> Tensor:
            fed.extend(packed.ids[0].tolist())
            return states(packed)

        monkeypatch.setattr(loop._decoder, "states", recorded)
        head = [2, *range(100, 140)]
        rows = [_row([*head, 50 + i, 60 + i], 1) for i in range(6)]
        for row in rows:
            loop.add(row)
        finish(loop)
        assert fed.count(2) == 1
        assert len(fed) == len(head) + 6 * 2
        late = _row([*head, 77], 1)
        loop.add(late)
        finish(loop)
        assert fed[-1:] == [77]
        assert len(fed) == len(head) + 6 * 2 + 1
        assert_exact(loop._decoder.model, [*rows, late])

    @pytest.mark.usefixtures("cramped")
    def test_prefixes_make_room_when_rows_need_it(self, fresh: Callable[..., Any]) -> None:
        loop = DecodeLoop(fresh(), slots=2, max_tokens=120)
        rows = [_row([2, *range(100 + 20 * (i // 2), 120 + 20 * (i // 2)), 50 + i], 3) for i in range(8)]
        for row in rows:
            loop.add(row)
        while not loop.idle:
            loop.step()
            assert loop._prefixes.tokens <= 120 // 4
        assert_exact(loop._decoder.model, rows)
        long = _row([*range(8, 101)], 20)  # rounded to a power of two, that is all there is
        loop.add(long)
        finish(loop)
        assert loop._prefixes.tokens == 0
        assert_exact(loop._decoder.model, [long])


class Oracle:
    """Guesses that are right for some tokens, by a reply that is known, and then wrong."""

    def __init__(self, rows: Sequence[Row], right: Callable[[], int]) -> None:
        self._known = {tuple(row.prompt): row.ids for row in rows}
        self._right = right
        self.told: list[tuple[int, int]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ask it in place of the text."""

        def guess(lookup: Any, most: int) -> list[int]:
            prompt = next(prompt for prompt in self._known if tuple(lookup._ids[: len(prompt)]) == prompt)
            coming = self._known[prompt][len(lookup._ids) - len(prompt) :]
            right = self._right()
            return [*coming[:right], *((token + 1) % VOCABULARY for token in coming[right:])][:most]

        monkeypatch.setattr(Lookup, "guess", guess)
        monkeypatch.setattr(Lookup, "judge", lambda _, guessed, right: self.told.append((guessed, right)))


@pytest.mark.promise9
class TestGuesses:
    """What is drawn does not depend on guesses: none, right ones, wrong ones, or those of the text itself."""

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "top_p": 0.9}])
    @pytest.mark.usefixtures("cramped")
    def test_replies_are_the_same(self, family: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        model = make(family)

        def replies() -> list[Row]:
            rows = [_row(prompt, 4 + 5 * (i % 4), i, **how) for i, prompt in enumerate(_related()[:7])]
            decode(model, rows, slots=4)
            return rows

        itself = replies()
        with monkeypatch.context() as patch:
            patch.setattr(Lookup, "guess", lambda self, most: [])
            plain = replies()
        source = random.Random(0)
        oracle = Oracle(plain, lambda: source.choice((0, 1, 2, 9)))
        oracle.install(monkeypatch)
        mixed = replies()
        for rows in (itself, mixed):
            assert [row.ids for row in rows] == [row.ids for row in plain]
            for row, other in zip(rows, plain, strict=True):
                assert row.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        made = [told for told in oracle.told if told[0]]
        assert any(right == guessed for guessed, right in made)
        assert any(0 < right < guessed for guessed, right in made)
        assert any(right == 0 for _, right in made)

    @pytest.mark.parametrize("slots", [24, 70])
    def test_many_rows_come_while_others_guess(
        self, slots: int, fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = random.Random(1)
        prompts = [[2, *(source.randrange(3, 200) for _ in range(source.randrange(1, 6)))] for _ in range(90)]
        plain = [_row(prompt, source.randrange(2, 20)) for prompt in prompts]
        decode(fresh(), plain, slots=slots)
        Oracle(plain, lambda: 9).install(monkeypatch)
        rows = [_row(list(row.prompt), row.sampling.max_new_tokens) for row in plain]
        decode(fresh(), rows, slots=slots)
        assert [row.ids for row in rows] == [row.ids for row in plain]

    def test_right_guesses_save_steps(self, fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        plain = _row(_PROMPTS[0], 13)
        decode(fresh(), [plain])
        Oracle([plain], lambda: 3).install(monkeypatch)
        loop, row = DecodeLoop(fresh()), _row(_PROMPTS[0], 13)
        loop.add(row)
        lengths = []
        while not loop.idle:
            loop.step()
            lengths.append(len(row.ids))
        assert lengths == [1, 5, 9, 13]
        assert row.ids == plain.ids

    def test_a_row_ends_among_right_guesses(self, fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        free = _row(_PROMPTS[0], 13)
        decode(fresh(), [free])
        Oracle([free], lambda: 13).install(monkeypatch)
        stop = free.ids[4]
        first = free.ids.index(stop)
        row, other = _row(_PROMPTS[0], 13, stop=frozenset({stop})), _row(_PROMPTS[0], 3)
        decode(fresh(), [row, other])
        assert (row.ids, row.finish) == (free.ids[: first + 1], "stop")
        assert (other.ids, other.finish) == (free.ids[:3], "length")


class TestBf16:
    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_a_turned_product_is_the_same(self, rows: int) -> None:
        source = torch.Generator().manual_seed(0)
        layer = torch.nn.Linear(96, 48, dtype=torch.bfloat16)
        x = torch.randn(1, rows, 96, generator=source).bfloat16()
        exact = layer(x)
        with narrow_products(layer, rows):
            assert "forward" in layer.__dict__
            turned = layer(x)
        assert "forward" not in layer.__dict__
        torch.testing.assert_close(turned, exact, atol=2**-8, rtol=2**-7)  # sums in another order, rounded once

    def test_logits_are_the_heads(self) -> None:
        source = torch.Generator().manual_seed(0)
        weight, states = torch.randn(70, 32, generator=source), torch.randn(3, 32, generator=source)
        for softcap, x in ((0.0, states), (2.0, states), (0.0, states[:1])):
            exact = x @ weight.T
            exact = softcap * (exact / softcap).tanh() if softcap else exact
            torch.testing.assert_close(Head(weight, softcap).logits(x), exact)
            low = Head(weight.bfloat16(), softcap).logits(x.bfloat16())
            torch.testing.assert_close(low, exact, atol=0.15, rtol=0.05)

    @pytest.mark.slow
    def test_how_near_the_near_ties_are(self) -> None:
        """Every token that the loop writes is, by a forward pass over the row alone, the most likely one or within
        0.25 of it: bf16 rounds logits between 16 and 32 to 1/8. And no more than a tenth of the tokens are not the
        most likely one."""
        folder = resolve("starter:gemma-3-270m")
        model: Any = load_model(folder, torch.bfloat16)
        tokenizer = Tokenizer.load(folder)
        texts = [
            "The capital of France is",
            "Once upon a time",
            "日本の首都は",
            "def add(a, b):",
            "Once upon a time there",
        ]
        rows = [_row([tokenizer.bos_id or 0, *tokenizer.encode(text)], 24) for text in texts]
        decode(model, rows, slots=3)
        gaps = []
        for row in rows:
            logits = (
                model(torch.tensor([[*row.prompt, *row.ids[:-1]]])).logits[0, len(row.prompt) - 1 :].float().detach()
            )
            chosen = logits.gather(1, torch.tensor(row.ids)[:, None])[:, 0]
            gaps += (logits.amax(-1) - chosen).tolist()
        assert max(gaps) <= 0.25
        assert sum(gap > 0 for gap in gaps) <= len(gaps) / 10
