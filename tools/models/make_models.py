"""Makes the two local models, without a model hub: `make_models.py OUT_FOLDER GGUF_FILE`.

smollm2-135m-instruct
    A small real chat model. The GGUF file that a Python package carries is dequantised once to float32, in which
    vLLM answers the same tokens for the same prompt, alone or batched; in bfloat16 it does not.
tiny-llama
    Two random layers that say nothing sensible and serve hundreds of requests a second on one core, for load and
    fault tests. Made from fixed seeds and fixed text, so two machines make the same model.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from pydoc_data.topics import topics

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports that read it

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_smollm2(folder: Path, gguf: Path) -> None:
    """Dequantise `gguf` to float32 safetensors, and prove that the result knows a fact."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if tokenizer.chat_template is None:
        raise SystemExit("models: the GGUF file carries no chat template")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    if "Paris" not in text:
        raise SystemExit(f"models: the dequantised model answers {text!r}")
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def make_tiny_llama(folder: Path) -> None:
    """Generate a 2-layer Llama with a byte-level tokenizer trained on Python's own help texts."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((topics[name] for name in sorted(topics)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # large enough that the answers differ from prompt to prompt
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, do_sample=False)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def finish(made: Path, folder: Path) -> None:
    """Publish a model in one step, so that an interrupted run leaves no half-made folder behind."""
    config = json.loads((made / "config.json").read_text())
    if config.get("dtype", config.get("torch_dtype")) != "float32" or "quantization_config" in config:
        raise SystemExit(f"models: {folder.name} is not a plain float32 model")
    for file in made.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    made.replace(folder)
    print(f"{folder.name}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB")


def main() -> None:
    out, gguf = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, make in (
        ("smollm2-135m-instruct", lambda made: make_smollm2(made, gguf)),
        ("tiny-llama", make_tiny_llama),
    ):
        made = out / f".{name}.new"
        shutil.rmtree(made, ignore_errors=True)
        make(made)
        finish(made, out / name)


if __name__ == "__main__":
    main()
