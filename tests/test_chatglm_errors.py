"""What a reader can get wrong while loading: one line in each language, and nothing half-done."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from course_utils import CourseError
from course_utils.chatglm import convert, load_chatglm, load_prefix, loading, memory
from course_utils.chatglm.__main__ import main
from course_utils.chatglm.published import StoredTensor, open_bin
from course_utils.runtime import GIB, GPU

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
    for wrong in (folder / "nowhere", folder / "model.safetensors", None):
        assert f"no config.json in {wrong}" in error_of(load_chatglm, wrong)
        assert f"no config.json in {wrong}" in error_of(convert, wrong, folder / "out")
    (folder / "config.json").write_text('{"model_type": ')
    assert "not readable JSON" in error_of(load_chatglm, folder)


def test_config_of_another_model(folder):
    edit_config(folder, model_type="llama")
    message = error_of(load_chatglm, folder)
    assert "'llama'" in message and "AutoModelForCausalLM" in message


def test_config_that_lacks_a_field(folder):
    edit_config(folder, kv_channels=None)
    assert "lacks 'kv_channels'" in error_of(load_chatglm, folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", None),
        ("num_layers", "28"),
        ("num_attention_heads", 0),
        ("padded_vocab_size", "x"),
        ("kv_channels", [8]),
        ("layernorm_epsilon", "1e-5"),
        ("rope_ratio", "1"),
        ("quantization_bit", "4"),
        ("quantization_bit", 3),
        ("torch_dtype", ["float16"]),
        ("eos_token_id", "x"),
        ("pad_token_id", {}),
    ],
)
def test_config_with_a_value_that_no_model_has(folder, name, value):
    config = json.loads((folder / "config.json").read_text()) | {name: value}
    (folder / "config.json").write_text(json.dumps(config))
    message = error_of(load_chatglm, folder, device="cpu")
    assert "config.json" in message and name in message and "download this file again" in message


@pytest.mark.parametrize("value", [None, "24", 0])
def test_converted_config_with_a_value_that_no_model_has(folder, tmp_path, value):
    out = convert(folder, tmp_path / "out")
    config = json.loads((out / "config.json").read_text()) | {"head_dim": "x", "hidden_size": value}
    (out / "config.json").write_text(json.dumps(config))
    assert f"hidden_size = {value!r}" in error_of(load_chatglm, out)
    (out / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    assert "head_dim" in error_of(load_chatglm, out)


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


def rewritten(folder: Path, kind: str) -> Path:
    """The weights of the folder in a file of this kind."""
    file = folder / "model.safetensors"
    if kind != "safetensors":
        tensors = load_file(file)
        file.unlink()
        file = folder / "pytorch_model.bin"
        torch.save(tensors, file, _use_new_zipfile_serialization=kind == "bin")
    return file


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_one_file_is_whole_and_the_indexes_lead_nowhere(folder, kind):
    rewritten(folder, kind)
    for content in ('{"weight_map": {"a": "model-00001-of-00002"}}', "[]"):
        for name in ("model.safetensors", "pytorch_model.bin"):
            (folder / f"{name}.index.json").write_text(content)
        assert load_chatglm(folder, device="cpu").num_parameters() == 133_952


@pytest.mark.parametrize("kept", [0, 5, 1000, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin"])
def test_truncated_file(folder, kind, kept):
    file = rewritten(folder, kind)
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    message = error_of(load_chatglm, folder)
    assert file.name in message and "download it again" in message


@pytest.mark.parametrize("kind", ["bin", "old bin"])
def test_damaged_bin(folder, kind):
    """Wherever the pickle is cut or damaged, and whatever unpickling it raises."""
    file = rewritten(folder, kind)
    content = file.read_bytes()
    pickled = range(0, 4000, 97)
    for place in pickled:
        file.write_bytes(content[:place] if kind == "old bin" else content[:place] + b"\xff" + content[place + 1 :])
        os.utime(file, ns=(place, place))
        try:
            open_bin(file)
        except CourseError as error:
            assert "pytorch_model.bin is" in error.text.en


@pytest.mark.parametrize("content", ['{"weight_map": ', "[]", '{"weight_map": {"a": {}}}', '{"weight_map": {"a": 1}}'])
def test_damaged_index(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
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
    for device in ("gpu", None, 1.5):
        assert "no device" in error_of(load_chatglm, folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(folder):
    assert "device='cpu'" in error_of(load_chatglm, folder, device="cuda")


@pytest.mark.skipif(torch.backends.mps.is_available() or torch.xpu.is_available(), reason="there is such a device")
@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", torch.device("mps")])
def test_other_device_that_is_not_there(folder, device):
    assert "device='cpu'" in error_of(load_chatglm, folder, device=device)


def test_gpu_that_this_torch_is_not_built_for(folder, monkeypatch):
    """A P100 under today's default wheels: torch says that it is available."""
    p100 = GPU("Tesla P100-PCIE-16GB", (6, 0), 16, 15, ("sm_75", "sm_80", "sm_90a", "compute_90"))
    monkeypatch.setattr("course_utils.chatglm.memory.probe_gpu", lambda: p100)
    message = error_of(load_chatglm, folder, device="cuda")
    assert "Tesla P100" in message and "course_utils.doctor" in message and "device='cpu'" in message
    assert load_chatglm(folder).device.type == "cpu"  # auto passes it over


