"""Model cards: what the Hub reads of them, what they say, and that their own lines of code run and translate."""

import contextlib
import copy
import functools
import io
import json
import re
import shutil
import sys
from pathlib import Path

import jinja2
import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index

from hf_ats.results import cards, read_results, render_card, write_results
from tests.support.checkpoints import ENGLISH, GERMAN, TRANSFORMERS_4, run_elsewhere
from tests.support.models import tiny_model
from tests.support.scripts import train
from tests.support.tokenizers import KINDS, tiny_tokenizer

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "model_cards" / "examples"
TRAINING = (
    "--max_steps 4 --per_device_train_batch_size 4 --learning_rate 1e-3 --use_cpu --report_to none "
    "--disable_tqdm true --save_strategy no --speed_sentences 2 --generation_max_length 12 --license mit"
)
# Kind of tokenizer, and flags: every form of export that a card tells how to use.
RUNS = {
    "rank": ("marian", "--ratios 0.5 --generation_num_beams 2 --base_model ann/old --card_datasets ann/sentences"),
    "ladder": ("marian", "--ratios 0.25 0.5"),
    "stock core": ("marian", "--method width --ratios 0.5 --target_modules fc1 fc2 --decoder_layers 1"),
    "alone": ("marian", "--method none --schedule full"),
    "core alone": ("marian", "--ratios 0.5 --schedule core"),
    "prefix": ("t5", "--ratios 0.5 --generation_num_beams 2 --source_prefix zwei"),
    "codes": (
        "m2m_100",
        "--ratios 0.25 --generation_num_beams 2 --tokenizer_source_lang de --tokenizer_target_lang en",
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trains a run, by name, and gives its directory."""
    folder = tmp_path_factory.mktemp("cards")
    for language, sentences in (("de", GERMAN), ("en", ENGLISH)):
        (folder / f"text.{language}").write_text("\n".join(sentences) + "\n", encoding="utf-8")

    @functools.cache
    def make(name: str) -> Path:
        kind, flags = RUNS[name]
        pretrained, directory = folder / kind, folder / name.replace(" ", "-")
        tokenizer = tiny_tokenizer(kind, pretrained)
        model = tiny_model(KINDS[kind].family, seed=2, vocab_size=len(tokenizer))
        with torch.no_grad():  # it looks hard at the source, so that translations depend on it
            for key, parameter in model.named_parameters():
                factor = 20 if "EncDecAttention" in key else 10 if re.search("encoder_attn.[qv]_proj.w", key) else 1
                parameter.mul_(factor)
        model.save_pretrained(pretrained)
        words = f"--model_name_or_path {pretrained} --output_dir {directory} {TRAINING} {flags}"
        words += "".join(f" --{part}_prefix {folder / 'text'}" for part in ("train", "test"))
        train(*words.split())
        return directory

    return make


@pytest.fixture
def copied(runs, tmp_path):
    """Copies what a card is rendered from, and changes its results."""

    def make(name="rank", **changes) -> Path:
        write_results(tmp_path / "results.json", read_results(runs(name) / "results.json") | changes)
        return tmp_path

    return make


def repositories(run: Path) -> dict[str, str]:
    return {level: f"ann/pair-{level}" for level in read_results(run / "results.json")["levels"]}


def render(run: Path, level: str) -> str:
    return render_card(read_results(run / "results.json"), level, repositories(run))


def blocks(card: str, run: Path) -> list[str]:
    """The lines of Python on a card, with the directory of each export in the place of its repository."""
    found = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    for level, repository in repositories(run).items():
        found = [block.replace(f'"{repository}"', f'"{run / level}"') for block in found]
    assert all("ann/" not in block for block in found)
    return found


# ---- How to use it ----


@pytest.mark.parametrize("name", RUNS)
def test_the_lines_of_code_on_a_card_give_the_translations_of_the_run(name, runs):
    run = runs(name)
    samples = read_results(run / "results.json")["samples"]
    for level in repositories(run):
        lines = blocks(render(run, level), run)
        assert len(lines) == (3 if level != "full" and name != "stock core" else 2)
        for block in lines:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, "README.md", "exec"), {})
            assert out.getvalue().strip() == samples[0]["translations"][level] != ""
    levels = [tuple(sample["translations"][level] for sample in samples) for level in repositories(run)]
    assert len(set(levels)) == len(levels), "the levels can be told apart"


@pytest.mark.law(number=6)
@pytest.mark.parametrize("interpreter", [sys.executable, TRANSFORMERS_4], ids=["5", "4"])
def test_what_a_card_says_of_a_world_without_this_package_is_so_there(interpreter, runs, tmp_path):
    run = runs("rank")
    lines = {level: blocks(render(run, level), run) for level in ("core", "full")}
    alone = [block for blocks_ in lines.values() for block in blocks_ if "import hf_ats" not in block]
    assert len(alone) == 3
    # The full network's pipeline is one for Transformers 4.57 without the package.
    alone += [re.sub(r"import hf_ats.*\n", "", lines["full"][-1])] if interpreter == TRANSFORMERS_4 else []
    code = """
        import contextlib, io, json, sys
        found = []
        for block in json.load(open(sys.argv[1])):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(block, {})
            found.append(out.getvalue().strip())
        print(json.dumps({"found": found}))
    """
    (tmp_path / "blocks.json").write_text(json.dumps(alone), encoding="utf-8")
    found = run_elsewhere(interpreter, code, tmp_path, tmp_path / "blocks.json", with_package=False)["found"]
    expected = read_results(run / "results.json")["samples"][0]["translations"]
    assert found == [expected["core"]] * 2 + [expected["full"]] * (len(alone) - 2)


def test_a_core_of_a_stock_class_needs_no_code_and_says_so(runs):
    stock, ours = (render(runs(name), "core") for name in ("stock core", "rank"))
    assert "trust_remote_code" not in stock and "This is a stock `MarianMTModel`" in stock
    assert "`modeling_ats.py`" in ours and "stock" not in ours


# ---- What the Hub reads ----


@pytest.mark.parametrize("level", ["core", "full"])
def test_the_metadata_says_what_the_hub_asks_for_and_survives_its_classes(level, runs):
    text = render(runs("rank"), level)
    card = ModelCard(text)
    figures = read_results(runs("rank") / "results.json")["levels"][level]
    data = card.data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "language": ["de", "en"],
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "translation",
        "tags": ["translation", "hf_ats", "joint-training", "low-rank", level],
        "datasets": ["ann/sentences"],
        "base_model": "ann/old",
        "metrics": ["bleu", "chrf"],
    }
    assert card.data.model_name == f"pair-{level}"
    assert index == eval_results_to_model_index(f"pair-{level}", card.data.eval_results)
    scores = {result.metric_type: result for result in card.data.eval_results}
    assert list(scores) == ["bleu", "chrf"]
    for metric, result in scores.items():
        assert result.metric_value == round(figures[metric], 2)
        assert result.metric_args["signature"] == figures[f"{metric}_signature"]
        assert result.metric_args["num_beams"] == 2
        assert (result.task_type, result.dataset_type, result.dataset_split) == (
            "translation",
            "ann/sentences",
            "test",
        )
    again = ModelCard(f"---\n{ModelCardData(**card.data.to_dict()).to_yaml()}\n---\n{card.text}")
    assert again.data.to_dict() == card.data.to_dict()
    assert str(card) == text


def test_the_metadata_of_other_runs(runs, copied):
    baseline = ModelCard(render(runs("alone"), "full")).data
    assert baseline.tags == ["translation", "hf_ats"] and baseline.datasets is None and baseline.base_model is None
    assert baseline.eval_results[0].dataset_type.endswith("text")
    assert str(runs("alone").parent) not in render(runs("alone"), "full")
    assert ModelCard(render(runs("codes"), "core")).data.language == ["de", "en"]
    link = "https://example.org/license"
    other = {"license": "other", "license_name": "mine-1.0", "license_link": link, "languages": ["gsw", "eng"]}
    data = ModelCard(render(copied(card=other), "core")).data
    assert (data.license, data.license_name, data.license_link, data.language) == (
        "other", "mine-1.0", link, ["gsw", "eng"],
    )  # fmt: skip


# ---- What people read ----


def test_every_figure_of_a_card_is_that_of_its_files(copied):
    run = copied()
    results = read_results(run / "results.json")
    shown = {}
    for place, level in enumerate(results["levels"]):
        speed = {"tokens_per_second": 4100.4 + place, "slowest": 3900.4 + place, "fastest": 4300.4 + place}
        results["levels"][level] |= {
            "parameters": 1_234_560 + place,
            "size_bytes": 77_700_000 + 10**5 * place,
            "flops_per_token": 8.81e6 + 10**4 * place,
            "bleu": 31.119 + place,
            "chrf": 55.551 + place,
            "decoding_speed": results["levels"][level]["decoding_speed"] | speed,
        }
        shown[level] = [
            f"1,234,56{place}", f"77.{7 + place}", f"8.8{1 + place}", f"{31 + place}.12", f"{55 + place}.55",
            f"4,10{place} (3,90{place} to 4,30{place})",
        ]  # fmt: skip
    results["training"] |= {"steps": 4321, "epochs": 7.7, "flops": 5.67e12, "seconds": 89.6}
    results["seed"] = 271
    results["levels"]["core"]["parity"] = 3.21e-06
    write_results(run / "results.json", results)
    card = render(run, "core")
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in card.splitlines() if line.startswith("|")]
    table = {row[0]: row[1:] for row in rows[:4]}
    assert table["**core** (this one)"] == shown["core"]
    assert table["[full](https://huggingface.co/ann/pair-full)"] == shown["full"]
    for figure in ("was 3.2e-06.", "4,321 optimizer steps, 7.7 epochs, 5.7 teraFLOPs", "90 seconds", "seed 271"):
        assert figure in card
    assert "with 1,234,560 parameters" in card and "the 4 sentences of the test set" in card
    assert "2 sentences in batches of 8, 2 beams, float32, cpu with 1 thread, 3 repeats" in card
    for level in ("core", "full"):
        assert (
            results["levels"][level]["bleu_signature"] in card and results["levels"][level]["chrf_signature"] in card
        )


def test_a_speed_that_was_not_measured_is_no_figure(copied):
    run = copied()
    results = read_results(run / "results.json")
    for figures in results["levels"].values():
        figures["decoding_speed"] = None
    write_results(run / "results.json", results)
    assert not {"tokens per second", "**Speed**"} & set(
        re.findall(r"tokens per second|\*\*Speed\*\*", render(run, "core"))
    )
    results["levels"]["full"]["decoding_speed"] = read_results(copied() / "results.json")["levels"]["full"][
        "decoding_speed"
    ]
    write_results(run / "results.json", results)
    assert re.search(r"\| +not measured \|", render(run, "core"))


def test_sisters_are_linked_and_levels_named(runs):
    run = runs("ladder")
    names = {"level1": "ann/pair-level1", "full": "ann/pair-full"}
    card = render_card(read_results(run / "results.json"), "level1", names)
    assert (
        "the level **level1** of a ladder" in card
        and "`core` (0.25 of the full rank), `level1` (0.5 of the full rank), `full`" in card
    )
    assert "`V U` of 0.5 of the full rank" in card
    assert "Of the same run: [ann/pair-full](https://huggingface.co/ann/pair-full) (`full`)." in card
    assert "| core " in card and "pair-core" not in card
    alone = render(runs("alone"), "full")
    assert "Of the same run" not in alone and "a\nbaseline" in alone and "core has" not in alone
    assert "Every step trained the core alone." in render(runs("core alone"), "core")


def test_a_composition_tells_its_parts(runs):
    core, full = (render(runs("stock core"), level) for level in ("core", "full"))
    assert "keeps 0.5 of the full width: of the feed-forward neurons.\nPartitioned are the layers `fc1`, `fc2`" in core
    assert "It has 1 decoder layer of the full network's." in core and "- width\n- depth\n" in core
    assert "Its core has 0.5 of the full width." in full and "Its core has 1 decoder layer." in full


def test_a_run_from_an_adapter_tells_its_ranks_and_where_it_began(copied):
    partition = {"method": "rank", "ratios": [], "target_modules": None, "exclude_modules": None, "init": "adapter"}
    model = {"name": "ann/base", "class": "MarianMTModel", "adapter_name_or_path": "/home/ann/adapters/mine"}
    run = copied(partition=partition | {"ranks": {"a.fc1": 4, "b.fc1": 16, "c.fc1": 8}}, model=model)
    for level, words in (("core", "with\n`V U` of ranks 4 to 16."), ("full", "Its core has ranks 4 to 16.")):
        card = render(run, level)
        assert words in card and "of a LoRA adapter, adapters/mine, and `W` as its base model." in card
    run = copied(partition=partition | {"ranks": {"a.fc1": 4, "b.fc1": 4}, "init": "svd"})
    assert "`V U` of rank 4." in (card := render(run, "core")) and "LoRA" not in card


def test_samples_stay_text_whatever_they_hold(copied):
    run = copied()
    results = read_results(run / "results.json")
    odd = 'a | b\n<img src="x"> `c` *d* \\ [e](f)'
    results["samples"][1] = {"source": odd, "reference": odd, "translations": {"core": odd, "full": "plain"}}
    write_results(run / "results.json", results)
    (line,) = [line for line in render(run, "core").splitlines() if "img src" in line]
    assert len(re.split(r"(?<!\\)\|", line)) == 6 and "<" not in line
    assert r"a \| b &lt;img src=" in line and r"\`c\` \*d\* \\ \[e\](f)" in line


def test_the_command_is_told_without_the_folders_of_a_machine(copied):
    command = "python /opt/x/y/scripts/train_translation.py --output_dir /home/ann/runs/demo --ratios 0.5"
    card = render(copied(command=command), "core")
    assert "```bash\npython scripts/train_translation.py --output_dir runs/demo --ratios 0.5\n```" in card
    assert "/home/ann" not in card
    assert "```bash" not in render(copied(command="python /usr/lib/ipykernel_launcher.py -f k.json"), "core")


# ---- What is missing ----


def test_a_missing_fact_is_named_with_its_remedy(runs):
    results = read_results(runs("rank") / "results.json")
    names = {level: f"ann/pair-{level}" for level in results["levels"]}

    def refused(message, level="core", **changes):
        with pytest.raises(ValueError, match=message):
            render_card(copy.deepcopy(results) | changes, level, names)

    refused("section 'card' of results.json: license is missing; .*--license apache-2.0", card={})
    refused("section 'card' of results.json: license='Apache 2' ", card={"license": "Apache 2"})
    refused("results.json has no samples, .*--resume_from_checkpoint True", samples=[])
    refused("language 'src' .*--card_languages", data=results["data"] | {"source_lang": "src", "target_lang": "tgt"})
    nameless = {name: fact for name, fact in results["data"].items() if name != "name"}
    refused("results.json does not name the data of the training; report again with .*data_facts", data=nameless)
    worse = copy.deepcopy(results["levels"])
    worse["core"]["bleu"] = None
    refused("level 'core' has no bleu; score the run again", levels=worse)
    del worse["core"]["parity"]
    worse["core"]["bleu"] = 1.0
    refused("lacks something that a card tells .'parity'.; report again", levels=worse)
    refused("results.json has no level 'level1'; it has core, full", level="level1")


def test_results_from_before_there_were_cards_are_told_what_to_do():
    old = read_results(REPOSITORY / "experiments" / "results" / "one-seed" / "ladder.json")
    with pytest.raises(ValueError, match=r"has no samples, the translations that a card shows; write it again"):
        render_card(old, "core", {"core": "ann/x"})


def test_a_card_never_has_an_empty_place():
    with pytest.raises(jinja2.UndefinedError, match="'nothing' is undefined"):
        cards.templates().from_string("{{ nothing }}").render()


# ---- The examples ----


def test_the_committed_cards_are_what_the_command_beside_them_renders(tmp_path, monkeypatch):
    readme = (REPOSITORY / "model_cards" / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    shutil.copytree(EXAMPLES, tmp_path / "model_cards" / "examples")
    monkeypatch.chdir(tmp_path)
    for level in ("core", "full"):
        (tmp_path / "model_cards" / "examples" / f"{level}.md").unlink()
    exec(program, {})
    for level in ("core", "full"):
        fresh = (tmp_path / "model_cards" / "examples" / f"{level}.md").read_text(encoding="utf-8")
        assert (EXAMPLES / f"{level}.md").read_text(encoding="utf-8") == fresh
        assert ModelCard(fresh).data.license and "/home/" not in fresh and "/tmp/" not in fresh
