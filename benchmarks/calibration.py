"""Measures between what bounds the activations of the shipped encoder lie: on the texts of the sample, and the empty one.

    python -m benchmarks.calibration

The scales of the `int8` variant come from these bounds; `python -m memoryd.embedding.export` reads them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks import corpus
from memoryd.embedding.export import ACTIVATIONS, MAX_TOKENS, build, published_weights
from memoryd.embedding.pieces import PieceReader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_WHOLE: Final = 1 << 20  # pieces: more than any text here has


def main() -> None:
    """Write the bounds beside the shipped model."""
    texts = dict.fromkeys(["", *(draft.text for draft in corpus.drafts(corpus.events(corpus.SAMPLE)))])
    found = bounds(published_weights(), texts)
    ACTIVATIONS.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{ACTIVATIONS.name}: {len(found)} products over {len(texts):,} texts")


def bounds(weights: Path, texts: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return for each product of the exact graph the lowest and the highest number that it takes."""
    model = build(weights, variant="fp32")
    operands = {node.name: node.input[0] for node in model.graph.node if node.name.endswith(".product")}
    outputs = list(dict.fromkeys(operands.values()))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pieces = PieceReader(weights / "tokenizer.json", max_tokens=_WHOLE)
    lows, highs = np.zeros(len(outputs)), np.zeros(len(outputs))
    for text in texts:
        *beginning, last = pieces.read(text).windows[0]
        ids = np.array([[*beginning[: MAX_TOKENS - 1], last]], np.int64)
        taken = session.run(outputs, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        lows = np.minimum(lows, [values.min() for values in taken])
        highs = np.maximum(highs, [values.max() for values in taken])
    of_operand = dict(zip(outputs, zip(lows.tolist(), highs.tolist(), strict=True), strict=True))
    # Rounded, since processors differ in the last digits.
    return {
        name.removesuffix(".product"): (round(low, 2), round(high, 2))
        for name, operand in operands.items()
        for low, high in [of_operand[operand]]
    }


if __name__ == "__main__":
    main()
