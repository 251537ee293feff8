"""An evaluation is of the whole set in its own order, so that predictions and references belong together."""

import pytest

from hf_ats.trainers import ATSSeq2SeqTrainer
from tests.support.models import partitioned
from tests.support.training import make_trainer, sentences


@pytest.mark.parametrize(
    "fields", [{}, {"dataloader_drop_last": True}, {"train_sampling_strategy": "group_by_length"}], ids=str
)
def test_an_evaluation_keeps_every_example_and_their_order(fields, tmp_path):
    seen = []

    def compute_metrics(prediction):
        seen.append([[token for token in row if token != -100] for row in prediction.label_ids.tolist()])
        return {}

    examples = sentences(11, seed=1)
    trainer = make_trainer(
        partitioned(), tmp_path, ATSSeq2SeqTrainer, eval_dataset=examples, compute_metrics=compute_metrics,
        per_device_eval_batch_size=4, **fields,
    )  # fmt: skip
    before = trainer.args.to_dict()
    trainer.evaluate()
    predicted = trainer.predict(examples).label_ids
    assert seen == [[example["labels"] for example in examples]] * 4, "two levels, evaluated and predicted"
    assert len(predicted) == 11 and trainer.args.to_dict() == before
    batches = [len(batch["labels"]) for batch in trainer.get_train_dataloader()]
    assert sum(batches) == 24, "training goes by the arguments"
