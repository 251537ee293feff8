"""What a network decodes, compared so that no two hypotheses of nearly equal scores decide a test."""

from contextlib import nullcontext

import torch

from hf_ats.partition import at_level


@torch.no_grad()
def teach_(model, sources: list[dict[str, torch.Tensor]], length: int, levels=None) -> list[torch.Tensor]:
    """Give a Marian model an output projection by which it says words of its own for each source, and then ends.

    The margins are about 10 nats at every step, so that greedy and beam search find the same words on every processor.

    Args:
        model: with an output projection that is not tied to the embeddings.
        sources: batches of `input_ids` and, where there is padding, `attention_mask`.
        length: words of each translation; the end of the sentence is one more.
        levels: those of a partitioned model at which it says them (default: the one that it is at).

    Returns:
        Ids `(batch, length)` for each batch, without start and end.
    """
    config = model.config
    assert not config.tie_word_embeddings
    rows = sum(len(batch["input_ids"]) for batch in sources)
    words = torch.arange(3, 3 + rows * length).view(rows, length)
    assert words.max() < config.vocab_size - 1, "the last is <pad>"
    words = words.split([len(batch["input_ids"]) for batch in sources])
    states, targets = [], []
    for level in levels or [None]:
        with at_level(model, level) if level is not None else nullcontext():
            for batch, said in zip(sources, words, strict=True):
                ends = said.new_full((len(said), 1), config.eos_token_id)
                starts = torch.full_like(ends, config.decoder_start_token_id)
                decoded = model.model(**batch, decoder_input_ids=torch.cat([starts, said], dim=1))
                states.append(decoded.last_hidden_state.flatten(0, 1).double())
                targets.append(torch.cat([said, ends], dim=1).flatten())
    states, targets = torch.cat(states), torch.cat(targets)
    wanted = 10.0 * torch.nn.functional.one_hot(targets, config.vocab_size).double()
    assert len(states) < states.shape[1], "each state can be told from all others"
    model.lm_head.weight.copy_(torch.linalg.lstsq(states, wanted, driver="gelsd").solution.T)
    return list(words)


@torch.no_grad()
def beam_scores(model, inputs: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The scores `(batch,)` that beam search must give to the hypotheses `ids` `(batch, 1 + length)` of full length.

    They are computed at once, without a cache and without beams, from the model at its live level.
    """
    logits = model(**inputs, decoder_input_ids=ids[:, :-1]).logits
    chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    if model.generation_config.forced_bos_token_id is not None:
        chosen[:, 0] = 0
    return chosen.mean(dim=1)


@torch.no_grad()
def assert_greedy(model, inputs: dict[str, torch.Tensor], ids: list[int], tolerance: float = 1e-4) -> None:
    """One sentence is what greedy search finds: each word is the best, or as good but for rounding.

    Where it is shorter than the model allows, it ends by itself. It has its start, and may have padding.
    """
    generation = model.generation_config
    eos = generation.eos_token_id
    if eos in ids[1:]:
        end = ids.index(eos, 1) + 1
        assert set(ids[end:]) <= {generation.pad_token_id}
        ids = ids[:end]
    else:
        assert len(ids) == generation.max_length
    logits = model(**inputs, decoder_input_ids=torch.tensor([ids[:-1]])).logits[0]
    short_of_best = logits.max(dim=-1).values - logits.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    if generation.forced_bos_token_id is not None:
        assert ids[1] == generation.forced_bos_token_id
        short_of_best[0] = 0
    assert short_of_best.max() <= tolerance * logits.abs().max()
