"""`python -m course_utils.finetune`: alone, on two processes, and the example configurations."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from chatglm_scripted import published_folder
from packaging.version import Version
from peft import PeftModel
from safetensors.torch import load_file
from transformers import TrainingArguments

from course_utils import finetune
from course_utils.chatglm.__main__ import main as chatglm_main
from course_utils.datasets import load_dataset_info
from course_utils.finetune.__main__ import main
from course_utils.models import CATALOGUE
from course_utils.runtime import DATA, ROOT
from course_utils.serve import main as serve_main

CONFIGS = DATA / "finetune"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A folder with a model and data, and the settings of a short run on them."""
    root = tmp_path_factory.mktemp("recipe")
    items = [{"content": f"第{i}", "summary": f"答{i}"} for i in range(6)]
    (root / "train.json").write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items))
    return root, {
        "model_name_or_path": str(published_folder(3, root / "model")),
        "train_file": str(root / "train.json"),
        "prompt_column": "content",
        "response_column": "summary",
        "val_size": 2,
        "max_steps": 3,
        "logging_steps": 1,
        "lora_dropout": 0.0,
        "max_grad_norm": 1e9,
        "gradient_accumulation_steps": 2,
        "output_dir": str(root / "one"),
    }


def config(folder, settings, method="lora"):
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return [method, "--config", str(file)]


def outcome(folder):
    history = json.loads((folder / "adapter" / "training.json").read_text(encoding="utf-8"))["history"]
    (weights,) = (folder / "adapter").glob("*.safetensors")
    return history, load_file(weights)


