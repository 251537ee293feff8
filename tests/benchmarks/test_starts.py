"""The measurement of how cores begin."""

import pytest
import torch

from benchmarks import starts
from benchmarks.record import build_record
from hf_ats.checkpoint import load_network
from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer
from tests.support.models import tiny_model


def test_every_start_is_measured_and_has_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "CORES", {"width 0.5": starts.CORES["width 0.5"]})
    tiny_model("marian").save_pretrained(tmp_path / "full")
    tokenizer = trained_tokenizer(tmp_path / "full")
    for part in ("train", "val", "test_2016_flickr"):
        for language, lines in (("de", GERMAN), ("en", ENGLISH)):
            (tmp_path / f"{part}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = starts.measure(tmp_path / "full", tmp_path, counts=[2], scored=2)
    assert list(found) == [
        "full",
        *(f"width 0.5: {one}" for one in ("first", "importance", "importance, 2 sentences")),
    ]
    losses = [figures["nats_per_token"] for figures in found.values()]
    assert len(set(losses)) == 4, "every start is another core"
    model, expected = load_network(tmp_path / "full", dtype=torch.float32), []
    for source, target in zip(GERMAN, ENGLISH, strict=True):
        batch = tokenizer(source, text_target=target, return_tensors="pt")
        loss = torch.nn.functional.cross_entropy(model(**batch).logits[0], batch["labels"][0], reduction="none")
        expected += loss.tolist()
    assert losses[0] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    table = starts.render(build_record("starts", settings={}, measurements=found, ratios={}))
    assert len(table.splitlines()) == 2 + 4 and "importance, 2 sentences" in table
