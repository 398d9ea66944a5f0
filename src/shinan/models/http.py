"""Any OpenAI-compatible endpoint as a Generator: many requests at once, each through the ledger and in the budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from shinan.core.errors import ModelError
from shinan.core.hashing import derive_seed
from shinan.models import validated, wire
from shinan.models.books import Asked, Books, Tell, as_reply, scored, through
from shinan.models.endpoint import Endpoint
from shinan.models.generator import Completion, Done, Likelihood, Question, Request, check_options
from shinan.models.sending import PATIENCE, Patience, Sender, Shot
from shinan.models.wire import Json, UnusableError

_TOGETHER = 16  # replies asked for in one call: as many are lost if it fails


class HttpGenerator:
    """A model behind one or more endpoints. Answers are in the ledger before anybody sees them.

    A request that fails (see `Patience`) is a completion with finish `failed` and takes no other with it. What no
    request would survive (a refused key, an unknown model, a spent budget) ends the work: what is in flight is waited
    for and kept, then the error is raised. Ctrl-C does the same; a second one does not wait.
    """

    def __init__(
        self, endpoint: Endpoint, books: Books, *, concurrency: int = 16, patience: Patience = PATIENCE
    ) -> None:
        """`concurrency`: the most requests in flight, at all addresses together; fewer where they push back."""
        self.endpoint, self.books = endpoint, books
        self._sender = Sender(endpoint, books, concurrency, patience)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.endpoint.model

    def key(self, request: Request) -> str:
        """What the ledger knows the request by, for provenance."""
        return self.books.asked(request).key

    def generate(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See `Generator.generate`.

        Raises ModelError before anything is sent if the endpoint is not declared to have what a request needs; and
        ModelError or BudgetError after what is in flight has come back, if no request can succeed any more.
        """
        wire.refuse(requests, self.endpoint)
        asked = [self.books.asked(request) for request in requests]

        def send(missing: Sequence[int], tell: Tell) -> None:
            self._sender.fire(list(self._shots(requests, asked, missing)), tell)

        return through(self.books, asked, send, done)

    def score(self, questions: Sequence[Question]) -> list[tuple[Likelihood, ...]]:
        """How likely each option of each question is, through `/completions` with echo. See `Generator.score`.

        A token that holds the end of the prompt and the beginning of the option counts as the option's. Raises
        DataError as every generator does, ModelError for an endpoint without echo, for a conversation (chats do not
        echo), and if a call fails.
        """
        check_options(questions)
        self._refuse_to_score(questions)
        pairs = [(question.prompt, option) for question in questions for option in question.options]
        asked = [self.books.asked_option(question, option) for question in questions for option in question.options]

        def send(missing: Sequence[int], tell: Tell) -> None:
            self._sender.fire([self._echo(i, asked[i], *pairs[i]) for i in missing], tell)

        return scored(self.books, questions, send)

    def _refuse_to_score(self, questions: Sequence[Question]) -> None:
        if "echo" not in self.endpoint.has:
            what = "scoring needs the log-probabilities of a prompt, and the endpoint is not declared to give them"
            fix = f"if it does, end the reference in #{'+'.join(sorted(self.endpoint.has | {'echo'}))}"
            raise ModelError(what, where=f"endpoint:{self.name}", fix=fix)
        if any(question.messages or not question.prompt for question in questions):
            what = "endpoints score raw prompts only: a chat's answer does not repeat its prompt"
            raise ModelError(what, where=f"endpoint:{self.name}", fix="write the question as a prompt")

    def _shots(self, requests: Sequence[Request], asked: Sequence[Asked], missing: Sequence[int]) -> Iterator[Shot]:
        """Requests as HTTP calls: neighbours that differ only in seed and sample share one, if the endpoint has `n`."""
        shot: Shot | None = None
        before: Request | None = None
        for index in missing:
            prompt = replace(requests[index], seed=0, sample=0)
            joins = shot and prompt == before and "n" in self.endpoint.has and not prompt.schema
            if shot and joins and len(shot.members) < _TOGETHER:
                shot.members.append((index, asked[index]))
                shot.seeds |= {member: requests[member].seed for member, _ in shot.members}
                continue
            if shot:
                yield shot
            shot, before = self._shot(index, asked[index], requests[index]), prompt
        if shot:
            yield shot

    def _shot(self, index: int, asked: Asked, request: Request) -> Shot:
        path, body = wire.body_of(request, self.endpoint)
        if not request.schema:
            return Shot([(index, asked)], path, body, lambda answer, most: wire.replies_of(answer, request, most))
        schema = validated.parse_schema(request.schema)
        if "schema" not in self.endpoint.has:
            body = _told(body, validated.instruction(request.schema))

        def read(answer: Json, most: int) -> list[Completion]:
            [reply] = wire.replies_of(answer, request, 1)
            text, wrong = validated.checked(reply.text, schema)
            if not wrong:
                return [replace(reply, text=text)]
            amended = _told(body, reply.text, validated.complaint(wrong))
            what = f"no reply satisfied the schema; the last one: {wrong}"
            raise UnusableError("schema", what, again=True, why="useless", amended=amended)

        return Shot([(index, asked)], path, body, read)

    def _echo(self, index: int, asked: Asked, prompt: str, option: str) -> Shot:
        def read(answer: Json, most: int) -> list[Completion]:
            return [as_reply(wire.likelihood_of(answer, prompt, option), wire.usage_of(answer))]

        return Shot([(index, asked)], "/completions", wire.echo_body(prompt, option, self.endpoint), read)


def _told(body: Json, *words: str) -> Json:
    """A body with an instruction at the end of its last turn, or with (reply, complaint) as further turns.

    A raw prompt stays as it is and gets another seed: there is nobody to tell.
    """
    if "messages" not in body:
        return body | {"seed": derive_seed(body["seed"], "schema")}
    turns: list[dict[str, Any]] = body["messages"]
    if len(words) == 1:
        *before, last = turns
        return body | {"messages": [*before, last | {"content": f"{last['content']}\n\n{words[0]}"}]}
    reply, complaint = (
        {"role": role, "content": text} for role, text in zip(("assistant", "user"), words, strict=True)
    )
    return body | {"messages": [*turns, reply, complaint]}
