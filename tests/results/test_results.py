import copy
import datetime
import json
import os
import re
import shlex
import stat
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from safetensors.torch import save_file

from hf_ats.checkpoint import weights_size
from hf_ats.results import (
    build_results,
    fingerprint,
    read_results,
    select_samples,
    write_json,
    write_results,
)

LEVEL = {
    "parameters": 1_234_567,
    "size_bytes": 4_938_268,
    "flops_per_token": 2_500_000.0,
    "bleu": 26.123456789,
    "chrf": 48.2,
    "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "decoding_speed": None,
}
SECTIONS = {
    "levels": {"core": LEVEL, "full": LEVEL | {"bleu": 31.5}},
    "seed": 3,
    "model": {"name": "tiny", "class": "MarianMTModel"},
    "partition": {"method": "rank", "ratios": [0.125]},
    "data": {"source_lang": "de", "target_lang": "en", "test": 12},
    "training": {"schedule": "alternating", "epochs": 2, "steps": 100, "flops": 10**12, "seconds": 60.5},
    "generation": {"num_beams": 1},
}


@pytest.fixture
def results():
    return build_results(**copy.deepcopy(SECTIONS))


def test_what_is_written_is_read(results, tmp_path):
    write_results(tmp_path / "run" / "results.json", results)
    assert read_results(tmp_path / "run" / "results.json") == results
    assert os.listdir(tmp_path / "run") == ["results.json"]


