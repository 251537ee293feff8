"""What an export wrote is what is loaded: a file that is missing, damaged or another's is named, before it is used."""

import json
import os
import shutil

import pytest

from hf_ats.checkpoint import (
    ExportReport,
    check_replaceable,
    export_adapter,
    export_core,
    export_full,
    load_network,
    load_partitioned,
    load_tokenizer,
)
from hf_ats.deployment import copy_export, exported_levels
from hf_ats.partition import PartitionConfig
from tests.support.checkpoints import trained_tokenizer
from tests.support.exports import files
from tests.support.models import partitioned

READ_BY_TOKENIZER = ("source.spm", "vocab.json", "tokenizer_config.json")
DAMAGES = {
    "missing": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path, other: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "a directory": lambda path, other: (path.unlink(), path.mkdir()),
    "another's": lambda path, other: path.write_bytes(other.read_bytes() + b"\n" * (other == path)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with a core by rank, a full network, an adapter, and a core of the stock class; of other sizes."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("run", "other")):
        tokenizer = trained_tokenizer(folder / f"tokenizer-{name}")
        tokenizer.model_max_length += seed
        config = PartitionConfig(ratios=[0.25 + 0.25 * seed])
        model = partitioned("marian", config, seed=seed, max_position_embeddings=64 + seed)
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.num_beams = 2 + seed
        for export, kind in ((export_core, "core"), (export_full, "full"), (export_adapter, "adapter")):
            export(model, folder / name / kind, tokenizer=tokenizer)
        narrow = partitioned("marian", "feed-forward width", seed=seed)
        export_core(narrow, folder / name / "other" / "stock-core", tokenizer=tokenizer)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs / "run", tmp_path / "run")


@pytest.mark.law(number=9)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["core", "full", "other/stock-core", "adapter"])
def test_every_file_is_compared_before_it_is_loaded(kind, damage, runs, run):
    names = files(run / kind) - {"export.json"}
    assert len(names) > 6
    for name in names:
        path, other = run / kind / name, runs / "other" / kind / name
        if damage == "another's" and path.read_bytes() == other.read_bytes():
            continue  # which is no damage
        kept = path.read_bytes()
        DAMAGES[damage](path, other)
        loaders = [load_network, load_tokenizer] if not name.endswith(".safetensors") else [load_network]
        if (damage, path.name) == ("another's", "generation_config.json"):
            loaders = []  # it only decodes otherwise
        for load in loaders:
            with pytest.raises(ValueError, match=rf"export .*{kind} is not whole: {name} is .*Export again"):
                load(run / kind)
        path.rmdir() if path.is_dir() else None
        path.write_bytes(kept)
    load_network(run / kind), load_tokenizer(run / kind)


def test_what_an_export_did_not_write_is_nobodys_concern(run):
    for kind in ("core", "adapter"):
        (run / kind / "README.md").write_text("# Mine")
        (run / kind / "notes").mkdir()
        (run / kind / "notes/model.safetensors").write_bytes(b"")
        load_network(run / kind), load_tokenizer(run / kind)


def test_how_it_decodes_is_its_users_choice_and_with_which_ids_is_not(run, caplog):
    path = run / "core/generation_config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"num_beams": 7}))
    assert load_network(run / "core").generation_config.num_beams == 7
    assert "core/generation_config.json was edited since the export, and says how it decodes" in caplog.text
    without_padding = {name: value for name, value in written.items() if name != "pad_token_id"}
    for other in (written | {"eos_token_id": 5}, written | {"pad_token_id": None}, without_padding, [], {}):
        path.write_text(json.dumps(other))
        with pytest.raises(ValueError, match=r"is not whole: generation_config.json is not what was written"):
            load_network(run / "core")


def test_who_changes_an_export_on_purpose_removes_what_it_says_of_itself(run):
    network = load_network(run / "core")
    network.resize_token_embeddings(100)
    network.save_pretrained(run / "core")
    with pytest.raises(ValueError, match=r"if somebody changed it on purpose, remove its export.json, which"):
        load_network(run / "core")
    (run / "core/export.json").unlink()
    assert load_network(run / "core").config.vocab_size == 100


