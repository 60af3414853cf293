"""The picture of a run's reports."""

import pytest
import torch
from torch import nn

from nm2trt.errors import DataError, InputError, OutputError
from nm2trt.sparsity.core.plot import plot_reports
from nm2trt.sparsity.sparsify import sparsify


@pytest.fixture(scope="module")
def reports():
    torch.manual_seed(0)
    model = nn.Linear(16, 8)
    sparse = sparsify(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    sparse.attach(optimizer)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
        found.append(sparse.report())
    return found


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_writes_the_format_of_the_suffix(reports, tmp_path, name, magic):
    plot_reports(reports, tmp_path / name, layers=True)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_refuses_what_it_cannot_draw(reports, tmp_path):
    with pytest.raises(DataError, match="no reports were given to plot"):
        plot_reports([], tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.onnx.*use a suffix such as \.png"):
        plot_reports(reports, tmp_path / "a.onnx")
    with pytest.raises(OutputError, match="does not exist"):
        plot_reports(reports, tmp_path / "none" / "a.png")
    assert list(tmp_path.iterdir()) == []
