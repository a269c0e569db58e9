import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Batches are tiny here: threads that wait for one another take most of the time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
