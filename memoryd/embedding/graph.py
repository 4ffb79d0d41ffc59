"""BERT encoder as an ONNX graph, straight from its weights.

The graph is written with onnxruntime's fused operators where they are the quicker ones. A sum and `LayerNormalization`
take a fifth of the time of `SkipLayerNormalization`. Three ways to store the weights of the products, and in none of
them do the texts of a call meet:

- `fp32`: as published, exact.
- `int8`: signed bytes with one scale per output column; activations become unsigned bytes with a scale that is fixed
  for each product. The products are integer products (`MatMulIntegerToFloat`).
  Bytes times bytes overflow 16 bits on x86 processors without VNNI; there sums may saturate.
- `block8`: bytes with one scale per 64 weights of a column (`MatMulNBits`).
  Newer runtimes only: onnxruntime 1.19 knows blocks of 4 bits alone.

The embedding tables of `int8` and `block8` are bytes with one scale per row.
Formulas: Devlin et al. 2019 (BERT), Hendrycks and Gimpel 2016 (GELU, the exact form with erf).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from memoryd.embedding.quantise import over_range, per_block, per_column, per_row

Variant: TypeAlias = Literal["int8", "fp32", "block8"]
Output: TypeAlias = Literal["embedding", "last_hidden_state"]
Weights: TypeAlias = Mapping[str, npt.NDArray[np.generic]]
Activations: TypeAlias = Mapping[str, tuple[float, float]]  # by product: the lowest and the highest that it takes
_Floats: TypeAlias = npt.NDArray[np.float32]

_OPSET: Final = 17  # the first with LayerNormalization
_IR_VERSION: Final = 8  # that of opset 17: an older runtime refuses a file that claims a newer one
_FUSED: Final = "com.microsoft"
_BLOCK: Final = 64
_INTEGER_PRODUCTS: Final = 4  # accuracy level of MatMulNBits: activations as bytes too, scaled per block of a row
_TENSOR_TYPES: Final[Mapping[str, int]] = {
    "float32": TensorProto.FLOAT,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """The sizes that a BERT encoder was trained with and that its weights do not tell."""

    layers: int
    heads: int
    layer_norm_eps: float = 1e-12


def build_bert(
    weights: Weights,
    shape: BertShape,
    *,
    variant: Variant,
    activations: Activations | None = None,
    output: Output = "embedding",
) -> ModelProto:
    """Build the encoder; the same weights give the same graph. `int8` needs the `activations` of every product.

    `embedding`: int64 [n, t] `input_ids` and `attention_mask` give float32 [n, dim], unit rows, the mean of the
    last layer over the tokens of the mask, and that layer, `last_hidden_state`, float32 [n, t, dim]. There is one segment
    only, folded into the positions.
    `last_hidden_state`: takes `token_type_ids` too and gives float32 [n, t, dim], as other exporters do.
    Raises KeyError naming a weight or a product that is absent.
    """
    return _Builder(weights, shape, variant, activations or {}).model(output)


class _Builder:
    def __init__(self, weights: Weights, shape: BertShape, variant: Variant, activations: Activations) -> None:
        self._weights = weights
        self._shape = shape
        self._variant = variant
        self._activations = activations
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def model(self, output: Output) -> ModelProto:
        pooled = output == "embedding"
        hidden = self._embeddings(one_segment=pooled)
        mask = self._node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
        for layer in range(self._shape.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, mask)
        self._node("Identity", [hidden], "last_hidden_state")
        if pooled:
            self._mean_of_tokens(hidden, output)
        inputs = ["input_ids", "attention_mask"] + ([] if pooled else ["token_type_ids"])
        dim = self._weight("embeddings.LayerNorm.weight").size
        outputs: dict[str, list[str | int]] = {"embedding": ["n", dim]} if pooled else {}
        outputs["last_hidden_state"] = ["n", "t", dim]
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self._constants,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)]
        return helper.make_model(graph, producer_name="memoryd", ir_version=_IR_VERSION, opset_imports=opsets)

    def _embeddings(self, *, one_segment: bool) -> str:
        words = self._rows("words", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        segments = self._weight("embeddings.token_type_embeddings.weight")
        positions = self._weight("embeddings.position_embeddings.weight")
        every = self._constant("all_positions", np.arange(len(positions), dtype=np.int64))
        shape = self._node("Shape", ["input_ids"], "shape")
        length = self._node("Slice", [shape, self._ints("one", [1]), self._ints("two", [2])], "length")
        used = self._node("Slice", [every, self._ints("zero", [0]), length], "positions_used")
        if one_segment:
            places = self._rows("positions", positions + segments[0], used)
            total = self._node("Add", [words, places], "embeddings_sum")
        else:
            places = self._rows("positions", positions, used)
            kinds = self._rows("segments", segments, "token_type_ids")
            total = self._node("Add", [self._node("Add", [words, places], "words_placed"), kinds], "embeddings_sum")
        return self._norm("embeddings.LayerNorm", total, "embeddings")

    def _layer(self, name: str, hidden: str, mask: str) -> str:
        attended = self._attention(f"{name}.attention", hidden, mask)
        widened = self._product(f"{name}.intermediate", [f"{name}.intermediate.dense"], attended)
        # Gelu is the exact form with erf; FastGelu would be the tanh approximation.
        active = self._node("Gelu", [widened], f"{name}.gelu", domain=_FUSED)
        narrowed = self._product(f"{name}.output", [f"{name}.output.dense"], active)
        return self._add_and_norm(f"{name}.output", narrowed, attended)

    def _attention(self, name: str, hidden: str, mask: str) -> str:
        parts = [f"{name}.self.{part}" for part in ("query", "key", "value")]
        # One product for the three: the activations are quantised once and the matrix is wide enough for two cores.
        joined = self._product(f"{name}.self", parts, hidden)
        self._nodes.append(helper.make_node("Split", [joined], parts, f"{name}.self.split", axis=-1))
        context = self._node(
            "MultiHeadAttention",
            [*parts, "", mask],  # no bias: it is in the product
            f"{name}.context",
            domain=_FUSED,
            num_heads=self._shape.heads,
        )
        return self._add_and_norm(
            f"{name}.output", self._product(f"{name}.output", [f"{name}.output.dense"], context), hidden
        )

    def _add_and_norm(self, name: str, fresh: str, residual: str) -> str:
        total = self._node("Add", [fresh, residual], f"{name}.sum")
        return self._norm(f"{name}.LayerNorm", total, f"{name}.norm")

    def _norm(self, name: str, operand: str, output: str) -> str:
        learned = [self._named(f"{name}.weight"), self._named(f"{name}.bias")]
        epsilon = self._shape.layer_norm_eps
        return self._node("LayerNormalization", [operand, *learned], output, axis=-1, epsilon=epsilon)

    def _mean_of_tokens(self, hidden: str, output: str) -> None:
        # The sum has the direction of the mean; dividing by the count would be undone by the normalisation.
        weights = self._node("Cast", ["attention_mask"], "mask_weights", to=TensorProto.FLOAT)
        row = self._node("Unsqueeze", [weights, self._ints("one", [1])], "mask_row")
        total = self._node("MatMul", [row, hidden], "token_sum")
        flat = self._node("Squeeze", [total, self._ints("one", [1])], "token_sum_flat")
        self._node("LpNormalization", [flat], output, axis=-1, p=2)

    def _product(self, name: str, dense: Sequence[str], operand: str) -> str:
        """`operand @ weights + bias`."""
        # Published weights are [outputs, inputs].
        weight = np.concatenate([self._weight(f"{part}.weight") for part in dense]).T
        bias = self._constant(f"{name}.bias", np.concatenate([self._weight(f"{part}.bias") for part in dense]))
        output = f"{name}.biased"
        match self._variant:
            case "fp32":
                stored = self._constant(f"{name}.weight", weight)
                return self._node("Add", [self._node("MatMul", [operand, stored], f"{name}.product"), bias], output)
            case "int8":
                data, scale = per_column(weight)
                step, zero = over_range(*self._activations[name])
                steps = [self._constant(f"{name}.step", step), self._constant(f"{name}.zero", zero)]
                read = self._node("QuantizeLinear", [operand, *steps], f"{name}.bytes")
                stored = self._constant(f"{name}.weight", data)
                scales = [steps[0], self._constant(f"{name}.scale", scale)]
                inputs = [read, stored, *scales, steps[1], "", bias]
                return self._node("MatMulIntegerToFloat", inputs, output, domain=_FUSED)
            case "block8":
                blocks, scale = per_block(weight, block=_BLOCK)
                product = self._node(
                    "MatMulNBits",
                    [operand, self._constant(f"{name}.weight", blocks), self._constant(f"{name}.scale", scale)],
                    f"{name}.product",
                    domain=_FUSED,
                    K=weight.shape[0],
                    N=weight.shape[1],
                    bits=8,
                    block_size=_BLOCK,
                    accuracy_level=_INTEGER_PRODUCTS,
                )
                return self._node("Add", [product, bias], output)

    def _rows(self, name: str, table: _Floats, indices: str) -> str:
        """Rows of an embedding table."""
        if self._variant == "fp32":
            return self._node("Gather", [self._constant(f"{name}.table", table), indices], f"{name}.rows")
        data, scale = per_row(table)
        stored = self._node("Gather", [self._constant(f"{name}.table", data), indices], f"{name}.bytes")
        scales = self._node("Gather", [self._constant(f"{name}.scale", scale), indices], f"{name}.scales")
        floats = self._node("Cast", [stored], f"{name}.floats", to=TensorProto.FLOAT)
        return self._node("Mul", [floats, scales], f"{name}.rows")

    def _weight(self, name: str) -> _Floats:
        return np.asarray(self._weights[name], dtype=np.float32)

    def _named(self, name: str) -> str:
        return self._constant(name, self._weight(name))

    def _ints(self, name: str, values: Sequence[int]) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _constant(self, name: str, array: npt.NDArray[np.generic]) -> str:
        if all(known.name != name for known in self._constants):
            data = np.ascontiguousarray(array).tobytes()
            kind = _TENSOR_TYPES[array.dtype.name]
            self._constants.append(helper.make_tensor(name, kind, array.shape, data, raw=True))
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: float) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], output, domain=domain, **attributes))  # type: ignore[arg-type]
        return output
