"""Write trained weights as a Hugging Face folder, the layout that `ocr_mlx convert` reads."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from builtin.net import END, PAD, START, Reader, Shape
from builtin.text import IDS, SPECIAL, VOCABULARY
from ocr_mlx.model.families.nougat.strips import PLANES, StripSettings

BLOCK = (
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attention.out", "attention.output.dense"),
    ("up", "intermediate.dense"),
    ("down", "output.dense"),
)
LAYER = (
    ("self_norm", "self_attn_layer_norm"),
    ("cross_norm", "encoder_attn_layer_norm"),
    ("mlp_norm", "final_layer_norm"),
    ("self_out", "self_attn.out_proj"),
    ("query", "encoder_attn.q_proj"),
    ("cross_out", "encoder_attn.out_proj"),
    ("up", "fc1"),
    ("down", "fc2"),
)
OTHERS = (
    ("encoder.project", "encoder.embeddings.patch_embeddings.projection"),
    ("encoder.norm", "encoder.embeddings.norm"),
    ("encoder.merge_norm", "encoder.encoder.layers.0.downsample.norm"),
    ("encoder.merge", "encoder.encoder.layers.0.downsample.reduction"),
    ("decoder.tokens", "decoder.model.decoder.embed_tokens"),
    ("decoder.places", "decoder.model.decoder.embed_positions"),
    ("decoder.norm_in", "decoder.model.decoder.layernorm_embedding"),
    ("decoder.norm_out", "decoder.model.decoder.layer_norm"),
    ("decoder.head", "decoder.lm_head"),
)


def export_checkpoint(out: Path, folder: Path, *, check: bool) -> None:
    """Export the running mean of the weights in a training folder's checkpoint."""
    model = Reader(Shape(vocabulary=len(VOCABULARY), planes=PLANES))
    content = torch.load(out / "checkpoint.pt", map_location="cpu")
    model.load_state_dict(content["mean"])
    export(model, folder)
    print(f"step {content['step']}, {content['spent'] / 60:.1f} minutes: {folder}")
    if check:
        print(f"largest difference to transformers' logits: {largest_difference(model, folder):.2e}")


def export(model: Reader, folder: Path) -> None:
    """Write weights, settings and tokenizer of a model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in named_tensors(model).items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    special = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    settings: dict[str, dict[str, Any]] = {
        "config.json": model_config(model.shape),
        "generation_config.json": generation_config(model.shape),
        "preprocessor_config.json": processor_config(),
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **special},
    }
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def load(folder: Path) -> Reader:
    """The model of an exported folder, its CTC head left at random."""
    model = Reader(Shape(vocabulary=len(VOCABULARY), planes=PLANES))
    saved = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(saved[name])
    return model.eval()


def named_tensors(model: Reader) -> dict[str, Tensor]:
    """The tensors under Hugging Face's names, without the CTC head."""
    named: dict[str, Tensor] = {}
    for own, theirs in OTHERS:
        put(named, theirs, model.get_submodule(own))
    for stage, blocks in enumerate(model.encoder.stages):
        for index, block in enumerate(blocks):
            name = f"encoder.encoder.layers.{stage}.blocks.{index}."
            for own, theirs in BLOCK:
                put(named, name + theirs, block.get_submodule(own))
            self_name = name + "attention.self."
            put_parts(named, [self_name + part for part in ("query", "key", "value")], block.attention.qkv)
            named[self_name + "relative_position_bias_table"] = block.attention.bias_table
            named[self_name + "relative_position_index"] = block.attention.bias_index
    for index, layer in enumerate(model.decoder.layers):
        name = f"decoder.model.decoder.layers.{index}."
        for own, theirs in LAYER:
            put(named, name + theirs, layer.get_submodule(own))
        put_parts(named, [f"{name}self_attn.{part}_proj" for part in "qkv"], layer.qkv)
        put_parts(named, [f"{name}encoder_attn.{part}_proj" for part in "kv"], layer.key_value)
    return named


