"""What the tests of training share."""

from collections.abc import Iterator

import pytest

from tests.train.zygote import Zygote, zygote


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Processes that have imported everything when they begin."""
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made
