"""What a run shows while it goes on: speed, memory, sample replies, and the same numbers to trackers if asked for.

Nothing here decides anything: weights are the same with and without it. A step that a tracker was told of is never told
again, whatever is killed and resumed: `track.json` in the run folder keeps the last one.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from shinan.core.dataset import write_atomic
from shinan.core.errors import RunError
from shinan.models.chat import ChatFormat
from shinan.models.decode import Row
from shinan.models.decoder import Decoder
from shinan.models.family import decode
from shinan.models.forest import Bundle
from shinan.models.generator import Sampling
from shinan.models.memory import used_memory
from shinan.models.precision import matrix_rate
from shinan.models.reply import ReplyText
from shinan.train import lines, ranks
from shinan.train.quantised import size
from shinan.train.settings import TuneSettings

_WINDOW = 8  # steps over which the shown speed is taken
_REPLY = 64  # tokens of a sample reply


class Tracker(Protocol):
    """Where numbers go."""

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name at a step; steps never fall."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Live:
    """A run as it is watched. `close` when it ends."""

    def __init__(self, decoder: Decoder, settings: TuneSettings, folder: Path, key: str, chat: ChatFormat | None):
        """Probe the machine's speed; `folder` is the run's, `key` the tune stage's, `chat` writes sample replies."""
        self._decoder, self._settings, self._folder, self._key, self._chat = decoder, settings, folder, key, chat
        self._peak = ranks.count() * matrix_rate(decoder.lm.get_input_embeddings().weight.dtype, decoder.device)
        self._block_flop, self._head_flop = _flop_per_token(decoder)
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=_WINDOW)  # labelled tokens, FLOP, seconds
        self._trackers: list[Tracker] | None = None
        self._told = 0

    def rates(self, line: Mapping[str, Any], seconds: float) -> dict[str, float]:
        """What a step's line says besides: labelled_tokens_per_second, flop_share, memory_bytes.

        flop_share is useful FLOP (6 a weight, 4 if it is frozen; block weights for each computed token, head weights
        for each labelled one) a second, over the rate of large matrix products on this device, times the processes, in
        the run's format.
        """
        labelled = line["labelled_tokens"]
        flop = self._block_flop * line["computed_tokens"] + self._head_flop * labelled
        self._recent.append((labelled, flop, seconds))
        return {
            "labelled_tokens_per_second": round(labelled / max(seconds, 1e-9), 1),
            "flop_share": round(flop / max(seconds, 1e-9) / self._peak, 4),
            "memory_bytes": used_memory(self._decoder.device),
        }

    def note(self, loss: float) -> str:
        """The terminal's words, speed averaged over the last steps."""
        labelled, flop, seconds = (sum(column) for column in zip(*self._recent, strict=True))
        share = 100 * flop / max(seconds, 1e-9) / self._peak
        memory = used_memory(self._decoder.device) / 1e9
        return f"loss {loss:.3f}, {labelled / max(seconds, 1e-9):.0f} labelled/s, {share:.0f}% of peak, {memory:.1f} GB"

    def tell(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, to every tracker that the settings name."""
        if not self._settings.track:
            return
        if self._trackers is None:
            self._told = _told(self._folder, self._key)
            self._trackers = [OPEN[name](self._folder, self._key) for name in self._settings.track]
        kind = "validation" if "validation_loss" in line else "step"
        place = 2 * line["step"] + (kind == "validation")  # a step's validation comes after it
        if place < self._told:
            return
        self._told = place + 1
        values = {name: float(value) for name, value in line.items() if name != "step"}
        if kind == "validation":
            values["validation_seconds"] = values.pop("seconds")
        for tracker in self._trackers:
            tracker.tell(line["step"], values)
        write_atomic(self._folder / _TRACK, json.dumps({"key": self._key, "told": self._told}))

    def sample(self, bundles: Sequence[Bundle], step: int) -> None:
        """Greedy replies to the first prompts of `bundles`, a line each in samples.jsonl; the model is in eval mode."""
        if self._settings.sample is None or self._chat is None:
            return
        rows, texts = [], []
        for bundle in bundles[: self._settings.sample.prompts]:
            start = bundle[0].mask.index(True)
            room = min(_REPLY, (self._decoder.positions or sys.maxsize) - start + bundle[0].source)
            text = ReplyText(self._chat.tokenizer, stop_ids=self._chat.stop_ids, stops=self._chat.stop_strings)
            sampling = Sampling(max_new_tokens=room)
            rows.append(Row(bundle[0].ids[:start], sampling, 0, text.take, source=bundle[0].source))
            texts.append((bundle[0], start, text))
        decode(self._decoder.model, rows)
        if ranks.rank():  # where blocks are divided, all must compute the replies
            return
        for given, start, text in texts:
            text.close()
            said = {
                "step": step,
                "row": given.row,
                "prompt": self._chat.tokenizer.decode(given.ids[: given.source or start]),
                "target": self._chat.tokenizer.decode(given.ids[start:], place="inside"),
                "reply": text.text,
            }
            lines.append(self._folder / SAMPLES, said)

    def rewind(self, step: int) -> None:
        """Drop the sample replies of steps that will be done again."""
        if (path := self._folder / SAMPLES).exists():
            lines.rewind(path, step)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers or ():
            tracker.close()


SAMPLES = "samples.jsonl"
_TRACK = "track.json"


def _flop_per_token(decoder: Decoder) -> tuple[float, float]:
    """Useful FLOP a computed token (blocks) and a labelled token (head): 2 forward, 2 to the inputs, 2 to a weight."""
    head = decoder.lm.get_output_embeddings().weight
    large = {id(head), id(decoder.lm.get_input_embeddings().weight)}
    blocks = sum(_flop(weight) for weight in decoder.lm.parameters() if weight.ndim > 1 and id(weight) not in large)
    return blocks, _flop(head)


def _flop(weight: torch.Tensor) -> float:
    return (6.0 if weight.requires_grad else 4.0) * size(weight)


def _told(folder: Path, key: str) -> int:
    """How far this run's trackers have been told, 0 for another run's."""
    try:
        noted = json.loads((folder / _TRACK).read_text("utf-8"))
        return int(noted["told"]) if noted["key"] == key else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


@contextmanager
def _needed(name: str) -> Iterator[None]:
    """Tell of a tracker that is not installed."""
    try:
        yield
    except ImportError as error:
        fix = "run `pip install 'shinan[track]'`, or take it out of tune.track"
        raise RunError(f"{name} is not installed", where="tune.track", fix=fix) from error


class _TensorBoard:
    """Event files in `tensorboard/KEY` of the run folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, key: str) -> None:
        with _needed("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer: Any = SummaryWriter(str(folder / "tensorboard" / key[:12]))

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # what was told must survive a kill

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """trackio's own database on this machine; it is sent nowhere unless its environment names a space."""

    def __init__(self, folder: Path, key: str) -> None:
        with _needed("trackio"):
            import trackio
        self._trackio: Any = trackio
        name = f"{folder.name}-{key[:8]}"
        trackio.init(project="shinan", name=name, resume="allow", embed=False)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


class _Wandb:
    """Weights & Biases; offline, into `wandb/` of the run folder, unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, key: str) -> None:
        with _needed("wandb"):
            import wandb
        mode = os.environ.get("WANDB_MODE", "offline")
        name, id_ = folder.name, f"{folder.name}-{key[:12]}"
        self._run: Any = wandb.init(project="shinan", name=name, id=id_, dir=str(folder), mode=mode, resume="allow")

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})  # its own counter refuses a second line of a step

    def close(self) -> None:
        self._run.finish()


OPEN: Mapping[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}