def put(named: dict[str, Tensor], name: str, module: torch.nn.Module) -> None:
    """Add a module's weight, and its bias where it has one."""
    for part, tensor in module.named_parameters():
        named[f"{name}.{part}"] = tensor


def put_parts(named: dict[str, Tensor], names: list[str], module: torch.nn.Linear) -> None:
    """Split a fused product into its parts, in order."""
    for name, weight, bias in zip(names, module.weight.chunk(len(names)), module.bias.chunk(len(names)), strict=True):
        named[f"{name}.weight"], named[f"{name}.bias"] = weight, bias


def model_config(shape: Shape) -> dict[str, Any]:
    """The settings of `VisionEncoderDecoderModel`."""
    heads = shape.hidden // shape.head
    tokens = {"bos_token_id": START, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": START}
    encoder = {
        "model_type": "donut-swin",
        "image_size": [shape.height, shape.width],
        "patch_size": shape.patch,
        "num_channels": shape.planes,
        "embed_dim": shape.embed,
        "depths": list(shape.depths),
        "num_heads": [shape.embed // shape.head, heads],
        "num_layers": len(shape.depths),
        "window_size": shape.window,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu",
        "use_absolute_embeddings": False,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "hidden_size": shape.hidden,
    }
    decoder = {
        "model_type": "mbart",
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "d_model": shape.hidden,
        "decoder_layers": shape.decoder_layers,
        "decoder_attention_heads": heads,
        "decoder_ffn_dim": 4 * shape.hidden,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "add_cross_attention": True,
        "is_decoder": True,
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
        **tokens,
        "forced_eos_token_id": END,
    }
    return {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": "vision-encoder-decoder",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "dtype": "float32",
        **tokens,
        "encoder": encoder,
        "decoder": decoder,
    }


def generation_config(shape: Shape) -> dict[str, Any]:
    """Greedy, to the end of the strip's text."""
    return {
        "bos_token_id": START,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "forced_eos_token_id": END,
        "decoder_start_token_id": START,
        "max_length": shape.positions,
    }


def processor_config() -> dict[str, Any]:
    """How a page becomes pictures: the splitter's settings. Ink is (pixel / 255 - mean) / std = 1 - pixel / 255."""
    return {
        "image_processor_type": "LineStripImageProcessor",
        "num_channels": PLANES,
        "image_mean": [1.0],
        "image_std": [-1.0],
        "rescale_factor": 1 / 255,
        "strip_settings": asdict(StripSettings()),
    }


def tokenizer() -> Tokenizer:
    """One token for each character; decoding gives the exact text back."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[3]))
    made.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    made.post_processor = TemplateProcessing(
        single=f"{SPECIAL[START]} $A {SPECIAL[END]}",
        special_tokens=[(SPECIAL[START], START), (SPECIAL[END], END)],
    )
    return made


def largest_difference(model: Reader, folder: Path) -> float:
    """The largest difference to transformers' logits on random input; raises when tokens or tensors do not fit."""
    from transformers import VisionEncoderDecoderModel

    text = "".join(IDS)[len("".join(SPECIAL)) :]
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if made.decode(made.encode(text).ids) != text:
        raise ValueError("the tokenizer does not give its text back")
    theirs, report = VisionEncoderDecoderModel.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: names for kind, names in report.items() if names}
    if wrong:
        raise ValueError(f"transformers does not know these tensors: {wrong}")
    pixels = torch.randn(2, model.shape.planes, model.shape.height, model.shape.width)
    ids = torch.randint(len(SPECIAL), model.shape.vocabulary, (2, 12))
    with torch.no_grad():
        ours = model.eval()(pixels, ids)[0]
        expected = theirs.eval()(pixel_values=pixels, decoder_input_ids=ids).logits
    return float((ours - expected).abs().max())
