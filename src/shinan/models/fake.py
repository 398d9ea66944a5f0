"""A Generator without a model: for our tests, and for the tests of whoever builds on the Generator seam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

from shinan.core.errors import ModelError, nearest
from shinan.models.generator import Completion, Done, Likelihood, Question, Request, check_options


class FakeGenerator:
    """Replies from a table, from a function, or by repeating the prompt; the same request always gets the same reply.

    A word (what stands between blanks) counts as one token: `max_new_tokens`, `ids` and `prompt_tokens` count words.
    Prefill and stop strings work as in a real model. Thread-safe.

    >>> fake = FakeGenerator({"2 + 2?": "4"})
    >>> [reply.text for reply in fake.generate([Request(prompt="2 + 2?")])]
    ['4']

    Attributes:
        requests: every request received, in order, the failed one included.
    """

    def __init__(
        self,
        replies: Mapping[str, str] | Callable[[Request], str] | None = None,
        *,
        name: str = "fake",
        fail_on: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        """`replies` maps a prompt (the raw prompt, or the last message's text) to its reply; None repeats the prompt.

        Request number `fail_on`, counted from 1 over all calls, raises `error` (default: a ModelError), once; what came
        before it in the same call is lost, as with a killed process.
        """
        self._replies = replies
        self._name = name
        self._fail_on = fail_on
        self._error = error or ModelError(f"the fake fails on request {fail_on}, as it was told to")
        self._lock = threading.Lock()
        self.requests: list[Request] = []

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """One completion a request, in the order of the requests.

        Raises ModelError for a prompt that the table lacks, and what `fail_on` asks for.
        """
        replies = []
        for index, request in enumerate(requests):
            replies.append(self._complete(request))
            if done:
                done(index, replies[-1])
        return replies

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """The likelihood of each option: what the fake's reply begins with has -0.1 a word and is greedy; any other
        option has between -2 and -1 a word, by a hash of prompt and option.

        Raises DataError as every generator does, ModelError for a prompt that the table lacks.
        """
        check_options(questions)
        return [self._judge(question) for question in questions]

    def _judge(self, question: Question) -> tuple[Likelihood, ...]:
        request = Request(question.messages, question.prompt)
        prompt = prompt_of(request)
        reply = self._reply(request, prompt)
        judged = []
        for option in question.options:
            words = len(option.split(" "))
            greedy = reply.startswith(option)
            unlikely = 1 + crc32(f"{prompt}\n{option}".encode("utf-8", "surrogatepass")) / 2**32
            judged.append(Likelihood(-words * (0.1 if greedy else unlikely), words, greedy))
        return tuple(judged)

    def _complete(self, request: Request) -> Completion:
        with self._lock:
            self.requests.append(request)
            if len(self.requests) == self._fail_on:
                raise self._error
        prompt = prompt_of(request)
        text = self._reply(request, prompt)
        new = text.removeprefix(request.prefill)
        ends = [at for stop in request.stop if (at := new.find(stop)) >= 0]
        new = new[: min(ends, default=len(new))]
        words = new.split(" ") if new else []
        limit = request.sampling.max_new_tokens
        return Completion(
            text=request.prefill + " ".join(words[:limit]),
            ids=tuple(crc32(word.encode("utf-8", "surrogatepass")) for word in words[:limit]),
            finish="length" if len(words) > limit else "stop",
            prompt_tokens=len(prompt.split()),
            new_tokens=min(len(words), limit),
        )

    def _reply(self, request: Request, prompt: str) -> str:
        if self._replies is None:
            return prompt
        if callable(self._replies):
            return self._replies(request)
        if prompt not in self._replies:
            raise ModelError(f"the fake has no reply to {prompt!r}", fix=nearest(prompt, self._replies))
        return self._replies[prompt]


def prompt_of(request: Request) -> str:
    """What a request asks: its raw prompt, or the text of its last message."""
    return request.messages[-1].text if request.messages else request.prompt