def test_a_choice_is_among_whole_exports_and_its_copy_is_whole(run, tmp_path):
    with exported_levels(run) as levels:
        (core, _full) = levels
        (run / "core/source.spm").write_bytes(b"cut off")
        (tmp_path / "phone").mkdir()
        with pytest.raises(ValueError, match=r"is not whole: source.spm is not what was written"):
            copy_export(core, tmp_path / "phone")
    assert list((tmp_path / "phone").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(ValueError, match=r"is not whole: source.spm"), exported_levels(run):
        pass


def test_every_file_is_readable_by_those_who_read_the_folder(run):
    kept = os.umask(0o022)
    try:
        export_core(partitioned("marian"), run / "new")
    finally:
        os.umask(kept)
    modes = {(run / "new" / name).stat().st_mode & 0o777 for name in files(run / "new")}
    assert modes == {0o644}


# ---- An export.json that no export wrote ----


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not what this version of hf_ats writes .list"),
        ("null", "is not what this version of hf_ats writes .NoneType"),
        ("{}", "is not what this version of hf_ats writes .files, kind"),
        ({"kind": 5}, "has kind=5, which no export writes"),
        ({"level": None}, "has level=None"),
        ({"parameters": True}, "has parameters=True"),
        ({"parameters": "many"}, "has parameters='many'"),
        ({"files": ["config.json"]}, r"has files=\['config.json'\]"),
        ({"files": {"config.json": 7}}, r"has files\['config.json'\]=7"),
        ({"partition": []}, r"has partition=\[\]"),
        ({"weights_sha256": {}}, "is not what this version of hf_ats writes .weights_sha256"),
    ],
)
def test_an_export_json_of_odd_types_is_a_sentence(odd, words, run):
    path = run / "core/export.json"
    text = json.dumps(json.loads(path.read_text()) | odd) if isinstance(odd, dict) else odd
    path.write_text(text)
    readers = (ExportReport.read, load_network, load_tokenizer, check_replaceable)
    for read in readers:
        with pytest.raises(ValueError, match=f"core/export.json {words}.*export again"):
            read(run / "core")
    with pytest.raises(ValueError, match=words), exported_levels(run):
        pass


def test_a_figure_in_an_export_json_is_what_was_written(run):
    path = run / "core/export.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"parameters": report["parameters"] - 1}))
    with pytest.raises(ValueError, match=r"core/export.json has been altered since the export; export again"):
        ExportReport.read(run / "core")


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/passwd", "..\\secret.txt", ".git/config", "a\0b"])
def test_names_that_leave_an_export_are_refused_wherever_it_is_read(name, run):
    path = run / "core/export.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"files": report["files"] | {name: "0"}}))
    for read in (ExportReport.read, load_network, load_tokenizer, check_replaceable):
        with pytest.raises(ValueError, match=r"not a path inside it|which no export writes"):
            read(run / "core")


# ---- What is no model at all ----


def test_what_is_no_model_is_said_to_be_none(run, tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for place in (run, tmp_path / "text", tmp_path / "empty"):
        with pytest.raises(
            FileNotFoundError, match=rf"{place} is not the directory of a model: it has no config.json"
        ):
            load_network(place)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match=r"[Ll]oop|symbolic links|File exists"):
        export_core(partitioned("marian"), tmp_path / "loop")


@pytest.mark.parametrize("config", ["null", "[1]", "{", "", '{"model_type": 5}', '{"a": 1}', "[" * 100_000])
def test_a_config_of_anything_else_is_a_sentence(config, run):
    (run / "core/export.json").unlink()
    (run / "core/config.json").write_text(config)
    for load in (load_network, load_partitioned):
        with pytest.raises((OSError, ValueError)):
            load(run / "core")
    partitioned("marian").save_pretrained(run / "checkpoint")
    whole = json.loads((run / "checkpoint/config.json").read_text())
    for name, odd in (
        ("ats_partition", 5),
        ("ats_partition", {"ratios": 5}),
        ("architectures", None),
        ("d_model", "x"),
    ):
        assert name in whole
        (run / "checkpoint/config.json").write_text(json.dumps(whole | {name: odd}))
        with pytest.raises((OSError, ValueError)):
            load_partitioned(run / "checkpoint")