def test_a_run_from_the_command_line_which_then_is_over(recipe, capsys):
    root, settings = recipe
    command = config(root, settings)
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "are trained, on 4 examples; 2 more are for validation" in out and "另有 2 个用于验证" in out
    assert "one/adapter" in out and " MiB" in out
    history, _ = outcome(root / "one")
    assert [step for step, _ in history["loss"]] == [1, 2, 3] and len(history["validation"]) == 2
    assert any((root / "one" / "tensorboard").iterdir())
    times = {path: path.stat().st_mtime_ns for path in (root / "one").glob("checkpoint-*/**/*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (root / "one").glob("checkpoint-*/**/*")} == times
    assert outcome(root / "one")[0] == history


@pytest.mark.parametrize(
    ("method", "changes"),
    [("ptuning", {"pre_seq_len": 4, "learning_rate": 0.1}), ("lora", {"quantization_bit": 4, "lora_dropout": 0.0})],
    ids=["ptuning", "4 bits"],
)
def test_the_other_ways_from_the_command_line(recipe, tmp_path, method, changes):
    _, settings = recipe
    settings = {name: value for name, value in settings.items() if name != "lora_dropout"}
    assert main(config(tmp_path, settings | changes | {"output_dir": str(tmp_path / "out")}, method)) == 0
    history, weights = outcome(tmp_path / "out")
    assert [step for step, _ in history["loss"]] == [1, 2, 3] and all(
        value.isfinite().all() for value in weights.values()
    )


def test_early_stopping_between_two_points_of_the_curve(recipe, tmp_path, capsys):
    """The curve ends where the training did, also before its first point was due."""
    settings = recipe[1] | {"learning_rate": 1.0, "max_steps": 40, "logging_steps": 30, "eval_steps": 1}
    settings |= {"early_stopping_patience": 1, "output_dir": str(tmp_path / "out")}
    assert main(config(tmp_path, settings)) == 0
    history, _ = outcome(tmp_path / "out")
    assert history["stopped_early"] and [step for step, _ in history["loss"]] == [history["validation"][-1][0]]
    assert f"loss {history['loss'][0][1]:.4f}" in capsys.readouterr().out


def launch(*command, cwd):
    """Two processes: --multi_gpu means several of them; they take the CPU where there is no GPU."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    accelerate += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*accelerate, "--main_process_port", "0", *command],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs_fsdp():
    if Version(torch.__version__) < Version("2.7"):
        pytest.skip("fsdp needs torch 2.7")


@pytest.mark.parametrize(
    ("method", "generation", "changes"),
    [
        ("lora", 3, {}),
        ("ptuning", 3, {"pre_seq_len": 4}),
        ("lora", 3, {"fsdp": True, "early_stopping_patience": 1, "eval_steps": 1}),
        ("ptuning", 3, {"fsdp": True, "pre_seq_len": 4}),
        ("ptuning", 1, {"fsdp": True, "pre_seq_len": 4, "bf16": True}),
    ],
    ids=["data parallel", "data parallel, prefix", "fsdp", "fsdp, prefix of PEFT", "fsdp, prefix of the network"],
)
def test_two_processes_learn_the_same_as_one(recipe, tmp_path, method, generation, changes):
    """The two share the work of each step: half the accumulation. Three examples for validation cannot be shared."""
    if changes.get("fsdp"):
        needs_fsdp()
    settings = recipe[1] | changes
    settings |= {"model_name_or_path": str(published_folder(generation, tmp_path / "model")), "val_size": 3}
    if method == "ptuning":
        del settings["lora_dropout"]
    one = settings | {"gradient_accumulation_steps": 4, "output_dir": str(tmp_path / "one"), "fsdp": False}
    assert main(config(tmp_path, one, method)) == 0
    two = settings | {"gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "two")}
    said = launch("-m", "course_utils.finetune", *config(tmp_path, two, method), cwd=tmp_path)
    assert said.count("are trained, on 3 examples") == 1  # one of them speaks
    (history, weights), (history_2, weights_2) = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    # The prefix of the first generation drops out others of its units in every process, and bfloat16 rounds.
    exactly = generation > 1
    near = 1e-4 if exactly else 2e-2
    for curve in ("loss", "validation"):
        assert history_2[curve] == [[step, pytest.approx(value, rel=near)] for step, value in history[curve]]
    assert set(weights_2) == set(weights)
    if not exactly:
        return
    for name, value in weights.items():
        torch.testing.assert_close(weights_2[name], value, rtol=1e-2, atol=1e-5)
    # Adam takes the same steps whatever the size of the gradients; their mean shows it.
    last = sorted((tmp_path / "one").glob("checkpoint-*"))[-1].name
    state, state_2 = (
        torch.load(tmp_path / name / last / "resume" / "process-0.pt", weights_only=True)["optimizer"]["state"]
        for name in ("one", "two")
    )
    for number, moments in state.items():
        torch.testing.assert_close(state_2[number]["exp_avg"], moments["exp_avg"], rtol=1e-2, atol=1e-6)


CUT_UP = """
import json, sys
from pathlib import Path
from course_utils import finetune
from course_utils.chatglm import load_chatglm, load_tokenizer
from course_utils.datasets import Instruction

folder, run = Path(sys.argv[1]), Path(sys.argv[2])
settings = finetune.LoRASettings(
    fsdp=True, max_steps=4, save_steps=2, logging_steps=1, learning_rate=1e-2, output_dir=run
)
model = finetune.add_adapter(load_chatglm(folder, dtype="float32", device="cpu"), settings)
whole = sum(p.numel() for p in model.parameters() if not p.requires_grad)

def count(step):
    held = sum(p.to_local().numel() for p in model.parameters() if not p.requires_grad)
    print(json.dumps([step.number, held / whole]))

items = [Instruction(f"第{i}", "", f"答{i}") for i in range(8)]
examples = finetune.encode_examples(load_tokenizer(folder), items, settings)
finetune.train(model, examples, settings, callbacks=[count], resume=True)
"""


def test_fsdp_leaves_each_process_half_of_the_frozen_weights_and_goes_on_where_it_stopped(recipe, tmp_path):
    needs_fsdp()
    (tmp_path / "cut_up.py").write_text(CUT_UP, encoding="utf-8")
    model, straight, resumed = recipe[1]["model_name_or_path"], tmp_path / "straight", tmp_path / "resumed"
    said = [json.loads(line) for line in launch("cut_up.py", model, straight, cwd=tmp_path).splitlines()]
    assert said == [[step, pytest.approx(0.5, rel=0.01)] for step in (1, 2, 3, 4)]
    shutil.copytree(straight / "checkpoint-000002", resumed / "checkpoint-000002")
    said = [json.loads(line)[0] for line in launch("cut_up.py", model, resumed, cwd=tmp_path).splitlines()]
    assert said == [3, 4]
    (history, weights), (history_2, weights_2) = outcome(straight), outcome(resumed)
    assert len(history["loss"]) == 4 and history_2 == history
    for name, value in weights.items():
        torch.testing.assert_close(weights_2[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_file": None}, "The setting train_file is missing"),
        ({"prompt_column": "question"}, "the column 'question' is missing"),
        ({"val_size": 6}, "val_size keeps 6 of 6 examples"),
        ({"model_name_or_path": "chatglm9"}, "neither a folder nor one of chatglm-6b"),
        ({"model_name_or_path": "."}, "holds no whole model: config.json is missing"),
        ({"train_file": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"validation_file": "nowhere.json"}, "validation_file names others: give one of them"),
        ({"lora_ranks": 4}, "There is no setting lora_ranks: do you mean lora_r?"),
    ],
)
def test_what_is_wrong_is_said_in_both_languages(recipe, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    assert main(config(tmp_path, recipe[1] | changes | {"output_dir": str(tmp_path / "out")})) == 1
    english, chinese = capsys.readouterr().err.split("✘")[1:]
    assert message in english and any("\u4e00" <= character <= "\u9fff" for character in chinese)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_fp16_needs_a_gpu(recipe, tmp_path, capsys):
    assert main(config(tmp_path, recipe[1] | {"fp16": True, "output_dir": str(tmp_path / "out")})) == 1
    assert "fp16 training needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["FSDP", "DEEPSPEED"])
def test_accelerate_does_not_cut_up_the_model_itself(recipe, tmp_path, monkeypatch, capsys, way):
    monkeypatch.setenv(f"ACCELERATE_USE_{way}", "true")
    assert main(config(tmp_path, recipe[1] | {"output_dir": str(tmp_path / "out")})) == 1
    english, chinese = capsys.readouterr().err.split("✘")[1:]
    assert f"set up for {way}" in english and "write fsdp: true into the YAML file" in english
    assert "写上 fsdp: true" in chinese


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("2.7.0", {}, "here is one: start the command with accelerate launch"),
        ("2.7.0", {"quantization_bit": 4}, "not quantised"),
        ("2.6.0+cu126", {}, "needs torch 2.7 or newer, and here is 2.6.0+cu126"),
    ],
)
def test_what_fsdp_needs(recipe, tmp_path, monkeypatch, capsys, version, changes, message):
    monkeypatch.setattr(torch, "__version__", version)
    assert main(config(tmp_path, recipe[1] | {"fsdp": True} | changes | {"output_dir": str(tmp_path / "out")})) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("ptuning", "ptuning_adgen"),
        ("ptuning", "ptuning_adgen_cpu"),
        ("lora", "lora_magic_conch"),
        ("lora", "lora_magic_conch_cpu"),
    ],
)
def test_the_examples_can_be_run(method, name, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = finetune.read_settings(CONFIGS / f"{name}.yaml", method)
    assert settings.model_name_or_path in CATALOGUE
    assert len(finetune.load_items(settings.train_file, settings)) > 100
    if settings.validation_file:
        assert finetune.load_items(settings.validation_file, settings)
    assert settings.output_dir.parts[0] == "build"  # which git ignores


# Of its own names those that the example uses; the others are transformers'.
LLAMA_FACTORY = set(
    "model_name_or_path template stage finetuning_type lora_rank lora_alpha lora_dropout lora_target dataset_dir "
    "dataset val_size cutoff_len max_samples plot_loss".split()
)


def test_the_example_for_llama_factory_is_the_same_run():
    values = yaml.safe_load((CONFIGS / "llamafactory_magic_conch.yaml").read_text(encoding="utf-8"))
    known = LLAMA_FACTORY | {option.name for option in dataclasses.fields(TrainingArguments)}
    assert set(values) <= known
    assert values["dataset"] in load_dataset_info(ROOT / values["dataset_dir"] / "dataset_info.json")
    ours = finetune.read_settings(CONFIGS / "lora_magic_conch.yaml", "lora")
    assert values["lora_rank"] == ours.lora_r
    shared = set(values) & set(type(ours).model_fields)
    shared -= {"model_name_or_path", "output_dir", "fp16", "max_samples", "eval_steps"}
    assert values["eval_steps"] == ours.save_steps and "trust_remote_code" not in values
    assert {"learning_rate", "lora_alpha", "cutoff_len", "num_train_epochs"} <= shared
    assert {name: values[name] for name in shared} == {name: getattr(ours, name) for name in shared}


def test_the_configuration_for_deepspeed_shares_the_weights_and_leaves_the_rest_to_the_run():
    configuration = HfDeepSpeedConfig(json.loads((CONFIGS / "deepspeed_zero3.json").read_text(encoding="utf-8")))
    assert configuration.is_zero3()
    for name in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "fp16.enabled"):
        assert configuration.get_value(name) == "auto"
    llama_factory = (CONFIGS / "llamafactory_magic_conch.yaml").read_text(encoding="utf-8")
    assert "# deepspeed: data/finetune/deepspeed_zero3.json" in llama_factory


ZERO_3 = """
import json, sys
from pathlib import Path
import deepspeed, torch
from course_utils import finetune
from course_utils.chatglm import load_chatglm

configuration = json.loads(Path(sys.argv[2]).read_text())  # the run fills in what is "auto"
configuration |= {"train_batch_size": 2, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
configuration |= {"gradient_clipping": 1.0, "bf16": {"enabled": False}, "fp16": {"enabled": False}}
deepspeed.init_distributed("gloo")
torch.manual_seed(0)
model = load_chatglm(sys.argv[1], dtype="float32", device="cpu")
model = finetune.add_adapter(model, finetune.LoRASettings(lora_dropout=0.0)).train()
ids = torch.arange(40, 72)[None]
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
with torch.no_grad():
    expected = model(**inputs).logits
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, 1e-2)
engine = deepspeed.initialize(model=model, model_parameters=trained, optimizer=optimizer, config=configuration)[0]
losses = []
for _ in range(4):
    logits = engine(**inputs).logits
    if not losses:
        torch.testing.assert_close(logits, expected)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    engine.backward(loss)
    engine.step()
    losses.append(loss.item())
held = sum(p.ds_tensor.numel() for p in model.parameters()) / sum(p.ds_numel for p in model.parameters())
if deepspeed.comm.get_rank() == 0:
    print("RESULT", json.dumps([losses, held]))
"""


def test_deepspeed_itself_trains_with_the_configuration(recipe, tmp_path):
    """ZeRO-3 computes what the whole model does, on two processes that hold about half of it each."""
    pytest.importorskip("deepspeed", reason="not in the tested set; .github/workflows/versions.yml runs it")
    (tmp_path / "zero_3.py").write_text(ZERO_3, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "zero_3.py",
    ]
    done = subprocess.run(
        [*command, recipe[1]["model_name_or_path"], str(CONFIGS / "deepspeed_zero3.json")],
        env=os.environ | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    losses, held = json.loads(done.stdout.partition("RESULT")[2].splitlines()[0])
    assert losses[-1] < losses[0] - 0.01 and held == pytest.approx(0.5, abs=0.02)


def test_llama_factory_itself_accepts_the_example(monkeypatch, tmp_path):
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    hparams = pytest.importorskip("llamafactory.hparams", exc_type=ImportError)
    values = yaml.safe_load((CONFIGS / "llamafactory_magic_conch.yaml").read_text(encoding="utf-8"))
    values |= {"output_dir": str(tmp_path)} | ({} if torch.cuda.is_available() else {"fp16": False, "use_cpu": True})
    _, data, _, method, _ = hparams.get_train_args(values)
    assert data.dataset == ["magic_conch"] and method.lora_rank == 8


def test_a_run_that_is_killed_goes_on_and_ends_like_one_that_was_not(recipe, tmp_path):
    _, settings = recipe
    steps = {"max_steps": 60, "save_steps": 5}  # long enough that the kill comes in time on a busy machine
    assert main(config(tmp_path, settings | steps | {"output_dir": str(tmp_path / "whole")})) == 0
    command = config(tmp_path, settings | steps | {"output_dir": str(tmp_path / "killed")})
    with subprocess.Popen([sys.executable, "-m", "course_utils.finetune", *command], cwd=ROOT) as process:
        while process.poll() is None and len(list((tmp_path / "killed").glob("checkpoint-*"))) < 2:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -9 and not (tmp_path / "killed" / "adapter").exists()
    assert main(command) == 0
    (history, weights), (history_2, weights_2) = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert history_2 == history
    for name, value in weights.items():
        assert torch.equal(weights_2[name], value), name


def test_what_was_trained_is_talked_to_and_served_from_the_command_line(recipe, monkeypatch):
    root, settings = recipe
    assert main(config(root, settings)) == 0
    used = []
    monkeypatch.setattr("course_utils.chatglm.conversation.terminal_chat", lambda model, tokenizer: used.append(model))
    monkeypatch.setattr("course_utils.serve.Service.app", lambda service: used.append(service.model))
    monkeypatch.setattr("uvicorn.run", lambda app, **address: None)
    trained = [settings["model_name_or_path"], "--device", "cpu", "--trained", str(root / "one")]
    assert chatglm_main(["chat", *trained]) == 0
    monkeypatch.setattr(sys, "argv", ["serve", *trained, "--port", "0"])
    serve_main()
    assert len(used) == 2 and all(isinstance(model, PeftModel) for model in used)
