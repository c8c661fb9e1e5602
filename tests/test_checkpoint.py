"""Checkpoints: what is stored, what a kill, a full disk or a damaged file does."""

import errno
import json
import os
import pickle
import random
import resource
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fastgan._run_folder import checkpoints
from fastgan.models import GAN
from fastgan.training import Adam, CheckpointError, Momentum, checkpoint
from fastgan.training.checkpoint import clean, load, save


def small_gan(seed: int = 0, width: int = 4) -> GAN:
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 3))
    return GAN(generator, nn.Linear(3, 1), latent_dim=2)


def moved_optimizers(gan: GAN) -> dict[str, torch.optim.Optimizer]:
    built = {
        "generator": Adam(0.1).build(gan.generator.parameters()),
        "discriminator": Momentum(0.1, convention="pylearn2").build(gan.discriminator.parameters()),
    }
    gan.discriminator(gan.generator(torch.randn(5, 2))).sum().backward()
    for optimizer in built.values():
        optimizer.step()
        optimizer.zero_grad()
    return built


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    gan = small_gan()
    save(tmp_path / "c", gan, moved_optimizers(gan), step=7, meta={"config": {"lr": 0.1}})
    return tmp_path / "c"


def test_R30_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    gan, other = small_gan(), small_gan(seed=1)
    optimizers, others = moved_optimizers(gan), moved_optimizers(other)
    path = save(tmp_path, gan, optimizers, step=12, meta={"pi": 3.14159})
    assert path == tmp_path / "step-000000000012.json"
    loaded = load(tmp_path)
    assert (loaded.step, loaded.meta, loaded.path) == (12, {"pi": 3.14159}, path)
    loaded.restore(other, others)
    for name, value in gan.state_dict().items():
        assert torch.equal(other.state_dict()[name], value) and torch.equal(loaded.gan_state()[name], value)
    for network in optimizers:
        expected, got = optimizers[network].state_dict(), loaded.optimizer_state(network)
        assert got["state"].keys() == expected["state"].keys()
        for number, state in expected["state"].items():
            assert all(torch.equal(got["state"][number][key], value) for key, value in state.items())
        assert others[network].state_dict()["state"].keys() == expected["state"].keys()


def test_the_optimiser_state_loads_into_torch_optim(folder: Path) -> None:
    gan = small_gan()
    theirs = torch.optim.Adam(gan.generator.parameters())
    theirs.load_state_dict(load(folder).optimizer_state("generator"))
    assert theirs.param_groups[0]["lr"] == 0.1
    first = theirs.state[gan.generator[0].weight]
    assert first["step"] == 1 and first["exp_avg"].abs().sum() > 0


def test_tied_weights_and_strided_views_are_stored(tmp_path: Path) -> None:
    gan = small_gan()
    gan.generator[2] = nn.Linear(3, 4)
    gan.generator.append(nn.Linear(4, 3))
    gan.generator[3].weight = nn.Parameter(gan.generator[2].weight.detach().T)  # another view of the same memory
    save(tmp_path, gan, {}, step=0)
    assert torch.equal(load(tmp_path).gan_state()["generator.3.weight"], gan.generator[3].weight)


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None: ...

    gan = GAN(Extra(2, 2), nn.Linear(2, 1), latent_dim=2)
    with pytest.raises(ValueError, match="checkpoint: gan.generator._extra_state must be a tensor, got dict"):
        save(tmp_path, gan, {}, step=0)
    assert list(tmp_path.iterdir()) == []


