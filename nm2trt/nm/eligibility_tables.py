"""The numbers behind `nm2trt.nm.eligibility`: types by builder and architecture, multiples, minimum sizes.

Every row carries its source and how far to trust it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.nm.verdict import Basis, Eligible

# Integer products, and what ONNX Runtime's optimiser makes: `OnnxParser.supports_operator` of TensorRT for
# RTX 1.7.1.116 denies each of them. A parser knows operators by their type only, whatever their domain.
UNREAD_OPERATORS = frozenset(
    """QLinearConv QLinearMatMul QGemm ConvInteger MatMulInteger DynamicQuantizeMatMul MatMulIntegerToFloat
    MatMulInteger16 QAttention FusedConv NhwcFusedConv FusedGemm FusedMatMul FusedMatMulActivation
    TransposeMatMul GemmFastGelu BiasGelu FastGelu QuickGelu SkipLayerNormalization EmbedLayerNormalization
    BiasSoftmax DynamicQuantizeLinear QLinearAdd QLinearMul QLinearConcat QLinearGlobalAveragePool
    QLinearLeakyRelu QLinearSigmoid QLinearSoftmax PackedAttention MoE ReorderInput ReorderOutput BiasAdd
    BiasDropout BiasSplitGelu BitmaskBiasDropout BitmaskDropout DecoderMaskedMultiHeadAttention
    DecoderMaskedSelfAttention DynamicQuantizeLSTM GatedRelativePositionBias GemmFloat8 GroupNorm MatMulBnb4
    MatMulFpQ4 NhwcConv NhwcMaxPool PackedMultiHeadAttention QEmbedLayerNormalization QLinearAveragePool
    QLinearReduceMean QLinearWhere QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedMatMul
    RelativePositionBias RemovePadding RestorePadding SkipGroupNorm SparseToDenseMatMul""".split()
)
# Operators of ONNX's own that it denies too; other builders were not asked.
UNREAD_BY_RTX = frozenset(
    """AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im
    Compress ConcatFromSequence CumProd DFT DeformConv Det ImageDecoder MaxRoiPool MaxUnpool MelWeightMatrix
    Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement RegexFullMatch
    SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
    SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit SwiGLU
    TfIdfVectorizer Unique""".split()
)

# Compute capability from which GPUs have sparse tensor cores.
FIRST_SPARSE = 80


@dataclass(frozen=True, slots=True)
class Where:
    """Where a weight would run; what is not known is "".

    Args:
        builder: "trt" or "trt-rtx".
        target: Architecture, e.g. "sm86".
        version: The builder's version.
    """

    builder: str = ""
    target: str = ""
    version: str = ""

    @property
    def suffix(self) -> str:
        """The place for a sentence, e.g. " on sm86 by trt-rtx"."""
        target = f" on {self.target}" if self.target else ""
        return f"{target} by {self.builder}" if self.builder else target


@dataclass(frozen=True, slots=True)
class DtypeRow:
    """Whether a type has sparse kernels somewhere.

    Args:
        dtypes: The types.
        builder: The builder; "" for any, and for one that is not known.
        targets: The architectures; () for any, and for one that is not known.
        answer: "yes" or "unknown".
        sentence: Why, as a clause.
        source: Where it comes from.
        basis: How far to trust it.
    """

    dtypes: tuple[str, ...]
    builder: str
    targets: tuple[str, ...]
    answer: Eligible
    sentence: str
    source: str
    basis: Basis

    def fits(self, dtype: str, where: Where) -> bool:
        """Tell whether the row speaks of this type there."""
        return (
            dtype in self.dtypes
            and self.builder in ("", where.builder)
            and (not self.targets or where.target in self.targets)
        )


_RTX_NAMES = "names of kernels in the library of TensorRT for RTX 1.7.1.116"
_H200 = "benchmarks/results/gpu/h200_second/summary.md"
_FP8 = ("float8e4m3fn", "float8_e4m3fn", "float8e5m2", "float8_e5m2")

# The first row that fits decides.
DTYPE_ROWS: tuple[DtypeRow, ...] = (
    DtypeRow(
        ("int8",),
        "trt-rtx",
        ("sm80", "sm86"),
        "yes",
        "the library names sparse int8 kernels, all with int8 results",
        _RTX_NAMES,
        "measured",
    ),
    DtypeRow(
        ("int8",),
        "trt-rtx",
        (),
        "unknown",
        "the library names sparse kernels only for sm80, sm86 and sm90; sm80's may run on later ones",
        _RTX_NAMES,
        "measured",
    ),
    DtypeRow(
        ("float16", "bfloat16", *_FP8),
        "trt-rtx",
        (),
        "unknown",
        "the library names sparse kernels of this type only for sm90, which it cannot build for; others may "
        "be made at run time",
        _RTX_NAMES,
        "measured",
    ),
    DtypeRow(
        ("int8",),
        "trt",
        ("sm90",),
        "yes",
        "TensorRT 8.6.0 on an H200 chose sparse kernels for 22 of 53 layers of ResNet-50, and for none of 4 "
        "in each of two other models",
        _H200,
        "measured",
    ),
    DtypeRow(
        ("float16",),
        "trt",
        ("sm90",),
        "yes",
        "TensorRT 8.6.0 on an H200 chose sparse kernels for 17 of 53 layers of ResNet-50, and for none of 4 "
        "convolutions of 512 channels",
        _H200,
        "measured",
    ),
    DtypeRow(
        ("int8",),
        "",
        (),
        "yes",
        "the guide asks for FP16 or INT8; on sm89 the builder chose sparse kernels for 140 of 196 layers",
        "TensorRT 8.x developer guide, section on sparsity; NVIDIA/Model-Optimizer pull request 1664",
        "cited",
    ),
    DtypeRow(
        ("float16",),
        "",
        (),
        "yes",
        "the guide asks for FP16 or INT8",
        "TensorRT 8.x developer guide, section on sparsity",
        "cited",
    ),
    DtypeRow(
        ("bfloat16",),
        "",
        (),
        "unknown",
        "the guide names only FP16 and INT8, and no log shows a bfloat16 kernel chosen",
        "no document lists it",
        "assumed",
    ),
    DtypeRow(
        _FP8,
        "",
        (),
        "unknown",
        "on an RTX 4090 the builder listed fp8 layers eligible and chose none",
        "maintainer's answer, NVIDIA/TensorRT-LLM issue 1913",
        "cited",
    ),
)


@dataclass(frozen=True, slots=True)
class ChannelMultiple:
    """What channel counts are asked to be multiples of.

    Args:
        dtype: The type computed in.
        inputs: Of input channels.
        outputs: Of output channels.
        held_by: Who asks for it.
        source: Where that stands.
        basis: How far to trust it.
    """

    dtype: str
    inputs: int
    outputs: int
    held_by: str
    source: str
    basis: Basis


CHANNEL_MULTIPLES: tuple[ChannelMultiple, ...] = (
    ChannelMultiple(
        "float16", 16, 8, "apex ASP and ModelOpt", "their sources: in % 16, out % 8; not TensorRT's", "cited"
    ),
    ChannelMultiple(
        "bfloat16",
        16,
        8,
        "apex ASP and ModelOpt",
        "their rule for float16, which neither states for bfloat16",
        "assumed",
    ),
    ChannelMultiple(
        "int8",
        32,
        32,
        "PyTorch's cuSPARSELt kernels",
        "torch 2.13, sparse/semi_structured.py; not TensorRT's",
        "cited",
    ),
)


@dataclass(frozen=True, slots=True)
class MinimumSize:
    """The size from which sparse kernels are said to win.

    Args:
        inputs: Products a result sums: input channels times kernel positions.
        outputs: Output channels.
        source: Where it comes from.
        basis: How far to trust it.
    """

    inputs: int
    outputs: int
    source: str
    basis: Basis


MINIMUM = MinimumSize(
    256,
    256,
    "maintainers' answers, NVIDIA/TensorRT issues 3849 (a 3x3 kernel counts its channels nine times), 4065; "
    "seen otherwise with TensorRT 8.6.0 on an H200: sparse kernels for 14 of 44 such weights, at best 1.39x",
    "cited",
)
