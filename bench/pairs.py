"""Two commands side by side: A B A B in processes of their own, medians, ratios, and the results file.

    python -m bench.pairs search PYTHON WORKLOAD.json MODEL_FOLDER [--method lora] [--max-rows N] [--name NAME]
    python -m bench.pairs run NAME N -- OURS … -- PEER …

A command prints one JSON object as its last line, with at least `tokens_per_second` and `peak_gb`. Machines are noisy:
only ratios from one run, side by side, count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from shinan.core.dataset import write_atomic
from shinan.core.errors import RunError, ShinanError

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("SHINAN_BENCH_RESULTS", Path(__file__).parent / "results"))

Result = dict[str, Any]
"""What a command printed: its last line, read as JSON."""

Config = dict[str, str | int | bool]
"""Options of a peer's script: `{"batching": "packed"}` is `--batching packed`, `{"compile": True}` is `--compile`."""

TARGETS: Mapping[str, float | None] = {"tokens_per_second": None, "peak_gb": None}
"""The metrics to compare; the ratio each should reach (speed) or stay under (memory), None where nothing is asked."""

GRIDS: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {
        "loss": ("chunked", "full-logits"),
        "batching": ("plain", "grouped", "packed"),
        "precision": ("bf16-weights", "autocast"),
    },
    "dpo": {"batching": ("plain", "grouped"), "precision": ("bf16-weights", "autocast")},
}
"""By kind of workload, every configuration of TRL that a search tries."""

BEST: Config = {"loss": "chunked", "batching": "plain", "precision": "bf16-weights"}  # as performance.md found

_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results: medians of `n` runs of each side, and the median of the pairs' ratios ours / peer.

    The ratio is None where it would say nothing: of a gain against none.
    """

    workload: str
    metric: str
    ours: float
    peer: float
    peer_version: str
    ratio: float | None
    target: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Trl:
    """TRL on one workload: which Python has it, what to train, how."""

    python: Path
    workload: Path
    model: Path
    method: str = "full"
    max_rows: int | None = None

    @property
    def kind(self) -> str:
        """`sft` or `dpo`, as the workload says."""
        return str(json.loads(self.workload.read_text("utf-8"))["kind"])

    def command(self, config: Config) -> list[str]:
        """The command line of one configuration."""
        fixed: Config = {"method": self.method} | ({"max-rows": self.max_rows} if self.max_rows else {})
        words = [str(self.python.absolute()), "-m", f"bench.peers.trl_{self.kind}"]
        words += [str(self.workload.absolute()), str(self.model.absolute())]
        for name, value in (fixed | config).items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


def child(command: Sequence[str], **variables: str) -> Result:
    """Run a command in the project's folder, with further environment variables, wait, and read its last line.

    Raises RunError where there is no result.
    """
    environment = os.environ | _QUIET | variables
    done = subprocess.run(
        list(command), cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    where = " ".join(command)
    if done.returncode:
        said = (done.stderr.strip() or "nothing on stderr").splitlines()[-1]
        raise RunError(f"it ended with code {done.returncode}: {said}", where=where, fix="run it alone to see all")
    try:
        result = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise RunError("its last line is no JSON object", where=where, fix="run it alone to see what it prints")
    return result


def alternate(ours: Sequence[str], peer: Sequence[str], n: int) -> list[tuple[Result, Result]]:
    """Run ours, peer, ours, peer, …: `n` pairs."""
    pairs = []
    for number in range(1, n + 1):
        pair = child(ours), child(peer)
        speeds = " and ".join(f"{side['tokens_per_second']:.1f}" for side in pair)
        print(f"pair {number} of {n}: {speeds} tokens/s", file=sys.stderr)
        pairs.append(pair)
    return pairs


def rows(
    workload: str,
    pairs: Sequence[tuple[Result, Result]],
    peer_version: str,
    targets: Mapping[str, float | None] = TARGETS,
) -> list[Row]:
    """One row for each metric in `targets`."""
    made = []
    for metric, target in targets.items():
        ours, peer = ([float(side[metric]) for side in column] for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
        medians = statistics.median(ours), statistics.median(peer)
        made.append(Row(workload, metric, *medians, peer_version, ratio, target, len(pairs)))
    return made


def search(peer: Trl) -> list[dict[str, Any]]:
    """Try every configuration of the grid once, then three more settings on the fastest; the fastest comes first.

    Each trial is `{config, result}`, or `{config, error}` where it failed; failed ones come last.
    """
    grid = GRIDS[peer.kind]
    trials = [_trial(peer, dict(zip(grid, values, strict=True))) for values in product(*grid.values())]
    best = min(trials, key=_slowness)
    if "result" in best:
        trials += [_trial(peer, best["config"] | more) for more in _outside_the_grid(peer.kind)]
    return sorted(trials, key=_slowness)


def _outside_the_grid(kind: str) -> Iterator[Config]:
    if kind == "sft":
        yield {"batching": "padding-free"}
    yield {"precision": "bf16-autocast"}  # what a user gets who asks TRL for bf16 weights and changes nothing else
    yield {"compile": True, "warmup": 3}  # the first shape, then any shape


def best(*searches: str) -> Config:
    """TRL's fastest configuration as the first of these searches found that was made, else as performance.md did."""
    for path in (RESULTS / f"search-{name}.json" for name in searches):
        if path.exists():
            found: Config = json.loads(path.read_text("utf-8"))["trials"][0]["config"]
            return found
    return BEST


