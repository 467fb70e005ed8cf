"""Makes the LoRA vectors beside this file with PEFT: random adapters over the tiny models of ../llama_kvpress.

    python make.py          (pip install peft==0.21.2 torch transformers==5.2.0)

Every adapter has another form of the configuration. Logits are those of the wrapped, unmerged model in float64.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FORMS = {
    "gpt2m": dict(r=3, lora_alpha=6, target_modules=["c_attn", "attn.c_proj", "c_fc"], fan_in_fan_out=True),
    "llama": dict(r=4, lora_alpha=16, target_modules=ALL, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.self_attn.v_proj": 5}),
    "mistral": dict(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "qwen2": dict(r=4, lora_alpha=4, use_rslora=True, target_modules="all-linear"),
    "qwen3": dict(r=1, lora_alpha=3, target_modules=["q_proj", "o_proj", "down_proj"], layers_to_transform=[1]),
}


def main():
    for name, form in FORMS.items():
        torch.manual_seed(len(name))
        base = AutoModelForCausalLM.from_pretrained(HERE.parent / "llama_kvpress" / name, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **form))
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        directory = HERE / name
        shutil.rmtree(directory, ignore_errors=True)
        model.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)
        config = json.loads((directory / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"llama_kvpress/{name}"
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        vectors = load_file(HERE.parent / "llama_kvpress" / name / "vectors.safetensors")
        ids = vectors["dense.40.ids"]
        logits = model.double().eval()(ids[None].long()).logits[0]
        off = (logits.float() - vectors["dense.40.logits"]).abs().max().item()
        print(f"{name}: the adapter moves logits by up to {off:.3f}")
        save_file({"ids": ids, "logits": logits.float().contiguous()}, directory / "vectors.safetensors")


if __name__ == "__main__":
    main()