T4 = GPU("Tesla T4", (7, 5), 14.6, 14.4, ("sm_75",))


@pytest.fixture
def free(monkeypatch) -> dict[str, int]:
    """A machine with a GPU, with so many bytes free on each device."""
    free = {"cpu": 2**20, "cuda": 2**20}
    monkeypatch.setattr("course_utils.chatglm.memory.probe_gpu", lambda: T4)
    monkeypatch.setattr("course_utils.chatglm.loading.free_bytes", lambda device: free[device.type])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: T4.capability)
    return free


def test_a_gpu_that_is_not_there_by_its_number(folder, free, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for number in (2, 7, 200):
        message = error_of(load_chatglm, folder, device=f"cuda:{number}")
        assert f"no device 'cuda:{number}'" in message and "2 GPU(s)" in message
    assert memory.pick_device("cuda:1") == torch.device("cuda:1")


# The fixture takes 535,808 bytes in float32 and 267,904 in float16; in int8 and int4 264,704 and 218,624 with the
# rest in float32, 178,432 and 132,352 with the rest in float16.


def test_too_little_memory(folder, free):
    free["cpu"] = 2**18
    message = error_of(load_chatglm, folder, device="cpu")
    assert "take 0.5 MiB and 0.2 MiB are free on cpu" in message
    assert "use quantize='int4', or take" in message  # the others would not fit
    load_chatglm(folder, device="cpu", quantize="int4")  # the cure works
    free["cpu"] = 270_000
    assert "use dtype='float16' or quantize='int8' or quantize='int4', or" in error_of(
        load_chatglm, folder, device="cpu"
    )
    free["cpu"] = 150_000
    message = error_of(load_chatglm, folder, device="cpu", quantize="int8", dtype="float16")
    assert "use quantize='int4', or take" in message
    load_chatglm(folder, device="cpu", quantize="int4", dtype="float16")
    free["cpu"] = 2**16
    message = error_of(load_chatglm, folder, device="cpu", quantize="int4")
    assert "close other programs" in message and "quantize" not in message


def test_a_large_model_needs_room_for_a_conversation(monkeypatch):
    assert memory.with_margin(4 * GIB) == 5 * GIB
    monkeypatch.setattr("course_utils.chatglm.loading.free_bytes", lambda device: 4.5 * GIB)
    cpu = torch.device("cpu")
    assert "a conversation 1.0 GiB more, and 4.5 GiB are free" in error_of(loading._check_memory, 4 * GIB, cpu, {})
    loading._check_memory(3 * GIB, cpu, {})


def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch):
    cpu, machine = torch.device("cpu"), psutil.virtual_memory()._replace(available=20 * GIB)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_bytes(cpu) == 20 * GIB  # no container
    (tmp_path / "memory.current").write_text(f"{7 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {2 * GIB}\nactive_file {GIB}\ninactive_file {4 * GIB}\n")
    for limit, free_now in {"max": 20 * GIB, str(8 * GIB): 6 * GIB, str(64 * GIB): 20 * GIB}.items():
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert memory.free_bytes(cpu) == free_now


def test_a_gpu_that_is_too_small(folder, free):
    free |= {"cuda": 2**16, "cpu": 2**30}
    assert ": use device='cpu', or take" in error_of(load_chatglm, folder)
    assert ": use device='cpu', or take" in error_of(load_chatglm, folder, device="cuda", quantize="int4")
    assert load_chatglm(folder, device="cpu").device.type == "cpu"
    free["cuda"] = 230_000
    assert ": use quantize='int4' or device='cpu', or take" in error_of(load_chatglm, folder)
    free |= {"cuda": 2**16, "cpu": 230_000}
    assert ": use device='cpu' + quantize='int4', or take" in error_of(load_chatglm, folder)
    free |= {"cuda": 2**16, "cpu": 2**16}
    assert ": close other programs" in error_of(load_chatglm, folder)


