"""llm-compressor both ways, if it is installed: its 2:4 becomes a plan, and ours outlives its quantisation."""

import pytest
import torch

import nm2trt
from nm2trt.nm.plan import PLAN_ATTRIBUTE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
WIDTH, WORDS, LENGTH = 128, 96, 16


@pytest.fixture
def llama(tmp_path, monkeypatch):
    """Return a function that saves or loads a random Llama of two layers, by a name."""
    pytest.importorskip("llmcompressor")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "vocab_size": WORDS,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()

    def place(name):
        if not (tmp_path / name).exists():
            model.save_pretrained(tmp_path / name)
        return LlamaForCausalLM.from_pretrained(tmp_path / name)

    return place


def sparsify(model):
    nm2trt.sparsify(model, method="magnitude", pattern="2:4", exclude="lm_head").finalize()
    return getattr(model, PLAN_ATTRIBUTE).sparse


def compress(model, modifier, folder):
    """Run llm-compressor's `oneshot` and return the file that it wrote."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from safetensors.torch import load_file
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(0, WORDS, (16, LENGTH), generator=draw).tolist()
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * LENGTH] * 16}),
        processor=PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w1"),
        recipe=[modifier],
        num_calibration_samples=16,
        max_seq_length=LENGTH,
        output_dir=str(folder),
    )
    return load_file(folder / "model.safetensors")


def test_what_it_pruned_becomes_a_plan(llama, tmp_path):
    from llmcompressor.modifiers.pruning import SparseGPTModifier

    modifier = SparseGPTModifier(sparsity=0.5, mask_structure="2:4", targets=["re:.*_proj$"])
    state = compress(llama("dense"), modifier, tmp_path / "pruned")
    model = llama("dense")
    model.load_state_dict(state, strict=False)
    assert len(sparsify(model)) == 14
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_our_zeros_outlive_its_quantisation(llama, tmp_path):
    from llmcompressor.modifiers.quantization import QuantizationModifier

    model = llama("dense")
    plan = sparsify(model)
    zeros = {entry.weight: model.get_parameter(entry.weight) == 0 for entry in plan}
    model.save_pretrained(tmp_path / "sparse")
    modifier = QuantizationModifier(targets="Linear", scheme="W8A16", ignore=["lm_head"])
    state = compress(llama("sparse"), modifier, tmp_path / "int8")
    for name, zero in zeros.items():
        packed = state[f"{name}_packed"].contiguous().view(torch.uint8).reshape(zero.shape[0], -1)
        integers = packed[:, : zero.shape[1]].to(torch.int16) - 128  # four to an int32, the first one lowest
        assert bool((integers[zero] == 0).all()), name
        assert float((integers == 0).double().mean()) < 0.6, name