def test_the_last_two_are_kept_and_leftovers_are_cleaned(tmp_path: Path) -> None:
    gan = small_gan()
    for step in (1, 2, 30):
        gan.generator[0].weight.data.add_(1)
        save(tmp_path, gan, {}, step=step)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000000000002.json", "step-000000000030.json"]
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / ".step-000000000031.json.99.tmp").write_bytes(b"half")
    (tmp_path / "step-000000000031-0123456789abcdef.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("the user's")
    clean(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5 and load(tmp_path).step == 30


# ------------------------------------------------------------ kill -9

KILLER = '''
import json, os, pathlib, random, signal, sys
import torch
torch.set_num_threads(1)
from fastgan.models import GAN
from fastgan.training import checkpoint

folder, count, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
SOURCE = checkpoint.__file__


def gan(step):
    made = GAN(torch.nn.Linear(4, 64), torch.nn.Linear(64, 1), latent_dim=4)
    for p in made.parameters():
        torch.nn.init.constant_(p, float(step))
    return made


def save(step, die_at=None):
    """Saves in a child; it kills itself when it is about to run line `die_at` of the checkpoint module."""
    lines = [0]

    def trace(frame, event, argument):
        if frame.f_code.co_filename != SOURCE:
            return None
        if event == "line":
            lines[0] += 1
            if lines[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        sys.settrace(trace)
        checkpoint.clean(folder)
        checkpoint.save(folder, gan(step), {}, step=step)
        sys.settrace(None)
        os.write(write, str(lines[0]).encode())
        os._exit(0)
    os.close(write)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(read) as pipe:
        return status, pipe.read()


folder.mkdir()
for step in (1, 2):
    status, lines = save(step)
    assert status == 0, status
total, held, results = int(save(3)[1]), 3, {"total": 0, "kept": 0, "new": 0}
results["total"] = total
instants = range(1, total + 1)
if count < total:
    instants = random.Random(seed).sample(instants, count)
for instant in instants:
    status, _ = save(held + 1, die_at=instant)
    assert status == signal.SIGKILL, status
    found = checkpoint.load(folder)
    assert found.step in (held, held + 1), (instant, found.step)
    assert all(bool((t == found.step).all()) for t in found.tensors.values()), instant
    results["new" if found.step > held else "kept"] += 1
    held = found.step
    checkpoint.clean(folder)
    names = sorted(p.name for p in folder.iterdir())
    jsons = [n for n in names if n.endswith(".json")]
    assert len(names) == 2 * len(jsons) == 4, names
print(json.dumps(results))
'''


def kill_saves(folder: Path, count: int) -> dict[str, int]:
    # A process of its own that forks: one import serves all kills, and no thread of this one is in the way.
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(folder), str(count), "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_R28_kill_9_while_saving_never_costs_a_checkpoint(tmp_path: Path) -> None:
    results = kill_saves(tmp_path / "c", 20)
    assert results["kept"] + results["new"] == 20 and results["kept"] >= 1


@pytest.mark.slow
def test_R28_kill_9_at_every_line_of_a_save(tmp_path: Path) -> None:
    results = kill_saves(tmp_path / "c", 10**6)
    assert results["kept"] + results["new"] == results["total"] >= 100
    assert results["kept"] >= 10 and results["new"] >= 3


# ------------------------------------------------------------ a power cut


def file_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """fsync and rename as they are called from now on: the call, and the name that the file had then."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def name_of(handle: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name

    def spy_fsync(handle: int) -> None:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            # What is not in the file yet when it is synchronised can be lost.
            seen.append(("bytes", str(os.fstat(handle).st_size)))
        seen.append(("fsync", name_of(handle)))
        fsync(handle)

    def spy_replace(self: Path, target: Path) -> Path:
        seen.append(("rename", f"{self.name} -> {Path(target).name}"))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the names of open files are read from /proc")
def test_a_file_is_on_the_disk_before_its_name_and_the_tensors_before_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "c"
    seen = file_calls(monkeypatch)
    path = save(folder, small_gan(), {}, step=5)
    tensors = tensor_file(folder)
    expected = []
    for file in (tensors, path):
        temporary = f".{file.name}.{os.getpid()}.tmp"
        expected += [
            ("bytes", str(file.stat().st_size)),  # whole
            ("fsync", temporary),
            ("rename", f"{temporary} -> {file.name}"),
            ("fsync", folder.name),
        ]
    assert seen == expected


# ------------------------------------------------------------ the disk


def test_R29_a_full_disk_leaves_the_previous_checkpoint(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    gan = small_gan(width=4000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write: .*step-000000000008") as caught:
            save(folder, gan, {}, step=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert load(folder).step == 7


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: change to another user for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_R29_a_read_only_folder_is_named(unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        gan = small_gan()
        save(folder, gan, {}, step=1)
        folder.chmod(0o555)
        with pytest.raises(PermissionError, match="cannot write: .*step-000000000002"):
            save(folder, gan, {}, step=2)
        assert load(folder).step == 1 and len(list(folder.iterdir())) == 2
        folder.chmod(0o755)


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_R29_an_io_error_names_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="cannot write: Input/output error: .*step-000000000008"):
        save(folder, small_gan(), {}, step=8)
    monkeypatch.undo()
    clean(folder)
    assert load(folder).step == 7 and len(list(folder.iterdir())) == 2


# ------------------------------------------------------------ damaged files


def tensor_file(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def refused(folder: Path) -> str:
    """The message of the CheckpointError that loading must raise: one line that names the folder."""
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


@pytest.mark.parametrize("which", ["json", "safetensors"])
def test_R31_no_flipped_bit_passes(folder: Path, which: str) -> None:
    path = next(folder.glob(f"*.{which}"))
    sound = path.read_bytes()
    draw = random.Random(3)
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        refused(folder)
    path.write_bytes(sound)
    assert load(folder).step == 7


@pytest.mark.parametrize("which", ["json", "safetensors"])
def test_R31_no_other_length_passes(folder: Path, which: str) -> None:
    path = next(folder.glob(f"*.{which}"))
    sound = path.read_bytes()
    for damaged in (
        b"",
        sound[:1],
        sound[:8],
        sound[: len(sound) // 2],
        sound[:-1],
        sound + b"\n",
        sound + b"\0",
        sound * 2,
    ):
        path.write_bytes(damaged)
        refused(folder)
    path.unlink()
    refused(folder)


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch /tmp/fastgan-bomb-went-off",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Bomb()),
        b"[" * 100_000,
        b"null",
        b"[]",
        b'{"sha256": 3}',
        b'{"format": 1, "sha256": "' + b"0" * 64 + b'"}',
        b"\xff\xfe{}",
        b'{"step": 1e999, "sha256": "x"}',
        b'{"step": NaN, "sha256": "x"}',
    ],
    ids=["pickle", "deep", "null", "list", "number", "unsealed", "utf-16", "infinite", "nan"],
)
def test_R31_a_hostile_json_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "step-000000000009.json").write_bytes(content)
    refused(folder)
    assert not Path("/tmp/fastgan-bomb-went-off").exists()


def test_R31_an_enormous_json_file_is_not_read(folder: Path) -> None:
    with (folder / "step-000000000009.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    assert "must be JSON of at most" in refused(folder)


def forge(folder: Path, blob: bytes | None = None, **changes: object) -> None:
    """A checkpoint whose digests all fit: what an attacker, not an accident, would write."""
    import hashlib

    path = next(folder.glob("*.json"))
    body = json.loads(path.read_text())
    del body["sha256"]
    if blob is not None:
        tensor_file(folder).write_bytes(blob)
        body |= {"tensor_bytes": len(blob), "tensor_sha256": hashlib.sha256(blob).hexdigest()}
    path.write_bytes(checkpoint._seal({**body, **changes}))


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "blob",
    [
        header(b"{}", 2**63),
        header(b"{}", 99_000_000),
        header(b'{"gan.a": {"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 16]}}') + bytes(16),
        header(b'{"gan.a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 16]}}') + bytes(16),
        header(b'{"gan.a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}}') + bytes(32),
        header(b'{"gan.a": {"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}}') + bytes(16),
        header(b'{"gan.a": ') + bytes(16),
        pickle.dumps(Bomb()),
        b"",
    ],
)
def test_R31_a_forged_tensor_file_is_refused(folder: Path, blob: bytes) -> None:
    forge(folder, blob)
    refused(folder)
    assert not Path("/tmp/fastgan-bomb-went-off").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format must be 1, got '2'"),
        ({"step": "7"}, "step must be of type int"),
        ({"tensor_file": "../../etc/passwd"}, "tensor_file must name a file beside it"),
        ({"tensor_file": "gone.safetensors"}, "gone.safetensors: cannot be read"),
        ({"groups": []}, "groups must be of type dict"),
    ],
)
def test_R31_a_forged_json_file_is_refused(folder: Path, changes: dict, message: str) -> None:
    forge(folder, **changes)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gan: gan.generator.pop(2), "generator.2.bias does not belong to this model"),
        (lambda gan: gan.generator.append(nn.Linear(3, 3)), "generator.3.bias is missing"),
        (
            lambda gan: setattr(gan, "discriminator", nn.Linear(5, 1)),
            r"must have shape \(1, 5\), got \(1, 3\)",
        ),
        (lambda gan: gan.double(), "dtype torch.float64, got torch.float32"),
    ],
)
def test_R31_another_model_is_refused_and_left_alone(folder: Path, change: object, message: str) -> None:
    gan = small_gan(seed=4)
    change(gan)
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load(folder).restore(gan)
    assert all(torch.equal(before[name], value) for name, value in gan.state_dict().items())


def test_R31_another_optimiser_is_refused_and_the_networks_are_left_alone(folder: Path) -> None:
    gan = small_gan(seed=4)
    before = gan.generator[0].weight.clone()
    wrong = {"generator": Momentum(0.1).build(gan.generator.parameters())}
    with pytest.raises(CheckpointError, match="generator optimizer 0.exp_avg does not belong to this model"):
        load(folder).restore(gan, wrong)
    assert torch.equal(gan.generator[0].weight, before)


def test_there_is_nothing_to_load(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="checkpoint: there is none in"):
            load(path)