def test_results_say_when_how_and_with_what(monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train_translation.py", "--output_dir", "my run"])
    results = build_results(**SECTIONS)
    assert results["command"] == "python scripts/train_translation.py --output_dir 'my run'"
    assert build_results(**SECTIONS, command="torchrun ...")["command"] == "torchrun ..."
    assert results["versions"]["sacrebleu"] == sacrebleu.__version__
    assert results["versions"]["torch"] == torch.__version__
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(results["created"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)


def test_a_fingerprint_tells_texts_and_their_places_apart():
    texts = (["a", "b"], ["c"]), (["a", "b"], ["d"]), (["a"], ["b", "c"]), (["ab"], ["c"]), (["b", "a"], ["c"])
    assert len({fingerprint(*columns) for columns in texts}) == 5
    assert fingerprint(["a", "b"], ["c"]) == fingerprint(("a", "b"), ("c",))


def test_values_that_json_lacks(tmp_path):
    write_json(
        tmp_path / "values.json",
        {
            "nan": float("nan"),
            "infinite": [np.float32("inf"), -torch.tensor(float("inf"))],
            "scalars": (np.int64(3), np.float64(0.1), torch.tensor(2.5), np.bool_(True)),
            "path": Path("a") / "b",
            "day": datetime.date(2022, 3, 28),
            "words": "Fünf Hunde",
            7: None,
        },
    )
    text = (tmp_path / "values.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {
        "nan": None,
        "infinite": [None, None],
        "scalars": [3, 0.1, 2.5, True],
        "path": "a/b",
        "day": "2022-03-28",
        "words": "Fünf Hunde",
        "7": None,
    }
    assert "Fünf" in text


@pytest.mark.parametrize("failure", ["value", "disk"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(results, tmp_path, monkeypatch, failure):
    path = tmp_path / "results.json"
    write_results(path, results)
    if failure == "value":
        other, error = results | {"data": results["data"] | {"note": object()}}, TypeError
    else:
        other, error = results | {"seed": 4}, OSError
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(error):
        write_results(path, other)
    assert read_results(path) == results
    assert os.listdir(tmp_path) == ["results.json"]


def test_the_file_appears_complete_under_its_name(results, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    replace = os.replace

    def checked(temporary, target):
        assert not path.exists()
        assert json.loads(Path(temporary).read_text(encoding="utf-8"))["seed"] == 3
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", checked)
    write_results(path, results)
    assert path.exists()


def test_the_file_has_the_permissions_of_any_other(results, tmp_path):
    write_results(tmp_path / "results.json", results)
    (tmp_path / "other").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("results.json", "other")]
    assert modes[0] == modes[1]


def test_incomplete_results_are_refused(results, tmp_path):
    with pytest.raises(ValueError, match="section 'levels' is empty"):
        build_results(**SECTIONS | {"levels": {}})
    with pytest.raises(ValueError, match="level 'core' lacks bleu, chrf"):
        build_results(**SECTIONS | {"levels": {"core": {k: v for k, v in LEVEL.items() if k not in ("bleu", "chrf")}}})
    with pytest.raises(ValueError, match="'training' lacks flops"):
        build_results(**SECTIONS | {"training": dict.fromkeys(("schedule", "epochs", "steps", "seconds"), 1)})
    with pytest.raises(ValueError, match="section 'seed' is a str"):
        build_results(**SECTIONS | {"seed": "3"})
    del results["model"]
    with pytest.raises(ValueError, match="no section 'model'"):
        write_results(tmp_path / "results.json", results)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{'seed': 3}", "[1, 2]", '{"format": 99}', b"\xff\xfe"])
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"other\.json"):
        read_results(path)


def test_size_on_disk_is_that_of_the_weights(tmp_path):
    save_file({"weight": torch.zeros(100, 10)}, tmp_path / "model-1.safetensors")
    save_file({"weight": torch.zeros(50, 10)}, tmp_path / "model-2.safetensors")
    (tmp_path / "tokenizer.json").write_text("x" * 10_000)
    size = weights_size(tmp_path)
    assert size == sum((tmp_path / f"model-{part}.safetensors").stat().st_size for part in (1, 2))
    assert 6000 <= size < 6400
    with pytest.raises(ValueError, match=r"holds no \.safetensors"):
        weights_size(tmp_path.parent)


# ---- What came later, and older files lack ----


def test_every_run_has_an_id_of_its_own(results):
    assert re.fullmatch("[0-9a-f]{32}", results["run_id"])
    assert build_results(**SECTIONS)["run_id"] != results["run_id"]


def test_files_from_before_there_were_ids_samples_and_facts_are_still_read(results, tmp_path):
    old = {name: section for name, section in results.items() if name not in ("run_id", "task")}
    write_results(tmp_path / "results.json", old)
    assert read_results(tmp_path / "results.json") == old and not {"samples", "card"} & set(old)
    root = Path(__file__).parents[2]
    committed = sorted(root.glob("experiments/results/*/*.json"))
    assert len(committed) > 2 and all(read_results(path, task=None) for path in committed)


def test_samples_and_facts_are_kept_and_wrong_ones_refused(results, tmp_path):
    samples = select_samples(["a", "b"], ["c", "d"], {"core": ["e", "f"], "full": ["g", "h"]})
    full = build_results(**SECTIONS, samples=samples, card={"license": "mit"})
    write_results(tmp_path / "results.json", full)
    assert read_results(tmp_path / "results.json") == full
    assert full["samples"][1] == {"source": "b", "reference": "d", "translations": {"core": "f", "full": "h"}}
    with pytest.raises(ValueError, match="section 'samples' is a str"):
        build_results(**SECTIONS, samples="a")
    with pytest.raises(ValueError, match="sample 2 lacks translations"):
        build_results(**SECTIONS, samples=[samples[0], {"source": "a", "reference": "b"}])
    with pytest.raises(ValueError, match="section 'card' is a list"):
        build_results(**SECTIONS, card=["mit"])
    with pytest.raises(ValueError, match="section 'run_id' is a int"):
        write_results(tmp_path / "results.json", results | {"run_id": 3})


@pytest.mark.parametrize(("size", "number"), [(1000, 20), (47, 20), (20, 20), (3, 3), (1, 1)])
def test_samples_are_spread_evenly_over_the_set(size, number):
    sources = [str(row) for row in range(size)]
    rows = [int(sample["source"]) for sample in select_samples(sources, sources, {"full": sources})]
    assert len(rows) == number and rows[0] == 0 and rows == sorted(set(rows))
    gaps = {later - row for row, later in zip(rows, [*rows[1:], size], strict=True)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--hub_token secret --seed 3", "--hub_token '***' --seed 3"),
        ("--hub-token=secret --seed 3", "'--hub-token=***' --seed 3"),
        ("--hub_tok secret", "--hub_tok '***'"),
        ("--push_to_hub --push_to_hub_token secret", "--push_to_hub --push_to_hub_token '***'"),
        ("--run_name my-hf_abcdefghijklmnopqrstuvwxyz", "--run_name 'my-***'"),
        ("--max_tokens 4096 --tokenizer_source_lang de", "--max_tokens 4096 --tokenizer_source_lang de"),
        ("--hub_token", "--hub_token"),
    ],
)
def test_a_secret_in_the_command_is_not_written_down(words, told, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *words.split()])
    command = build_results(**SECTIONS)["command"]
    assert "secret" not in command and "abcdefgh" not in command
    assert shlex.split(command) == shlex.split(f"python train.py {told}")
