"""llama.cpp itself reads the exported files: its tokens, its first choices and its replies are the trained model's."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shinan.core.store import cache_root
from shinan.models.tokenizer import Tokenizer
from shinan.serve.export import export
from shinan.serve.gguf_file import Type
from shinan.serve.parity import TEXTS, observe
from tests.serve.exporting import byte_level, gemma, llama, save, sentencepiece

xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp in a wheel")

pytestmark = pytest.mark.slow


def _serve(folder: Path) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder.glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.port, params.warmup = 512, 1, 0, False
    params.cpuparams.n_threads = 1
    return xllamacpp.Server(params)


def _post(server: Any, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310
        f"{server.listening_address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return json.load(answer)


def _model(name: str, place: Path) -> Path:
    if name == "gemma3":
        return save(place, gemma, sentencepiece())
    if name == "smollm":
        return save(place, llama, byte_level(digits=True), chat="chatml")
    folder = cache_root() / "models" / name
    if not (folder / "shinan.json").is_file():
        pytest.skip(f"{folder} is not there; `shinan models` fetches it")
    return folder


@pytest.mark.promise4
@pytest.mark.parametrize("name", ["gemma3", "smollm", "smollm2-135m-instruct", "gemma-3-270m"])
@pytest.mark.parametrize("type_", ["f16"])
def test_llama_cpp_says_the_same(tmp_path: Path, name: str, type_: Type) -> None:
    folder = _model(name, tmp_path / "model")
    export(folder, tmp_path / "out", "gguf", lambda parity: {}, adapter=None, type_=type_)
    server, tokenizer = _serve(tmp_path / "out"), Tokenizer.load(folder)
    for text in TEXTS:
        body = {"content": text, "add_special": False, "parse_special": False}
        assert _post(server, "/tokenize", body)["tokens"] == tokenizer.encode(text), text
    trained = observe(folder)
    for prompt, reply, logits in zip(trained.prompts, trained.replies, trained.logits, strict=True):
        body = {"prompt": prompt, "n_predict": 8, "temperature": 0, "n_probs": 1, "cache_prompt": False}
        said = _post(server, "/completion", body | {"return_tokens": True})["tokens"]
        for at, (theirs, ours) in enumerate(zip(said, reply, strict=False)):
            if theirs != ours:  # only where the two first tokens are nearly alike
                choices = logits[len(prompt) - 1 + at]
                assert float(choices[ours] - choices[theirs]) < 0.02 * float(choices.std()), (at, said, reply)
                break
