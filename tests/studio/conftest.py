"""A studio for the tests in a browser: the command as a user starts it."""

import pytest
from studio_client import end, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    studio = serve(tmp_path_factory.mktemp("studio"))
    yield studio
    end(studio)