def _trial(peer: Trl, config: Config) -> dict[str, Any]:
    try:
        result = child(peer.command(config))
    except RunError as error:
        print(f"{label(config)}: {error}", file=sys.stderr)
        return {"config": config, "error": str(error)}
    print(f"{label(config)}: {result['tokens_per_second']:.1f} tokens/s", file=sys.stderr)
    return {"config": config, "result": result}


def _slowness(trial: Mapping[str, Any]) -> float:
    return -float(trial["result"]["tokens_per_second"]) if "result" in trial else 0.0


def label(config: Config) -> str:
    """A configuration in words: `chunked/packed/bf16-weights`."""
    return "/".join(name if value is True else str(value) for name, value in config.items() if name != "warmup")


def peer_version(trl: Result) -> str:
    """Whose result it is: `TRL 1.16.0, chunked/packed/bf16-weights`."""
    config = {name: trl["config"][name] for name in ("loss", "batching", "precision")}
    config |= {"compile": True} if trl["config"]["compile"] else {}
    return f"TRL {trl['versions']['trl']}, {label(config)}"


def save(name: str, made: Sequence[Row], **more: Any) -> Path:
    """Write `bench/results/NAME.json`: machine, rows, and `more` (the runs behind them). Raises RunError."""
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    document = {"machine": machine, "rows": [asdict(row) for row in made], **more}
    path = RESULTS / f"{name}.json"
    write_atomic(path, json.dumps(document, indent=1) + "\n")
    return path


def table(made: Sequence[Row]) -> str:
    """The rows as text in columns."""
    lines = [("workload", "metric", "ours", "peer", "ratio", "target", "n", "against")]
    for row in made:
        target = "" if row.target is None else f"{row.target:g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        numbers = _number(row.ours), _number(row.peer), ratio, target, str(row.n)
        lines.append((row.workload, row.metric, *numbers, row.peer_version))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if i in (0, 1, 7) else cell.rjust(width) for i, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def main() -> None:
    """Search, or run pairs; print one JSON line a figure and a table last."""
    options = _options()
    try:
        _search(options) if options.what == "search" else _run(options)
    except ShinanError as error:
        sys.exit(str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    searching = what.add_parser("search", help="TRL's fastest configuration")
    for name in ("python", "workload", "model"):
        searching.add_argument(name, type=Path)
    searching.add_argument("--method", default="full")
    searching.add_argument("--max-rows", type=int)
    searching.add_argument("--name", default="search", help="bench/results/NAME.json")
    running = what.add_parser("run", help="two commands in turn")
    running.add_argument("name", help="bench/results/NAME.json")
    running.add_argument("n", type=int, help="pairs")
    running.add_argument("commands", nargs=argparse.REMAINDER, help="-- OURS … -- PEER …")
    return parser.parse_args()


def _search(options: argparse.Namespace) -> None:
    peer = Trl(options.python, options.workload, options.model, options.method, options.max_rows)
    trials = search(peer)
    for trial in trials:
        print(json.dumps(trial))
    print(save(options.name, [], trials=trials))


def _run(options: argparse.Namespace) -> None:
    words = options.commands[options.commands[:1] == ["--"] :]
    if words.count("--") != 1:
        raise RunError("two commands are needed", where="bench.pairs run", fix="write: run NAME N -- OURS … -- PEER …")
    middle = words.index("--")
    pairs = alternate(words[:middle], words[middle + 1 :], options.n)
    theirs = pairs[0][1]
    made = rows(options.name, pairs, peer_version(theirs) if "versions" in theirs else "")
    save(options.name, made, pairs=pairs)
    for row in made:
        print(json.dumps(asdict(row)))
    print(f"\n{table(made)}")


if __name__ == "__main__":
    main()
