"""Checkpoints of other libraries: their masks become zeros and a plan, and no code of a file runs."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nm2trt
from nm2trt.errors import InputError, SparsifyError, SparsityError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE


def net():
    return nn.Sequential(
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16)
    )


def best_two(weight):
    """Keep the two largest of each four along axis 1, by sorting each group: an oracle of its own."""
    rows = weight.movedim(1, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, 4).abs()
    mask = groups >= groups.sort(dim=-1).values[..., 2:3]
    return mask.reshape(rows.shape).movedim(-1, 1)


def state(style, *, mask=best_two):
    model = net()
    made = dict(model.state_dict())
    kept = mask(made["0.weight"])
    if style == "asp":  # masks beside each parameter; weights are masked already
        made["0.weight"] = made["0.weight"] * kept
        made["0.__weight_mma_mask"] = kept
        made["0.__weight_mma_pruned_p"] = torch.zeros_like(made["0.weight"])
    else:  # ModelOpt keeps the dense weight and masks it as it is read
        made["0._weight_mask"] = kept
        made["4._weight_mask"] = torch.ones_like(made["4.weight"], dtype=torch.bool)
    return made, kept


@pytest.mark.parametrize("style", ["asp", "modelopt"])
@pytest.mark.parametrize("file", ["", "s.pt", "s.safetensors"])
def test_masks_become_zeros_and_a_plan(tmp_path, style, file):
    made, kept = state(style)
    given = made
    if file.endswith(".pt"):
        torch.save(made, tmp_path / file)
        given = tmp_path / file
    elif file:
        save_file({key: value.contiguous() for key, value in made.items()}, tmp_path / file)
        given = str(tmp_path / file)
    model = nm2trt.load_sparse(net(), given)
    assert torch.equal(model[0].weight, made["0.weight"] * kept)
    assert torch.equal(model[4].weight, made["4.weight"])
    plan = getattr(model, PLAN_ATTRIBUTE)
    assert [entry.weight for entry in plan.sparse] == ["0.weight"]
    assert str(plan.get("0.weight").pattern) == "2:4"
    assert set(model.state_dict()) == set(net().state_dict())


def test_what_modelopt_saves_beside_the_state_is_left_aside(tmp_path):
    made, kept = state("modelopt")
    torch.save({"modelopt_state": {"modelopt_version": "0"}, "model_state_dict": made}, tmp_path / "m.pt")
    model = nm2trt.load_sparse(net(), tmp_path / "m.pt")
    assert torch.equal(model[0].weight, made["0.weight"] * kept)


def test_a_mask_on_another_axis_is_refused():
    # 2:4 along the kernel's positions and channels as they lie in memory, as a flattened weight is grouped.
    made, _ = state("asp", mask=lambda weight: torch.rand_like(weight) > 0.5)
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SparsityError, match=r"0\.weight"):
        nm2trt.load_sparse(model, made)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_no_code_of_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state("asp")[0], "extra": Planted()}, "bad.pt")
    with pytest.raises(SparsifyError, match="more than tensors"):
        nm2trt.load_sparse(net(), "bad.pt")
    assert not (tmp_path / "planted").exists()


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(net().state_dict(), tmp_path / "plain.pt")
    for name in ("text.pt", "text.safetensors", "list.pt", "plain.pt"):
        with pytest.raises(SparsifyError):
            nm2trt.load_sparse(net(), tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        nm2trt.load_sparse(net(), tmp_path / "missing.pt")


@pytest.mark.parametrize(("key", "words"), [("9", "missing in"), ("0", "save both again")])
def test_masks_that_do_not_fit(key, words):
    made, _ = state("asp")
    made[f"{key}.weight"] = made["0.weight"]
    made[f"{key}.__weight_mma_mask"] = made["0.__weight_mma_mask"][:1]
    with pytest.raises(SparsifyError, match=words):
        nm2trt.load_sparse(net(), made)


# Written by compressed-tensors 0.12.2: `write_compressed(pruned_linears(), COMPRESSED)`.
COMPRESSED = Path(__file__).with_name("sparse_24_bitmask.safetensors")


def linears():
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def pruned_linears():
    model = linears()
    with torch.no_grad():
        for parameter in model.parameters():  # exact in float32, on any machine
            places = torch.arange(parameter.numel()) * 7919 % 101
            parameter.copy_((places + 1).reshape(parameter.shape) / 64)
        for layer in (model[0], model[2]):
            layer.weight *= best_two(layer.weight)
    return model


def write_compressed(model, path):
    from compressed_tensors import ModelCompressor, Sparse24BitMaskConfig

    compressor = ModelCompressor(sparsity_config=Sparse24BitMaskConfig(targets=["Linear"], ignore=["4"]))
    save_file({key: value.contiguous() for key, value in compressor.compress(model).items()}, path)


def read_compressed(path):
    wanted, model = pruned_linears().state_dict(), nm2trt.load_sparse(linears(), path)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    plan = getattr(model, PLAN_ATTRIBUTE)
    assert [(entry.weight, str(entry.pattern)) for entry in plan.sparse] == [
        ("0.weight", "2:4"),
        ("2.weight", "2:4"),
    ]
    return model


def test_a_file_that_compressed_tensors_wrote():
    model = read_compressed(COMPRESSED)
    for place in (0, 2):
        assert check(model[place].weight.detach().numpy(), NMPattern(2, 4), axis=1).holds


def test_the_library_itself_writes_what_is_read(tmp_path):
    pytest.importorskip(
        "compressed_tensors.compressors.sparse_compressors", reason="needs compressed-tensors<0.15"
    )
    write_compressed(pruned_linears(), tmp_path / "now.safetensors")
    read_compressed(tmp_path / "now.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"0.shape": torch.tensor([32, 25])}, id="shape"),
        pytest.param({"0.shape": torch.tensor([float("nan"), 24.0])}, id="nan"),
        pytest.param({"0.shape": torch.tensor([32])}, id="one size"),
        pytest.param({"0.shape": torch.tensor([-32, -24])}, id="negative"),
        pytest.param({"0.bitmask": torch.zeros(32, 3, dtype=torch.uint8)}, id="no bit"),
        pytest.param({"0.bitmask": torch.zeros(32, 3)}, id="bits that are floats"),
        pytest.param({"0.compressed": torch.zeros(32, 11)}, id="values"),
    ],
)
def test_a_damaged_compressed_weight(damage):
    with pytest.raises(SparsifyError, match=r"0\.weight is damaged: .* save it again"):
        nm2trt.load_sparse(linears(), {**load_file(COMPRESSED), **damage})


def test_bits_that_hold_no_pattern():
    made = load_file(COMPRESSED)
    made["0.bitmask"] = torch.tensor([0xFF, 0x0F, 0x00], dtype=torch.uint8).repeat(32, 1)
    with pytest.raises(SparsityError, match=r"0\.weight"):
        nm2trt.load_sparse(linears(), made)
