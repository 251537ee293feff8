"""Training batches by a budget of tokens, in a trainer."""

from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..data import TokenBudgetBatchSampler, sequence_lengths


class TokenBudgetBatches:
    """A mixin for a `Trainer` whose arguments have `max_tokens`."""

    def get_train_dataloader(self) -> DataLoader:
        """Return batches by token budget if `max_tokens` is set, by number of sentences otherwise."""
        args = self.args
        if args.max_tokens is None or self.train_dataset is None:
            return super().get_train_dataloader()
        if not hasattr(self.train_dataset, "__len__"):
            raise ValueError(
                f"max_tokens={args.max_tokens} needs the length of every sentence, and a "
                f"{type(self.train_dataset).__name__} is a stream; use per_device_train_batch_size instead."
            )
        sampler = TokenBudgetBatchSampler(
            sequence_lengths(self.train_dataset),
            args.max_tokens,
            num_replicas=args.world_size,
            counts=args.max_tokens_counts,
            seed=args.seed if args.data_seed is None else args.data_seed,
            pad_to_multiple_of=getattr(self.data_collator, "pad_to_multiple_of", None),
        )
        self.remove_callback(_EpochOfSampler)  # that of an earlier run's sampler
        self.add_callback(_EpochOfSampler(sampler))
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self._get_collator_with_removed_columns(self.data_collator, description="training"),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)


class _EpochOfSampler(TrainerCallback):
    """A callback that tells the sampler its epoch when the Trainer cannot: after a resume on several processes."""

    def __init__(self, sampler: TokenBudgetBatchSampler):
        self._sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._sampler.set_epoch(int(state.epoch or 0))