@pytest.mark.parametrize(("kind", "eight", "free_now"), [("bnb-int8", True, 140_000), ("bnb-nf4", False, 133_000)])
def test_too_little_memory_for_bitsandbytes(folder, free, monkeypatch, kind, eight, free_now):
    """Only the matrices of the blocks shrink: a half or a quarter of everything would fit here."""
    setting = SimpleNamespace(load_in_8bit=eight)
    monkeypatch.setattr("course_utils.chatglm.quantization.bitsandbytes_config", lambda *_: setting)
    free["cuda"] = free_now
    message = error_of(load_chatglm, folder, dtype="float16", device="cuda", quantize=kind)
    assert "weights take" in message and ": use quantize='int4' or device='cpu', or" in message


def test_too_little_memory_to_convert(folder, free, tmp_path):
    free["cpu"] = 2**18
    message = error_of(convert, folder, tmp_path / "out")
    assert "close other programs" in message and "quantize" not in message


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar_of_a_long_load(folder, monkeypatch, capsys, shown):
    from transformers.utils import logging

    monkeypatch.setattr("course_utils.chatglm.loading.GIB", 1 if shown else GIB)
    assert logging.is_progress_bar_enabled()
    load_chatglm(folder, device="cpu")
    assert ("Loading weights" in capsys.readouterr().err) == shown
    assert logging.is_progress_bar_enabled()
    # Who has switched the bars off keeps them off.
    logging.disable_progress_bar()
    try:
        load_chatglm(folder, device="cpu")
        assert not capsys.readouterr().err and not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()


def test_too_little_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "free on the disk" in error_of(convert, folder, tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_convert_into_new_folders_and_under_a_file(folder, tmp_path):
    message = error_of(convert, folder, folder / "config.json" / "new" / "out")
    assert f"{folder / 'config.json'} is a file" in message
    out = convert(folder, tmp_path / "new" / "folders" / "out")
    assert load_chatglm(out, device="cpu").num_parameters() == 133_952


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "config.json"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_while_converting(folder, tmp_path, monkeypatch, error):
    from transformers import GlmForCausalLM

    def fill(self, path, **options):
        Path(path).mkdir()
        (Path(path) / "half").write_text("")
        raise error

    monkeypatch.setattr(GlmForCausalLM, "save_pretrained", fill)
    message = error_of(convert, folder, tmp_path / "out")
    assert "No space left on device" in message and "make room" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


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


@pytest.mark.parametrize(
    "content",
    [
        {"state": {0: {"step": torch.zeros(1)}}, "param_groups": []},
        {"state_dict": {"transformer.prefix_encoder.embedding.weight": torch.zeros(4, 4)}},
        {0: torch.zeros(1)},
        [torch.zeros(1)],
    ],
)
def test_file_that_is_no_dict_of_tensors(folder, tmp_path, content):
    model = load_chatglm(folder, device="cpu")
    torch.save(content, tmp_path / "optimizer.pt")
    message = error_of(load_prefix, model, tmp_path / "optimizer.pt")
    assert "optimizer.pt is not a dict of named tensors, as a pytorch_model.bin is" in message


@pytest.mark.parametrize(("dtype", "word"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.bool, "BOOL")])
def test_number_format_that_is_not_read(folder, dtype, word):
    tensors = load_file(folder / "model.safetensors")
    name = "transformer.output_layer.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, folder / "model.safetensors")
    message = error_of(load_chatglm, folder)
    assert word in message and "float16" in message and "damaged" not in message


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
    shown = capsys.readouterr().out
    assert "import course_utils.chatglm.loading, course_utils.chatglm.tokenization" in shown and "native" in shown
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "exists already" in shown.err and "Traceback" not in shown.err
    assert main(["chat", str(folder)]) == 1  # no tokenizer
    assert "tokenizer" in capsys.readouterr().err
    assert memory.gib(3 * 2**29) == "1.5 GiB"


def test_interrupted_while_a_model_is_read(folder, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the middle of the weights: one line, no traceback, and no half of a checkpoint."""
    read, asked = StoredTensor.read, []

    def interrupted(self):
        asked.append(self)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return read(self)

    monkeypatch.setattr(StoredTensor, "read", interrupted)
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.startswith("Interrupted") and len(asked) >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
