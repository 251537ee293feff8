"""A tokenizer for the exports."""

import pytest

from tests.support.checkpoints import trained_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("tokenizer"))
