"""What a reader can get wrong while loading: one line in each language, and nothing half-done."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_utils import CourseError
from course_utils.chatglm import convert, load_chatglm, load_prefix, memory
from course_utils.chatglm.__main__ import main
from course_utils.runtime import GPU

FIXTURES = Path(__file__).parent / "fixtures" / "chatglm"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of a fixture that a test may damage."""
    return Path(shutil.copytree(FIXTURES / "v3_mqa2", tmp_path / "model"))


def error_of(action, *arguments, **options) -> str:
    with pytest.raises(CourseError) as caught:
        action(*arguments, **options)
    text = caught.value.text
    assert "\n" not in text.en + text.zh and any("一" <= letter <= "鿿" for letter in text.zh)
    return text.en


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def test_no_folder_and_unreadable_config(folder):
    assert "no config.json" in error_of(load_chatglm, folder / "nowhere")
    (folder / "config.json").write_text('{"model_type": ')
    assert "not readable JSON" in error_of(load_chatglm, folder)


def test_config_of_another_model(folder):
    edit_config(folder, model_type="llama")
    message = error_of(load_chatglm, folder)
    assert "'llama'" in message and "AutoModelForCausalLM" in message


def test_config_that_lacks_a_field(folder):
    edit_config(folder, kv_channels=None)
    assert "lacks 'kv_channels'" in error_of(load_chatglm, folder)


def test_config_and_weights_of_different_models(folder):
    edit_config(folder, num_layers=4)
    message = error_of(load_chatglm, folder)
    assert "do not belong together" in message and "layers.3" in message
    edit_config(folder, num_layers=3, ffn_hidden_size=100)
    assert "(64, 96) in the files and (64, 100)" in error_of(load_chatglm, folder)


def test_network_that_the_library_does_not_have(folder):
    edit_config(folder, apply_residual_connection_post_layernorm=True)
    assert "changes the network" in error_of(load_chatglm, folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights" in error_of(load_chatglm, folder)


def test_missing_shard(folder):
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    message = error_of(load_chatglm, folder)
    assert "2 of 2 weight files are missing" in message and "download" in message


@pytest.mark.parametrize("kept", [0, 5, 1000, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_truncated_file(folder, kind, kept):
    file = folder / "model.safetensors"
    if kind == "bin":
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
        file = folder / "pytorch_model.bin"
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    message = error_of(load_chatglm, folder)
    assert file.name in message and "download it again" in message


def test_damaged_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    assert "index.json is damaged" in error_of(load_chatglm, folder)


class Harmful:
    def __reduce__(self):
        return (print, ("a program inside the weights ran",))


def test_pickle_with_a_program_is_not_run(folder, capsys):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.output_layer.weight": Harmful()}, folder / "pytorch_model.bin")
    error_of(load_chatglm, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful(), protocol=2))
    error_of(load_chatglm, folder)
    assert "ran" not in capsys.readouterr().out


def test_wrong_options(folder):
    for dtype in ("fp16", "int8", torch.int8, None):
        assert "'auto', 'float32', 'float16', 'bfloat16'" in error_of(load_chatglm, folder, dtype=dtype)
    assert "'bnb-nf4'" in error_of(load_chatglm, folder, quantize=4)
    assert "no device" in error_of(load_chatglm, folder, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(folder):
    assert "device='cpu'" in error_of(load_chatglm, folder, device="cuda")


def test_gpu_that_this_torch_is_not_built_for(folder, monkeypatch):
    """A P100 under today's default wheels: torch says that it is available."""
    p100 = GPU("Tesla P100-PCIE-16GB", (6, 0), 16, 15, ("sm_75", "sm_80", "sm_90a", "compute_90"))
    monkeypatch.setattr("course_utils.chatglm.memory.probe_gpu", lambda: p100)
    message = error_of(load_chatglm, folder, device="cuda")
    assert "Tesla P100" in message and "course_utils.doctor" in message and "device='cpu'" in message
    assert load_chatglm(folder).device.type == "cpu"  # auto passes it over


def test_too_little_memory(folder, monkeypatch):
    monkeypatch.setattr("course_utils.chatglm.loading.free_bytes", lambda device: 2**18)
    message = error_of(load_chatglm, folder, device="cpu")
    assert "0.5 MiB" in message and "0.2 MiB are free" in message and "quantize='int8'" in message
    load_chatglm(folder, device="cpu", quantize="int4", dtype="float16")  # the cure works


def test_too_little_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "free on the disk" in error_of(convert, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_conversion_overwrites_nothing_and_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    assert "exists already" in error_of(convert, folder, folder)

    from transformers import GlmForCausalLM

    def interrupted(self, path, **options):
        Path(path).mkdir()
        (Path(path) / "half").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GlmForCausalLM, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    error_of(convert, folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_prefix_that_is_none_or_of_another_model(folder, tmp_path):
    model = load_chatglm(folder, device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert "no prefix at" in error_of(load_prefix, model, tmp_path / "nowhere")
    assert "holds no prefix" in error_of(load_prefix, model, FIXTURES / "v3_mqa2")
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert "no weights" in error_of(load_prefix, model, tmp_path)
    message = error_of(load_prefix, model, FIXTURES / "v1_prefixproj")
    assert "trained for another model" in message
    assert model.state_dict().keys() == before.keys()


def test_prompt_without_sop():
    model = load_chatglm(FIXTURES / "v1_base", device="cpu")
    assert "no <sop>" in error_of(model, torch.tensor([[5, 6, 7]]))


def test_prefix_with_gradient_checkpointing():
    model = load_chatglm(FIXTURES / "v3_mqa2_prefix", device="cpu").train()
    with pytest.warns(FutureWarning):
        model.gradient_checkpointing_enable()
    assert "without gradient_checkpointing" in error_of(model, torch.tensor([[5, 6, 7]]))


def test_command_line(folder, tmp_path, capsys):
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "generation 3" in shown and "133,952 parameters" in shown and "GlmForCausalLM" in shown
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "native" in capsys.readouterr().out
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "exists already" in shown.err and "Traceback" not in shown.err
    assert main(["chat", str(folder)]) == 1  # no tokenizer
    assert "tokenizer" in capsys.readouterr().err
    assert memory.gib(3 * 2**29) == "1.5 GiB"
