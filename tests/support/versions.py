"""What differs between the versions of transformers that the tests run on, 4.57 and 5."""

import pytest
import transformers

BEFORE_5 = transformers.__version__.startswith("4.")

EVERY_TOKENIZER = {"special_tokens_map.json"} if BEFORE_5 else set()
"""Files that `save_pretrained` of any tokenizer writes beside those of its class."""


def needs_5(reason: str):
    """A mark for what transformers 4 itself does not do; the reason says what that is."""
    return pytest.mark.skipif(BEFORE_5, reason=reason)
