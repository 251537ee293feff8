"""Attention whose queries and keys may be narrower than its values, for the architectures that descend from BART.

This file travels with every core checkpoint and needs torch and transformers alone.
"""

import sys
from functools import cache

import torch
from torch import nn
from transformers import EncoderDecoderCache

# Fused kernels of other implementations take one size of heads for queries, keys and values.
_IMPLEMENTATIONS = ("eager", "sdpa")


def allow_narrow_keys_(attention: nn.Module) -> None:
    """Let `q_proj` and `k_proj` of an attention module have any number of features in each head, in place.

    Its class becomes a subclass of its own; with projections of the usual size it computes what it did. The scores
    keep their scale, that of the full size of heads.

    Raises:
        ValueError: see `check_attention`.
    """
    if not isinstance(attention, NarrowKeyAttention):
        check_attention(attention)
        attention.__class__ = _narrow_key_class(type(attention))


def check_attention(attention: nn.Module) -> None:
    """Return whether an attention module can have narrower queries and keys.

    Raises:
        ValueError: it is not of BART's kind, or set to an implementation that takes one size of heads.
    """
    if not all(
        hasattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads", "scaling")
    ):
        raise ValueError(
            f"{type(attention).__name__} is no attention of BART's kind (q_proj, k_proj, v_proj, out_proj), and would "
            "not take narrower queries and keys; partition only its feed-forward layers."
        )
    _refuse_fused(attention.config._attn_implementation)


def _refuse_fused(implementation: str) -> None:
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"attn_implementation={implementation!r} takes heads of one size, and those of narrower queries and "
            f"keys differ from those of the values; write one of {', '.join(map(repr, _IMPLEMENTATIONS))}."
        )


@cache
def _narrow_key_class(stock: type) -> type:
    return type(f"NarrowKey{stock.__name__}", (NarrowKeyAttention, stock), {"__module__": __name__})


class NarrowKeyAttention:
    """`softmax(Q K^T * scaling) V` with heads of any size in `Q` and `K`, and of the usual size in `V`."""

    def __reduce_ex__(self, protocol):
        # The class is made on the fly, so a pickle, or a copy, holds the stock class instead.
        stock = type(self).__mro__[2]
        return _restore, (stock,), self.__dict__

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        past_key_values=None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ):
        """Shape `(batch, target, width)` to the same and the weights `(batch, heads, target, source)` or None.

        Args:
            hidden_states: what attends, `(batch, target, width)`.
            key_value_states: what is attended to, `(batch, source, width)`; by default `hidden_states`.
            past_key_values: the cache, whose layer is extended; that of the source is filled once.
            attention_mask: added to the scores, or None.
            kwargs: those that this version of transformers hands to its attention functions.
        """
        query = self._heads(self.q_proj(hidden_states))
        key, value = self._keys_and_values(hidden_states, key_value_states, past_key_values, kwargs)
        if "layer_head_mask" in kwargs:  # transformers 4
            kwargs["head_mask"] = kwargs.pop("layer_head_mask")
        attended, weights = self._attention_function()(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.out_proj(attended.reshape(*hidden_states.shape[:-1], -1)), weights

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """Shape `(batch, tokens, heads * size)` to `(batch, heads, tokens, size)`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _keys_and_values(self, hidden_states, source, cache, kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        crosses = source is not None
        filled = None
        if isinstance(cache, EncoderDecoderCache):
            filled = cache.is_updated if crosses else None
            cache = cache.cross_attention_cache if crosses else cache.self_attention_cache
        if filled is not None and filled.get(self.layer_idx):
            return cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values
        source = source if crosses else hidden_states
        key, value = self._heads(self.k_proj(source)), self._heads(self.v_proj(source))
        if cache is not None:
            # transformers 4 asks where in the cache the words of the target go
            position = kwargs.get("cache_position")
            where = () if position is None or crosses else ({"cache_position": position},)
            key, value = cache.update(key, value, self.layer_idx, *where)
            if filled is not None:
                filled[self.layer_idx] = True
        return key, value

    def _attention_function(self):
        implementation = self.config._attn_implementation
        _refuse_fused(implementation)
        stock = sys.modules[type(self).__mro__[2].__module__]
        return stock.eager_attention_forward if implementation == "eager" else stock.ALL_ATTENTION_FUNCTIONS["sdpa"]


def _restore(stock: type) -> nn.Module:
    narrow = _narrow_key_class(stock)
    return narrow.__new__(narrow)
