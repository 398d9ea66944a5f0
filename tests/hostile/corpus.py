"""Bad files, made from a seed: the same seed gives the same files. None of them needs to be bad; most are."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from shinan.core.hashing import derive_seed

Path_ = tuple[str | int, ...]


class Bad(NamedTuple):
    """A file: its name, which says by its ending how it is read, and its bytes."""

    name: str
    content: bytes


# What stands where something else is meant.
WRONG: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        10**300,
        1e300,
        "",
        " ",
        "x" * 5000,
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "\u202eevil\u2066",
    ),
    *("\ufeff", "e\u0301" * 50, "🏳️‍🌈\U0010ffff", "<|im_end|><end_of_turn></s>", "{{ 7*7 }}{% raw %}", "../../x", "~"),
    *([], {}, [[]], [None], [{}], [1, "a"], {"a": 1}, {"": ""}, {"role": "user"}, [["user", "hello"]]),
)
_ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Say hi.", "input": "Now.", "output": "hi", "system": "Be kind."},
    "openai": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Say hi."}]},
            {"role": "assistant", "content": "hi", "weight": 1},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Say hi."}, {"from": "gpt", "value": "hi"}]},
    "preference": {"prompt": "Say hi.", "chosen": [{"role": "assistant", "content": "hi"}], "rejected": "no"},
    "completion": {"prompt": "Say hi.", "completion": "hi"},
}
_RECIPE: dict[str, Any] = {
    "name": "x",
    "seed": 1,
    "model": "tiny:decoder",
    "chat": "gemma",
    "build": [{"id": "a", "use": "collection", "with": {"languages": ["en"], "limit": 3}}],
    "curate": [{"use": "structure", "with": {}}],
    "decontaminate": {"n": 8, "share": 0.5},
    "tune": {"method": "lora", "epochs": 1, "learning_rate": 1e-4, "lora": {"rank": 4}},
    "evaluate": [{"id": "h", "use": "collection", "with": {"split": "heldout"}, "metrics": ["rouge_l"]}],
}
_TEMPLATES: dict[str, Any] = {
    "templates": [
        {
            "name": "t",
            "instruction": "Which?",
            "input": "{{ text }}",
            "choices": ["Yes", "No"],
            "output": "{{ choices[label] }}",
            "metadata": {"language": "en"},
        }
    ]
}
_LAUGHS = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20))])
_MERGES = "\n".join(
    ["a0: &a0 {k: v}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 20))]
)
_YAML = {
    "laughs": f"{_LAUGHS}\nname: *a19\nbuild: *a19\nseed: *a19\n",
    "laughs-as-keys": f"{_LAUGHS}\n? *a19\n: 1\n",
    "merges": f"{_MERGES}\n<<: *a19\n",
    "holds-itself": "name: &a {name: *a}\nbuild: &b [*b]\n",
    "flow-deep": "name: " + "[" * 10_000 + "]" * 10_000,
    "flow-maps-deep": "name: " + "{a: " * 10_000 + "1" + "}" * 10_000,
    "block-deep": "\n".join(" " * i + "a:" for i in range(2000)),
    "list-deep": "name: " + "- " * 10_000 + "1",
    "quotes-deep": "name: " + "'" * 9_999,
    "key-twice": "name: a\nname: b\n",
    "two-documents": "name: a\n---\nname: b\n",
    "python-tag": "name: !!python/object/apply:os.system [ls]\n",
    "python-name": "name: !!python/name:os.system\n",
    "number": "name: x\nseed: " + "9" * 10_000,
    "exponent": "name: x\nseed: 1e99999\n",
    "not-finite": "name: .inf\nseed: .nan\n",
    "nul": "name: a\0b\n",
    "escape": 'name: "\\ud800"\n',
    "tabs": "name:\tx\n\tseed: 1\n",
    "anchor": "name: *nowhere\n",
    "directive": "%YAML 9.9\n---\nname: x\n",
    "list": "- name\n- x\n",
    "number-keys": "1: 2\n3.5: 4\ntrue: 5\nnull: 6\n",
    "list-key": "? [a, b]\n: 1\n",
    "long-key": "? " + "k" * 200_000 + "\n: 1\n",
    "lone-cr": "name: x\rseed: 1\rmodel: y\r",
    "endings": "name: x\r\nseed: 1\nmodel: y\rchat: z\u2028build: w\u0085",
}
_JSONL = {
    "cut": '{"instruction": "a", "outp',
    "deep-list": '{"instruction": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "deep-map": '{"a":' * 10_000 + "1" + "}" * 10_000,
    **{f"deep-{n}": f'{{"messages": [{{"role": {"[" * n}{"]" * n}}}]}}' for n in (500, 900, 960, 970, 980)},
    "key-twice": '{"instruction": "a", "output": "b", "output": "c"}',
    "many-keys": "{" + ", ".join(f'"{n}": 1' for n in [*range(100_000), 99_999]) + "}",
    "nan": '{"instruction": "a", "output": NaN}',
    "infinity": '{"instruction": "a", "output": [-Infinity, 1e999]}',
    "big-int": '{"instruction": "a", "output": ' + "7" * 4_300 + "}",
    "too-big-int": '{"instruction": "a", "output": ' + "7" * 100_000 + "}",
    "surrogate": '{"instruction": "\\ud83d", "output": "\\ude00"}',
    "nul-escape": '{"instruction": "a\\u0000", "output": "b"}',
    "endings": '{"instruction": "a", "output": "b"}\r\n{"instruction": "a", "output": "b"}\r{}\n\n\r\n\x0b{}\x85',
    "comment": '// no\n{"instruction": "a", "output": "b"} # no\n',
    "single": "{'instruction': 'a', 'output': 'b'}",
    "comma": '{"instruction": "a", "output": "b",}',
    "control": '{"instruction": "a\x01\x1b[2J", "output": "b\tc"}',
    "long-role": '{"messages": [{"role": "' + "ab" * 500_000 + '", "content": "a"}]}',
    "long-key": '{"' + "ab" * 500_000 + '": 1}',
}
_CSV = {
    "quote": 'instruction,output\n"a,b\nc,d\n',
    "quote-inside": 'instruction,output\n"a"b,c\n',
    "ragged": "instruction,output\na\na,b,c\n,\n",
    "many-columns": ",".join(map(str, [*range(100_000), 99_999])) + "\n",
    "long-field": "instruction,output\n" + "x" * 200_000 + ",a\n",
    "cr": "instruction,output\ra,b\rc,d\r",
    "no-name": "instruction,,output\na,b,c\n",
    "twice": "instruction,output,output\na,b,c\n",
}
_SPLICES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b"\\",
    b"{",
    b"]",
    b"\r",
    b"\\ud800",
    b"NaN",
    b"\x1a",
)
_SPLICES_YAML = (*_SPLICES, b"&a ", b"*a ", b": ", b"- ", b"!!", b"%", b"\t", b"'", b"? ", b"<<: ", b"--- ", b"| ")


def data_files(seed: int) -> Iterator[Bad]:
    """Files of rows: each wrong value at each key of each shape, named faults, and good files damaged at random."""
    for shape, row in _ROWS.items():
        for number, bad in enumerate(_wrong(row)):
            yield Bad(f"{shape}-{number}.jsonl", json.dumps(bad).encode())
    for name, text in _JSONL.items():
        yield Bad(f"{name}.jsonl", text.encode())
        yield Bad(f"{name}.json", f"[{text}]".encode())
    for name, text in _CSV.items():
        yield Bad(f"{name}.csv", text.encode())
        yield Bad(f"{name}.tsv", text.replace(",", "\t").encode())
    whole = _whole_files()
    for name, content in whole.items():
        yield Bad(f"empty-{name}", b"")
        yield Bad(f"blank-{name}", b" \n\t\r\n")
        yield Bad(f"bom-{name}", b"\xef\xbb\xbf" + content)
        for code in ("utf-16", "utf-16-be", "utf-32", "utf-7", "cp500"):
            yield Bad(f"{code}-{name}", content.decode("latin-1").encode(code))
        yield from _damaged(name, content, seed, 20, _SPLICES)
    yield from _tables()


def recipe_files(seed: int) -> Iterator[Bad]:
    """Recipes: each wrong value at each key, named faults, and a good recipe damaged at random."""
    yield from _yaml_files("recipe", _RECIPE, seed)


def template_files(seed: int) -> Iterator[Bad]:
    """Files of prompt templates, made as recipes are."""
    yield from _yaml_files("templates", _TEMPLATES, seed)


def _yaml_files(name: str, good: dict[str, Any], seed: int) -> Iterator[Bad]:
    for number, bad in enumerate(_wrong(good)):
        yield Bad(f"{name}-{number}.yaml", json.dumps(bad, indent=1).encode())  # JSON is YAML
    for fault, text in _YAML.items():
        yield Bad(f"{name}-{fault}.yaml", text.encode())
    content = yaml.safe_dump(good).encode()
    for code in ("utf-16", "utf-16-be", "utf-32"):
        yield Bad(f"{name}-{code}.yaml", content.decode().encode(code))
    yield from _damaged(f"{name}.yaml", content, seed, 60, _SPLICES_YAML)


def _wrong(good: dict[str, Any]) -> Iterator[Any]:
    """The value with, at each key in turn, each of `WRONG`, or the key gone, or another beside it."""
    for keys in _paths(good):
        for value in WRONG:
            yield _with(good, keys, lambda holder, key, value=value: holder.__setitem__(key, value))
        yield _with(good, keys, lambda holder, key: holder.pop(key))
        yield _with(good, (*keys[:-1], "unheard_of") if isinstance(keys[-1], str) else keys, _beside)


def _beside(holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[key] = 1
    else:
        holder.insert(key, 1)


def _with(good: Any, keys: Path_, change: Any) -> Any:
    made = deepcopy(good)
    holder = made
    for key in keys[:-1]:
        holder = holder[key]
    change(holder, keys[-1])
    return made


def _paths(value: Any, keys: Path_ = ()) -> Iterator[Path_]:
    if keys:
        yield keys
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _paths(inner, (*keys, key))


def _damaged(name: str, content: bytes, seed: int, count: int, splices: Sequence[bytes]) -> Iterator[Bad]:
    """Copies that are cut, with bytes changed, with a piece of trouble put in, or with a stretch said twice."""
    for number in range(count):
        draw = random.Random(derive_seed(seed, "hostile", name, number))
        at, made = draw.randrange(len(content)), bytearray(content)
        way = ("cut", "flip", "splice", "repeat")[number % 4]
        if way == "cut":
            del made[at:]
        elif way == "flip":
            for place in draw.sample(range(len(made)), min(3, len(made))):
                made[place] ^= 1 << draw.randrange(8)
        elif way == "splice":
            made[at:at] = draw.choice(splices)
        else:
            made[at:at] = made[at : at + draw.randrange(1, 60)]
        yield Bad(f"{way}-{number}-{name}", bytes(made))


def _whole_files() -> dict[str, bytes]:
    """A good file of every kind."""
    rows = [_ROWS["completion"] | {"prompt": f"Say {n}."} for n in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = "".join(f'"{row["prompt"]}","{row["completion"]}"\r\n' for row in rows)
    plain = {
        "a.jsonl": lines,
        "a.json": json.dumps(rows).encode(),
        "a.csv": f"prompt,completion\r\n{table}".encode(),
        "a.parquet": _parquet(pa.Table.from_pylist(rows)),
    }
    return plain | {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in plain.items()}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _tables() -> Iterator[Bad]:
    """Parquet files of the wrong columns."""
    deep = pa.string()
    for _ in range(120):
        deep = pa.list_(deep)
    columns: dict[str, pa.Table] = {
        "numbers": pa.table({"prompt": [1, 2], "completion": [1.5, None]}),
        "bytes": pa.table({"prompt": [b"\xff"], "completion": [b"a"]}),
        "nulls": pa.table({"prompt": pa.nulls(3), "completion": pa.nulls(3)}),
        "no-rows": pa.table({"prompt": pa.array([], pa.string())}),
        "no-columns": pa.table({}),
        "far-time": pa.table({"prompt": pa.array([2**62], pa.timestamp("us")), "completion": ["a"]}),
        "no-zone": pa.table({"prompt": pa.array([1], pa.timestamp("s", "No/Where")), "completion": ["a"]}),
        "deep": pa.table({"messages": pa.array([None], deep)}),
        "struct": pa.table({"messages": [{"role": "user"}]}),
        "map": pa.table({"messages": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))}),
        "not-utf8": pa.table({"prompt": pa.array([b"\xff\xfe"]).view(pa.string()), "completion": ["a"]}),
    }
    for name, table in columns.items():
        yield Bad(f"{name}.parquet", _parquet(table))
